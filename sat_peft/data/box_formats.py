"""Box conventions of annotation formats, converted in this one place.

Inside the package a box is float xyxy, half open, 0-based, in absolute pixels: x1 - x0 is its width. The formats:

xyxy        the package's own
xywh        x0, y0, width, height in pixels, 0-based (COCO, CUB-200-2011)
voc         x0, y0, x1, y1 in pixels, 1-based, the last pixel included (Pascal VOC, FGVC Aircraft)
inclusive   x0, y0, x1, y1 in pixels, 0-based, the last pixel included
yolo        centre x, centre y, width, height as shares of the image's sides
relative    x0, y0, x1, y1 as shares of the image's sides (OpenImages)
"""

from __future__ import annotations

import numpy as np

from sat_peft.errors import UsageError, unknown_choice

BOX_FORMATS = ("xyxy", "xywh", "voc", "inclusive", "yolo", "relative")
# Formats that cannot be read without the size of the image.
RELATIVE_FORMATS = ("yolo", "relative")
_OUTSIDE_TOLERANCE = 1.0


def _scale(box_format: str, image_size: tuple[int, int] | None) -> np.ndarray:
    if image_size is None:
        raise UsageError(f"boxes of the format {box_format!r} need the size of their image.")
    return np.tile(np.asarray(image_size, np.float64), 2)


def to_xyxy(boxes, box_format: str, image_size: tuple[int, int] | None = None) -> np.ndarray:
    """Boxes of a format as (n, 4) float64 xyxy, half open, in absolute pixels.

    Args:
        boxes: (n, 4) numbers; n may be 0.
        box_format: a name of `BOX_FORMATS`.
        image_size: (width, height) in pixels, for `yolo` and `relative`.

    Raises:
        UsageError: an unknown format, no four numbers a box, or a missing image size.
    """
    if box_format not in BOX_FORMATS:
        raise unknown_choice("box format", box_format, BOX_FORMATS)
    boxes = np.array(boxes, np.float64)
    if boxes.size == 0:
        return np.zeros((0, 4))
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise UsageError(f"boxes must be (n, 4) numbers, got the shape {boxes.shape}.")
    if box_format == "voc":
        boxes[:, :2] -= 1
    elif box_format == "inclusive":
        boxes[:, 2:] += 1
    elif box_format == "xywh":
        boxes[:, 2:] += boxes[:, :2]
    elif box_format == "yolo":
        centre, half = boxes[:, :2].copy(), boxes[:, 2:] / 2
        boxes = np.concatenate([centre - half, centre + half], axis=1)
    return boxes * _scale(box_format, image_size) if box_format in RELATIVE_FORMATS else boxes


def from_xyxy(boxes, box_format: str, image_size: tuple[int, int] | None = None) -> np.ndarray:
    """The inverse of `to_xyxy`, for writers. Fractions of a pixel stay; a writer of whole pixels rounds first."""
    if box_format not in BOX_FORMATS:
        raise unknown_choice("box format", box_format, BOX_FORMATS)
    boxes = np.array(boxes, np.float64).reshape(-1, 4)
    if box_format in RELATIVE_FORMATS:
        boxes = boxes / _scale(box_format, image_size)
    if box_format == "voc":
        boxes[:, :2] += 1
    elif box_format == "inclusive":
        boxes[:, 2:] -= 1
    elif box_format == "xywh":
        boxes[:, 2:] -= boxes[:, :2]
    elif box_format == "yolo":
        boxes = np.concatenate([(boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]], axis=1)
    return boxes


def seem_relative(boxes: list[list[float]]) -> bool:
    """Whether xyxy boxes that should be in pixels all lie in the first one, as shares of the sides do."""
    # -1 is what a box from 0 becomes that was taken to count from 1. Without numpy, which takes longer for a few boxes.
    return bool(boxes) and all(-1 <= value <= 1 for box in boxes for value in reversed(box))


def box_outside(boxes, image_size: tuple[int, int]) -> list[float] | None:
    """The first of the (n, 4) xyxy boxes that leaves an image of (width, height) pixels, or None.

    One pixel is tolerated: annotations that are rounded, or count from 1, may end there.
    """
    boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
    outside = (boxes < -_OUTSIDE_TOLERANCE) | (boxes > np.tile(image_size, 2) + _OUTSIDE_TOLERANCE)
    return boxes[outside.any(1)][0].tolist() if outside.any() else None
