"""Regions of a map as polygons, for tools that draw and edit them."""

from __future__ import annotations

import contourpy
import cv2
import numpy as np

# How far, in pixels, an outline may lie from the line along which the map has the threshold's value.
_TOLERANCE = 0.25


def outlines(scores: np.ndarray, threshold: float, mask: np.ndarray) -> list[np.ndarray]:
    """Polygons around one component of a foreground, the largest first.

    They follow the line along which the map crosses the threshold, between the pixels, and the border of the image. A
    component that hangs together by corners alone is several polygons; holes are filled.

    Args:
        scores: (H, W) float32 score map.
        threshold: the foreground is what lies above it.
        mask: (H, W) bool, the component.

    Returns:
        Arrays (n, 2) of x and y in pixels: pixel (0, 0) is the square from 0 to 1.
    """
    top, bottom = np.flatnonzero(mask.any(axis=1))[[0, -1]]
    left, right = np.flatnonzero(mask.any(axis=0))[[0, -1]]
    # One pixel more on every side, where the image has one: the line runs between the component and its neighbours.
    rows, columns = slice(max(0, top - 1), bottom + 2), slice(max(0, left - 1), right + 2)
    part, inside = scores[rows, columns].astype(np.float64), mask[rows, columns]
    # Other components are mirrored at the threshold, and so is a frame that closes the line at the image's border.
    part, inside = np.pad(part, 1, mode="edge"), np.pad(inside, 1)
    part = np.where(inside, part, np.minimum(part, 2 * threshold - part))
    filled = contourpy.contour_generator(z=part, fill_type=contourpy.FillType.OuterOffset).filled(threshold, np.inf)
    polygons = []
    for points, offsets in zip(*filled, strict=True):
        # Of index 0 of `part` to pixels of the image: the frame is one pixel, a pixel's value is that of its centre.
        outer = points[: offsets[1] - 1] + np.array([columns.start, rows.start]) - 0.5
        outer = cv2.approxPolyDP(outer.astype(np.float32), _TOLERANCE, True)[:, 0]
        if len(outer) >= 3:
            polygons.append(np.clip(outer, 0, mask.shape[::-1]).astype(np.float32))
    if not polygons:
        box = (left, top, right + 1, bottom + 1)
        return [np.array([box[:2], (box[2], box[1]), box[2:], (box[0], box[3])], np.float32)]
    return sorted(polygons, key=cv2.contourArea, reverse=True)
