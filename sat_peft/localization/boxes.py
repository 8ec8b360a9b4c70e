"""Boxes: the arithmetic that takes annotations to evaluation pixels, and the intersection over union.

Boxes are xyxy. Whether x1 is the first column outside the box (half open) or the last one inside is the protocol's
IoU convention: `IOU_RULES` holds the number of pixels that an extent x1 - x0 is short of.
"""

from __future__ import annotations

import numpy as np

from sat_peft.errors import UsageError, unknown_choice

# Pixels added to every extent: "plus_one" reads both corners as pixels of the box, "plain" reads boxes as half open.
IOU_RULES = {"plain": 0, "plus_one": 1}

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


def box_iou(boxes, others, *, iou_rule: str = "plain") -> np.ndarray:
    """Intersection over union of every box with every other box.

    Args:
        boxes: (..., n, 4) xyxy.
        others: (m, 4) xyxy.
        iou_rule: "plain" for half-open boxes, "plus_one" where both corners are pixels of the box (SAT,
            wsolevaluation and TS-CAM compute it so).

    Returns:
        (..., n, m) float64 in [0, 1]; 0 where both areas are zero.
    """
    if iou_rule not in IOU_RULES:
        raise unknown_choice("iou_rule", iou_rule, IOU_RULES)
    extra = IOU_RULES[iou_rule]
    boxes = np.asarray(boxes, dtype=np.float64)[..., :, None, :]
    others = np.asarray(others, dtype=np.float64).reshape(-1, 4)
    overlap_x = np.minimum(boxes[..., 2], others[:, 2]) - np.maximum(boxes[..., 0], others[:, 0]) + extra
    overlap_y = np.minimum(boxes[..., 3], others[:, 3]) - np.maximum(boxes[..., 1], others[:, 1]) + extra
    intersection = np.maximum(overlap_x, 0) * np.maximum(overlap_y, 0)
    area = (boxes[..., 2] - boxes[..., 0] + extra) * (boxes[..., 3] - boxes[..., 1] + extra)
    other_area = (others[:, 2] - others[:, 0] + extra) * (others[:, 3] - others[:, 1] + extra)
    union = area + other_area - intersection
    return np.divide(intersection, union, out=np.zeros_like(intersection), where=union > 0)


def best_iou(boxes: np.ndarray, truth: np.ndarray, iou_rule: str) -> np.ndarray:
    """(...) the largest IoU of each box (..., 4) with any of the true boxes (m, 4); 0 where there are none."""
    if len(truth) == 0:
        return np.zeros(boxes.shape[:-1])
    return box_iou(boxes[..., None, :], truth, iou_rule=iou_rule)[..., 0, :].max(axis=-1)


def _unchanged(boxes, image_size, image):
    return boxes


def _scale_truncate(boxes, image_size, image):
    # wsolevaluation multiplies before it divides; the order decides which side of an integer a quotient falls on.
    (width, height), (new_height, new_width) = image_size, image.resize
    return np.trunc(boxes * (new_width, new_height, new_width, new_height) / (width, height, width, height))


def _scale_crop_clamp_truncate(boxes, image_size, image):
    # SAT and TS-CAM divide before they multiply, and clamp the far corner to the last pixel of the crop.
    (width, height), (new_height, new_width) = image_size, image.resize
    crop_height, crop_width = image.crop or image.resize
    left, top = (new_width - crop_width) // 2, (new_height - crop_height) // 2
    scaled = boxes / (width, height, width, height) * (new_width, new_height, new_width, new_height)
    scaled -= (left, top, left, top)
    near = np.maximum(scaled[:, :2], 0)
    far = np.minimum(scaled[:, 2:], (crop_width - 1, crop_height - 1))
    return np.trunc(np.concatenate([near, far], axis=1))


# name -> function(boxes (n, 4) float64 xyxy in original pixels, (width, height), ImageTransform) -> (n, 4) float64
BOX_RULES = {
    "unchanged": _unchanged,
    "scale_truncate": _scale_truncate,
    "scale_crop_clamp_truncate": _scale_crop_clamp_truncate,
}
