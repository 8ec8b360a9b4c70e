"""Where a threshold comes from: given, from validation scores, from the maps alone, or from the test set."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from sat_peft.errors import UsageError, unknown_choice
from sat_peft.localization import inputs
from sat_peft.localization.protocol import Protocol
from sat_peft.localization.protocols import get_protocol

DEFAULT_METRIC = "gt_known"
# On a hundred validation photographs the best threshold by accuracy at an IoU of .5 is often a chance peak. The sum
# over the three IoUs of MaxBoxAccV2 finds thresholds on half of them that are better on the other half, for SAT and for
# the baselines.
_VALIDATION_METRIC = "iou30+iou50+iou70"


@dataclass(frozen=True)
class ThresholdChoice:
    """A threshold and, in plain words, where it comes from. Reports print both."""

    value: float
    source: str


def best_threshold(per_threshold: Mapping[str, list], *, metric: str = DEFAULT_METRIC) -> tuple[float, float]:
    """The threshold at which a column of `LocalizationResult.per_threshold` is largest, and the value there.

    Args:
        per_threshold: as in `LocalizationResult`.
        metric: a column, or several joined by "+", whose sum counts ("gt_known+top1_loc" is what SAT's code takes).

    The lowest of equally good thresholds is taken, as in the public implementations.
    """
    defined = [name for name, values in per_threshold.items() if name != "threshold" and values[0] is not None]
    total = np.zeros(len(per_threshold["threshold"]))
    for name in metric.split("+"):
        if name not in defined:
            raise unknown_choice("metric", name, defined)
        total += per_threshold[name]
    index = int(total.argmax())
    return float(per_threshold["threshold"][index]), float(total[index])


def choose_threshold(source: str = "fixed", **settings) -> ThresholdChoice:
    """A threshold from one of four sources.

    Args:
        source: how to choose:
            "fixed": `value`, or the `protocol`'s fixed threshold for `dataset`, or its default.
            "validation": the best of `scores`, a `LocalizationResult` of images that are not the test set; `metric`
                says best in what (by default the sum of the accuracies at an IoU of .3, .5 and .7).
            "unsupervised": from `maps` and `protocol` alone, no boxes: see `unsupervised_threshold`.
            "oracle": the best of `scores` of the very test set that is reported. An upper bound: most papers
                report it, and the choice says so. `metric` is "gt_known" by default.
        settings: what the source needs, by name, as above.

    Raises:
        UsageError: unknown source, a setting that the source lacks or does not take.
    """
    if source not in _SOURCES:
        raise unknown_choice("source", source, _SOURCES)
    settings = {name: value for name, value in settings.items() if value is not None}
    signature = inspect.signature(_SOURCES[source])
    try:
        signature.bind(**settings)
    except TypeError as error:
        taken = ", ".join(signature.parameters)
        raise UsageError(f"source {source!r}: {error}; it takes {taken}.") from error
    return _SOURCES[source](**settings)


def _fixed(value=None, protocol=None, dataset=None) -> ThresholdChoice:
    if value is not None:
        return ThresholdChoice(float(inputs.check_thresholds(value, "value")[0]), "fixed: given")
    if protocol is None:
        raise UsageError("source 'fixed' lacks value; give a number, or a protocol whose own threshold is meant.")
    protocol = get_protocol(protocol)
    if dataset is None:
        return ThresholdChoice(protocol.default_threshold, f"fixed: default of protocol {protocol.name}")
    fixed = dict(protocol.dataset_thresholds)
    if dataset not in fixed:
        raise unknown_choice(f"dataset of protocol {protocol.name!r}", dataset, fixed)
    return ThresholdChoice(fixed[dataset], f"fixed: protocol {protocol.name} on {dataset}")


def _validation(scores, metric=_VALIDATION_METRIC) -> ThresholdChoice:
    return _best(scores, metric, f"validation: best {metric} on images that are not the test set")


def _oracle(scores, metric=DEFAULT_METRIC) -> ThresholdChoice:
    return _best(scores, metric, f"oracle: best {metric}, chosen on the test set itself")


def _best(scores, metric: str, source: str) -> ThresholdChoice:
    curves = scores if isinstance(scores, Mapping) else scores.per_threshold
    return ThresholdChoice(best_threshold(curves, metric=metric)[0], source)


def unsupervised_threshold(maps, protocol, image_sizes=None) -> ThresholdChoice:
    """Otsu's threshold of the maps' scores, pooled over the images; needs no boxes and no labels.

    The histogram (256 bins) of all score maps of the set, as `protocol` normalises them and every image with equal
    weight, is split where the variance between the two sides is largest (Otsu 1979). One threshold for the set, as the
    protocols have it: a threshold per map would change with every outlier, and a threshold from the expected area
    would only repeat the area target that the training was given.

    Args:
        maps: (N, h, w) or a list of (h, w).
        protocol: name or `Protocol`.
        image_sizes: N pairs (width, height) where the protocol scores in the image's own pixels.
    """
    protocol = get_protocol(protocol)
    maps = inputs.check_maps(maps)
    if not maps:
        raise UsageError("maps is empty: there is nothing to choose a threshold from.")
    sizes = inputs.check_image_sizes(image_sizes, len(maps), protocol)
    histogram = np.zeros(256)
    for raw, size in zip(maps, sizes, strict=True):
        scores = protocol.score_map(raw, size)
        histogram += np.bincount((scores * 255).astype(np.uint8).ravel(), minlength=256) / scores.size
    return ThresholdChoice(_otsu(histogram), "unsupervised: Otsu's threshold of the maps, no boxes used")


def _otsu(histogram: np.ndarray) -> float:
    """The value in [0, 1] that splits the histogram with the largest variance between the sides."""
    share = histogram / histogram.sum()
    values = np.arange(len(share))
    below = np.cumsum(share)[:-1]
    mean_below = np.cumsum(share * values)[:-1]
    mean = float(share @ values)
    with np.errstate(divide="ignore", invalid="ignore"):
        between = (mean * below - mean_below) ** 2 / (below * (1 - below))
    between = np.nan_to_num(between, nan=0.0, posinf=0.0)
    # Empty bins between two modes score alike; the middle of them is as far from both as can be.
    best = np.flatnonzero(between >= between.max() * (1 - 1e-12))
    return float(best.mean() + 1) / len(share)


_SOURCES = {"fixed": _fixed, "validation": _validation, "unsupervised": unsupervised_threshold, "oracle": _oracle}


def resolve_threshold(threshold, protocol: Protocol, thresholds: np.ndarray | None) -> ThresholdChoice | None:
    """What `threshold` of `score_maps` means; None stands for "oracle", which is known after scoring only.

    Args:
        threshold: a number, a `ThresholdChoice`, "oracle", or None.
        protocol: supplies the default.
        thresholds: those that the caller swept, None if they are the protocol's.
    """
    if isinstance(threshold, ThresholdChoice):
        return threshold
    if isinstance(threshold, str):
        if threshold != "oracle":
            raise unknown_choice("threshold", threshold, ["oracle", "a number between 0 and 1", "a ThresholdChoice"])
        return None
    if threshold is not None:
        return choose_threshold("fixed", value=threshold)
    if thresholds is not None and len(thresholds) == 1:
        return choose_threshold("fixed", value=thresholds[0])
    return choose_threshold("fixed", protocol=protocol)
