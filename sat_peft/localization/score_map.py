"""Raw map to score map, and score map to foreground levels.

Every rule works in float32, as the public implementations do: with another precision, values on the edge of a
threshold change sides.
"""

from __future__ import annotations

import cv2
import numpy as np

# Thresholds from which one binary search per pixel beats a comparison per threshold.
_SEARCH_FROM = 64


def _minmax_epsilon_then_bilinear(raw: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    low, high = raw.min(), raw.max()
    return cv2.resize((raw - low) / (high - low + np.float32(1e-5)), size, interpolation=cv2.INTER_LINEAR)


def _resize_then_minmax(interpolation: int):
    def rule(raw: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        resized = cv2.resize(raw, size, interpolation=interpolation)
        low, high = resized.min(), resized.max()
        if low == high:
            return np.zeros_like(resized)
        resized -= low
        resized /= high - low
        return resized

    return rule


# name -> function(raw (h, w) float32, (width, height)) -> (height, width) float32 in [0, 1]
MAP_RULES = {
    "minmax_epsilon_then_bilinear": _minmax_epsilon_then_bilinear,
    "cubic_then_minmax": _resize_then_minmax(cv2.INTER_CUBIC),
    "bilinear_then_minmax": _resize_then_minmax(cv2.INTER_LINEAR),
}


def score_map(raw: np.ndarray, map_rule: str, size: tuple[int, int]) -> np.ndarray:
    """The map (height, width) float32 in [0, 1] that thresholds are applied to.

    Args:
        raw: (h, w) float32.
        map_rule: a key of `MAP_RULES`.
        size: (width, height) of the evaluation pixels.

    A constant map is all zeros. Where the rule normalises after resizing, that means constant after resizing: cubic
    interpolation turns some constants into rounding noise, which is stretched to [0, 1], by wsolevaluation too.

    A map that is not finite everywhere (NaN, infinity) is all zeros, as in wsolevaluation, and so is one whose values
    span more than float32 can subtract.
    """
    if not np.isfinite(raw).all():
        return np.zeros(size[::-1], np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        scores = MAP_RULES[map_rule](raw, size)
    return scores if np.isfinite(scores).all() else np.zeros(size[::-1], np.float32)


class _Absolute:
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


class _FractionOfMax:
    """Foreground: uint8 image of the score map > int(threshold * its maximum).

    A score map that is not constant reaches exactly 1, so the maximum is 255 and every threshold has one cut for all
    maps; a constant map is zero everywhere and has no foreground at any cut.
    """

    def __init__(self, precision: type):
        self.precision = precision

    @staticmethod
    def cuts(thresholds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return np.unique((thresholds * 255).astype(np.int64), return_inverse=True)

    def levels(self, scores: np.ndarray, cuts: np.ndarray) -> np.ndarray:
        image = (scores.astype(self.precision, copy=False) * self.precision(255)).astype(np.uint8)
        if len(cuts) == 255 and cuts[-1] == 254:
            return image
        return np.searchsorted(cuts, np.arange(256), side="left").astype(np.uint8)[image]


# name -> rule with cuts(thresholds (T,)) -> (sorted distinct cuts (C,), index (T,) of each threshold's cut)
# and levels(scores (H, W), cuts) -> (H, W) unsigned: how many cuts lie below the pixel, so that the foreground of
# cut c is levels > c. Thresholds that share a cut have the same foreground on every map.
FOREGROUND_RULES = {
    "absolute": _Absolute(),
    "fraction_of_max": _FractionOfMax(np.float64),
    "fraction_of_max_single_precision": _FractionOfMax(np.float32),
}


def resize_and_crop_mask(mask: np.ndarray, image, size: tuple[int, int] | None) -> np.ndarray:
    """(H, W) mask resized to `size` (width, height), or through the resize and crop of `image`; bool."""
    mask = (mask > 0).astype(np.uint8)
    if size is not None:
        return cv2.resize(mask, size, interpolation=cv2.INTER_NEAREST).astype(bool)
    height, width = image.resize
    mask = cv2.resize(mask, (width, height), interpolation=cv2.INTER_NEAREST).astype(bool)
    if image.crop is None:
        return mask
    crop_height, crop_width = image.crop
    top, left = (height - crop_height) // 2, (width - crop_width) // 2
    return mask[top : top + crop_height, left : left + crop_width]
