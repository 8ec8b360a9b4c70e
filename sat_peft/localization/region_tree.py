"""The regions of all foregrounds of a map in one pass.

The foregrounds {scores > t} of a map are nested, and every connected component of every one of them contains a peak (a
local maximum) of the map. So the map is cut into basins once: each pixel belongs to the peak that steepest ascent
leads to. Along that path the scores only rise, hence the part of a basin above any threshold is connected, and a
component is a union of basins, joined where two neighbouring pixels of theirs are both above the threshold. All sizes
and extents then follow from small tables (basin, foreground): this is a component tree, with a few dozen nodes for a
map that was enlarged from a patch grid.

The holes of a component are found the same way, as the components of the background, 4-connected, that do not
touch the frame around the image.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

# A key holds the bits of a float32 in [0, 1] above the pixel's index, which breaks ties between equal scores.
_INDEX_BITS = 32
_INDEX_MASK = (1 << _INDEX_BITS) - 1

_NEIGHBOURS_8 = ((0, 1), (1, -1), (1, 0), (1, 1))
_NEIGHBOURS_4 = ((0, 1), (1, 0))


@dataclass
class Components:
    """The components of C nested foregrounds. A row stands for one component per foreground, or for none.

    Args:
        first: (2, K, C) first column and first row; `last` likewise.
        last: (2, K, C), smaller than `first` where the row stands for no component.
        size: (K, C) what was summed over the pixels of the component.
    """

    first: np.ndarray
    last: np.ndarray
    size: np.ndarray | None

    @property
    def present(self) -> np.ndarray:
        """(K, C) bool: the row stands for a component of the foreground."""
        return self.last[0] >= self.first[0]


def peaks_and_basins(order: np.ndarray, diagonal: bool) -> tuple[np.ndarray, np.ndarray]:
    """Flat indices (K,) of the peaks, and the basin (H, W) of every pixel: which peak steepest ascent leads to.

    Args:
        order: (H, W) int32, not negative: how high a pixel is. Of equally high pixels the later one is higher.
        diagonal: steps go to 8 neighbours, otherwise to 4.
    """
    index = _indices(*order.shape)
    keys = (order.astype(np.int64) << _INDEX_BITS) | index
    target = (_highest_neighbour(keys, diagonal) & _INDEX_MASK).ravel()
    while True:
        further = target.take(target)
        if np.array_equal(further, target):
            break
        target = further
    peaks = np.flatnonzero(target == index.ravel())
    number = np.empty(target.size, np.uint16 if len(peaks) < 1 << 16 else np.uint32)
    number[peaks] = np.arange(len(peaks))
    return peaks, number.take(target).reshape(order.shape)


@lru_cache(maxsize=8)
def _indices(height: int, width: int) -> np.ndarray:
    return np.arange(height * width, dtype=np.int64).reshape(height, width)


def _highest_neighbour(keys: np.ndarray, diagonal: bool) -> np.ndarray:
    """(H, W) int64: the largest key among a pixel and its 8 or 4 neighbours."""
    across = keys.copy()
    np.maximum(across[:, 1:], keys[:, :-1], out=across[:, 1:])
    np.maximum(across[:, :-1], keys[:, 1:], out=across[:, :-1])
    source = across if diagonal else keys
    highest = across.copy()
    np.maximum(highest[1:], source[:-1], out=highest[1:])
    np.maximum(highest[:-1], source[1:], out=highest[:-1])
    return highest


def grow(basins: np.ndarray, levels: np.ndarray, count: int, num_cuts: int, diagonal: bool, sizes) -> Components:
    """The components of the foregrounds levels > 0, ..., levels > num_cuts - 1.

    Joined basins keep the row of the last of them.

    Args:
        basins: (H, W) unsigned.
        levels: (H, W) unsigned, not falling along any path of steepest ascent.
        count: K, the number of basins.
        num_cuts: C.
        diagonal: 8-connected, otherwise 4-connected.
        sizes: (K, C) the size of each basin's part of each foreground, or None.
    """
    columns = _extents(np.ascontiguousarray(basins.T), np.ascontiguousarray(levels.T), count, num_cuts)
    rows = _extents(basins, levels, count, num_cuts)
    first, last = (np.stack(pair) for pair in zip(columns, rows, strict=True))
    components = Components(first, last, sizes)
    if count > 1:
        _join(components, *_passes(basins, levels, count, diagonal))
    return components


def _extents(basins: np.ndarray, levels: np.ndarray, count: int, num_cuts: int) -> tuple[np.ndarray, np.ndarray]:
    """First and last row (K, C) of each basin's part of each foreground; first > last where it is empty."""
    height, width = basins.shape
    flat = basins.ravel()
    ends = flat[1:] != flat[:-1]
    ends[width - 1 :: width] = True
    starts = np.concatenate([[0], np.flatnonzero(ends) + 1])
    highest = np.maximum.reduceat(levels.ravel(), starts)
    table = np.zeros((count, height), levels.dtype)
    np.maximum.at(table, (flat[starts], starts // width), highest)
    below = _rows_below(table, num_cuts)
    above = _rows_below(table[:, ::-1], num_cuts)
    return below, height - 1 - above


def _rows_below(table: np.ndarray, num_cuts: int) -> np.ndarray:
    """(K, C): how many rows at the start of `table` (K, H) stay at or below cut 0, 1, ..."""
    count = len(table)
    running = np.maximum.accumulate(table, axis=1).astype(np.int64)
    running += np.arange(count)[:, None] * (num_cuts + 1)
    histogram = np.bincount(running.ravel(), minlength=count * (num_cuts + 1)).reshape(count, num_cuts + 1)
    return np.cumsum(histogram, axis=1)[:, :num_cuts]


def _passes(basins: np.ndarray, levels: np.ndarray, count: int, diagonal: bool) -> tuple[list, list, list]:
    """The highest level at which each two adjacent basins touch: basin, other basin, level; highest first."""
    height, width = basins.shape
    flat_basins, flat_levels = basins.ravel(), levels.ravel()
    ends = [[], []]
    for down, right in _NEIGHBOURS_8 if diagonal else _NEIGHBOURS_4:
        near = basins[: height - down, max(0, -right) : width - max(0, right)]
        far = basins[down:, max(0, right) : width - max(0, -right)]
        y, x = np.divmod(np.flatnonzero(near != far), near.shape[1])
        start = y * width + x + max(0, -right)
        ends[0].append(start)
        ends[1].append(start + down * width + right)
    start, end = (np.concatenate(parts) for parts in ends)
    level = np.minimum(flat_levels[start], flat_levels[end])
    touching = level > 0
    one, other = flat_basins[start[touching]].astype(np.int64), flat_basins[end[touching]].astype(np.int64)
    pair = np.minimum(one, other) * count + np.maximum(one, other)
    # Ascending, so that of equal pairs the highest level is written last and stays.
    order = np.argsort(level[touching], kind="stable")
    highest = np.zeros(count * count, levels.dtype)
    highest[pair[order]] = level[touching][order]
    pairs = np.flatnonzero(highest)
    pairs = pairs[np.argsort(highest[pairs], kind="stable")[::-1]]
    one, other = np.divmod(pairs, count)
    return one.tolist(), other.tolist(), highest[pairs].tolist()


def _join(components: Components, ones: list, others: list, levels: list) -> None:
    """Merge basins at their passes, in place: below a pass, one row takes the other's share and the other is cleared."""
    first, last, size = components.first, components.last, components.size
    nothing_first, nothing_last = first.max() + 1, -1
    root = list(range(first.shape[1]))

    def find(row):
        while root[row] != row:
            root[row] = root[root[row]]
            row = root[row]
        return row

    remaining = len(root) - 1
    for one, other, level in zip(ones, others, levels, strict=True):
        joined, kept = sorted((find(one), find(other)))
        if kept == joined:
            continue
        root[joined] = kept
        mine, theirs = (slice(None), kept, slice(level)), (slice(None), joined, slice(level))
        np.minimum(first[mine], first[theirs], out=first[mine])
        np.maximum(last[mine], last[theirs], out=last[mine])
        first[theirs], last[theirs] = nothing_first, nothing_last
        if size is not None:
            size[kept, :level] += size[joined, :level]
            size[joined, :level] = 0
        remaining -= 1
        if remaining == 0:
            break


def pixel_counts(basins: np.ndarray, levels: np.ndarray, count: int, num_cuts: int) -> np.ndarray:
    """(K, C) pixels of each basin's part of each foreground."""
    return _above(basins.astype(np.int64) * (num_cuts + 1) + levels, count, num_cuts)


def twice_polygon_areas(basins: np.ndarray, levels: np.ndarray, count: int, num_cuts: int) -> np.ndarray:
    """(K, C) twice the area that the contours around each basin's part of each foreground enclose, holes left out.

    A contour runs through pixel centres, so a square of four centres adds 1 where all four are foreground and 1/2
    where three are. The square goes to a basin of its brightest pixels: those of one square are connected.
    """
    top, bottom = levels[:-1], levels[1:]
    low, high = np.minimum(top, bottom), np.maximum(top, bottom)
    lowest = np.minimum(low[:, :-1], low[:, 1:])
    second = np.minimum(np.maximum(low[:, :-1], low[:, 1:]), np.minimum(high[:, :-1], high[:, 1:]))
    # Of any two pixels of a square, the higher one is at least the second lowest.
    square = np.where(top[:, :-1] >= bottom[:, 1:], basins[:-1, :-1], basins[1:, 1:]).astype(np.int64) * (num_cuts + 1)
    return _above(square + lowest, count, num_cuts) + _above(square + second, count, num_cuts)


def _above(keys: np.ndarray, count: int, num_cuts: int) -> np.ndarray:
    """(K, C): how many keys basin * (C + 1) + level have a level above cut 0, 1, ..."""
    histogram = np.bincount(keys.ravel(), minlength=count * (num_cuts + 1)).reshape(count, num_cuts + 1)
    return histogram[:, ::-1].cumsum(axis=1)[:, -2::-1].copy()
