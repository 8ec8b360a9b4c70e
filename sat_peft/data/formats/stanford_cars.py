"""Stanford Cars, in its two published layouts.

    ROOT/cars_annos.mat   ROOT/car_ims/000001.jpg

    ROOT/devkit/cars_meta.mat   ROOT/devkit/cars_train_annos.mat   ROOT/cars_test_annos_withlabels.mat (or in devkit)
    ROOT/cars_train/00001.jpg   ROOT/cars_test/00001.jpg

The splits are the official ones: `train` (8,144 images) and `test` (8,041); there is no official validation split.
Boxes are x1 y1 x2 y2 as MATLAB counts, from 1, the last pixel included (`voc`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from sat_peft.data.box_formats import to_xyxy
from sat_peft.data.sources.files import require_file, require_folder
from sat_peft.data.sources.lists import first_existing
from sat_peft.data.sources.records import Problems, Record, SourceSplit
from sat_peft.data.sources.registry import Source
from sat_peft.data.sources.stored_boxes import upright_boxes
from sat_peft.errors import UsageError
from sat_peft.files import is_file, shown
from sat_peft.files.mat import column, numbers, read_mat, texts

_LAYOUT = (
    "Expected ROOT/cars_annos.mat and ROOT/car_ims/*.jpg, or ROOT/devkit/cars_meta.mat, "
    "ROOT/devkit/cars_train_annos.mat, ROOT/cars_test_annos_withlabels.mat, ROOT/cars_train/*.jpg and "
    "ROOT/cars_test/*.jpg."
)
_CORNERS = ("bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2")


def _records(
    root: Path,
    file: Path,
    structs: object,
    paths: list[str],
    num_classes: int,
    chosen: Iterable[int],
    problems: Problems,
) -> Iterator[Record]:
    """Of the entries `chosen` of `structs`, whose images are `paths` below the root."""
    labels = column(structs, "class", file)
    corners = np.array([numbers(column(structs, name, file), file) for name in _CORNERS], np.float64).T
    for index in chosen:
        where = f"{file}, entry {index + 1}"
        if labels[index] not in range(1, num_classes + 1):
            problems.add(where, f"the class must be from 1 to {num_classes}, got {shown(labels[index])}.", "Repair it.")
            continue
        image = root / paths[index]
        boxes = upright_boxes(to_xyxy(corners[index : index + 1], "voc"), image, where, problems)
        if boxes is not None:
            yield Record(paths[index], image, int(labels[index]) - 1, boxes)


def _read_one_file(root: Path, split: str, problems: Problems) -> SourceSplit:
    file = root / "cars_annos.mat"
    structs, cells = read_mat(file, ("annotations", "class_names"))
    names = texts(cells, file)
    paths = texts(column(structs, "relative_im_path", file), file)
    is_test = column(structs, "test", file)
    chosen = [index for index, value in enumerate(is_test) if bool(value) == (split == "test")]
    return SourceSplit(names, _records(root, file, structs, paths, len(names), chosen, problems))


def _read_development_kit(root: Path, split: str, problems: Problems) -> SourceSplit:
    meta = require_file(root / "devkit" / "cars_meta.mat", _LAYOUT)
    (cells,) = read_mat(meta, ("class_names",))
    names = texts(cells, meta)
    wanted = {"train": "cars_train_annos.mat", "test": "cars_test_annos_withlabels.mat"}[split]
    file = first_existing(root, wanted, f"devkit/{wanted}")
    if file is None:
        # The kit itself has test annotations without classes, which cannot be evaluated.
        raise UsageError(f"{root} and {root / 'devkit'} have no {wanted}, which is a download of its own. {_LAYOUT}")
    (structs,) = read_mat(file, ("annotations",))
    paths = [f"cars_{split}/{name}" for name in texts(column(structs, "fname", file), file)]
    return SourceSplit(names, _records(root, file, structs, paths, len(names), range(len(paths)), problems))


def _read(root: Path, split: str, problems: Problems) -> SourceSplit | None:
    require_folder(root, _LAYOUT)
    if split == "validation":
        return None
    if is_file(root / "cars_annos.mat"):
        return _read_one_file(root, split, problems)
    return _read_development_kit(root, split, problems)


def _detect(root: Path) -> bool:
    return first_existing(root, "cars_annos.mat", "devkit/cars_meta.mat") is not None


SOURCE = Source("stanford_cars", "Stanford Cars: 196 makes, models and years", _LAYOUT, _read, detect=_detect)
