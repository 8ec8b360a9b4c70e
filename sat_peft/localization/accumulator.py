"""Streaming scoring: batches of maps in, a few bytes per image and distinct foreground kept, one result out."""

from __future__ import annotations

import numpy as np

from sat_peft.errors import UsageError
from sat_peft.localization import inputs
from sat_peft.localization.boxes import best_iou
from sat_peft.localization.pixel_histograms import bin_edges, check_positive_pixels, pixel_histograms
from sat_peft.localization.protocol import Protocol
from sat_peft.localization.protocols import get_protocol
from sat_peft.localization.regions import sweep
from sat_peft.localization.results import LocalizationResult, outcome_bits, summarize
from sat_peft.localization.thresholds import resolve_threshold

_UNKNOWN_ID = -1


class LocalizationAccumulator:
    """Scores maps batch by batch, in one process or several, without keeping the maps.

    Args:
        protocol, thresholds, threshold: see `score_maps`.

    Kept per image: one byte per distinct foreground (two where the protocol has MaxBoxAccV2), the IoU and the box at
    the reported threshold ("oracle": at every distinct foreground), and 8 bytes per bin where masks are given.

    Example:
        >>> import numpy as np
        >>> accumulator = LocalizationAccumulator("sat", thresholds=[0.5])
        >>> accumulator.update(np.eye(14)[None], boxes=[[[0, 0, 223, 223]]])
        >>> accumulator.compute().summary["gt_known"]
        100.0
    """

    def __init__(self, protocol: str | Protocol, thresholds=None, *, threshold=None):
        self.protocol = get_protocol(protocol)
        swept = self.protocol.default_thresholds if thresholds is None else thresholds
        self.thresholds = inputs.check_thresholds(swept)
        self.choice = resolve_threshold(threshold, self.protocol, None if thresholds is None else self.thresholds)
        reported = [] if self.choice is None else [self.choice.value]
        # The distinct foregrounds, and which of them each threshold has.
        self._cuts, cut_of = self.protocol.foreground.cuts(np.append(self.thresholds, reported))
        self._cut_of_threshold = cut_of[: len(self.thresholds)]
        # "oracle" is known only at the end, so IoU and box of every cut are kept for it.
        self._kept_cuts = np.arange(len(self._cuts)) if self.choice is None else cut_of[-1:]
        # PxAP needs bins from 0 up; thresholds that start higher are replaced by wsolevaluation's own.
        self._edges = bin_edges(self.thresholds if self.thresholds[0] == 0 else np.arange(0, 1, 0.001))
        self._parts: list[dict[str, np.ndarray]] = []

    def update(
        self,
        maps,
        boxes,
        *,
        logits=None,
        labels=None,
        masks=None,
        ignore=None,
        image_sizes=None,
        image_ids=None,
    ) -> None:
        """Score one batch.

        Args:
            maps, boxes, logits, labels, masks, ignore, image_sizes: see `score_maps`.
            image_ids: N integers. An id that was seen before is dropped, also across processes.

        Raises:
            UsageError: an argument is malformed, or given in this batch and not in an earlier one.
        """
        maps = inputs.check_maps(maps)
        count = len(maps)
        inputs.check_length(boxes, count, "boxes")
        sizes = inputs.check_image_sizes(image_sizes, count, self.protocol)
        boxes = [
            inputs.check_boxes(boxes[index], f"boxes[{index}]", self.protocol, sizes[index]) for index in range(count)
        ]
        part = {"image_id": np.full(count, _UNKNOWN_ID, np.int64)}
        if image_ids is not None:
            part["image_id"] = inputs.check_integers(image_ids, count, "image_ids")
        if (logits is None) != (labels is None):
            given, missing = ("labels", "logits") if logits is None else ("logits", "labels")
            raise UsageError(f"{given} is given and {missing} is not; Top-1 and Top-5 need both.")
        if logits is not None:
            ranks = inputs.label_ranks(logits, labels, count)
            part["top1"], part["top5"] = ranks < 1, ranks < 5
        masks, ignore = inputs.check_masks(masks, ignore, sizes, self.protocol)
        scored = [
            self._score(raw, boxes[index], sizes[index], masks and masks[index], ignore and ignore[index])
            for index, raw in enumerate(maps)
        ]
        if scored:
            self._append(part | {name: np.stack([row[name] for row in scored]) for name in scored[0]})

    def _score(self, raw, truth, size, mask, ignore) -> dict[str, np.ndarray]:
        """What is kept of a map.

        "single" (C,) uint8, `outcome_bits` of every foreground's box; "multi" likewise for any contour, where the
        protocol has MaxBoxAccV2; "iou" (R,) float64 and "box" (R, 4) int32 at the kept cuts; with a mask "true" and
        "false" (B,) uint32, histograms of the scores of object and background pixels.
        """
        protocol, num_cuts, kept = self.protocol, len(self._cuts), self._kept_cuts
        scores = protocol.score_map(raw, size)
        levels = protocol.foreground.levels(scores, self._cuts)
        regions = sweep(scores, levels, num_cuts, protocol.region, protocol.multi_contour)
        boxes = np.where(regions.found[:, None], protocol.to_boxes(regions.extents, size), protocol.empty_box(size))
        iou = best_iou(boxes, truth, inclusive=protocol.inclusive)
        found = {"single": outcome_bits(iou), "iou": iou[kept], "box": boxes[kept].astype(np.int32)}
        if protocol.multi_contour:
            # An empty foreground has its empty box as the only candidate.
            any_contour = np.where(regions.found, 0.0, iou)
            contours = protocol.to_boxes(regions.contour_extents, size)
            contour_iou = best_iou(contours, truth, inclusive=protocol.inclusive)
            np.maximum.at(any_contour, regions.contour_cuts, contour_iou)
            found["multi"] = outcome_bits(any_contour)
        if mask is not None:
            found["true"], found["false"] = pixel_histograms(scores, mask, ignore, self._edges)
        return found

    def _append(self, part: dict[str, np.ndarray]) -> None:
        if self._parts and part.keys() != self._parts[0].keys():
            odd = sorted(part.keys() ^ self._parts[0].keys())
            raise UsageError(
                f"logits, labels or masks are given for some images and not for others (kept values that differ: "
                f"{', '.join(odd)}); give them in every update or in none."
            )
        self._parts.append(part)

    def state(self) -> dict[str, np.ndarray]:
        """Everything kept so far, as arrays whose first axis is the images: to store, or to gather across processes."""
        if not self._parts:
            return {}
        return {name: np.concatenate([part[name] for part in self._parts]) for name in self._parts[0]}

    def merge(self, other: LocalizationAccumulator | dict[str, np.ndarray]) -> None:
        """Add the images of another accumulator with the same settings, or of its `state()`.

        Images whose id is already here are dropped when the result is computed, so samples that a distributed sampler
        repeats count once.
        """
        if isinstance(other, LocalizationAccumulator):
            if other._settings() != self._settings():
                raise UsageError(
                    f"other has protocol {other.protocol.name!r}, {len(other.thresholds)} thresholds and threshold "
                    f"{other.choice}; merging needs the same protocol {self.protocol.name!r}, thresholds and threshold."
                )
            other = other.state()
        if not other:
            return
        widths = {"single": len(self._cuts), "iou": len(self._kept_cuts)}
        for name, width in widths.items():
            if name not in other or other[name].shape[1] != width:
                raise UsageError(
                    f"other[{name!r}] has shape {np.shape(other.get(name))}; expected (N, {width}): it comes from an "
                    "accumulator with other thresholds."
                )
        self._append({name: np.asarray(values) for name, values in other.items()})

    def _settings(self):
        return self.protocol, self.thresholds.tolist(), self.choice

    def __len__(self) -> int:
        """Number of images, repeated ones counted once."""
        return len(_first_of_each_id(self.state()["image_id"])) if self._parts else 0

    def compute(self, *, bootstrap: int = 0, confidence: float = 0.95, seed: int = 0) -> LocalizationResult:
        """The result over all images so far.

        Args:
            bootstrap, confidence, seed: see `score_maps`.

        Raises:
            UsageError: there is no image, or no mask holds an object pixel.
        """
        state = self.state()
        if not state or len(state["image_id"]) == 0:
            raise UsageError("maps is empty: there is no image to score.")
        rows = _first_of_each_id(state["image_id"])
        state = {name: values[rows] for name, values in state.items()}
        if "true" in state:
            check_positive_pixels(state["true"])
        return summarize(
            state,
            self.protocol,
            self.thresholds,
            self._cut_of_threshold,
            self._kept_cuts,
            self.choice,
            bootstrap=bootstrap,
            confidence=confidence,
            seed=seed,
        )


def _first_of_each_id(image_ids: np.ndarray) -> np.ndarray:
    """Rows to keep, in order: the first of every id, and every image without one."""
    first = np.zeros(len(image_ids), bool)
    first[np.unique(image_ids, return_index=True)[1]] = True
    return np.flatnonzero(first | (image_ids == _UNKNOWN_ID))
