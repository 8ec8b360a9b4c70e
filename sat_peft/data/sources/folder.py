"""Class folders: the images that people have.

    ROOT/train/CLASS/*.jpg   ROOT/test/CLASS/*.jpg   ROOT/validation/CLASS/*.jpg   the last two are optional
    ROOT/CLASS/*.jpg                                                               all of it is the train split

A split may hold `metadata.jsonl` files in the form of `datasets`' imagefolder, whose rows give `file_name` (relative to
the metadata file) and, where boxes are known, `objects: {"bbox": [[x, y, width, height], …]}` in absolute pixels,
0-based, as in COCO. ROOT may hold classes.txt or classes.json with names for the classes; see `display_names.py`. The
files are read here and not by `load_dataset("imagefolder")` because that drops the folder
labels as soon as a metadata file exists.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from sat_peft.data.box_formats import to_xyxy
from sat_peft.data.sources.display_names import display_names
from sat_peft.data.sources.files import class_folders, image_files, read_lines, require_folder
from sat_peft.data.sources.records import Problems, Record, SourceSplit
from sat_peft.data.sources.registry import Source
from sat_peft.errors import UsageError

# Other names of the validation split, which would be passed over in silence.
_MISNAMED_VALIDATION = ("val", "valid", "dev")
# Folders that other layouts have, and that are no classes.
_NO_CLASSES = {"train", "test", "validation", *_MISNAMED_VALIDATION, "images", "labels", "annotations", "data"}
_LAYOUT = (
    "Expected ROOT/train/CLASS/*.jpg and ROOT/test/CLASS/*.jpg, and ROOT/validation/CLASS/*.jpg where thresholds "
    "are to be chosen; boxes, where there are any, in ROOT/SPLIT/metadata.jsonl. Or ROOT/CLASS/*.jpg without splits."
)


def _boxes_of_row(row: dict, where: str, problems: Problems) -> np.ndarray | None:
    """The xyxy boxes of one metadata row; None after a problem."""
    objects = row.get("objects") or {}
    boxes = objects.get("bbox", []) if isinstance(objects, dict) else None
    if not isinstance(boxes, list):
        problems.add(where, f'`objects` must look like {{"bbox": [[x, y, width, height], …]}}, got {objects!r}.')
        return None
    for box in boxes:
        numbers = (
            isinstance(box, list)
            and len(box) == 4
            and all(isinstance(value, int | float) and math.isfinite(value) for value in box)
        )
        if not numbers or box[0] < 0 or box[1] < 0 or not (box[2] > 0 and box[3] > 0):
            problems.add(
                where,
                f"a box must be [x, y, width, height] in pixels with x, y >= 0 and width, height > 0, got {box!r}.",
            )
            return None
    return to_xyxy(boxes, "xywh")


def _read_metadata(file: Path, boxes: dict[str, np.ndarray], problems: Problems) -> None:
    """Adds the boxes of one metadata.jsonl to `boxes`, by image path."""
    for number, line in read_lines(file):
        where = f"{file}, line {number}"
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            problems.add(where, f"not a JSON object ({error}).")
            continue
        if not isinstance(row, dict) or not isinstance(row.get("file_name"), str):
            problems.add(where, f"a row needs a `file_name`, got {line[:80]!r}.")
            continue
        image = file.parent / row["file_name"]
        if not image.is_file():
            problems.add(where, f"the image {row['file_name']!r} does not exist below {file.parent}.")
        elif str(image) in boxes:
            problems.add(where, f"the image {row['file_name']!r} has a row already.")
        else:
            found = _boxes_of_row(row, where, problems)
            if found is not None:
                boxes[str(image)] = found


def _records(root: Path, folder: Path, classes: list[str], problems: Problems) -> Iterator[Record]:
    boxes: dict[str, np.ndarray] = {}
    for file in sorted(folder.rglob("metadata.jsonl")):
        _read_metadata(file, boxes, problems)
    for label, name in enumerate(classes):
        if not (folder / name).is_dir():
            continue
        for path in image_files(folder / name, problems):
            image_id = path.relative_to(root).as_posix()
            yield Record(image_id, path, label, boxes.pop(str(path), ()))
    for path in boxes:
        problems.add(path, f"the metadata below {folder} names it, but it lies in no class folder, or is no image.")


def _read(root: Path, split: str, problems: Problems) -> SourceSplit | None:
    require_folder(root, _LAYOUT)
    for name in _MISNAMED_VALIDATION:
        if (root / name).is_dir() and not (root / "validation").exists():
            raise UsageError(f"{root / name} would not be read; rename it to {root / 'validation'}, or move it away.")
    if not (root / "train").is_dir():
        if any((root / name).is_dir() for name in ("validation", "test")):
            raise UsageError(f"{root} has no folder train. {_LAYOUT}")
        if split != "train":
            return None
        classes = class_folders(root)
        return SourceSplit(display_names(root, classes), _records(root, root, classes, problems))
    if not (root / split).is_dir():
        return None
    classes = class_folders(root / "train")
    unknown = [name for name in class_folders(root / split) if name not in classes]
    if unknown:
        raise UsageError(
            f"{root / split} has class folders that {root / 'train'} lacks: {', '.join(unknown[:5])}. "
            "Add them to train or remove them."
        )
    return SourceSplit(display_names(root, classes), _records(root, root / split, classes, problems))


def _detect(root: Path) -> bool:
    has_splits = (root / "train").is_dir()
    folder = root / "train" if has_splits else root
    names = class_folders(folder)
    if {name.lower() for name in names} & _NO_CLASSES:
        return False
    found = (next(image_files(folder / name, Problems(skip=True)), None) for name in names)
    # Without splits, images deep down are more likely those of another layout.
    return any(image is not None and (has_splits or image.parent.parent == root) for image in found)


SOURCE = Source("folder", "class folders, with boxes in metadata.jsonl where known", _LAYOUT, _read, detect=_detect)
