"""Choosing images: exactly k of every class, a share of every class, or those of a list."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset

from sat_peft.data.features import column, labels
from sat_peft.errors import UsageError
from sat_peft.files import FileProblem, read_json

# Words of the seed, so that a share is not drawn in the order of the shots, nor one share in that of another.
_SHARE_SEEDS = {"test": 1, "validation": 2}


def _rows_by_class(dataset: Dataset) -> list[np.ndarray]:
    """The rows of every class, in the order of their `image_id`s."""
    # Arrow sorts by class and image_id without a Python object for each of a million images.
    table = dataset.select_columns(["label", "image_id"]).with_format("arrow")[:]
    ordered = pc.sort_indices(table, [("label", "ascending"), ("image_id", "ascending")]).to_numpy()
    classes = range(1, dataset.features["label"].num_classes)
    return np.split(ordered, np.searchsorted(labels(dataset)[ordered], classes))


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
    members = _rows_by_class(dataset)
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


def split_share(dataset: Dataset, fraction: float, seed: int = 0, *, purpose: str) -> tuple[Dataset, Dataset]:
    """Splits off a share of every class: (what remains, the share).

    A class gives `fraction` of its images, at least one, and keeps at least one; the draw depends on `seed`,
    `purpose`, the class and its `image_id`s alone, as that of `sample_shots`.

    Args:
        dataset: with the columns of `sat_peft.data.features`.
        fraction: above 0 and below 1.
        seed: from 0 to 2**32 - 1.
        purpose: `test` or `validation`.

    Raises:
        UsageError: a number out of range, or no class with two images.
    """
    if not 0 < fraction < 1:
        raise UsageError(f"the share of the {purpose} split must be above 0 and below 1, got {fraction:g}.")
    if not 0 <= seed < 2**32:
        raise UsageError(f"seed must be from 0 to 2**32 - 1, got {seed}.")
    share = []
    for label, rows in enumerate(_rows_by_class(dataset)):
        count = min(max(round(len(rows) * fraction), 1), len(rows) - 1)
        if count > 0:
            generator = np.random.default_rng([seed, _SHARE_SEEDS[purpose], label])
            share.extend(generator.permutation(rows)[:count].tolist())
    if not share:
        raise UsageError(f"no class has two images, so none can be set aside for the {purpose} split. Add images.")
    return dataset.select(np.setdiff1d(np.arange(len(dataset)), share)), dataset.select(sorted(share))


def select_images(dataset: Dataset, image_ids: Sequence[str], where: str = "the list") -> Dataset:
    """The images of a list, in its order.

    Args:
        dataset: with the columns of `sat_peft.data.features`.
        image_ids: as a run saves them in image_ids.json.
        where: names the list in messages.

    Raises:
        UsageError: an empty list, an identifier that is listed twice or that the data set does not have.
    """
    if not len(image_ids):
        raise UsageError(f"{where} names no images.")
    if len(set(image_ids)) < len(image_ids):
        raise UsageError(f"{where} names {Counter(image_ids).most_common(1)[0][0]!r} twice.")
    rows = pc.index_in(pa.array(image_ids, pa.string()), value_set=column(dataset, "image_id").combine_chunks())
    if rows.null_count:
        unknown = [image_id for image_id, row in zip(image_ids, rows.to_pylist(), strict=True) if row is None]
        raise UsageError(
            f"{where} names {len(unknown)} of {len(image_ids)} images that the data does not have: "
            f"{', '.join(map(repr, unknown[:3]))}. Name the data that it was made from."
        )
    return dataset.select(rows.to_pylist())


def read_image_ids(file: Path) -> list[str]:
    """The identifiers in a list that a run saved.

    Raises:
        UsageError: the file is missing or no list of texts.
    """
    try:
        image_ids = read_json(file)
    except FileProblem as error:
        raise UsageError(f"{error} Name an image_ids.json that a run saved.") from error
    if not isinstance(image_ids, list) or not all(isinstance(image_id, str) for image_id in image_ids):
        raise UsageError(f"{file} is no list of images. Name an image_ids.json that a run saved.")
    return image_ids


def choose_shots(dataset: Dataset, shots: int, seed: int = 0, *, image_ids: Path | None = None) -> Dataset:
    """The images of a saved list, or `sample_shots`.

    Raises:
        UsageError: those of `read_image_ids`, `select_images` and `sample_shots`; a list that lacks a class.
    """
    if image_ids is None:
        return sample_shots(dataset, shots, seed)
    chosen = select_images(dataset, read_image_ids(image_ids), str(image_ids))
    names = dataset.features["label"].names
    lacking = [names[label] for label in sorted(set(range(len(names))) - set(chosen["label"]))]
    if lacking:
        raise UsageError(f"{image_ids} names no image of {len(lacking)} classes: {', '.join(lacking[:8])}. Add some.")
    return chosen


def without_images(dataset: Dataset, image_ids: Sequence[str]) -> Dataset:
    """The rows whose identifiers are not in `image_ids`."""
    listed = pc.is_in(column(dataset, "image_id"), value_set=pa.array(image_ids, pa.string()))
    return dataset.select(np.flatnonzero(~listed.to_numpy()))


def sample_evenly(rows: Dataset, count: int) -> Dataset:
    """At most `count` rows of a data set, from all over it."""
    return rows.select(range(0, len(rows), -(-len(rows) // count)))
