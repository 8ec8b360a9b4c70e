"""From per-image outcomes to the figures of a result, their thresholds and their confidence intervals."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from sat_peft.errors import UsageError
from sat_peft.localization.pixel_histograms import pixel_average_precision
from sat_peft.localization.protocol import Protocol
from sat_peft.localization.thresholds import ThresholdChoice, choose_threshold

# Which bit of an outcome says what about the best IoU of a foreground's box.
IOU_BITS = {"iou30": 1, "iou50": 2, "iou70": 4, "above50": 8}
_IOU_FIGURES = ("iou30", "iou50", "iou70")
_MULTI_FIGURES = ("multi_iou30", "multi_iou50", "multi_iou70")
_CURVES = ("gt_known", "top1_loc", "top5_loc", *_IOU_FIGURES, *_MULTI_FIGURES)
SUMMARY_FIGURES = (
    *("gt_known", "top1_loc", "top5_loc", "top1_cls", "top5_cls", "max_box_acc", "max_box_acc_v2"),
    *(*_IOU_FIGURES, "mean_iou", "px_ap"),
)
# Resamples whose weights are held at once: bounds the memory of the bootstrap.
_BOOTSTRAP_CHUNK = 32


@dataclass
class LocalizationResult:
    """Localisation accuracy of one set of images under one protocol.

    Args:
        protocol: name of the protocol.
        threshold: the threshold that the summary reports.
        threshold_source: where it comes from, in plain words.
        num_images: how many images were scored.
        summary: every figure in percent, None where it is not defined for what was given. At the threshold:
            "gt_known", "iou30", "iou50", "iou70", "mean_iou", and with logits "top1_loc", "top5_loc", "top1_cls",
            "top5_cls". Over the swept thresholds: "max_box_acc", the best "iou50", and, under protocols that
            define it, "max_box_acc_v2", the mean over IoU 0.3, 0.5 and 0.7 of the best with any contour. With
            masks: "px_ap". "threshold" repeats the threshold (not in percent).
        per_threshold: "threshold", "gt_known", "top1_loc", "top5_loc", "iou30", "iou50", "iou70", and the same with any
            contour, "multi_iou30", "multi_iou50", "multi_iou70": equally long lists, of None where not defined.
        per_image: arrays with a row per image, at the threshold: "image_id" (-1 where none was given), "iou",
            "box" (N, 4) xyxy in evaluation pixels, "correct", and with logits "top1_correct" and "top5_correct"
            (class right and box right).
        confidence_intervals: figure -> [low, high] from the bootstrap over images; empty without one. The threshold of
            the summary is held fixed; "max_box_acc" and "max_box_acc_v2" find their best in every resample.
    """

    protocol: str
    threshold: float
    threshold_source: str
    num_images: int
    summary: dict[str, float | None]
    per_threshold: dict[str, list]
    per_image: dict[str, np.ndarray] = field(repr=False)
    confidence_intervals: dict[str, list[float]] = field(default_factory=dict)

    def to_dict(self) -> dict:
        """Everything but the images, ready for JSON."""
        return {name: value for name, value in vars(self).items() if name != "per_image"}


def outcome_bits(iou: np.ndarray) -> np.ndarray:
    """The best IoU of every foreground's box as one byte: the comparisons that the figures are made of."""
    above = {"iou30": iou >= 0.3, "iou50": iou >= 0.5, "iou70": iou >= 0.7, "above50": iou > 0.5}
    return sum(values * np.uint8(IOU_BITS[name]) for name, values in above.items())


