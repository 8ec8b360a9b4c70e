"""Folders of image files in the `datasets` imagefolder form.

    ROOT/train/CLASS/*.jpg   ROOT/test/CLASS/*.jpg   ROOT/validation/CLASS/*.jpg (optional)

A split may hold a `metadata.jsonl` whose rows give `file_name` (relative to the metadata file) and, where boxes are
known, `objects: {"bbox": [[x, y, width, height], …]}` in absolute pixels, 0-based, as in COCO. The files are read
here and not by `load_dataset("imagefolder")` because that drops the folder labels as soon as a metadata file exists.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

from datasets import Dataset

from sat_peft.data.features import localization_features
from sat_peft.errors import UsageError

SPLITS = ("train", "validation", "test")
IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm"}
# Other names of the validation split, which would be passed over in silence.
_MISNAMED_VALIDATION = ("val", "valid", "dev")
_LAYOUT = (
    "Expected ROOT/train/CLASS/*.jpg and ROOT/test/CLASS/*.jpg, and ROOT/validation/CLASS/*.jpg where thresholds "
    "are to be chosen; boxes, where there are any, in ROOT/SPLIT/metadata.jsonl."
)


def _class_folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _image_files(folder: Path) -> list[Path]:
    def hidden(path: Path) -> bool:
        return any(part.startswith(".") for part in path.relative_to(folder).parts)

    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES and not hidden(path))


def _boxes_of_row(row: dict, where: str) -> list[list[float]]:
    """The xyxy boxes of one metadata row."""
    objects = row.get("objects") or {}
    boxes = objects.get("bbox", []) if isinstance(objects, dict) else None
    if not isinstance(boxes, list):
        raise UsageError(f'{where}: `objects` must look like {{"bbox": [[x, y, width, height], …]}}, got {objects!r}.')
    converted = []
    for box in boxes:
        numbers = (
            isinstance(box, list)
            and len(box) == 4
            and all(isinstance(v, int | float) and math.isfinite(v) for v in box)
        )
        if not numbers or box[0] < 0 or box[1] < 0 or not (box[2] > 0 and box[3] > 0):
            raise UsageError(
                f"{where}: a box must be [x, y, width, height] in pixels with x, y >= 0 and width, height > 0, "
                f"got {box!r}."
            )
        x, y, width, height = map(float, box)
        converted.append([x, y, x + width, y + height])
    return converted


def _read_metadata(file: Path, boxes: dict[Path, list[list[float]]]) -> None:
    """Adds the boxes of one metadata.jsonl to `boxes`, by image path."""
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(f"{file} is not encoded in UTF-8 ({error}). Save it as UTF-8.") from error
    # Not splitlines(), which also splits at separators that a JSON string may hold as they are.
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        where = f"{file}, line {number}"
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise UsageError(f"{where}: not a JSON object ({error}).") from error
        if not isinstance(row, dict) or not isinstance(row.get("file_name"), str):
            raise UsageError(f"{where}: a row needs a `file_name`, got {line[:80]!r}.")
        image = file.parent / row["file_name"]
        if not image.is_file():
            raise UsageError(f"{where}: the image {row['file_name']!r} does not exist below {file.parent}.")
        if image in boxes:
            raise UsageError(f"{where}: the image {row['file_name']!r} has a row already.")
        boxes[image] = _boxes_of_row(row, where)


def _load_split(root: Path, split: str, class_names: list[str]) -> Dataset:
    folder = root / split
    unknown = [path.name for path in _class_folders(folder) if path.name not in class_names]
    if unknown:
        raise UsageError(
            f"{folder} has class folders that {root / 'train'} lacks: {', '.join(unknown[:5])}. "
            "Add them to train or remove them."
        )
    boxes: dict[Path, list[list[float]]] = {}
    for file in sorted(folder.rglob("metadata.jsonl")):
        _read_metadata(file, boxes)
    rows: dict[str, list] = {"image_id": [], "image": [], "label": [], "boxes": []}
    for label, name in enumerate(class_names):
        for path in _image_files(folder / name):
            rows["image_id"].append(path.relative_to(root).as_posix())
            rows["image"].append(str(path))
            rows["label"].append(label)
            rows["boxes"].append(boxes.pop(path, []))
    if not rows["image"]:
        raise UsageError(f"{folder} holds no images in class folders. {_LAYOUT}")
    if boxes:
        raise UsageError(
            f"{len(boxes)} images of the metadata below {folder} lie in no class folder or are no image files, "
            f"first {next(iter(boxes)).relative_to(root)}."
        )
    return Dataset.from_dict(rows, features=localization_features(class_names))


def load_image_folder(root: str | Path) -> dict[str, Dataset]:
    """Reads the splits of an image folder; files are opened later, one by one.

    Returns:
        A dict with `train`, `test` and, where the folder exists, `validation`; columns of `sat_peft.data.features`.

    Raises:
        UsageError: a missing or misnamed folder, fewer than two classes, a class that train lacks, a malformed metadata
            row.
    """
    root = Path(root)
    if not root.is_dir():
        raise UsageError(f"the data folder {str(root)!r} does not exist. {_LAYOUT}")
    missing = [split for split in ("train", "test") if not (root / split).is_dir()]
    if missing:
        raise UsageError(f"{root} has no folder {' and no folder '.join(missing)}. {_LAYOUT}")
    for name in _MISNAMED_VALIDATION:
        if (root / name).is_dir() and not (root / "validation").exists():
            raise UsageError(f"{root / name} would not be read; rename it to {root / 'validation'}, or move it away.")
    class_names = [path.name for path in _class_folders(root / "train")]
    if len(class_names) < 2:
        raise UsageError(f"{root / 'train'} has {len(class_names)} class folders; at least two are needed. {_LAYOUT}")
    return {split: _load_split(root, split, class_names) for split in SPLITS if (root / split).is_dir()}
