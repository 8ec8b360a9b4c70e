"""ILSVRC 2012 (ImageNet-1k): classification and localisation.

    ROOT/train/n01440764/*.JPEG
    ROOT/val/*.JPEG or ROOT/val/n01440764/*.JPEG
    boxes and classes of val, one of
        xml     ROOT/Annotations/CLS-LOC/val/*.xml, as published
        csv     ROOT/LOC_val_solution.csv, Kaggle's table
        val_gt  ROOT/val_gt.txt, the list of SAT's code
    ROOT/LOC_synset_mapping.txt (optional): names of the classes

Kaggle's own folders are read too: ROOT/ILSVRC/Data/CLS-LOC/{train,val} and ROOT/ILSVRC/Annotations. Our `train` is the
official training set (1,281,167 images, without its boxes, which nothing needs), our `test` the official *validation*
set (50,000 images), as in every publication on localisation; the official test set has no public labels. There is no
third split for `validation`: carve one from train, or read ImageNetV2 through the source `wsol_metadata`.

Classes are in the order of their WordNet identifiers. Without boxes (`boxes="none"`) the classes of a flat val come
from ILSVRC2012_validation_ground_truth.txt and meta.mat of the development kit. Boxes: see `imagenet.py`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from sat_peft.data.sources.files import class_folders, image_files, require_file, require_folder
from sat_peft.data.sources.imagenet import Annotation, read_annotation_xml, read_kaggle_csv, read_val_gt
from sat_peft.data.sources.lists import first_existing, line, read_keyed, whole_number
from sat_peft.data.sources.records import Problems, Record, SourceSplit
from sat_peft.data.sources.registry import Source
from sat_peft.data.sources.stored_boxes import upright_boxes
from sat_peft.errors import UsageError, unknown_choice
from sat_peft.files import read_lines
from sat_peft.files.mat import column, numbers, read_mat, texts

_LAYOUT = (
    "Expected ROOT/train/WNID/*.JPEG, ROOT/val/*.JPEG or ROOT/val/WNID/*.JPEG, and the boxes of val in "
    "ROOT/Annotations/CLS-LOC/val/*.xml, ROOT/LOC_val_solution.csv or ROOT/val_gt.txt."
)
_FOLDERS = {"train": "train", "test": "val"}
_BOX_FILES = {"xml": "Annotations/CLS-LOC/val", "csv": "LOC_val_solution.csv", "val_gt": "val_gt.txt"}
BOXES = ("auto", *_BOX_FILES, "none")


def _find(root: Path, name: str) -> Path | None:
    return first_existing(root, name, f"ILSVRC/{name}")


def _image_folder(root: Path, split: str) -> Path:
    name = _FOLDERS[split]
    found = first_existing(root, name, f"Data/CLS-LOC/{name}", f"ILSVRC/Data/CLS-LOC/{name}")
    return require_folder(found or root / name, _LAYOUT)


def _development_kit(root: Path, name: str) -> Path:
    found = first_existing(root, name, *(f"{kit}/data/{name}" for kit in ("ILSVRC2012_devkit_t12", "devkit")))
    return require_file(found or root / name, "It is part of the development kit ILSVRC2012_devkit_t12.")


def _wnids(root: Path, problems: Problems) -> list[str]:
    """The classes: the training folders, or, on a machine that has the validation set alone, Kaggle's mapping."""
    if first_existing(root, "train", "Data/CLS-LOC/train", "ILSVRC/Data/CLS-LOC/train") is not None:
        return class_folders(_image_folder(root, "train"))
    mapping = _find(root, "LOC_synset_mapping.txt")
    if mapping is None:
        raise UsageError(
            f"{root} has neither the training folders nor LOC_synset_mapping.txt, which tell the classes. {_LAYOUT}"
        )
    # Problems of this file are counted when the names are read.
    return sorted(read_keyed(mapping, Problems(problems.skip)))


def class_names(root: Path, wnids: list[str], problems: Problems) -> list[str]:
    """The first synonym of each class in LOC_synset_mapping.txt, with its identifier where two classes share it (two
    are called crane); the identifiers themselves where there is no such file."""
    mapping = _find(root, "LOC_synset_mapping.txt")
    if mapping is None:
        return wnids
    synonyms = {wnid: words.split(",")[0].strip() for wnid, (_, words) in read_keyed(mapping, problems).items()}
    missing = [wnid for wnid in wnids if wnid not in synonyms]
    if missing:
        raise UsageError(f"{mapping} has no line for {', '.join(missing[:5])}. Add it, or remove the file.")
    first = [synonyms[wnid] for wnid in wnids]
    return [f"{name} ({wnid})" if first.count(name) > 1 else name for wnid, name in zip(wnids, first, strict=True)]


def _train_records(folder: Path, wnids: list[str], problems: Problems) -> Iterator[Record]:
    for label, wnid in enumerate(wnids):
        for path in image_files(folder / wnid, problems):
            yield Record(f"train/{wnid}/{path.name}", path, label)


class _XmlAnnotations:
    """One file per image, read when its image is."""

    def __init__(self, folder: Path, problems: Problems):
        self.folder, self.problems = folder, problems
        self.left = {name.removesuffix(".xml") for name in os.listdir(folder) if name.endswith(".xml")}

    def take(self, image: Path) -> Annotation | None:
        self.left.discard(image.stem)
        return read_annotation_xml(self.folder / f"{image.stem}.xml", self.problems)

    def unused(self) -> Iterator[str]:
        return (str(self.folder / f"{name}.xml") for name in sorted(self.left))


