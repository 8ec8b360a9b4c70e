"""The evaluation of SAT's public code."""

import cv2
import numpy as np

from sat_peft.localization.boxes import half_open, scale_crop_clamp_truncate, whole_image
from sat_peft.localization.protocol import ImageTransform, Protocol
from sat_peft.localization.regions import LARGEST_COMPONENT
from sat_peft.localization.score_map import Absolute


def minmax_epsilon_then_bilinear(raw: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    low, high = raw.min(), raw.max()
    return cv2.resize((raw - low) / (high - low + np.float32(1e-5)), size, interpolation=cv2.INTER_LINEAR)


PROTOCOL = Protocol(
    name="sat",
    source="Spatial-Aware Token for Weakly Supervised Object Localization (ICCV 2023), public code",
    image=ImageTransform(resize=(256, 256), crop=(224, 224)),
    place_boxes=scale_crop_clamp_truncate,
    normalize=minmax_epsilon_then_bilinear,
    foreground=Absolute(),
    region=LARGEST_COMPONENT,
    to_boxes=half_open,
    empty_box=whole_image,
    inclusive=True,
    default_threshold=0.4,
    dataset_thresholds=(("cub", 0.4), ("ilsvrc", 0.3)),
    default_thresholds=tuple(round(0.05 * step, 2) for step in range(1, 19)),
)
