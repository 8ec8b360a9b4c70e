"""The lists in the repository of the SAT paper (wpy1999/SAT, folder Data), beside the images as its code expects them.

    CUB_200_2011, Stanford_Dogs
        LISTS/train_list.txt  LISTS/test_list.txt           CLASS/file.jpg;label
        LISTS/test_bounding_box.txt or LISTS/test_gt.txt    x0 y0 x1 y1 [x0 …] H W, line by line those of test_list.txt
        ROOT/train/CLASS/file.jpg   ROOT/test/CLASS/file.jpg, or all images in ROOT/images or ROOT/Images
    ILSVRC
        LISTS/val_list.txt          WNID/file.JPEG;label
        LISTS/val_gt.txt            WNID\\file.JPEG W H ; x0 y0 x1 y1 [x0 …]
        ROOT/train/WNID/*.JPEG      ROOT/val/WNID/file.JPEG
    Standford_Car (as it is spelt there), Fgvc_aircraft_2013b
        LISTS/classes.txt           LISTS/images_box.txt    name;class;split;x0 y0 x1 y1 H W
        ROOT/images/name.jpg

LISTS is ROOT, or the option `lists`. Our `train` and `test` are those of the lists: the official ones of each data set,
with the validation set of ILSVRC as `test`, and train and validation set of the aircraft as `train`. There is no
`validation`. Training images have no boxes in the lists of birds, dogs and ImageNet.

Corners are copies of the published numbers, so they have the conventions of the data sets: `xyxy` for birds (x + width,
y + height), dogs and ImageNet (see `imagenet.py`), `voc` for cars and aircraft. Classes have the names that the sources
`cub`, `stanford_dogs` and `ilsvrc` give them, so that a model trained with one is evaluated with the other.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path, PurePosixPath

import numpy as np

from sat_peft.data.box_formats import to_xyxy
from sat_peft.data.formats.ilsvrc import class_names
from sat_peft.data.sources.files import class_folders, image_files, numbers, require_file, require_folder
from sat_peft.data.sources.imagenet import BOX_FORMAT, read_val_gt
from sat_peft.data.sources.lists import first_existing, line, names_by_label, read_columns, read_names, whole_number
from sat_peft.data.sources.records import Problems, Record, SourceSplit
from sat_peft.data.sources.registry import Source
from sat_peft.data.sources.stored_boxes import upright_boxes
from sat_peft.errors import UsageError
from sat_peft.files import is_file, read_lines

_LAYOUT = (
    "Expected one of the lists test_list.txt, val_list.txt or images_box.txt, as in the folders below Data of the "
    "SAT repository, in ROOT or in the folder of the option lists."
)
_MAX_CLASSES = 10_000
# The third column of images_box.txt.
_BOX_SPLITS = {"train": ("0", "2"), "test": ("1",)}


def _labelled(file: Path, problems: Problems) -> Iterator[tuple[str, str, int]]:
    """(where, path, label) of a list with lines `path;label`."""
    for number, (path, text) in read_columns(file, 2, problems, separator=";"):
        where = line(file, number)
        label = whole_number(text, range(_MAX_CLASSES), "class", where, problems)
        if label is not None:
            yield where, path, label


def _folder_of(path: str) -> str:
    return PurePosixPath(path).parent.name


def _test_boxes(file: Path, problems: Problems) -> Iterator[tuple[str, np.ndarray | None]]:
    """(where, boxes) of every line `x0 y0 x1 y1 … H W`."""
    for number, text in read_lines(file):
        where = line(file, number)
        count = len(text.split())
        if count < 6 or count % 4 != 2:
            problems.add(where, f"expected four numbers a box and then H W, got {text[:80]!r}.", "Repair the line.")
            yield where, None
        else:
            values = numbers(text, count, where, problems)
            yield where, None if values is None else to_xyxy(np.reshape(values[:-2], (-1, 4)), BOX_FORMAT)


def _listed_records(root: Path, lists: Path, split: str, num_classes: int, problems: Problems) -> Iterator[Record]:
    """Of CUB-200-2011 and Stanford Dogs."""
    folder = first_existing(root, split, "images", "Images")
    if folder is None:
        raise UsageError(f"{root} has no folder {split} or images. {_LAYOUT}")
    image_list = require_file(lists / f"{split}_list.txt", _LAYOUT)
    boxes: Iterator = iter(())
    if split == "test":
        box_list = first_existing(lists, "test_bounding_box.txt", "test_gt.txt")
        if box_list is None:
            raise UsageError(f"{lists} has neither test_bounding_box.txt nor test_gt.txt. {_LAYOUT}")
        # The two files belong together line by line, so nothing can be left out of one of them.
        counts = [sum(1 for _ in read_lines(file)) for file in (image_list, box_list)]
        if counts[0] != counts[1]:
            raise UsageError(
                f"{image_list} has {counts[0]} lines, {box_list} {counts[1]}; they belong together by line."
            )
        boxes = _test_boxes(box_list, problems)
    for (number, text), truth in zip_longest(read_lines(image_list), boxes):
        where = line(image_list, number)
        path, separator, word = text.strip().partition(";")
        if not separator:
            problems.add(where, f"expected `path;label`, got {text[:80]!r}.", "Repair or remove the line.")
            continue
        label = whole_number(word, range(num_classes), "class", where, problems)
        found: np.ndarray | tuple | None = ()
        if truth is not None:
            box_where, listed = truth
            found = listed if listed is None else upright_boxes(listed, folder / path, box_where, problems)
        if label is not None and found is not None:
            yield Record(f"{split}/{path}", folder / path, label, found)


def _imagenet_records(root: Path, lists: Path, split: str, wnids: list[str], problems: Problems) -> Iterator[Record]:
    if split == "train":
        for label, wnid in enumerate(wnids):
            for path in image_files(root / "train" / wnid, problems):
                yield Record(f"train/{wnid}/{path.name}", path, label)
        return
    boxes_file = require_file(lists / "val_gt.txt", _LAYOUT)
    annotations = dict(read_val_gt(boxes_file, problems))
    for where, path, label in _labelled(lists / "val_list.txt", problems):
        annotation = annotations.pop(PurePosixPath(path).stem, None)
        if annotation is None:
            problems.add(where, f"{path!r} is not in {boxes_file}.", "Add its boxes, or remove the image.")
        elif label >= len(wnids) or not wnids[label] == annotation.class_name == _folder_of(path):
            expected = wnids[label] if label < len(wnids) else "no training folder"
            problems.add(where, f"class {label} is {expected}, {annotation.where} says {annotation.class_name}.")
        else:
            image = root / "val" / path
            image = image if is_file(image) else root / "val" / image.name
            boxes = upright_boxes(annotation.boxes, image, annotation.where, problems)
            if boxes is not None:
                yield Record(f"val/{image.name}", image, label, boxes)
    for annotation in annotations.values():
        problems.add(annotation.where, "its image is not in val_list.txt.", "Add it there, or remove the line.")


def _box_records(root: Path, lists: Path, split: str, names: list[str], problems: Problems) -> Iterator[Record]:
    """Of Stanford Cars and FGVC-Aircraft."""
    file = lists / "images_box.txt"
    labels = {name: label for label, name in enumerate(names)}
    for number, (name, class_name, flag, text) in read_columns(file, 4, problems, separator=";"):
        where = line(file, number)
        if flag not in ("0", "1", "2"):
            problems.add(where, f"the split must be 0 (train), 1 (test) or 2 (validation), got {flag!r}.")
            continue
        if flag not in _BOX_SPLITS[split]:
            continue
        if class_name not in labels:
            problems.add(where, f"the class {class_name!r} is not in {lists / 'classes.txt'}.", "Add or repair it.")
            continue
        values = numbers(text, 6, where, problems)
        image = root / "images" / f"{name}.jpg"
        boxes = values and upright_boxes(to_xyxy([values[:4]], "voc"), image, where, problems)
        if boxes is not None:
            yield Record(name, image, labels[class_name], boxes)


def _read(root: Path, split: str, problems: Problems, *, lists: str | None = None) -> SourceSplit | None:
    require_folder(root, _LAYOUT)
    folder = require_folder(Path(lists) if lists else root, _LAYOUT)
    if split == "validation":
        return None
    if is_file(folder / "images_box.txt"):
        names = read_names(require_file(folder / "classes.txt", _LAYOUT))
        return SourceSplit(names, _box_records(root, folder, split, names, problems))
    if is_file(folder / "val_list.txt"):
        wnids = class_folders(require_folder(root / "train", _LAYOUT))
        names = class_names(root, wnids, problems)
        return SourceSplit(names, _imagenet_records(root, folder, split, wnids, problems))
    if is_file(folder / "test_list.txt"):
        # Problems of this list are counted when it is read as a split.
        training = _labelled(require_file(folder / "train_list.txt", _LAYOUT), Problems(problems.skip))
        names = names_by_label((where, label, _folder_of(path)) for where, path, label in training)
        return SourceSplit(names, _listed_records(root, folder, split, len(names), problems))
    raise UsageError(f"{folder} has none of the lists. {_LAYOUT}")


def _detect(root: Path) -> bool:
    # Stanford Dogs has a test_list.txt too, where its lists are text, and FGVC-Aircraft an images_box.txt.
    boxes = first_existing(root, "test_bounding_box.txt", "test_gt.txt", "val_list.txt")
    return boxes is not None or all(is_file(root / name) for name in ("images_box.txt", "classes.txt"))


SOURCE = Source(
    "reference_lists", "the lists of the SAT paper's repository, with their images", _LAYOUT, _read, detect=_detect
)
