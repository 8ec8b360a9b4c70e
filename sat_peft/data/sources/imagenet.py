"""Annotations in the forms that ImageNet's boxes are published in: XML files, Kaggle's table, the list of SAT's code.

All three hold the same whole numbers x0 y0 x1 y1, from 0 up to the last column and row of the image. They are taken as
corners as they are (`xyxy`): so do the published evaluations, and protocols `sat` and `wsol` give their numbers only
then. A full-image box has 50.42 % GT-known Loc on ILSVRC under `sat`; one pixel more on the far sides makes it 50.66.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath

import numpy as np

from sat_peft.data.box_formats import to_xyxy
from sat_peft.data.sources.files import numbers
from sat_peft.data.sources.lists import line
from sat_peft.data.sources.records import Problems
from sat_peft.files import read_csv, read_lines, read_xml

BOX_FORMAT = "xyxy"


@dataclass(frozen=True, slots=True)
class Annotation:
    """The object of one image: its place for messages, class and boxes (n, 4) xyxy in pixels as stored."""

    where: str
    class_name: str
    boxes: np.ndarray


def _annotation(where: str, objects: list[tuple[str, list[float]]], problems: Problems) -> Annotation | None:
    names = {name for name, _ in objects}
    if len(names) != 1:
        said = f"the objects are of {len(names)} classes ({', '.join(sorted(names)[:5])})" if names else "no object"
        problems.add(where, f"{said}; every image has one class.", "Repair or remove the entry.")
        return None
    boxes = to_xyxy([box for _, box in objects], BOX_FORMAT).astype(np.float32)
    return Annotation(where, names.pop(), boxes)


def read_annotation_xml(path: Path, problems: Problems) -> Annotation | None:
    """The annotation in one XML file with the elements of Pascal VOC; None after a problem."""
    root = problems.read(read_xml, path)
    if root is None:
        return None
    objects = []
    for element in root.iter("object"):
        corners = " ".join(element.findtext(f"bndbox/{name}", "missing") for name in ("xmin", "ymin", "xmax", "ymax"))
        box = numbers(corners, 4, str(path), problems)
        if box is None:
            return None
        objects.append((element.findtext("name", "").strip(), box))
    return _annotation(str(path), objects, problems)


def read_kaggle_csv(path: Path, problems: Problems) -> Iterator[tuple[str, Annotation]]:
    """(image name without suffix, annotation) of LOC_val_solution.csv: ImageId, "wnid x0 y0 x1 y1 wnid x0 …"."""
    for number, row in read_csv(path, ("ImageId", "PredictionString")):
        where = line(path, number)
        words = (row["PredictionString"] or "").split()
        if len(words) % 5:
            problems.add(where, f"expected groups of a class and four numbers, got {' '.join(words)[:80]!r}.")
            continue
        groups = [words[start : start + 5] for start in range(0, len(words), 5)]
        objects = [(group[0], numbers(" ".join(group[1:]), 4, where, problems)) for group in groups]
        if any(box is None for _, box in objects):
            continue
        annotation = _annotation(where, objects, problems)
        if annotation is not None:
            yield row["ImageId"], annotation


def read_val_gt(path: Path, problems: Problems) -> Iterator[tuple[str, Annotation]]:
    r"""(image name without suffix, annotation) of SAT's val_gt.txt: `wnid\\file W H ; x0 y0 x1 y1 x0 …`."""
    for number, text in read_lines(path):
        where = line(path, number)
        head, separator, tail = text.partition(";")
        name = PureWindowsPath(head.split()[0]) if head.split() else PureWindowsPath()
        words = tail.split()
        if not separator or len(name.parts) != 2 or not words or len(words) % 4:
            problems.add(where, rf"expected `wnid\\file W H ; x0 y0 x1 y1 …`, got {text[:80]!r}.")
            continue
        values = numbers(tail, len(words), where, problems)
        if values is not None:
            boxes = to_xyxy(np.reshape(values, (-1, 4)), BOX_FORMAT).astype(np.float32)
            yield name.stem, Annotation(where, name.parts[0], boxes)
