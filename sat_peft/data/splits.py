"""The splits of a data set by its name: where recipes get their data from."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from datasets import Dataset

from sat_peft.data.features import labels, rows_with_boxes
from sat_peft.data.formats.part_scenes import SCENES_PER_CLASS
from sat_peft.data.shots import select_images, split_share, without_images
from sat_peft.data.sources import Problems, open_source
from sat_peft.data.sources.display_names import class_lookup, read_display_names
from sat_peft.data.sources.registry import SPLITS
from sat_peft.errors import UsageError, unknown_choice

logger = logging.getLogger(__name__)

PART_SCENES = "part_scenes"


@dataclass(frozen=True)
class DataSplits:
    """The splits that were asked for.

    Args:
        splits: those that exist, with the columns of `sat_peft.data.features`; `validation` may be missing.
        set_aside: `image_id`s of the splits that were taken from the training images, by split.
        problems: what was skipped and left out.
        display_names: names of class folders, by folder; empty where the data names none.
    """

    splits: dict[str, Dataset]
    set_aside: dict[str, list[str]] = field(default_factory=dict)
    problems: Problems = field(default_factory=Problems)
    display_names: dict[str, str] = field(default_factory=dict)

    def records(self) -> dict[str, object]:
        """What a run folder records of the data, by the name of the file, ready for JSON."""
        found = {}
        if self.set_aside:
            found["set_aside.json"] = self.set_aside
        if self.problems.count or self.problems.left_out:
            found["skipped.json"] = self.problems.report()
        if self.display_names:
            found["classes.json"] = self.display_names
        return found


def load_splits(
    data: str,
    splits: Iterable[str] = SPLITS,
    *,
    root: str | Path | None = None,
    shots: int = 0,
    validation_fraction: float | None = None,
    test_fraction: float = 0.2,
    split_seed: int = 0,
    set_aside: Mapping[str, Sequence[str]] | None = None,
    allow_outside: bool = False,
    problems: Problems | None = None,
    **options,
) -> DataSplits:
    """Loads the splits of a data set.

    Localisation can be measured on images with boxes alone, so `validation` and `test` keep those only where some
    images have boxes and some have none; a split without any box is kept whole.

    A test split that the data does not have is set aside from the training images, and so is, where it is asked for, a
    validation split: a share of every class, the same on every machine.

    Args:
        data, root, allow_outside, options: see `open_source`.
        splits: those that are wanted; of PartScenes no others are rendered.
        shots: the train split of PartScenes has at least that many scenes of every class.
        validation_fraction: share of the training images of every class for a validation split; None for none.
        test_fraction: the same for the test split, where the data has none.
        split_seed: seed of these shares.
        set_aside: `image_id`s of a run's shares, by split, which are taken instead of drawing anew.
        problems: collects what is wrong; by default the first problem is an error.

    Raises:
        UsageError: an unknown split, data that is missing or malformed, a validation split that is to be set aside
            though there is one, or a class that is tested and has no training image.
    """
    problems = problems if problems is not None else Problems()
    wanted = list(splits)
    for split in wanted:
        if split not in SPLITS:
            raise unknown_choice("split", split, SPLITS)
    source = open_source(data, root=root, allow_outside=allow_outside, **options)
    found: dict[str, Dataset | None] = {}

    def read(split: str) -> Dataset | None:
        if split not in found:
            sizes = {}
            if data == PART_SCENES and split == "train" and "scenes_per_class" not in options:
                sizes = {"scenes_per_class": max(SCENES_PER_CLASS["train"], shots)}
            # A split that is only asked whether it exists has no say in what was skipped.
            noted = problems if split in wanted or split == "train" else Problems(skip=problems.skip)
            found[split] = source.read(split, noted, **sizes)
        return found[split]

    fractions = _missing_splits(data, wanted, read, validation_fraction, test_fraction)
    shares = {}
    for split, fraction in fractions.items():
        train = read("train")
        if set_aside and split in set_aside:
            share = select_images(train, set_aside[split], f"the recorded {split} split")
            remaining = without_images(train, set_aside[split])
        else:
            remaining, share = split_share(train, fraction, split_seed, purpose=split)
        found |= {"train": remaining, split: share}
        shares[split] = share["image_id"][:]
        missing = "the data has no test split, so " if split == "test" else ""
        logger.info(
            f"{split}: {missing}{len(share)} training images are set aside, {len(remaining)} remain for training"
        )

    loaded = {split: rows for split in wanted if (rows := read(split)) is not None}
    _check_classes(loaded)
    for line in problems.lines():
        logger.info(line)
    for split in [split for split in loaded if split != "train"]:
        annotated = rows_with_boxes(loaded[split])
        if 0 < len(annotated) < len(loaded[split]):
            logger.info(f"{split}: evaluated on the {len(annotated)} of {len(loaded[split])} images that have boxes")
            loaded[split] = annotated
    shown = read_display_names(source.root) if source.source.name == "folder" else {}
    return DataSplits(loaded, shares, problems, shown)


def _missing_splits(
    data: str,
    wanted: list[str],
    read: Callable[[str], Dataset | None],
    validation_fraction: float | None,
    test_fraction: float,
) -> dict[str, float]:
    """Shares of the training images, by the split that they are to stand for."""
    fractions = {}
    # PartScenes have every split; asking whether they do would render them.
    complete = data == PART_SCENES
    needed = {"train", "test"} if validation_fraction is None else set(SPLITS)
    if not complete and needed & set(wanted) and read("test") is None:
        fractions["test"] = test_fraction
    if validation_fraction is not None:
        if complete or read("validation") is not None:
            raise UsageError(
                f"{data} has a validation split, so none is to be set aside; leave out --validation-fraction."
            )
        fractions["validation"] = validation_fraction
    return fractions


def _check_classes(loaded: dict[str, Dataset]) -> None:
    """Raises `UsageError` unless the splits have the same classes and none is tested without a training image."""
    names = {split: rows.features["label"].names for split, rows in loaded.items()}
    first = next(iter(names), None)
    for split in names:
        if names[split] != names[first]:
            raise UsageError(
                f"the classes of the {split} split ({', '.join(names[split][:5])}, …) are not those of the {first} "
                f"split ({', '.join(names[first][:5])}, …)."
            )
    if "train" not in loaded:
        return
    counts = {split: np.bincount(labels(rows), minlength=len(names[split])) for split, rows in loaded.items()}
    for split, count in counts.items():
        lacking = [names[split][label] for label in np.flatnonzero((count > 0) & (counts["train"] == 0))]
        if lacking:
            raise UsageError(
                f"the {split} split has images of {len(lacking)} classes without a training image: "
                f"{', '.join(lacking[:5])}. Add some to train, or remove them there."
            )


def check_class_names(
    trained: list[str] | None, num_classes: int, found: list[str], shown: Mapping[str, str] | None = None
) -> None:
    """Raises `UsageError` unless a model's classes are those of the data, in the same order.

    Args:
        trained: names of the model's classes; None where the model does not know them, so that their number decides.
        num_classes: number of the model's classes.
        found: names of the data's classes.
        shown: names by class folder; a class may be called by either.
    """
    if trained is not None and trained != found:
        indices = class_lookup(trained, shown or {})
        found = [trained[indices[name]] if name in indices else name for name in found]
    if trained == found or (trained is None and num_classes == len(found)):
        return
    if trained is None:
        raise UsageError(
            f"the model tells {num_classes} classes apart, but the data has {len(found)}. Name the data that it was "
            "trained for."
        )
    foreign = [name for name in found if name not in trained]
    lost = [name for name in trained if name not in found]
    if foreign or lost:
        parts = (("only in the data: ", foreign), ("only in the model: ", lost))
        reason = "; ".join(title + ", ".join(names[:5]) for title, names in parts if names)
    else:
        reason = "they are the same in another order"
    raise UsageError(
        f"the model was trained on {len(trained)} classes that are not the {len(found)} of the data ({reason}). "
        "Name the data that it was trained for."
    )
