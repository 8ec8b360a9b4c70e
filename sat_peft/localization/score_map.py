"""Raw map to score map, and score map to foreground levels.

Every function works in float32, as the public implementations do: with another precision, values on the edge of a
threshold change sides.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

# Thresholds from which one binary search per pixel beats a comparison per threshold.
_SEARCH_FROM = 64


def resize_then_minmax(raw: np.ndarray, size: tuple[int, int], interpolation: int) -> np.ndarray:
    """A map (h, w) float32 resized to `size` (width, height), then stretched to [0, 1]; zeros where it is constant."""
    resized = cv2.resize(raw, size, interpolation=interpolation)
    low, high = resized.min(), resized.max()
    if low == high:
        return np.zeros_like(resized)
    resized -= low
    resized /= high - low
    return resized


def bilinear_then_minmax(raw: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return resize_then_minmax(raw, size, cv2.INTER_LINEAR)


# A foreground has cuts(thresholds (T,)) -> (sorted distinct cuts (C,), index (T,) of each threshold's cut) and
# levels(scores (H, W), cuts) -> (H, W) unsigned: how many cuts lie below the pixel, so that the foreground of cut c is
# levels > c. Thresholds that share a cut have the same foreground on every map.


@dataclass(frozen=True)
class Absolute:
    """Foreground: score > threshold, compared in float32."""

    @staticmethod
    def cuts(thresholds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return np.unique(thresholds.astype(np.float32), return_inverse=True)

    @staticmethod
    def levels(scores: np.ndarray, cuts: np.ndarray) -> np.ndarray:
        if len(cuts) >= _SEARCH_FROM:
            return np.searchsorted(cuts, scores, side="left").astype(np.uint16)
        levels = np.zeros(scores.shape, np.uint8)
        for cut in cuts:
            levels += (scores > cut).view(np.uint8)
        return levels


@dataclass(frozen=True)
class FractionOfMax:
    """Foreground: uint8 image of the score map > int(threshold * its maximum).

    A score map that is not constant reaches exactly 1, so the maximum is 255 and every threshold has one cut for all
    maps; a constant map is zero everywhere and has no foreground at any cut.
    """

    precision: type

    @staticmethod
    def cuts(thresholds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return np.unique((thresholds * 255).astype(np.int64), return_inverse=True)

    def levels(self, scores: np.ndarray, cuts: np.ndarray) -> np.ndarray:
        image = (scores.astype(self.precision, copy=False) * self.precision(255)).astype(np.uint8)
        if len(cuts) == 255 and cuts[-1] == 254:
            return image
        return np.searchsorted(cuts, np.arange(256), side="left").astype(np.uint8)[image]
