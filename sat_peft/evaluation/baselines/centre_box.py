"""The box in the middle of every image: what a localiser is worth beyond knowing that objects are central."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from sat_peft.errors import UsageError
from sat_peft.evaluation.evaluator import EvaluatedImage
from sat_peft.evaluation.measure import Measured
from sat_peft.evaluation.registry import Baseline
from sat_peft.localization import Protocol, box_iou, get_protocol

CENTRE_BOX_SIDES = tuple(round(0.05 * step, 2) for step in range(4, 21))


def _centre_box_hits(images: Collection[EvaluatedImage], side: float, protocol: Protocol) -> np.ndarray:
    """(N,) bool: whether the box of `side` times the image's sides, in its middle, has IoU >= 0.5."""
    hits = []
    for image in images:
        size = np.asarray(image.size, float)
        box = np.concatenate([size * (1 - side) / 2, size * (1 + side) / 2])[None]
        iou = box_iou(box, image.boxes, inclusive=protocol.inclusive) if len(image.boxes) else np.zeros((1, 1))
        hits.append(bool(iou.max() >= 0.5))
    return np.asarray(hits)


def choose_centre_side(images: Collection[EvaluatedImage], protocol: str | Protocol) -> float:
    """The side of the centre box, as a share of the image's sides, that is right most often on `images`.

    Raises:
        UsageError: no image has a true box.
    """
    if not any(len(image.boxes) for image in images):
        raise UsageError("no image has a true box: the side of the centre box needs a validation split with boxes.")
    protocol = get_protocol(protocol)
    return max(CENTRE_BOX_SIDES, key=lambda side: _centre_box_hits(images, side, protocol).mean())


def centre_box_accuracy(images: Collection[EvaluatedImage], side: float, protocol: str | Protocol) -> dict[str, float]:
    """Percentages of the centre box: `gt_known`, and with the classes of the method that was evaluated on `images`
    `top1_loc`, `top5_loc` and `top1_cls`. It shows what a localiser is worth beyond knowing that objects are central.
    """
    hits = _centre_box_hits(images, side, get_protocol(protocol))
    ranks = np.asarray([image.label_rank for image in images])
    figures = {
        "gt_known": hits,
        "top1_loc": hits & (ranks < 1),
        "top5_loc": hits & (ranks < 5),
        "top1_cls": ranks < 1,
    }
    return {name: 100.0 * float(values.mean()) for name, values in figures.items()}


def centre_box(
    held_out: Collection[EvaluatedImage], images: Collection[EvaluatedImage], protocol: Protocol
) -> Measured:
    """The figures on `images` of the centre box whose side is right most often on `held_out`."""
    side = choose_centre_side(held_out, protocol)
    figures = centre_box_accuracy(images, side, protocol)
    return Measured(f"centre box, side {side:g}, classes of SAT", figures, side=side)


BASELINE = Baseline("centre box", prior=centre_box)
