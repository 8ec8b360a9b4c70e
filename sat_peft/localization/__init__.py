"""Localisation evaluation: map to box, the named protocols, scoring. Needs numpy and OpenCV, no model."""

from sat_peft.localization.accumulator import LocalizationAccumulator
from sat_peft.localization.boxes import box_iou, covers_image
from sat_peft.localization.protocol import ImageTransform, Protocol
from sat_peft.localization.protocols import PROTOCOLS, get_protocol
from sat_peft.localization.results import LocalizationResult
from sat_peft.localization.scoring import (
    localize,
    localize_all,
    localize_masks,
    localize_polygons,
    pixel_ap,
    score_maps,
    to_score_map,
)
from sat_peft.localization.thresholds import ThresholdChoice, best_threshold, choose_threshold

__all__ = [
    "PROTOCOLS",
    "ImageTransform",
    "LocalizationAccumulator",
    "LocalizationResult",
    "Protocol",
    "ThresholdChoice",
    "best_threshold",
    "box_iou",
    "choose_threshold",
    "covers_image",
    "get_protocol",
    "localize",
    "localize_all",
    "localize_masks",
    "localize_polygons",
    "pixel_ap",
    "score_maps",
    "to_score_map",
]
