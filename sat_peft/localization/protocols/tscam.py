"""The evaluation of TS-CAM's public code."""

import numpy as np

from sat_peft.localization.boxes import half_open, scale_crop_clamp_truncate
from sat_peft.localization.protocol import ImageTransform, Protocol
from sat_peft.localization.regions import LARGEST_CONTOUR
from sat_peft.localization.score_map import FractionOfMax, bilinear_then_minmax


def first_pixel(size: tuple[int, int]) -> tuple[int, int, int, int]:
    return 0, 0, 1, 1


PROTOCOL = Protocol(
    name="tscam",
    source="TS-CAM: Token Semantic Coupled Attention Map (ICCV 2021), public code",
    image=ImageTransform(resize=(224, 224)),
    place_boxes=scale_crop_clamp_truncate,
    normalize=bilinear_then_minmax,
    foreground=FractionOfMax(np.float32),
    region=LARGEST_CONTOUR,
    to_boxes=half_open,
    empty_box=first_pixel,
    inclusive=True,
    strict_class_iou=True,
    default_threshold=0.1,
    dataset_thresholds=(("cub", 0.1), ("ilsvrc", 0.12)),
    default_thresholds=tuple(round(0.01 * step, 2) for step in range(1, 100)),
)
