"""CUB-200-2011, as published.

    ROOT/images/001.Black_footed_Albatross/*.jpg
    ROOT/images.txt   image_class_labels.txt   train_test_split.txt   bounding_boxes.txt   classes.txt
    ROOT/segmentations/001.Black_footed_Albatross/*.png   (optional, a download of its own; also beside ROOT)

ROOT may also be the folder above, which holds CUB_200_2011. The splits are the official ones: `train` (5,994 images)
and `test` (5,794); there is no official validation split. The lists are joined by the number of the image. Boxes are
`xywh`. The segmentations tell how many of five annotators saw the bird in a pixel; the majority counts.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from sat_peft.data.box_formats import to_xyxy
from sat_peft.data.sources.files import numbers, require_file, require_folder
from sat_peft.data.sources.lists import common_keys, line, read_keyed, readable_names, whole_number
from sat_peft.data.sources.records import Problems, Record, SourceSplit
from sat_peft.data.sources.registry import Source
from sat_peft.data.sources.stored_boxes import upright_boxes
from sat_peft.errors import UsageError
from sat_peft.files import is_file, is_folder

_LAYOUT = (
    "Expected ROOT/images/CLASS/*.jpg and the lists images.txt, image_class_labels.txt, train_test_split.txt, "
    "bounding_boxes.txt and classes.txt, or all of this in ROOT/CUB_200_2011."
)
# As train_test_split.txt writes them.
_SPLITS = {"train": "1", "test": "0"}


def _base(root: Path) -> Path:
    return root / "CUB_200_2011" if is_folder(root / "CUB_200_2011") else root


def _class_folders(file: Path, problems: Problems) -> list[str]:
    """The folders of the classes in the order of their numbers, which count from 1."""
    classes = read_keyed(file, problems)
    expected = [str(number) for number in range(1, len(classes) + 1)]
    if not classes or list(classes) != expected:
        raise UsageError(f"{file} must number the classes from 1 on, without a gap.")
    return [name for _, name in classes.values()]


def _records(
    root: Path, split: str, masks: Path | None, tables: dict[Path, dict], num_classes: int, problems: Problems
) -> Iterator[Record]:
    images, labels, membership, boxes = tables.items()
    for key in common_keys(tables, problems):
        number, belongs = membership[1][key]
        if belongs not in _SPLITS.values():
            problems.add(line(membership[0], number), f"expected 1 (train) or 0 (test), got {belongs!r}.")
        if belongs != _SPLITS[split]:
            continue
        path = images[1][key][1]
        number, text = labels[1][key]
        label = whole_number(text, range(1, num_classes + 1), "class", line(labels[0], number), problems)
        number, text = boxes[1][key]
        box = numbers(text, 4, line(boxes[0], number), problems)
        if label is None or box is None:
            continue
        found = upright_boxes(to_xyxy([box], "xywh"), root / "images" / path, line(boxes[0], number), problems)
        if found is not None:
            mask = () if masks is None else (masks / f"{os.path.splitext(path)[0]}.png",)
            yield Record(path, root / "images" / path, label - 1, found, mask)


def _read(root: Path, split: str, problems: Problems) -> SourceSplit | None:
    root = _base(require_folder(root, _LAYOUT))
    if split not in _SPLITS:
        return None
    require_folder(root / "images", _LAYOUT)
    names = ("images.txt", "image_class_labels.txt", "train_test_split.txt", "bounding_boxes.txt")
    files = [require_file(root / name, _LAYOUT) for name in names]
    class_folders = _class_folders(require_file(root / "classes.txt", _LAYOUT), problems)
    if len(set(class_folders)) < len(class_folders):
        raise UsageError(f"{root / 'classes.txt'} names a class twice. Rename or remove one of the two.")
    # The two archives of the data set extract beside each other.
    candidates = (root / "segmentations", root.parent / "segmentations")
    masks = next((folder for folder in candidates if is_folder(folder / class_folders[0])), None)
    tables = {file: read_keyed(file, problems) for file in files}
    records = _records(root, split, masks, tables, len(class_folders), problems)
    return SourceSplit(readable_names(class_folders), records, masks is not None)


def _detect(root: Path) -> bool:
    return all(is_file(_base(root) / name) for name in ("images.txt", "train_test_split.txt", "bounding_boxes.txt"))


SOURCE = Source(
    "cub",
    "CUB-200-2011: 200 species of birds, with boxes and masks",
    _LAYOUT,
    _read,
    beside=("segmentations",),
    detect=_detect,
)
