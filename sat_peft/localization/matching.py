"""What is kept of every map: which foregrounds' boxes match a true box, and how well at the reported threshold."""

from __future__ import annotations

import itertools
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, fields

import cv2
import numpy as np

from sat_peft.localization.boxes import best_iou
from sat_peft.localization.pixel_histograms import pixel_histograms
from sat_peft.localization.protocols import Protocol
from sat_peft.localization.region_sweep import sweep
from sat_peft.localization.regions import EMPTY_BOXES, EXTENT_RULES
from sat_peft.localization.results import outcome_bits
from sat_peft.localization.score_map import FOREGROUND_RULES, score_map

# Fewer maps than this per process are scored before the process has started.
_LEAST_PER_WORKER = 16
_PER_PART = 256


@dataclass(frozen=True)
class Sweep:
    """The settings of a sweep.

    Args:
        protocol: of the maps.
        cuts: (C,) the distinct foregrounds, as the protocol's foreground rule gives them.
        kept_cuts: (R,) indices of the cuts at which IoU and box are kept.
        edges: (B + 1,) bin edges of the histograms for PxAP.
    """

    protocol: Protocol
    cuts: np.ndarray
    kept_cuts: np.ndarray
    edges: np.ndarray


@dataclass(frozen=True)
class Batch:
    """Checked input of N maps; every field is a list of N, or None.

    Args:
        maps: (h, w) float32 each.
        boxes: (n, 4) float64 xyxy in evaluation pixels each.
        sizes: (width, height) of the evaluation pixels each.
        masks: (H, W) bool each.
        ignore: (H, W) bool each.
    """

    maps: list[np.ndarray]
    boxes: list[np.ndarray]
    sizes: list[tuple[int, int]]
    masks: list[np.ndarray] | None = None
    ignore: list[np.ndarray] | None = None

    def part(self, rows: slice) -> Batch:
        values = (getattr(self, field.name) for field in fields(self))
        return Batch(*(None if value is None else value[rows] for value in values))


def score_batch(settings: Sweep, batch: Batch) -> dict[str, np.ndarray]:
    """Arrays with a row per map.

    "single" (N, C) uint8, `outcome_bits` of every foreground's box; "multi" likewise for any contour, where the
    protocol has MaxBoxAccV2; "iou" (N, R) float64 and "box" (N, R, 4) int32 at the kept cuts; with masks "true" and
    "false" (N, B) uint32, histograms of the scores of object and background pixels.
    """
    protocol, num_cuts, kept = settings.protocol, len(settings.cuts), settings.kept_cuts
    count = len(batch.maps)
    scored = {
        "single": np.zeros((count, num_cuts), np.uint8),
        "iou": np.zeros((count, len(kept))),
        "box": np.zeros((count, len(kept), 4), np.int32),
    }
    if protocol.multi_contour:
        scored["multi"] = np.zeros((count, num_cuts), np.uint8)
    if batch.masks is not None:
        scored["true"] = np.zeros((count, len(settings.edges) - 1), np.uint32)
        scored["false"] = np.zeros_like(scored["true"])
    for index, (raw, truth, size) in enumerate(zip(batch.maps, batch.boxes, batch.sizes, strict=True)):
        scores = score_map(raw, protocol.map_rule, size)
        boxes, iou, multi_iou = _match(settings, scores, truth, size)
        scored["single"][index] = outcome_bits(iou)
        scored["iou"][index], scored["box"][index] = iou[kept], boxes[kept]
        if multi_iou is not None:
            scored["multi"][index] = outcome_bits(multi_iou)
        if batch.masks is not None:
            ignore = None if batch.ignore is None else batch.ignore[index]
            histograms = pixel_histograms(scores, batch.masks[index], ignore, settings.edges)
            scored["true"][index], scored["false"][index] = histograms
    return scored


def _match(settings: Sweep, scores, truth, size) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Boxes (C, 4), their best IoU with a true box (C,), and the best IoU of any contour (C,) or None."""
    protocol, num_cuts = settings.protocol, len(settings.cuts)
    to_boxes = EXTENT_RULES[protocol.extent_rule]
    levels = FOREGROUND_RULES[protocol.foreground_rule].levels(scores, settings.cuts)
    regions = sweep(scores, levels, num_cuts, protocol.region_rule, protocol.multi_contour)
    boxes = np.where(regions.found[:, None], to_boxes(regions.extents, size), EMPTY_BOXES[protocol.empty_box](size))
    iou = best_iou(boxes, truth, protocol.iou_rule)
    if not protocol.multi_contour:
        return boxes, iou, None
    # An empty foreground has its empty box as the only candidate.
    multi_iou = np.where(regions.found, 0.0, iou)
    contour_iou = best_iou(to_boxes(regions.contour_extents, size), truth, protocol.iou_rule)
    np.maximum.at(multi_iou, regions.contour_cuts, contour_iou)
    return boxes, iou, multi_iou


def score_batch_in_processes(settings: Sweep, batch: Batch, workers: int) -> dict[str, np.ndarray]:
    """`score_batch` with the maps dealt to `workers` processes; the same arrays."""
    count = len(batch.maps)
    workers = min(workers, count // _LEAST_PER_WORKER)
    if workers < 2:
        return score_batch(settings, batch)
    # More parts than workers, so that none waits long for one that was slower; each is worth its way there and back.
    parts = max(workers, count // _PER_PART)
    bounds = np.linspace(0, count, parts + 1).astype(int)
    parts = [batch.part(slice(start, stop)) for start, stop in itertools.pairwise(bounds)]
    # A forked process needs no second import of the packages that the caller has loaded.
    method = "fork" if "fork" in multiprocessing.get_all_start_methods() else "spawn"
    context = multiprocessing.get_context(method)
    threads = cv2.getNumThreads()
    # OpenCV's threads do not survive a fork, and a forked process would wait for them for ever: stop them first.
    cv2.setNumThreads(1)
    try:
        with ProcessPoolExecutor(workers, mp_context=context) as pool:
            scored = list(pool.map(score_batch, [settings] * len(parts), parts))
    finally:
        cv2.setNumThreads(threads)
    return {name: np.concatenate([part[name] for part in scored]) for name in scored[0]}
