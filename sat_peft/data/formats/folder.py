"""Class folders, the images that people have, and the metadata.jsonl that names boxes for them, read and written.

    ROOT/train/CLASS/*.jpg   ROOT/test/CLASS/*.jpg   ROOT/validation/CLASS/*.jpg   the last two are optional
    ROOT/CLASS/*.jpg                                                               all of it is the train split

Boxes, where they are known, are in `metadata.jsonl`, `metadata.csv` or `metadata.parquet` files in the form of
`datasets`' imagefolder, in ROOT or anywhere below it. Their rows give `file_name` (relative to the metadata file) and
`objects: {"bbox": [[x, y, width, height], …]}` (or `bbox` alone) in absolute pixels, 0-based, as in COCO. They are read
here and not by `load_dataset("imagefolder")` because that drops the folder labels as soon as a metadata file exists.
ROOT may hold classes.txt or classes.json with names for the classes; see `display_names.py`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

from sat_peft.data.box_formats import from_xyxy
from sat_peft.data.sources.display_names import display_names
from sat_peft.data.sources.files import (
    IMAGE_SUFFIXES,
    class_folders,
    folders_by_class,
    image_files,
    require_folder,
)
from sat_peft.data.sources.metadata import read_metadata
from sat_peft.data.sources.records import Problems, Record, SourceSplit
from sat_peft.data.sources.registry import Source
from sat_peft.data.writing import PredictionSet, Writer
from sat_peft.data.writing.files import text_file_replacement
from sat_peft.errors import UsageError
from sat_peft.files import is_folder
from sat_peft.files.paths import shown_name

# Other names of the validation split, which would be passed over in silence.
_MISNAMED_VALIDATION = ("val", "valid", "dev")
# Folders that other layouts have, and that are no classes.
_NO_CLASSES = {"train", "test", "validation", *_MISNAMED_VALIDATION, "images", "labels", "annotations", "data"}
_LAYOUT = (
    "Expected ROOT/train/CLASS/*.jpg and ROOT/test/CLASS/*.jpg, and ROOT/validation/CLASS/*.jpg where thresholds "
    "are to be chosen; boxes, where there are any, in ROOT/SPLIT/metadata.jsonl. Or ROOT/CLASS/*.jpg without splits."
)


def _records(
    root: Path, folder: Path, split: str, classes: dict[str, list[str]], problems: Problems
) -> Iterator[Record]:
    """Of the images in the folders of `classes`, which are their names below `folder` by label."""
    root, folder = Path(os.path.abspath(root)), Path(os.path.abspath(folder))
    rows = read_metadata(root, folder, first=split == "train", problems=problems)
    start = len(os.path.join(str(root), ""))
    for label, names in enumerate(classes.values()):
        for name in names:
            for path in image_files(folder / name, problems):
                row = rows.pop(str(path), None)
                image_id = str(path)[start:].replace(os.sep, "/")
                if row is None:
                    yield Record(image_id, path, label)
                else:
                    yield Record(image_id, path, label, row.boxes, where=row.where)
    for path, row in rows.items():
        what = f"it names {path}, which lies in no class folder, or is no image."
        problems.add(row.where, what, "Correct or remove the row.")
    with os.scandir(folder) as entries:
        strays = sum(entry.name.lower().endswith(IMAGE_SUFFIXES) and entry.name[0] != "." for entry in entries)
    if strays:
        problems.leave_out(f"{split} images in no class folder, but directly in {folder.name!r}", strays)


def _read(root: Path, split: str, problems: Problems) -> SourceSplit | None:
    require_folder(root, _LAYOUT)
    for name in _MISNAMED_VALIDATION:
        if is_folder(root / name) and not os.path.exists(root / "validation"):
            raise UsageError(f"{root / name} would not be read; rename it to {root / 'validation'}, or move it away.")
    if not is_folder(root / "train"):
        if any(is_folder(root / name) for name in ("validation", "test")):
            raise UsageError(f"{root} has no folder train. {_LAYOUT}")
        if split != "train":
            return None
        classes = folders_by_class(root)
        return SourceSplit(display_names(root, list(classes)), _records(root, root, split, classes, problems))
    if not is_folder(root / split):
        return None
    trained = folders_by_class(root / "train")
    found = folders_by_class(root / split)
    unknown = [name for name in found if name not in trained]
    if unknown:
        raise UsageError(
            f"{root / split} has class folders that {root / 'train'} lacks: {', '.join(map(shown_name, unknown[:5]))}. "
            "Add them to train or remove them."
        )
    classes = {name: found.get(name, []) for name in trained}
    return SourceSplit(display_names(root, list(classes)), _records(root, root / split, split, classes, problems))


def _detect(root: Path) -> bool:
    has_splits = is_folder(root / "train")
    folder = root / "train" if has_splits else root
    names = class_folders(folder)
    if {name.lower() for name in names} & _NO_CLASSES:
        return False
    found = (next(image_files(folder / name, Problems(skip=True)), None) for name in names)
    # Without splits, images deep down are more likely those of another layout.
    return any(image is not None and (has_splits or image.parent.parent == root) for image in found)


SOURCE = Source(
    "folder",
    "class folders, with boxes in metadata.jsonl, .csv or .parquet where known",
    _LAYOUT,
    _read,
    detect=_detect,
)


def metadata_row(file_name: str, boxes: list[list[float]], categories: list, **columns: object) -> str:
    """A line of metadata.jsonl: the xyxy boxes of an image as COCO's, their classes, and further columns."""
    objects = {"bbox": from_xyxy(boxes, "xywh").tolist(), "categories": categories}
    return json.dumps({"file_name": file_name, **columns, "objects": objects}, ensure_ascii=False) + "\n"


def write_imagefolder(path: Path, predictions: PredictionSet) -> None:
    """Writes the metadata.jsonl that `load_dataset("imagefolder")` reads once it lies in the root folder of the images.

    Columns: `label`, the given class, where it is known of any image; `predicted_label`; `score`, the probability of
    the class that the boxes carry; and `objects` with `bbox` ([x, y, width, height] in pixels, as in COCO) and
    `categories`. Classes are names: `dataset.class_encode_column("label")` makes a `ClassLabel` of them.
    """
    with text_file_replacement(path) as file:
        for found in predictions.predictions:
            columns = {"label": predictions.given_labels.get(found.image_id)} if predictions.given_labels else {}
            columns |= {"predicted_label": predictions.predicted_label(found), "score": found.score}
            file.write(metadata_row(found.image_id, found.boxes, [found.label] * len(found.boxes), **columns))


WRITER = Writer("imagefolder", "metadata.jsonl", write_imagefolder)
