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
from sat_peft.data.sources.mat_files import read_mat, texts
from sat_peft.data.sources.records import Problems, Record, SourceSplit
from sat_peft.data.sources.registry import Source
from sat_peft.data.sources.stored_boxes import upright_boxes
from sat_peft.errors import UsageError

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
    if files.size != labels.size:
        raise UsageError(f"{file} has {files.size} files but {labels.size} labels.")
    # MATLAB counts from 1.
    for index, (path, label) in enumerate(zip(texts(files), labels.ravel().tolist(), strict=True)):
        yield f"{file}, entry {index + 1}", path, int(label) - 1


def _records(root: Path, split: str, num_classes: int, problems: Problems) -> Iterator[Record]:
    for where, path, label in _entries(root, split, problems):
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
    return (root / "Images").is_dir() and (root / "Annotation").is_dir()


SOURCE = Source("stanford_dogs", "Stanford Dogs: 120 breeds, images of ImageNet", _LAYOUT, _read, detect=_detect)
