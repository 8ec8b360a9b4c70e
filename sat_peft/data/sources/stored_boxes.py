"""Published boxes, which tell pixels as the file stores them, on the upright image that is decoded.

Annotation tools of research data sets did not know EXIF: where a file says that the image is to be turned, its boxes
have to be turned with it. And some published boxes pass the edge of their image by a few pixels (CUB-200-2011 has
some, by up to 7 % of the side); they are cut there.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from sat_peft.data.decoding import read_head
from sat_peft.data.sources.records import Problems
from sat_peft.errors import UsageError

# A box that passes the edge by a larger share of the side belongs to another image, or is in another format.
_LARGEST_EXCESS = 0.1
_ROUNDING = 1.0


def _turn(boxes: np.ndarray, orientation: int, width: int, height: int) -> np.ndarray:
    """(n, 4) xyxy in stored pixels to upright ones, as the EXIF orientation 1 to 8 says."""
    x, y = boxes[:, [0, 2]], boxes[:, [1, 3]]
    if orientation in (2, 3, 7, 8):  # the first row or column of the upright image is the last one stored
        x = width - x[:, ::-1]
    if orientation in (3, 4, 6, 7):
        y = height - y[:, ::-1]
    if orientation >= 5:
        x, y = y, x
    return np.stack([x[:, 0], y[:, 0], x[:, 1], y[:, 1]], axis=1)


def upright_boxes(boxes: np.ndarray, image: Path, where: str, problems: Problems) -> np.ndarray | None:
    """Boxes in the pixels of the stored image as boxes in those of the upright image, cut at its edge.

    Reads the head of the image file. A file that cannot be opened is left to whoever reads the image.

    Args:
        boxes: (n, 4) xyxy, half open, pixels as stored.
        image: the file.
        where: the place of the boxes, for messages.
        problems: gets a box that lies outside the image.

    Returns:
        (n, 4) xyxy, half open, pixels of the upright image; None after a problem.
    """
    if len(boxes) == 0:
        return boxes
    try:
        head = read_head({"path": str(image)}, where)
    except UsageError:
        return boxes
    width, height = head.stored
    size = np.array([width, height, width, height])
    excess = np.maximum(-boxes, boxes - size)
    outside = (excess > np.maximum(_LARGEST_EXCESS * size, _ROUNDING)).any(axis=1)
    if outside.any():
        shown = boxes[outside][0].tolist()
        problems.add(where, f"the box {shown} leaves its image of {width} x {height} pixels.", "Repair or remove it.")
        return None
    cut = np.clip(boxes, 0, size)
    return _turn(cut, head.orientation, width, height)
