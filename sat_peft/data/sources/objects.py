"""Formats in which an image has many objects, of several classes: which of them the image is about."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sat_peft.data.box_formats import RELATIVE_FORMATS, to_xyxy
from sat_peft.data.decoding import read_image_size
from sat_peft.data.sources.records import Problems, Record, SourceSplit
from sat_peft.errors import UsageError, unknown_choice

LABEL_FROM = ("largest", "first", "only")


@dataclass(frozen=True, slots=True)
class AnnotatedImage:
    """An image with all its objects.

    Args:
        image_id: as in `Record`.
        image: the file.
        where: what names the image in messages: its annotation file, or its entry there.
        classes: name of the class of every object.
        boxes: (n, 4) boxes of the objects, in the format of the source.
    """

    image_id: str
    image: Path
    where: str
    classes: list[str]
    boxes: list[list[float]]


# The images of a split; None where the data has no such split.
ReadImages = Callable[[str, Problems], Iterator[AnnotatedImage] | None]


def check_label_from(label_from: str) -> None:
    """Raises `UsageError` for an unknown choice."""
    if label_from not in LABEL_FROM:
        raise unknown_choice("choice of --label-from", label_from, LABEL_FROM)


def choose_class(
    classes: list,
    boxes: np.ndarray,
    label_from: str,
    where: str,
    problems: Problems,
    *,
    title: Callable[[object], str] = str,
) -> tuple[object, np.ndarray] | None:
    """The class that an image is about, and the boxes of that class.

    Args:
        classes: of the objects; at least one.
        boxes: (n, 4) xyxy of the objects.
        label_from: `largest` (the object with the largest box, the first of equals), `first` (the first object) or
            `only` (several classes are a problem).
        where: names the image.
        problems: gets an image that has several classes where it may have one.
        title: what a class is called in that message.

    Returns:
        The class and its (m, 4) boxes; None after a problem.
    """
    if label_from == "only" and len(set(classes)) > 1:
        shown = ", ".join(sorted(map(title, set(classes))))
        problems.add(where, f"the image has objects of several classes: {shown}.", "Choose one by --label-from.")
        return None
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    index = int(np.argmax(areas)) if label_from == "largest" else 0
    return classes[index], boxes[[name == classes[index] for name in classes]]


def _labelled(
    images: Iterator[AnnotatedImage], box_format: str, label_from: str, split: str, problems: Problems
) -> Iterator[tuple[AnnotatedImage, str, np.ndarray]]:
    """(image, class, its boxes as xyxy, in shares of the sides where the format has shares)."""
    for image in images:
        if not image.classes:
            problems.leave_out(f"{split} images without an object to name their class")
            continue
        boxes = to_xyxy(image.boxes, box_format, (1, 1))
        chosen = choose_class(image.classes, boxes, label_from, image.where, problems)
        if chosen is not None:
            yield image, *chosen


def _records(
    images: Iterator[AnnotatedImage],
    class_names: list[str],
    box_format: str,
    label_from: str,
    split: str,
    problems: Problems,
) -> Iterator[Record]:
    labels = {name: label for label, name in enumerate(class_names)}
    for image, name, boxes in _labelled(images, box_format, label_from, split, problems):
        if name not in labels:
            problems.add(
                image.where, f"its class {name!r} labels no training image.", "Add such images to train, or remove it."
            )
            continue
        if box_format in RELATIVE_FORMATS:
            try:
                size = read_image_size({"bytes": None, "path": str(image.image)}, image.image_id)
            except UsageError as error:
                problems.add(image.image, str(error))
                continue
            boxes = boxes * np.tile(size, 2)
        yield Record(image.image_id, image.image, labels[name], boxes)


def object_split(
    read: ReadImages,
    split: str,
    problems: Problems,
    *,
    box_format: str,
    label_from: str,
    layout: str,
    class_order: list[str] | None = None,
) -> SourceSplit | None:
    """One split of a source whose images have objects of several classes.

    The classes are those that label at least one training image, so that every split has the same and none is empty.
    Images without objects are left out and counted, since nothing tells their class.

    Args:
        read: the annotated images of a split.
        split: which one.
        problems: gets entries that cannot be used.
        box_format: a name of `sat_peft.data.box_formats.BOX_FORMATS`.
        label_from: see `choose_class`.
        layout: of the source, for messages.
        class_order: all names of classes in the order of the labels; by default the order of the alphabet.

    Raises:
        UsageError: an unknown `label_from`, or no train split.
    """
    check_label_from(label_from)
    # Problems of the training images are told when they are read for training, and not here too.
    unheard = Problems(skip=True)
    train = read("train", unheard)
    if train is None:
        raise UsageError(f"the data has no train split, whose images tell the classes. {layout}")
    images = read(split, problems)
    if images is None:
        return None
    found = {name for _, name, _ in _labelled(train, box_format, label_from, "train", unheard)}
    if len(found) < 2 and unheard.listed:
        # Otherwise the message would be about the number of classes, and not about what is wrong with them.
        first = unheard.listed[0]
        problems.add(first.where, first.what, first.fix)
    class_names = sorted(found) if class_order is None else [name for name in class_order if name in found]
    return SourceSplit(class_names, _records(images, class_names, box_format, label_from, split, problems))
