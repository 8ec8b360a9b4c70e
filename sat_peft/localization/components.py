"""Several boxes of one map: every connected component of its foreground."""

from __future__ import annotations

import cv2
import numpy as np

from sat_peft.errors import UsageError
from sat_peft.localization.protocols import Protocol, get_protocol
from sat_peft.localization.regions import EMPTY_BOXES, EXTENT_RULES
from sat_peft.localization.score_map import FOREGROUND_RULES
from sat_peft.localization.scoring import to_score_map


def check_min_area(min_area: float) -> None:
    """Raises `UsageError` unless `min_area` is a share of an image."""
    if not 0 <= min_area <= 1:
        raise UsageError(f"min_area must be from 0 to 1, a share of the image, got {min_area}.")


def localize_all(
    raw, *, protocol: str | Protocol, threshold: float, image_size=None, min_area: float = 0.01
) -> np.ndarray:
    """The boxes (n, 4) float64 xyxy of all 8-connected components of a map's foreground, largest component first.

    The first box is that of `localize`, however small its component; of components with equally many pixels, the one
    whose first pixel comes first in reading order is first.

    Args:
        raw: (h, w) map, numpy or torch.
        protocol: name or `Protocol`, one that takes the largest component: `original` or `sat`.
        threshold: in [0, 1].
        image_size: (width, height) of the image, for protocols that score in the image's own pixels.
        min_area: smallest component that counts, as a share of the evaluation pixels.

    Raises:
        UsageError: a protocol that looks at contours, a `min_area` outside [0, 1].
    """
    protocol = get_protocol(protocol)
    check_min_area(min_area)
    if protocol.region_rule != "largest_component":
        raise UsageError(f"protocol {protocol.name!r} looks at contours, not at components. Take `original` or `sat`.")
    width, height = size = protocol.evaluation_size(image_size)
    rule = FOREGROUND_RULES[protocol.foreground_rule]
    cuts, _ = rule.cuts(np.array([threshold]))
    foreground = rule.levels(to_score_map(raw, protocol=protocol, image_size=image_size), cuts) > 0
    count, labels, stats, _ = cv2.connectedComponentsWithStats(foreground.astype(np.uint8), connectivity=8)
    if count == 1:
        return np.array([EMPTY_BOXES[protocol.empty_box](size)], dtype=np.float64)
    areas = stats[:, cv2.CC_STAT_AREA].copy()
    areas[0] = 0  # the background
    least = min(areas.max(), max(1, min_area * width * height))

    def place(component: int) -> tuple[int, int, int]:
        left, top, columns = stats[component, [cv2.CC_STAT_LEFT, cv2.CC_STAT_TOP, cv2.CC_STAT_WIDTH]]
        first = left + int((labels[top, left : left + columns] == component).argmax())
        return -areas[component], top, first

    kept = sorted(np.flatnonzero(areas >= least), key=place)
    left, top, columns, rows = stats[kept, : cv2.CC_STAT_AREA].T
    extents = np.stack([left, top, left + columns - 1, top + rows - 1], axis=1)
    return EXTENT_RULES[protocol.extent_rule](extents, size).astype(np.float64)
