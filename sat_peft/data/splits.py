"""The splits of a data set by its name: the one door through which recipes get their data."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from datasets import Dataset

from sat_peft.data.features import rows_with_boxes
from sat_peft.data.sources import Problems, load_source
from sat_peft.data.sources.part_scenes import SCENES_PER_CLASS
from sat_peft.data.sources.registry import SPLITS
from sat_peft.errors import UsageError, unknown_choice

PART_SCENES = "part_scenes"


def load_splits(
    data: str,
    splits: Iterable[str] = SPLITS,
    *,
    root: str | Path | None = None,
    shots: int = 0,
    problems: Problems | None = None,
    say: Callable[[str], None] = print,
    **options,
) -> dict[str, Dataset]:
    """Loads the splits of a data set.

    Localisation can be measured on images with boxes alone, so `validation` and `test` keep those only where some
    images have boxes and some have none; a split without any box is kept whole.

    Args:
        data, root, problems, options: see `load_source`.
        splits: those that are wanted; of PartScenes no others are rendered.
        shots: the train split of PartScenes has at least that many scenes of every class.
        say: takes one line of text where images were left out.

    Returns:
        The wanted splits that exist, with the columns of `sat_peft.data.features`. `validation` may be missing.

    Raises:
        UsageError: an unknown split, data that is missing or malformed.
    """
    loaded: dict[str, Dataset] = {}
    for split in splits:
        if split not in SPLITS:
            raise unknown_choice("split", split, SPLITS)
        sizes = {}
        if data == PART_SCENES and split == "train" and "scenes_per_class" not in options:
            sizes = {"scenes_per_class": max(SCENES_PER_CLASS["train"], shots)}
        rows = load_source(data, split, root=root, problems=problems, **options, **sizes)
        if rows is not None:
            loaded[split] = rows
    for split in [split for split in loaded if split != "train"]:
        annotated = rows_with_boxes(loaded[split])
        if 0 < len(annotated) < len(loaded[split]):
            say(f"{split}: evaluated on the {len(annotated)} of {len(loaded[split])} images that have boxes")
            loaded[split] = annotated
    return loaded


def check_class_names(trained: list[str] | None, num_classes: int, found: list[str]) -> None:
    """Raises `UsageError` unless a model's classes are those of the data, in the same order.

    Args:
        trained: names of the model's classes; None where the model does not know them, so that their number decides.
        num_classes: number of the model's classes.
        found: names of the data's classes.
    """
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
