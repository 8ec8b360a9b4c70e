"""Formats in which an image has many objects, of several classes: which of them the image is about."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from sat_peft.data.box_formats import RELATIVE_FORMATS, box_outside, seem_relative, to_xyxy
from sat_peft.data.decoding import read_head
from sat_peft.data.sources.build import SHARES_AS_PIXELS, has_area
from sat_peft.data.sources.records import Kept, Problems, Record, SourceSplit
from sat_peft.errors import UsageError, unknown_choice
from sat_peft.files import respelled, spelled

# Of a box in shares of the sides; beyond, its numbers are pixels.
_LARGEST_SHARE = 2
PIXELS_AS_SHARES = (
    "is not in shares of the image's sides, from 0 to 1: its numbers seem to be pixels.",
    "Divide x and width by the image's width, y and height by its height.",
)
LABEL_FROM = ("largest", "first", "only")


@dataclass(frozen=True, slots=True)
class AnnotatedImage:
    """An image with all its objects.

    Args:
        image_id: as in `Record`.
        image: the file.
        where: what names the image in messages: its annotation file, or its entry there.
        classes: name of the class of every object.
        boxes: (n, 4) finite numbers, boxes of the objects in the format of the source.
        place: what names an object, by its index, in messages.
        size: (width, height) in pixels that the annotation tells of the image; None where it does not.
    """

    image_id: str
    image: Path
    where: str
    classes: list[str]
    boxes: list[list[float]]
    place: Callable[[int], str]
    size: tuple[int, int] | None = None


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
        classes: classes of the objects; at least one.
        boxes: (n, 4) xyxy of the objects.
        label_from: `largest` (the object with the largest box, the first of equals), `first` (the first object) or
            `only` (several classes are a problem).
        where: names the image.
        problems: gets an image that has several classes where it may have one.
        title: what a class is called in that message.

    Returns:
        The class and its (m, 4) boxes; None after a problem.
    """
    if len(classes) == 1:
        return classes[0], boxes
    if label_from == "only" and len(set(classes)) > 1:
        shown = ", ".join(sorted(map(title, set(classes))))
        problems.add(where, f"the image has objects of several classes: {shown}.", "Choose one by --label-from.")
        return None
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    index = int(np.argmax(areas)) if label_from == "largest" else 0
    return classes[index], boxes[[name == classes[index] for name in classes]]


def _usable_objects(image: AnnotatedImage, box_format: str, problems: Problems) -> tuple[list[str], np.ndarray]:
    """(classes, xyxy boxes) of the objects of an image that can be used; in shares where the format has shares."""
    boxes = to_xyxy(image.boxes, box_format, (1, 1))
    rows = boxes.tolist()
    bad = [index for index, box in enumerate(rows) if not has_area(box)]
    for index in bad:
        what = f"the {box_format} box {_short(image.boxes[index])} has no area."
        problems.add(image.place(index), what, "Repair or remove the object.")
    if bad:
        kept = [index for index in range(len(rows)) if index not in bad]
        image = replace(image, classes=[image.classes[i] for i in kept], boxes=[image.boxes[i] for i in kept])
        boxes, rows = boxes[kept], [rows[index] for index in kept]
    wrong, shown_box = None, 0
    if box_format not in RELATIVE_FORMATS:
        wrong = SHARES_AS_PIXELS if seem_relative(rows) else None
    elif rows:
        extents = [max(map(abs, box)) for box in rows]
        shown_box = extents.index(max(extents))
        wrong = PIXELS_AS_SHARES if extents[shown_box] > _LARGEST_SHARE else None
    if wrong is None:
        return image.classes, boxes
    problems.add(image.where, f"the box {_short(image.boxes[shown_box])} {wrong[0]}", wrong[1])
    return [], boxes[:0]


def _short(box: list[float]) -> list[float]:
    return [round(value, 4) for value in box]


def _labelled(
    images: Iterator[AnnotatedImage], box_format: str, label_from: str, split: str, problems: Problems
) -> Iterator[tuple[AnnotatedImage, str, np.ndarray]]:
    """(image, class, its boxes as xyxy, in shares of the sides where the format has shares)."""
    for image in images:
        if not image.classes:
            problems.leave_out(f"{split} images without an object to name their class")
            continue
        classes, boxes = _usable_objects(image, box_format, problems)
        if not classes:
            continue  # Each of its objects is a bad entry.
        chosen = choose_class([spelled(name) for name in classes], boxes, label_from, image.where, problems)
        if chosen is not None:
            yield image, *chosen


def _pixels(image: AnnotatedImage, boxes: np.ndarray, problems: Problems) -> np.ndarray | None:
    """Boxes in shares of the sides as boxes in pixels; None after a problem."""
    try:
        size = read_head({"bytes": None, "path": str(respelled(image.image))}, image.image_id).size
    except UsageError as error:
        problems.add(image.image, str(error))
        return None
    pixels = boxes * np.tile(size, 2)
    outside = box_outside(pixels, size)
    if outside is None:
        return pixels
    shares = [round(value, 4) for value in (np.asarray(outside) / np.tile(size, 2)).tolist()]
    what = f"the box {shares} (x0, y0, x1, y1 in shares of the sides) leaves its image of {size[0]} x {size[1]} pixels."
    problems.add(image.where, what, "Shares are from 0 to 1, of a box's middle and its size; repair the line.")
    return None


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
            boxes = _pixels(image, boxes, problems)
        if boxes is not None:
            yield Record(image.image_id, image.image, labels[name], boxes, where=image.where, size=image.size)


def object_split(
    read: ReadImages,
    split: str,
    problems: Problems,
    kept: Kept,
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
        kept: keeps the training images, which every split needs for their classes.
        box_format: a name of `sat_peft.data.box_formats.BOX_FORMATS`.
        label_from: see `choose_class`.
        layout: layout of the source, for messages.
        class_order: all names of classes in the order of the labels; by default the order of the alphabet.

    Raises:
        UsageError: an unknown `label_from`, or no train split.
    """
    check_label_from(label_from)

    def train_images() -> tuple[list[AnnotatedImage], Problems] | None:
        # What is wrong with the training images is told when they are read for training, and not here too.
        noted = Problems(skip=True, sizes=None if problems.sizes is None else {})
        images = read("train", noted)
        return None if images is None else (list(images), noted)

    train = kept.once("training images", train_images)
    if train is None:
        raise UsageError(f"the data has no train split, whose images tell the classes. {layout}")
    images = iter(train[0]) if split == "train" else read(split, problems)
    if images is None:
        return None
    unheard = Problems(skip=True)
    found = {name for _, name, _ in _labelled(iter(train[0]), box_format, label_from, "train", unheard)}
    # Where they are of no use, nobody is going to read them, so this is the place to tell why.
    useless = len(found) < 2 and (split == "train" or not problems.skip)
    if split == "train" or useless:
        problems.take(train[1])
    if useless:
        problems.take(unheard)
    order = sorted(found) if class_order is None else dict.fromkeys(map(spelled, class_order))
    class_names = [name for name in order if name in found]
    return SourceSplit(class_names, _records(images, class_names, box_format, label_from, split, problems))
