"""Boxes: the arithmetic that takes annotations to evaluation pixels, and the intersection over union.

Boxes are xyxy. Whether x1 is the first column outside the box (half open) or the last one inside (inclusive) is the
protocol's convention.
"""

from __future__ import annotations

import numpy as np

from sat_peft.errors import UsageError

# A box of that share of the image tells no more than the whole image.
_WHOLE_AREA = 0.98


def as_boxes(boxes, name: str) -> np.ndarray:
    """`boxes` as a float64 (n, 4) array; an empty list becomes (0, 4). Raises `UsageError` naming `name`."""
    array = np.asarray(boxes, dtype=np.float64)
    if array.size == 0:
        return array.reshape(0, 4)
    if array.ndim != 2 or array.shape[1] != 4:
        raise UsageError(f"{name} has shape {array.shape}; expected (n, 4), a row [x0, y0, x1, y1] per box.")
    if not np.isfinite(array).all():
        row = int(np.flatnonzero(~np.isfinite(array).all(axis=1))[0])
        raise UsageError(f"{name}[{row}] is {array[row].tolist()}; box coordinates must be finite numbers.")
    return array


def covers_image(boxes: np.ndarray, image_sizes: np.ndarray) -> np.ndarray:
    """(n,) bool: whether a box is the whole image, up to 2 % of its area.

    Args:
        boxes: (n, 4) half-open xyxy in pixels.
        image_sizes: (n, 2) or (2,) width and height.
    """
    sides = boxes[:, 2:] - boxes[:, :2]
    return sides.prod(1) >= _WHOLE_AREA * np.prod(image_sizes, axis=-1)


def box_iou(boxes, others, *, inclusive: bool = False) -> np.ndarray:
    """Intersection over union of every box with every other box.

    Args:
        boxes: (..., n, 4) xyxy.
        others: (m, 4) xyxy.
        inclusive: both corners are pixels of the box (SAT, wsolevaluation and TS-CAM compute it so); else boxes are
            half open.

    Returns:
        (..., n, m) float64 in [0, 1]; 0 where both areas are zero.
    """
    extra = int(inclusive)
    boxes = np.asarray(boxes, dtype=np.float64)[..., :, None, :]
    others = np.asarray(others, dtype=np.float64).reshape(-1, 4)
    overlap_x = np.minimum(boxes[..., 2], others[:, 2]) - np.maximum(boxes[..., 0], others[:, 0]) + extra
    overlap_y = np.minimum(boxes[..., 3], others[:, 3]) - np.maximum(boxes[..., 1], others[:, 1]) + extra
    intersection = np.maximum(overlap_x, 0) * np.maximum(overlap_y, 0)
    area = (boxes[..., 2] - boxes[..., 0] + extra) * (boxes[..., 3] - boxes[..., 1] + extra)
    other_area = (others[:, 2] - others[:, 0] + extra) * (others[:, 3] - others[:, 1] + extra)
    union = area + other_area - intersection
    return np.divide(intersection, union, out=np.zeros_like(intersection), where=union > 0)


def best_iou(boxes: np.ndarray, truth: np.ndarray, *, inclusive: bool) -> np.ndarray:
    """(...) the largest IoU of each box (..., 4) with any of the true boxes (m, 4); 0 where there are none."""
    if len(truth) == 0:
        return np.zeros(boxes.shape[:-1])
    return box_iou(boxes[..., None, :], truth, inclusive=inclusive)[..., 0, :].max(axis=-1)


# Steps that several protocols share.


def unchanged(boxes: np.ndarray, image_size: tuple[int, int], image) -> np.ndarray:
    return boxes


def scale_crop_clamp_truncate(boxes: np.ndarray, image_size: tuple[int, int], image) -> np.ndarray:
    # SAT and TS-CAM divide before they multiply, and clamp the far corner to the last pixel of the crop.
    (width, height), (new_height, new_width) = image_size, image.resize
    rows, columns = image.crop_slices
    scaled = boxes / (width, height, width, height) * (new_width, new_height, new_width, new_height)
    scaled -= (columns.start, rows.start) * 2
    near = np.maximum(scaled[:, :2], 0)
    far = np.minimum(scaled[:, 2:], (columns.stop - columns.start - 1, rows.stop - rows.start - 1))
    return np.trunc(np.concatenate([near, far], axis=1))


def half_open(extents: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Extents (..., 4), first and last columns and rows, as boxes that end before the next pixel."""
    return extents + np.array([0, 0, 1, 1])


def whole_image(size: tuple[int, int]) -> tuple[int, int, int, int]:
    return 0, 0, size[0], size[1]
