"""The training order, and the seeds of the augmentation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch.utils.data import Sampler

_PART = 4096


class View(NamedTuple):
    """One augmented view of a row: `seed` names the draws of its transform."""

    row: int
    seed: int


class EpochSampler(Sampler[View]):
    """All rows in a random order, each with the seed of its view.

    Both depend on the seed and the number of the epoch alone: however many loader processes there are, and wherever a
    resumed run starts, it sees what an undisturbed one would have seen.

    Args:
        num_rows: number of rows of the data set.
        seed: names the sequence of orders and views.
        num_views: number of views of each row, that take turns: the seeds of row i are those from i * num_views on.
            Without it, every epoch has new ones.
    """

    def __init__(self, num_rows: int, seed: int = 0, num_views: int | None = None):
        self.num_rows = num_rows
        self.seed = seed
        self.num_views = num_views
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Chooses the order and the views of the next iteration."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.num_rows

    def __iter__(self) -> Iterator[View]:
        # Epochs are drawn from one generator's large numbers, so that those of neighbouring seeds are not shared.
        start = int(torch.randint(2**62, (), generator=torch.Generator().manual_seed(self.seed)))
        generator = torch.Generator().manual_seed(start + self.epoch)
        order = torch.randperm(self.num_rows, generator=generator)
        if self.num_views is None:
            seeds = torch.randint(2**62, (self.num_rows,), generator=generator)
        else:
            # Rows start at different views, so that an epoch has all of them.
            seeds = order * self.num_views + (order + self.epoch) % self.num_views
        # In parts, since two Python numbers for each of a million rows are a hundred megabytes.
        for some_rows, some_seeds in zip(order.split(_PART), seeds.split(_PART), strict=True):
            yield from map(View, some_rows.tolist(), some_seeds.tolist())
