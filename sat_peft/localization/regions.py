"""Foregrounds to regions: which one makes the box, and where all contours are.

A `Region` looks at one foreground, with OpenCV. `sweep` answers for all foregrounds of a map from the component tree
(`region_tree.py`), `sweep_one_by_one` for one after the other; both give the same. `sweep` itself asks about the few
foregrounds that the tree leaves undecided.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import cv2
import numpy as np

from sat_peft.localization import region_tree
from sat_peft.localization.region_tree import Components

# With more peaks than this (noise at pixel level) joining basins costs more than looking at one foreground at a time.
_MOST_PEAKS = 512
_BITS_OF_ONE = int(np.float32(1).view(np.int32))


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


def components_by_size(foreground: np.ndarray, least: float) -> np.ndarray:
    """Extents (n, 4) of the 8-connected components of at least `least` pixels and of the largest, largest first.

    Of components with equally many pixels, the one whose first pixel comes first in reading order is first.
    """
    _, stats, kept = _by_size(foreground, least)
    left, top, columns, rows = stats[kept, : cv2.CC_STAT_AREA].T
    return np.stack([left, top, left + columns - 1, top + rows - 1], axis=1)


def component_masks(foreground: np.ndarray, count: int) -> Iterator[np.ndarray]:
    """The first `count` of `components_by_size`, or as many as there are, one by one as (H, W) bool."""
    labels, _, kept = _by_size(foreground, 0)
    return (labels == label for label in kept[:count])


def _by_size(foreground: np.ndarray, least: float) -> tuple[np.ndarray, np.ndarray, list[int]]:
    """Labels (H, W) of the components, OpenCV's statistics of each, and the labels in order of size."""
    _, labels, stats, _ = cv2.connectedComponentsWithStats(foreground.astype(np.uint8), connectivity=8)
    areas = stats[:, cv2.CC_STAT_AREA].copy()
    areas[0] = 0  # the background

    def place(component: int) -> tuple[int, int, int]:
        left, top, columns = stats[component, [cv2.CC_STAT_LEFT, cv2.CC_STAT_TOP, cv2.CC_STAT_WIDTH]]
        first = left + int((labels[top, left : left + columns] == component).argmax())
        return -areas[component], top, first

    return labels, stats, sorted(np.flatnonzero(areas >= max(1, min(areas.max(), least))), key=place)


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


@dataclass(frozen=True)
class Region:
    """Which region of a foreground makes the box.

    Args:
        find: (H, W) foreground -> inclusive extents [x0, y0, x1, y1] of the region, or None where there is none.
        sizes: basins, levels and number of cuts -> (K, C) the sizes that decide, see `region_tree.pixel_counts`.
        undecided: components, sizes and winners (C,) -> (C,) bool: foregrounds that the sizes leave undecided.
    """

    find: Callable[[np.ndarray], np.ndarray | None]
    sizes: Callable[[region_tree.Basins, np.ndarray, int], np.ndarray]
    undecided: Callable[[Components, np.ndarray, np.ndarray], np.ndarray]


@dataclass
class RegionSweep:
    """What C nested foregrounds of one map contain.

    Args:
        extents: (C, 4) inclusive extents [x0, y0, x1, y1] of the region that makes the box of each foreground.
        found: (C,) bool, False where the foreground is empty.
        contour_extents: (P, 4) extents of the contours of all foregrounds, or None where they were not asked for.
        contour_cuts: (P,) the foreground that each contour belongs to, or None.
    """

    extents: np.ndarray
    found: np.ndarray
    contour_extents: np.ndarray | None = None
    contour_cuts: np.ndarray | None = None


def sweep_one_by_one(levels: np.ndarray, num_cuts: int, region: Region, contours: bool = False) -> RegionSweep:
    """Look at the foregrounds levels > 0, levels > 1, ... one after the other.

    Args:
        levels: (H, W) unsigned integers.
        num_cuts: C, the number of foregrounds.
        region: which region makes the box.
        contours: also return every contour of every foreground.
    """
    result = RegionSweep(np.zeros((num_cuts, 4), np.int64), np.zeros(num_cuts, bool))
    every: list[np.ndarray] = []
    for cut in range(min(num_cuts, int(levels.max()))):
        foreground = levels > cut
        result.extents[cut] = region.find(foreground)
        result.found[cut] = True
        if contours:
            every.append(all_contours(foreground))
    if contours:
        result.contour_extents = np.concatenate([np.zeros((0, 4), np.int64), *every])
        result.contour_cuts = np.repeat(np.arange(len(every)), [len(extents) for extents in every])
    return result


