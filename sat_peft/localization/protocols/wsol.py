"""The evaluation of wsolevaluation, with MaxBoxAccV2."""

import cv2
import numpy as np

from sat_peft.localization.boxes import half_open
from sat_peft.localization.protocol import ImageTransform, Protocol
from sat_peft.localization.regions import LARGEST_CONTOUR
from sat_peft.localization.score_map import FractionOfMax, resize_then_minmax


def scale_truncate(boxes: np.ndarray, image_size: tuple[int, int], image: ImageTransform) -> np.ndarray:
    # It multiplies before it divides; the order decides which side of an integer a quotient falls on.
    (width, height), (new_height, new_width) = image_size, image.resize
    return np.trunc(boxes * (new_width, new_height, new_width, new_height) / (width, height, width, height))


def cubic_then_minmax(raw: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return resize_then_minmax(raw, size, cv2.INTER_CUBIC)


def half_open_inside(extents: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return np.minimum(half_open(extents, size), (size[0], size[1], size[0] - 1, size[1] - 1))


def origin(size: tuple[int, int]) -> tuple[int, int, int, int]:
    return 0, 0, 0, 0


PROTOCOL = Protocol(
    name="wsol",
    source="Evaluating Weakly Supervised Object Localization Methods Right (CVPR 2020), clovaai/wsolevaluation",
    image=ImageTransform(resize=(224, 224)),
    place_boxes=scale_truncate,
    normalize=cubic_then_minmax,
    foreground=FractionOfMax(np.float64),
    region=LARGEST_CONTOUR,
    to_boxes=half_open_inside,
    empty_box=origin,
    inclusive=True,
    multi_contour=True,
    default_threshold=0.2,
    default_thresholds=tuple(np.arange(0, 1, 0.001).tolist()),
)