def summarize(
    state: dict[str, np.ndarray],
    protocol: Protocol,
    thresholds: np.ndarray,
    cut_of_threshold: np.ndarray,
    kept_cuts: np.ndarray,
    choice: ThresholdChoice | None,
    *,
    bootstrap: int = 0,
    confidence: float = 0.95,
    seed: int = 0,
) -> LocalizationResult:
    """The result of a `LocalizationAccumulator`'s state.

    Args:
        state: state of the accumulator, without repeated images.
        protocol: the protocol of the maps.
        thresholds: (T,) the swept thresholds.
        cut_of_threshold: (T,) the column of `state["single"]` of each.
        kept_cuts: (R,) the columns whose IoU and box are kept.
        choice: the threshold to report, or None for the best on these maps.
        bootstrap: number of resamples, 0 for none.
        confidence: mass of the intervals.
        seed: seed of the resampling.
    """
    if bootstrap < 0 or not 0 < confidence < 1:
        raise UsageError(
            f"bootstrap is {bootstrap} and confidence is {confidence}; expected a number of resamples, 0 or more, and "
            "a mass between 0 and 1."
        )
    count = len(state["image_id"])
    everyone = np.ones((1, count), np.float32)
    outcomes = _outcomes(state, protocol)
    per_threshold: dict[str, list] = {"threshold": thresholds.tolist()}
    for name in _CURVES:
        curve = _percent(everyone, outcomes[name])[0, cut_of_threshold].tolist() if name in outcomes else None
        per_threshold[name] = curve or [None] * len(thresholds)
    if choice is None:
        choice = choose_threshold("oracle", scores=per_threshold)
        kept = cut = int(cut_of_threshold[per_threshold["threshold"].index(choice.value)])
    else:
        kept, cut = 0, int(kept_cuts[0])

    swept = np.unique(cut_of_threshold)
    at_threshold = {name: outcomes[name][:, cut] for name in outcomes if name not in _MULTI_FIGURES}
    at_threshold |= {f"{name}_cls": state[name] for name in ("top1", "top5") if name in state}

    def figures(weights: np.ndarray) -> dict[str, np.ndarray]:
        """The defined figures (R,) in percent when image n counts weights[r, n] times; weights (R, N) float32."""
        values = {name: _percent(weights, rows) for name, rows in at_threshold.items()}
        values["mean_iou"] = _percent(weights.astype(np.float64), state["iou"][:, kept])
        values["max_box_acc"] = _percent(weights, outcomes["iou50"][:, swept]).max(axis=1)
        if protocol.multi_contour:
            best = [_percent(weights, outcomes[name][:, swept]).max(axis=1) for name in _MULTI_FIGURES]
            values["max_box_acc_v2"] = np.mean(best, axis=0)
        if "true" in state:
            weights = weights.astype(np.float64)
            values["px_ap"] = pixel_average_precision(weights @ state["true"], weights @ state["false"])
        return values

    exact = {name: float(value[0]) for name, value in figures(everyone).items()}
    per_image = {"image_id": state["image_id"], "iou": state["iou"][:, kept], "box": state["box"][:, kept]}
    renamed = {"gt_known": "correct", "top1_loc": "top1_correct", "top5_loc": "top5_correct"}
    per_image |= {new: at_threshold[old] for old, new in renamed.items() if old in at_threshold}
    return LocalizationResult(
        protocol=protocol.name,
        threshold=choice.value,
        threshold_source=choice.source,
        num_images=count,
        summary={"threshold": choice.value} | {name: exact.get(name) for name in SUMMARY_FIGURES},
        per_threshold=per_threshold,
        per_image=per_image,
        confidence_intervals=_bootstrap(figures, count, bootstrap, confidence, seed) if bootstrap else {},
    )


def _outcomes(state: dict[str, np.ndarray], protocol: Protocol) -> dict[str, np.ndarray]:
    """figure -> (N, C) bool, for the figures that are defined."""
    outcomes = {name: state["single"] & IOU_BITS[name] > 0 for name in _IOU_FIGURES}
    outcomes["gt_known"] = outcomes["iou50"]
    if "top1" in state:
        box_right = state["single"] & IOU_BITS["above50" if protocol.strict_class_iou else "iou50"] > 0
        outcomes["top1_loc"] = box_right & state["top1"][:, None]
        outcomes["top5_loc"] = box_right & state["top5"][:, None]
    if "multi" in state:
        bits = zip(_MULTI_FIGURES, _IOU_FIGURES, strict=True)
        outcomes |= {name: state["multi"] & IOU_BITS[bit] > 0 for name, bit in bits}
    return outcomes


def _percent(weights: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Weighted mean of `rows` (N, ...) in percent. Counts up to 2**24 are exact in float32."""
    return 100.0 * (weights @ rows.astype(weights.dtype)).astype(np.float64) / rows.shape[0]


def _bootstrap(figures, count: int, resamples: int, confidence: float, seed: int) -> dict[str, list[float]]:
    """Percentile intervals: the images are drawn with replacement, `resamples` times."""
    generator = np.random.default_rng(seed)
    drawn: list[dict[str, np.ndarray]] = []
    for start in range(0, resamples, _BOOTSTRAP_CHUNK):
        rows = min(_BOOTSTRAP_CHUNK, resamples - start)
        picks = generator.integers(count, size=(rows, count))
        weights = np.stack([np.bincount(row, minlength=count) for row in picks]).astype(np.float32)
        drawn.append(figures(weights))
    tail = 50 * (1 - confidence)
    intervals = {}
    for name in drawn[0]:
        # A resample may hold no object pixel, which leaves PxAP undefined there.
        low, high = np.nanpercentile(np.concatenate([chunk[name] for chunk in drawn]), [tail, 100 - tail])
        intervals[name] = [float(low), float(high)]
    return intervals