def sweep(scores: np.ndarray, levels: np.ndarray, num_cuts: int, region: Region, contours: bool = False) -> RegionSweep:
    """As `sweep_one_by_one`, for all foregrounds at once.

    Args:
        scores: (H, W) float32 in [0, 1], of which `levels` is a non-falling function.
        levels: (H, W) unsigned integers.
        num_cuts: C, the number of foregrounds.
        region: which region makes the box.
        contours: also return every contour of every foreground, in no particular order.
    """
    order = scores.view(np.int32)
    basins = region_tree.find_basins(order, diagonal=True)
    if basins.count > _MOST_PEAKS:
        return sweep_one_by_one(levels, num_cuts, region, contours)
    sizes = region.sizes(basins, levels, num_cuts)
    components = region_tree.grow(basins, levels, num_cuts, True, sizes)
    present = components.present
    size = np.where(present, components.size, -1)
    winner = size.argmax(axis=0)
    cuts = np.arange(num_cuts)
    result = RegionSweep(components.extents(winner, cuts), size[winner, cuts] >= 0)
    for cut in np.flatnonzero(region.undecided(components, size, winner)):
        result.extents[cut] = region.find(levels > cut)
    if contours:
        hole_extents, hole_cuts = holes(order, levels, num_cuts)
        rows, component_cuts = np.nonzero(present)
        result.contour_extents = np.concatenate([components.extents(rows, component_cuts), hole_extents])
        result.contour_cuts = np.concatenate([component_cuts, hole_cuts])
    return result


def holes(order: np.ndarray, levels: np.ndarray, num_cuts: int) -> tuple[np.ndarray, np.ndarray]:
    """Extents (P, 4) and foregrounds (P,) of the contours around holes: background that the outside does not reach.

    Such a contour runs on the foreground pixels next to the hole, one pixel outside it on every side.
    """
    # The complement, framed by outside pixels that are deeper than any other: they share one basin, the last one.
    depth = np.pad(_BITS_OF_ONE - order, 1, constant_values=_BITS_OF_ONE + 1)
    depth_levels = np.pad(num_cuts - levels.astype(np.uint16), 1, constant_values=num_cuts)
    basins = region_tree.find_basins(depth, diagonal=False)
    if basins.count == 1:
        return np.zeros((0, 4), np.int64), np.zeros(0, np.int64)
    background = region_tree.grow(basins, depth_levels, num_cuts, False, None)
    rows, depth_cuts = np.nonzero(background.present[:-1])
    # Minus one pixel of frame, and one pixel wider on both sides.
    extents = background.extents(rows, depth_cuts) + np.array([-2, -2, 0, 0])
    return extents, num_cuts - 1 - depth_cuts


def _equal_sizes(components: Components, size: np.ndarray, winner: np.ndarray) -> np.ndarray:
    """(C,) bool: several components are largest, so that reading order decides."""
    largest = size[winner, np.arange(size.shape[1])]
    return ((size == largest) & (size >= 0)).sum(axis=0) > 1


def _unclear_areas(components: Components, size: np.ndarray, winner: np.ndarray) -> np.ndarray:
    """(C,) bool: a component other than the winner may enclose as large an area, once its holes are filled.

    What a contour encloses is at least the component's own area and at most its extents'.
    """
    cuts = np.arange(size.shape[1])
    bound = np.where(size >= 0, 2 * (components.last - components.first).prod(axis=0), -1)
    largest = size[winner, cuts]
    bound[winner, cuts] = -1
    return (bound.max(axis=0) >= largest) & (largest >= 0)


LARGEST_COMPONENT = Region(largest_component, region_tree.pixel_counts, _equal_sizes)
LARGEST_CONTOUR = Region(largest_contour, region_tree.twice_polygon_areas, _unclear_areas)
