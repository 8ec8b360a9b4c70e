"""What every writer is given."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Prediction:
    """What was predicted for one image.

    Args:
        image_id: path of the image below the root folder, with forward slashes.
        image_size: (width, height) in pixels of the upright image.
        label, label_index: the class.
        score: its softmax probability, in [0, 1].
        boxes: n boxes [x0, y0, x1, y1], half open, 0-based, in absolute pixels of the upright image; largest
            component first.
    """

    image_id: str
    image_size: tuple[int, int]
    label: str
    label_index: int
    score: float
    boxes: list[list[float]]


@dataclass(frozen=True)
class PredictionSet:
    """The predictions of a set of images, and how they came about.

    Args:
        predictions: in the order in which they are written; iterated several times, so no plain iterator.
        class_names: of all classes, in the order of the logits.
        protocol: by which the boxes were read off the maps.
        threshold: of the maps.
        threshold_source: where the threshold comes from, in plain words.
    """

    predictions: Iterable[Prediction]
    class_names: list[str]
    protocol: str
    threshold: float
    threshold_source: str
