"""One foreground to boxes: the largest connected component, the largest contour, every contour.

These functions look at one threshold. `region_tree.py` answers for all thresholds of a map in one pass and falls back
on these where that does not pay.
"""

from __future__ import annotations

import cv2
import numpy as np

# Added to the last column and row of a region, gives the first ones outside it.
_TO_HALF_OPEN = np.array([0, 0, 1, 1])


def _half_open(extents: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return extents + _TO_HALF_OPEN


def _half_open_inside(extents: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return np.minimum(extents + _TO_HALF_OPEN, (size[0], size[1], size[0] - 1, size[1] - 1))


# name -> function(extents (..., 4), first and last column and row as [x0, y0, x1, y1], and (width, height))
# -> boxes (..., 4)
EXTENT_RULES = {"half_open": _half_open, "half_open_inside": _half_open_inside}

# name -> function((width, height)) -> the box of an empty foreground
EMPTY_BOXES = {
    "whole_image": lambda size: (0, 0, size[0], size[1]),
    "origin": lambda size: (0, 0, 0, 0),
    "first_pixel": lambda size: (0, 0, 1, 1),
}


def largest_component(foreground: np.ndarray) -> np.ndarray | None:
    """Extents [x0, y0, x1, y1] (inclusive) of the 8-connected component with most pixels; None if there is none.

    Of components with equally many pixels, the one whose first pixel comes first in reading order is taken.

    Args:
        foreground: (H, W) bool or uint8.
    """
    count, labels, stats, _ = cv2.connectedComponentsWithStats(foreground.astype(np.uint8), connectivity=8)
    if count == 1:
        return None
    areas = stats[1:, cv2.CC_STAT_AREA]
    winners = 1 + np.flatnonzero(areas == areas.max())
    winner = winners[0]
    if len(winners) > 1:
        winner = labels.ravel()[np.isin(labels.ravel(), winners).argmax()]
    left, top, width, height = stats[winner, : cv2.CC_STAT_AREA]
    return np.array([left, top, left + width - 1, top + height - 1])


def all_contours(foreground: np.ndarray) -> np.ndarray:
    """Extents (n, 4) of every contour of the foreground (H, W), holes included, in OpenCV's order."""
    contours = _contours(foreground)
    return np.array([_extents(contour) for contour in contours]).reshape(-1, 4)


def largest_contour(foreground: np.ndarray) -> np.ndarray | None:
    """Extents of the contour that encloses the largest area (of equals OpenCV's first); None if there is none."""
    contours = _contours(foreground)
    return np.array(_extents(max(contours, key=cv2.contourArea))) if contours else None


def _contours(foreground: np.ndarray):
    return cv2.findContours(foreground.astype(np.uint8), cv2.RETR_TREE, cv2.CHAIN_APPROX_SIMPLE)[0]


def _extents(contour) -> tuple[int, int, int, int]:
    x, y, width, height = cv2.boundingRect(contour)
    return x, y, x + width - 1, y + height - 1


# name -> function(foreground (H, W)) -> extents [x0, y0, x1, y1] of the region that makes the box, or None
REGION_RULES = {"largest_component": largest_component, "largest_contour": largest_contour}
