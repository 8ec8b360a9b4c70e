"""The splits of a data set by its name: the one door through which recipes get their data."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from datasets import Dataset

from sat_peft.data.features import rows_with_boxes
from sat_peft.data.image_folder import load_image_folder
from sat_peft.data.scenes import part_scenes
from sat_peft.errors import UsageError, unknown_choice

PART_SCENES = "part_scenes"
SPLITS = ("train", "validation", "test")
# Scenes of every class of PartScenes. Training draws its shots from the first; more shots take a larger pool.
SCENES_PER_CLASS = {"train": 50, "validation": 5, "test": 30}


def load_splits(
    data: str,
    splits: Iterable[str] = SPLITS,
    *,
    shots: int = 0,
    say: Callable[[str], None] = print,
) -> dict[str, Dataset]:
    """Loads the splits of PartScenes or of a folder of images.

    Localisation can be measured on images with boxes alone, so `validation` and `test` keep those only where some
    images have boxes and some have none; a split without any box is kept whole.

    Args:
        data: `part_scenes`, or a folder as `load_image_folder` reads it.
        splits: those that are wanted; of PartScenes no others are rendered.
        shots: the train split of PartScenes has at least that many scenes of every class.
        say: takes one line of text where images were left out.

    Returns:
        The wanted splits that exist, with the columns of `sat_peft.data.features`. A folder may lack `validation`.

    Raises:
        UsageError: an unknown split, a folder that is missing or malformed.
    """
    for split in splits:
        if split not in SPLITS:
            raise unknown_choice("split", split, SPLITS)
    if data == PART_SCENES:
        sizes = SCENES_PER_CLASS | {"train": max(SCENES_PER_CLASS["train"], shots)}
        loaded = {split: part_scenes(split, scenes_per_class=sizes[split]) for split in splits}
    else:
        folder = load_image_folder(data)
        loaded = {split: folder[split] for split in splits if split in folder}
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