class _ListedAnnotations:
    """All images in one file."""

    def __init__(self, file: Path, read: Callable, problems: Problems):
        self.file, self.problems = file, problems
        self.left: dict[str, Annotation] = {}
        for name, annotation in read(file, problems):
            if name in self.left:
                problems.add(annotation.where, f"the image {name!r} has a line already.", "Remove one of the two.")
            else:
                self.left[name] = annotation

    def take(self, image: Path) -> Annotation | None:
        annotation = self.left.pop(image.stem, None)
        if annotation is None:
            self.problems.add(image, f"the image is not in {self.file}.", "Add it there, or remove the image.")
        return annotation

    def unused(self) -> Iterator[str]:
        return (annotation.where for annotation in self.left.values())


def _annotations(root: Path, boxes: str, problems: Problems) -> _XmlAnnotations | _ListedAnnotations | None:
    if boxes == "none":
        return None
    wanted = [boxes] if boxes != "auto" else list(_BOX_FILES)
    found = {kind: _find(root, _BOX_FILES[kind]) for kind in wanted}
    kind = next((kind for kind in wanted if found[kind] is not None), None)
    if kind is None:
        files = " nor ".join(_BOX_FILES[kind] for kind in wanted)
        raise UsageError(
            f"{root} has no {files}, which hold the boxes of val. Add it, or evaluate classification alone with the "
            "option boxes=none."
        )
    if kind == "xml":
        return _XmlAnnotations(require_folder(found[kind], _LAYOUT), problems)
    read = {"csv": read_kaggle_csv, "val_gt": read_val_gt}[kind]
    return _ListedAnnotations(require_file(found[kind], _LAYOUT), read, problems)


def _ground_truth(root: Path, problems: Problems) -> dict[str, str]:
    """image name without suffix -> WordNet identifier, from the development kit.

    The kit's class numbers are its own; meta.mat tells their identifiers.
    """
    meta = _development_kit(root, "meta.mat")
    (synsets,) = read_mat(meta, ("synsets",))
    names = texts(column(synsets, "WNID", meta), meta)
    wnids = dict(zip(numbers(column(synsets, "ILSVRC2012_ID", meta), meta), names, strict=True))
    file = _development_kit(root, "ILSVRC2012_validation_ground_truth.txt")
    found = {}
    for number, text in read_lines(file):
        label = whole_number(text, range(1, len(wnids) + 1), "class", line(file, number), problems)
        if label is not None and label not in wnids:
            problems.add(line(file, number), f"{meta} has no class {label}.", "Take both from one development kit.")
        elif label is not None:
            found[f"ILSVRC2012_val_{number:08d}"] = wnids[label]
    return found


def _test_records(
    root: Path, wnids: list[str], annotations: _XmlAnnotations | _ListedAnnotations | None, problems: Problems
) -> Iterator[Record]:
    folder = _image_folder(root, "test")
    labels = {wnid: label for label, wnid in enumerate(wnids)}
    ground_truth: dict[str, str] | None = None
    for path in image_files(folder, problems):
        wnid = None if path.parent == folder else path.parent.name
        boxes, where = (), str(path)
        if annotations is not None:
            annotation = annotations.take(path)
            if annotation is None:
                continue
            if wnid is not None and wnid != annotation.class_name:
                problems.add(path, f"its folder says {wnid}, {annotation.where} says {annotation.class_name}.")
                continue
            wnid, where = annotation.class_name, annotation.where
            boxes = upright_boxes(annotation.boxes, path, where, problems)
            if boxes is None:
                continue
        elif wnid is None:
            if ground_truth is None:
                ground_truth = _ground_truth(root, problems)
            wnid = ground_truth.get(path.stem)
        if wnid not in labels:
            problems.add(where, f"the class {wnid!r} is not among the {len(labels)} of train.", "Remove the image.")
            continue
        # The same in a flat and in a foldered val.
        yield Record(f"val/{path.name}", path, labels[wnid], boxes)
    for where in annotations.unused() if annotations is not None else ():
        problems.add(where, f"its image does not exist below {folder}.", "Add the image, or remove the entry.")


def _read(root: Path, split: str, problems: Problems, *, boxes: str = "auto") -> SourceSplit | None:
    require_folder(root, _LAYOUT)
    if boxes not in BOXES:
        raise unknown_choice("kind of boxes", boxes, BOXES)
    if split not in _FOLDERS:
        return None
    wnids = _wnids(root, problems)
    names = class_names(root, wnids, problems)
    if split == "train":
        return SourceSplit(names, _train_records(_image_folder(root, "train"), wnids, problems))
    annotations = _annotations(root, boxes, problems)
    return SourceSplit(names, _test_records(root, wnids, annotations, problems))


def _detect(root: Path) -> bool:
    return any(_find(root, name) is not None for name in (*_BOX_FILES.values(), "LOC_synset_mapping.txt"))


SOURCE = Source(
    "ilsvrc", "ILSVRC 2012: ImageNet, 1,000 classes; its validation set is our test", _LAYOUT, _read, detect=_detect
)
