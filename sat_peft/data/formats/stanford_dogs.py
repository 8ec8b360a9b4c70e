"""Stanford Dogs, as published.

    ROOT/Images/n02085620-Chihuahua/n02085620_10074.jpg
    ROOT/Annotation/n02085620-Chihuahua/n02085620_10074   (XML without a suffix)
    ROOT/train_list.mat   ROOT/test_list.mat   (or in ROOT/lists)

In place of the .mat files, text lists with a line `n02085620-Chihuahua/n02085620_10074.jpg;0` per image are read:
train_list.txt and test_list.txt. The splits are the official ones: `train` (12,000 images) and `test` (8,580); there is
no official validation split. An image may have several boxes. The images are ImageNet's; boxes: see `imagenet.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from sat_peft.data.sources.files import require_folder
from sat_peft.data.sources.imagenet import read_annotation_xml
from sat_peft.data.sources.lists import first_existing, line, names_by_label, read_columns, whole_number
from sat_peft.data.sources.records import Problems, Record, SourceSplit
from sat_peft.data.sources.registry import Source
from sat_peft.data.sources.stored_boxes import upright_boxes
from sat_peft.errors import UsageError
from sat_peft.files import is_folder, shown
from sat_peft.files.mat import numbers, read_mat, texts

_LAYOUT = (
    "Expected ROOT/Images/BREED/*.jpg, ROOT/Annotation/BREED/* and ROOT/train_list.mat and test_list.mat "
    "(or train_list.txt and test_list.txt)."
)
# More than any list holds; whether a label has a name is known when the training list has been read.
_MAX_CLASSES = 10_000


def _entries(root: Path, split: str, problems: Problems) -> Iterator[tuple[str, str, int]]:
    """(where, path below Images, label from 0) of the images of a split."""
    name = f"{split}_list"
    file = first_existing(root, f"{name}.mat", f"lists/{name}.mat", f"{name}.txt")
    if file is None:
        raise UsageError(f"{root} has neither {name}.mat nor {name}.txt. {_LAYOUT}")
    if file.suffix == ".txt":
        for number, (path, text) in read_columns(file, 2, problems, separator=";"):
            label = whole_number(text, range(_MAX_CLASSES), "class", line(file, number), problems)
            if label is not None:
                yield line(file, number), path, label
        return
    files, labels = read_mat(file, ("file_list", "labels"))
    files, labels = texts(files, file), numbers(labels, file)
    if len(files) != len(labels):
        raise UsageError(f"{file} has {len(files)} files but {len(labels)} labels.")
    for number, (path, label) in enumerate(zip(files, labels, strict=True), 1):
        where = f"{file}, entry {number}"
        # MATLAB counts from 1.
        if label in range(1, _MAX_CLASSES + 1) and PurePosixPath(path).name:
            yield where, path, int(label) - 1
        else:
            what = f"it needs a path and a class from 1 on, got {shown(path)} and {shown(label)}."
            problems.add(where, what, "Take the file anew from where the data set is published.")


def _records(root: Path, split: str, num_classes: int, problems: Problems) -> Iterator[Record]:
    for where, path, label in _entries(root, split, problems):
        if not PurePosixPath(path).name:
            problems.add(where, "the path of the image is empty.", "Repair or remove the line.")
            continue
        if not 0 <= label < num_classes:
            problems.add(where, f"the training list has no class {label}.", "Remove the image.")
            continue
        annotation = read_annotation_xml(root / "Annotation" / PurePosixPath(path).with_suffix(""), problems)
        if annotation is None:
            continue
        image = root / "Images" / path
        boxes = upright_boxes(annotation.boxes, image, annotation.where, problems)
        if boxes is not None:
            yield Record(path, image, label, boxes)


def _read(root: Path, split: str, problems: Problems) -> SourceSplit | None:
    for folder in (root, root / "Images", root / "Annotation"):
        require_folder(folder, _LAYOUT)
    if split == "validation":
        return None
    # Problems of this list are counted when it is read as a split.
    training = _entries(root, "train", Problems(problems.skip))
    names = names_by_label((where, label, PurePosixPath(path).parent.name) for where, path, label in training)
    return SourceSplit(names, _records(root, split, len(names), problems))


def _detect(root: Path) -> bool:
    return is_folder(root / "Images") and is_folder(root / "Annotation")


SOURCE = Source("stanford_dogs", "Stanford Dogs: 120 breeds, images of ImageNet", _LAYOUT, _read, detect=_detect)
