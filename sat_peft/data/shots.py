"""Few-shot sampling: exactly k images of every class."""

from __future__ import annotations

import numpy as np
import pyarrow.compute as pc
from datasets import Dataset

from sat_peft.data.features import labels
from sat_peft.errors import UsageError


def sample_shots(dataset: Dataset, shots: int, seed: int = 0) -> Dataset:
    """Draws `shots` images of every class, without replacement.

    The draw depends on `seed`, the class and the order of the class's `image_id`s alone: it is the same on every
    machine and in every process, whatever order the rows are in, and k shots are among the first of k + 1.

    Raises:
        UsageError: classes with fewer than `shots` images, the first eight of which are named; a seed out of range.
    """
    if shots < 1:
        raise UsageError(f"shots must be at least 1, got {shots}.")
    if not 0 <= seed < 2**32:
        raise UsageError(f"seed must be from 0 to 2**32 - 1, got {seed}.")
    names = dataset.features["label"].names
    # Arrow sorts by class and image_id without a Python object for each of a million images.
    table = dataset.select_columns(["label", "image_id"]).with_format("arrow")[:]
    ordered = pc.sort_indices(table, [("label", "ascending"), ("image_id", "ascending")]).to_numpy()
    members = np.split(ordered, np.searchsorted(labels(dataset)[ordered], range(1, len(names))))
    short = [f"{name} ({len(rows)})" for name, rows in zip(names, members, strict=True) if len(rows) < shots]
    if short:
        least = min(len(rows) for rows in members)
        shown = ", ".join(short[:8]) + (f" and {len(short) - 8} more" if len(short) > 8 else "")
        fix = f"Use at most --shots {least} or add images." if least else "Add images or remove the empty classes."
        raise UsageError(f"{len(short)} classes have fewer than {shots} training images: {shown}. {fix}")
    chosen = []
    for label, rows in enumerate(members):
        chosen.extend(np.random.default_rng([seed, label]).permutation(rows)[:shots].tolist())
    return dataset.select(chosen)
