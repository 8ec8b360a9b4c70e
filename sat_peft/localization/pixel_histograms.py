"""PxAP: average precision of score maps as pixel classifiers (Choi et al., CVPR 2020, section 4)."""

from __future__ import annotations

import numpy as np

from sat_peft.errors import UsageError


def bin_edges(thresholds: np.ndarray) -> np.ndarray:
    """The edges of wsolevaluation's histograms: every threshold, then [1, 2) for the maximum and an empty [2, 3)."""
    return np.append(thresholds, [1.0, 2.0, 3.0])


def pixel_histograms(
    scores: np.ndarray, mask: np.ndarray, ignore: np.ndarray | None, edges: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Histograms (B,) uint32 of the scores of the object's pixels and of the background's.

    Args:
        scores: (H, W) score map in [0, 1].
        mask: (H, W) bool, True on the object (union of instances).
        ignore: (H, W) bool; pixels in it count neither way unless they are in `mask`. None ignores nothing.
        edges: (B + 1,) ascending; a bin holds its lower edge and not its upper one.
    """
    count = len(edges) - 1
    bins = np.searchsorted(edges, scores.astype(np.float64).ravel(), side="right") - 1
    mask = mask.ravel()
    background = ~mask if ignore is None else ~(mask | ignore.ravel())
    # Scores below the lowest edge have bin -1 and count nowhere, as with numpy.histogram.
    kept = bins >= 0
    true = np.bincount(bins[mask & kept], minlength=count)
    false = np.bincount(bins[background & kept], minlength=count)
    return true.astype(np.uint32), false.astype(np.uint32)


def pixel_average_precision(true: np.ndarray, false: np.ndarray) -> np.ndarray:
    """PxAP in percent from pooled histograms (..., B); NaN where no pixel belongs to an object."""
    hits = np.cumsum(true[..., ::-1], axis=-1, dtype=np.float64)
    predicted = hits + np.cumsum(false[..., ::-1], axis=-1, dtype=np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        precision = hits / predicted
        recall = hits / hits[..., -1:]
    steps = np.where(predicted[..., 1:] > 0, precision[..., 1:] * np.diff(recall, axis=-1), 0.0)
    return 100 * steps.sum(axis=-1)


def check_positive_pixels(true: np.ndarray) -> None:
    if true.sum() == 0:
        raise UsageError("masks hold no object pixel in the whole set; PxAP is not defined.")
