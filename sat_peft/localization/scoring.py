"""Scoring without a model: maps and boxes in, localisation accuracy out; and one map to one box."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from sat_peft.errors import UsageError
from sat_peft.localization import inputs
from sat_peft.localization.accumulator import LocalizationAccumulator
from sat_peft.localization.outlines import outlines
from sat_peft.localization.pixel_histograms import (
    bin_edges,
    check_positive_pixels,
    pixel_average_precision,
    pixel_histograms,
)
from sat_peft.localization.protocol import Protocol
from sat_peft.localization.protocols import get_protocol
from sat_peft.localization.regions import LARGEST_COMPONENT, component_masks, components_by_size
from sat_peft.localization.results import LocalizationResult
from sat_peft.localization.thresholds import ThresholdChoice, resolve_threshold


def score_maps(
    maps,
    boxes,
    *,
    protocol: str | Protocol,
    thresholds=None,
    threshold: float | str | ThresholdChoice | None = None,
    logits=None,
    labels=None,
    masks=None,
    ignore=None,
    image_sizes=None,
    image_ids=None,
    bootstrap: int = 0,
    confidence: float = 0.95,
    seed: int = 0,
) -> LocalizationResult:
    """Localisation accuracy of a set of maps.

    Args:
        maps: (N, h, w) or a list of (h, w): numpy or torch, any float type; scored in float32.
        boxes: N arrays (n_i, 4) xyxy in the protocol's evaluation pixels, from `Protocol.transform_boxes`; (0, 4)
            where no valid box is left, which counts as wrong.
        protocol: name or `Protocol`.
        thresholds: the thresholds to sweep, ascending in [0, 1]; the protocol's by default.
        threshold: what the summary reports: a number, a `ThresholdChoice`, or "oracle" for the best of `thresholds` on
            these very maps (the result says so in words). By default the only one of `thresholds`, or the
            protocol's `default_threshold`.
        logits: (N, number of classes), for Top-1 and Top-5; needs `labels`.
        labels: (N,) class indices, 0-based.
        masks: N bool masks (H, W) in evaluation pixels, for PxAP.
        ignore: N bool masks (H, W) of pixels to leave out of PxAP where they are not in `masks`.
        image_sizes: N pairs (width, height), for protocols that score in the image's own pixels.
        image_ids: N integers; an image whose id was seen before is dropped.
        bootstrap: number of resamples of the images for confidence intervals; 0 computes none.
        confidence: mass of the intervals.
        seed: seed of the resampling.

    Maps that are constant or not finite everywhere are scored by the protocol's rule for an empty foreground.

    Raises:
        UsageError: an argument is malformed; the message names it, the index and the value.

    Example:
        >>> import numpy as np
        >>> maps = np.zeros((1, 14, 14))
        >>> maps[0, 4:10, 4:10] = 1
        >>> result = score_maps(maps, [[[64, 64, 160, 160]]], protocol="sat")
        >>> result.summary["gt_known"], result.per_image["box"].tolist()
        (100.0, [[62, 62, 162, 162]])
    """
    accumulator = LocalizationAccumulator(protocol, thresholds, threshold=threshold)
    accumulator.update(
        maps,
        boxes,
        logits=logits,
        labels=labels,
        masks=masks,
        ignore=ignore,
        image_sizes=image_sizes,
        image_ids=image_ids,
    )
    return accumulator.compute(bootstrap=bootstrap, confidence=confidence, seed=seed)


def to_score_map(raw, *, protocol: str | Protocol, image_size=None) -> np.ndarray:
    """The normalised map (H, W) float32 in [0, 1] in evaluation pixels, which the protocol thresholds.

    Args:
        raw: (h, w) map, numpy or torch.
        protocol: name or `Protocol`.
        image_size: (width, height) of the image, for protocols that score in the image's own pixels.
    """
    protocol = get_protocol(protocol)
    (raw,) = inputs.check_maps([raw], "raw")
    return protocol.score_map(raw, protocol.evaluation_size(image_size))


def localize(raw, *, protocol: str | Protocol, threshold=None, image_size=None) -> np.ndarray:
    """The box (4,) float64 xyxy, in evaluation pixels, that the protocol reads off one map.

    Args:
        raw: (h, w) map, numpy or torch.
        protocol: name or `Protocol`; "original" gives boxes in the image's own pixels.
        threshold: a number in [0, 1] or a `ThresholdChoice`; the protocol's `default_threshold` if None.
        image_size: (width, height) of the image, for protocols that score in the image's own pixels.
    """
    protocol = get_protocol(protocol)
    extents = protocol.region.find(_foreground(raw, protocol, threshold, image_size)[1])
    size = protocol.evaluation_size(image_size)
    box = protocol.empty_box(size) if extents is None else protocol.to_boxes(extents, size)
    return np.array(box, dtype=np.float64)


def localize_all(
    raw, *, protocol: str | Protocol, threshold=None, image_size=None, min_area: float = 0.01
) -> np.ndarray:
    """The boxes (n, 4) float64 xyxy of all 8-connected components of a map's foreground, largest component first.

    The first box is that of `localize`, however small its component; of components with equally many pixels, the one
    whose first pixel comes first in reading order is first.

    Args:
        raw, threshold, image_size: see `localize`.
        protocol: name or `Protocol`, one that takes the largest component: `original` or `sat`.
        min_area: smallest component that counts, as a share of the evaluation pixels.

    Raises:
        UsageError: a protocol that looks at contours, a `min_area` outside [0, 1].
    """
    check_min_area(min_area)
    protocol = _of_components(protocol)
    width, height = size = protocol.evaluation_size(image_size)
    _, foreground, _ = _foreground(raw, protocol, threshold, image_size)
    extents = components_by_size(foreground, min_area * width * height)
    boxes = protocol.to_boxes(extents, size) if len(extents) else [protocol.empty_box(size)]
    return np.array(boxes, dtype=np.float64)


def localize_masks(
    raw, *, count: int, protocol: str | Protocol, threshold=None, image_size=None
) -> Iterator[np.ndarray]:
    """The regions that the first `count` boxes of `localize_all` are around, one by one: (H, W) bool in evaluation
    pixels.

    An empty foreground is the whole image, as its box is.

    Args:
        raw, protocol, threshold, image_size: see `localize_all`.
        count: number of boxes.

    Raises:
        UsageError: a protocol that looks at contours.
    """
    return _regions(_foreground(raw, _of_components(protocol), threshold, image_size)[1], count)


def localize_polygons(
    raw, *, count: int, protocol: str | Protocol, threshold=None, image_size=None
) -> list[list[np.ndarray]]:
    """Outlines of the regions of `localize_masks`: for each of them polygons (n, 2) of x and y in evaluation pixels.

    They follow the line along which the map has the threshold's value, to a quarter of a pixel, and fill holes; a
    region that hangs together by corners alone has several, the largest first.

    Args:
        raw, protocol, threshold, image_size, count: see `localize_masks`.
    """
    scores, foreground, value = _foreground(raw, _of_components(protocol), threshold, image_size)
    return [outlines(scores, value, mask) for mask in _regions(foreground, count)]


def _regions(foreground: np.ndarray, count: int) -> Iterator[np.ndarray]:
    return component_masks(foreground, count) if foreground.any() else iter([np.ones(foreground.shape, bool)])


def _of_components(protocol: str | Protocol) -> Protocol:
    """The protocol. Raises `UsageError` for one that looks at contours."""
    protocol = get_protocol(protocol)
    if protocol.region != LARGEST_COMPONENT:
        raise UsageError(f"protocol {protocol.name!r} looks at contours, not at components. Take `original` or `sat`.")
    return protocol


def check_min_area(min_area: float) -> None:
    """Raises `UsageError` unless `min_area` is a share of an image."""
    if not 0 <= min_area <= 1:
        raise UsageError(f"min_area must be from 0 to 1, a share of the image, got {min_area}.")


def _foreground(raw, protocol: Protocol, threshold, image_size) -> tuple[np.ndarray, np.ndarray, float]:
    """The score map (H, W), where it lies above the threshold (H, W) bool, in evaluation pixels, and the threshold."""
    choice = resolve_threshold(threshold, protocol, None)
    if choice is None:
        raise UsageError("threshold is 'oracle'; one map has no best threshold without boxes. Give a number.")
    scores = to_score_map(raw, protocol=protocol, image_size=image_size)
    cuts, _ = protocol.foreground.cuts(np.array([choice.value]))
    return scores, protocol.foreground.levels(scores, cuts) > 0, choice.value


def pixel_ap(
    maps, masks, *, protocol: str | Protocol = "wsol", thresholds=None, ignore=None, image_sizes=None
) -> float:
    """PxAP in percent: average precision of the maps as pixel classifiers, pooled over the set.

    Args:
        maps: (N, h, w) or a list of (h, w).
        masks: N bool masks (H, W) in evaluation pixels (`Protocol.transform_mask`), True on the object.
        protocol: name or `Protocol`; decides the score map only.
        thresholds: lower edges of the bins of scores, ascending from 0; 0, 0.001, ... by default.
        ignore: N bool masks (H, W) of pixels to leave out where they are not in `masks`.
        image_sizes: N pairs (width, height), for protocols that score in the image's own pixels.
    """
    protocol = get_protocol(protocol)
    edges = bin_edges(np.arange(0, 1, 0.001) if thresholds is None else inputs.check_thresholds(thresholds))
    maps = inputs.check_maps(maps)
    sizes = inputs.check_image_sizes(image_sizes, len(maps), protocol)
    masks, ignore = inputs.check_masks(masks, ignore, sizes, protocol)
    if not maps:
        raise UsageError("maps is empty: there is no image to score.")
    true, false = np.zeros((2, len(edges) - 1), np.int64)
    for index, (raw, size) in enumerate(zip(maps, sizes, strict=True)):
        scores = protocol.score_map(raw, size)
        left_out = None if ignore is None else ignore[index]
        histograms = pixel_histograms(scores, masks[index], left_out, edges)
        true += histograms[0]
        false += histograms[1]
    check_positive_pixels(true)
    return float(pixel_average_precision(true, false))
