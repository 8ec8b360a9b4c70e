"""Checks of what callers hand in; every message names the argument, the offending index and value, and the fix."""

from __future__ import annotations

import numpy as np

from sat_peft.errors import UsageError
from sat_peft.localization.boxes import as_boxes
from sat_peft.localization.protocol import Protocol

# Annotations that count from 1, or that include their far corner, may end one pixel outside the image.
_OUTSIDE_TOLERANCE = 1.0


def to_numpy(values):
    """A torch tensor (any device, any float type) as a numpy array; everything else unchanged."""
    if hasattr(values, "detach"):
        values = values.detach().cpu()
        values = (values.float() if values.is_floating_point() else values).numpy()
    return values


def check_maps(maps, name: str = "maps") -> list[np.ndarray]:
    """A list of (h, w) float32 arrays from (N, h, w) or a sequence of (h, w)."""
    maps = to_numpy(maps)
    checked = []
    for index, raw in enumerate(maps):
        raw = np.asarray(to_numpy(raw))
        if raw.ndim != 2 or 0 in raw.shape:
            raise UsageError(
                f"{name}[{index}] has shape {raw.shape}; expected (h, w): one map per image, no channel axis."
            )
        if raw.dtype.kind not in "fiub":
            raise UsageError(f"{name}[{index}] has dtype {raw.dtype}; expected real numbers.")
        checked.append(np.ascontiguousarray(raw, dtype=np.float32))
    return checked


def check_length(values, count: int, name: str) -> None:
    if len(values) != count:
        raise UsageError(f"{name} has {len(values)} entries and maps has {count}; expected one per map.")


def check_boxes(boxes, name: str, protocol: Protocol, size: tuple[int, int]) -> np.ndarray:
    """Boxes (n, 4) of one image, in evaluation pixels of `size` (width, height)."""
    boxes = as_boxes(to_numpy(boxes), name)
    fix = f"Boxes are xyxy in evaluation pixels (see Protocol.transform_boxes of {protocol.name!r}"
    for wrong, what in (
        (~protocol.valid_boxes(boxes), "does not have x1 > x0 and y1 > y0"),
        (_outside(boxes, size), f"reaches outside the evaluation pixels, {size[0]} wide and {size[1]} high"),
    ):
        if wrong.any():
            row = int(np.flatnonzero(wrong)[0])
            raise UsageError(f"{name}[{row}] is {boxes[row].tolist()}, which {what}. {fix}, and score its valid ones).")
    return boxes


def _outside(boxes: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    limit = np.array([size[0], size[1]]) + _OUTSIDE_TOLERANCE
    return (boxes[:, :2] < -_OUTSIDE_TOLERANCE).any(axis=1) | (boxes[:, 2:] > limit).any(axis=1)


def check_thresholds(thresholds, name: str = "thresholds") -> np.ndarray:
    """(T,) float64 thresholds in [0, 1], ascending."""
    values = np.atleast_1d(np.asarray(to_numpy(thresholds), dtype=np.float64))
    if values.ndim != 1 or values.size == 0:
        raise UsageError(f"{name} has shape {values.shape}; expected a non-empty list of numbers.")
    wrong = ~((values >= 0) & (values <= 1))
    if wrong.any():
        index = int(np.flatnonzero(wrong)[0])
        raise UsageError(f"{name}[{index}] is {values[index]}; a threshold lies between 0 and 1.")
    falling = np.flatnonzero(np.diff(values) <= 0)
    if falling.size:
        index = int(falling[0]) + 1
        raise UsageError(
            f"{name}[{index}] is {values[index]} after {values[index - 1]}; list thresholds in ascending order."
        )
    return values


def check_image_sizes(image_sizes, count: int, protocol: Protocol) -> list[tuple[int, int]]:
    """(width, height) of the evaluation pixels of every map."""
    if not protocol.own_pixels:
        return [protocol.evaluation_size()] * count
    if image_sizes is None:
        raise UsageError(
            f"image_sizes is missing; protocol {protocol.name!r} scores in each image's own pixels and needs "
            "(width, height) per map."
        )
    check_length(image_sizes, count, "image_sizes")
    return [protocol.evaluation_size(np.asarray(to_numpy(size)).tolist()) for size in image_sizes]


def check_integers(values, count: int, name: str, below: int | None = None) -> np.ndarray:
    """(N,) int64, one for each map, from 0 on and for classes `below` their number."""
    values = np.asarray(to_numpy(values))
    check_length(values, count, name)
    if values.ndim != 1 or (values.size and values.dtype.kind not in "iu"):
        raise UsageError(
            f"{name} has shape {values.shape} and dtype {values.dtype}; expected one integer per map, such as the "
            "row number in the data set or the index of a class."
        )
    wrong = np.flatnonzero((values < 0) | (values >= (below or np.inf)))
    if wrong.size:
        rest = "0 or more" if below is None else f"0 to {below - 1}: logits has {below} classes"
        raise UsageError(f"{name}[{wrong[0]}] is {values[wrong[0]]}; expected {rest}.")
    return values.astype(np.int64)


def label_ranks(logits, labels, count: int) -> np.ndarray:
    """(N,) how many classes come before each label (N,) by its logits (N, C): 0 is Top-1, below 5 is Top-5.

    Of equal logits the lower class wins, and whatever cannot be compared (NaN) comes before the label; a label whose
    own logit is NaN is no hit among however few classes.
    """
    logits = np.asarray(to_numpy(logits))
    if logits.ndim != 2 or logits.shape[1] == 0:
        raise UsageError(f"logits has shape {logits.shape}; expected (N, number of classes).")
    check_length(logits, count, "logits")
    num_classes = logits.shape[1]
    labels = check_integers(labels, count, "labels", below=num_classes)
    own = np.take_along_axis(logits, labels[:, None], axis=1)
    before = ~(logits <= own) | ((logits == own) & (np.arange(num_classes) < labels[:, None]))
    return np.where(np.isnan(own[:, 0]), max(num_classes, 5), before.sum(axis=1))


def check_masks(masks, ignore, sizes: list[tuple[int, int]], protocol: Protocol):
    """The object masks and the ignore masks, each a list of (H, W) bool in evaluation pixels or None."""
    if ignore is not None and masks is None:
        raise UsageError("ignore is given and masks is not; PxAP needs both.")
    checked = []
    for name, values in (("masks", masks), ("ignore", ignore)):
        if values is not None:
            check_length(values, len(sizes), name)
            values = [_check_mask(values[row], f"{name}[{row}]", size, protocol) for row, size in enumerate(sizes)]
        checked.append(values)
    return checked


def _check_mask(mask, name: str, size: tuple[int, int], protocol: Protocol) -> np.ndarray:
    """One (H, W) mask in evaluation pixels of `size` (width, height), as bool."""
    mask = np.asarray(to_numpy(mask))
    if mask.shape != size[::-1]:
        raise UsageError(
            f"{name} has shape {mask.shape}; expected {size[::-1]}, the evaluation pixels of protocol "
            f"{protocol.name!r} (Protocol.transform_mask takes a mask there)."
        )
    return mask > 0
