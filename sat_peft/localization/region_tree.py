"""The regions of all foregrounds of a map in one pass.

The foregrounds {scores > t} of a map are nested, and every connected component of every one of them contains a peak (a
local maximum) of the map. So the map is cut into basins once: each pixel belongs to the peak that an ascending path
leads to. Along that path the scores only rise, hence the part of a basin above any threshold is connected, and a
component is a union of basins, joined where two neighbouring pixels of theirs are both above the threshold. All sizes
and extents then follow from small tables (basin, foreground): this is a component tree, with a few dozen nodes for a
map that was enlarged from a patch grid.

Paths run along rows first: a hill is a stretch of a row that rises to a top and falls again. From the top the path
goes on in the row above or below, if that is higher. So paths are followed for about a thousand hills, not for every
pixel.

The holes of a component are found the same way, as the components of the background, 4-connected, that do not
touch the frame around the image.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

# A key holds the bits of a float32 in [0, 1] above the pixel's index, which breaks ties between equal scores.
_INDEX_BITS = 32
_INDEX_MASK = (1 << _INDEX_BITS) - 1

# Neighbours in the next row, as steps to the right.
_DIAGONAL_STEPS, _STRAIGHT_STEPS = (-1, 0, 1), (0,)


@dataclass
class Basins:
    """A map cut into the basins of its K peaks.

    Args:
        count: K.
        image: (H, W) unsigned, the basin of every pixel. The basin of the last peak in reading order is K - 1.
        starts: (R,) flat index of the first pixel of every hill.
        tops: (R,) flat index of the highest pixel of every hill.
        of_hill: (R,) the basin of every hill.
    """

    count: int
    image: np.ndarray
    starts: np.ndarray
    tops: np.ndarray
    of_hill: np.ndarray


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

    def extents(self, rows: np.ndarray, cuts: np.ndarray) -> np.ndarray:
        """(P, 4) inclusive extents [x0, y0, x1, y1] of the components (rows[p], cuts[p])."""
        return np.concatenate([self.first[:, rows, cuts], self.last[:, rows, cuts]]).T


def find_basins(order: np.ndarray, diagonal: bool) -> Basins:
    """Cut a map into basins.

    Args:
        order: (H, W) int32, not negative: how high a pixel is. Of equally high pixels the later one is higher.
        diagonal: neighbours are 8, otherwise 4.
    """
    starts, tops = _hills(order)
    target = _higher_hill(order, starts, tops, _DIAGONAL_STEPS if diagonal else _STRAIGHT_STEPS)
    while True:
        further = target[target]
        if np.array_equal(further, target):
            break
        target = further
    peaks = np.flatnonzero(target == np.arange(len(target)))
    number = np.empty(len(starts), np.uint16 if len(peaks) < 1 << 16 else np.uint32)
    number[peaks] = np.arange(len(peaks))
    of_hill = number[target]
    lengths = np.diff(starts, append=order.size)
    return Basins(len(peaks), np.repeat(of_hill, lengths).reshape(order.shape), starts, tops, of_hill)


def _hills(order: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Flat indices (R,) of the first pixels and of the tops of all hills."""
    rising = order[:, 1:] >= order[:, :-1]
    falling = ~rising
    start = np.zeros(order.shape, bool)
    start[:, 0] = True
    np.logical_and(falling[:, :-1], rising[:, 1:], out=start[:, 1:-1])
    top = np.ones(order.shape, bool)
    top[:, 1:] = rising
    top[:, :-1] &= falling
    return np.flatnonzero(start), np.flatnonzero(top)


def _higher_hill(order: np.ndarray, starts: np.ndarray, tops: np.ndarray, steps: tuple[int, ...]) -> np.ndarray:
    """(R,) a hill in a neighbouring row that holds a pixel next to this hill's top and higher; itself if none does."""
    height, width = order.shape
    y, x = np.divmod(tops, width)
    # Clipped at the border, a neighbour is another neighbour or lies in the top's own row, where nothing is higher.
    rows = np.stack([np.maximum(y - 1, 0), np.minimum(y + 1, height - 1)])[:, None] * width
    columns = np.clip(np.stack([x + step for step in steps]), 0, width - 1)
    neighbours = (rows + columns).reshape(-1, len(tops))
    flat = order.ravel()
    highest = ((flat[neighbours].astype(np.int64) << _INDEX_BITS) | neighbours).max(axis=0)
    own = (flat[tops].astype(np.int64) << _INDEX_BITS) | tops
    reached = np.searchsorted(starts, highest & _INDEX_MASK, side="right") - 1
    return np.where(highest > own, reached, np.arange(len(tops)))


def grow(basins: Basins, levels: np.ndarray, num_cuts: int, diagonal: bool, sizes: np.ndarray | None) -> Components:
    """The components of the foregrounds levels > 0, ..., levels > num_cuts - 1.

    Joined basins keep the row of the last of them.

    Args:
        basins: basins of the map.
        levels: (H, W) unsigned, not falling along ascending paths of the map.
        num_cuts: C.
        diagonal: 8-connected, otherwise 4-connected.
        sizes: (K, C) the size of each basin's part of each foreground, or None.
    """
    height, width = levels.shape
    rows = _extents(
        basins.of_hill, basins.starts // width, levels.ravel()[basins.tops], (basins.count, height), num_cuts
    )
    columns = _extents(*_column_stretches(basins.image, levels), (basins.count, width), num_cuts)
    components = Components(*(np.stack(pair) for pair in zip(columns, rows, strict=True)), sizes)
    if basins.count > 1:
        _join(components, *_passes(basins, levels, diagonal))
    return components


def _column_stretches(image: np.ndarray, levels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Basin, column and highest level of every stretch of a column that lies in one basin."""
    height = image.shape[0]
    flat = np.ascontiguousarray(image.T).ravel()
    ends = flat[1:] != flat[:-1]
    ends[height - 1 :: height] = True
    starts = np.concatenate([[0], np.flatnonzero(ends) + 1])
    highest = np.maximum.reduceat(np.ascontiguousarray(levels.T).ravel(), starts)
    return flat[starts], starts // height, highest


def _extents(basins, lines, highest, shape: tuple[int, int], num_cuts: int) -> tuple[np.ndarray, np.ndarray]:
    """First and last line (K, C) of each basin's part of each foreground; first > last where it is empty.

    Args:
        basins: (S,) basin of a stretch of pixels.
        lines: (S,) row or column that it lies in.
        highest: (S,) its highest level.
        shape: (K, number of lines).
        num_cuts: C.
    """
    table = np.zeros(shape, highest.dtype)
    np.maximum.at(table, (basins, lines), highest)
    return _lines_below(table, num_cuts), shape[1] - 1 - _lines_below(table[:, ::-1], num_cuts)


def _lines_below(table: np.ndarray, num_cuts: int) -> np.ndarray:
    """(K, C): how many lines at the start of `table` (K, lines) stay at or below cut 0, 1, ..."""
    count = len(table)
    running = np.maximum.accumulate(table, axis=1).astype(np.int64)
    running += np.arange(count)[:, None] * (num_cuts + 1)
    histogram = np.bincount(running.ravel(), minlength=count * (num_cuts + 1)).reshape(count, num_cuts + 1)
    return np.cumsum(histogram, axis=1, dtype=np.int32)[:, :num_cuts]


def _passes(basins: Basins, levels: np.ndarray, diagonal: bool) -> tuple[list, list, list]:
    """The highest level at which each two adjacent basins touch: basin, other basin, level; highest first."""
    image, count = basins.image, basins.count
    width = image.shape[1]
    flat_basins, flat_levels = image.ravel(), levels.ravel()
    # Within a row, basins meet where hills do; the first hill of a row has nothing to its left.
    start = basins.starts[basins.starts % width > 0]
    starts, ends = [start], [start - 1]
    for step in _DIAGONAL_STEPS if diagonal else _STRAIGHT_STEPS:
        left, right = max(0, -step), max(0, step)
        near, far = image[:-1, left : width - right], image[1:, right : width - left]
        y, x = np.divmod(np.flatnonzero(near != far), near.shape[1])
        start = y * width + x + left
        starts.append(start)
        ends.append(start + width + step)
    start, end = np.concatenate(starts), np.concatenate(ends)
    level = np.minimum(flat_levels[start], flat_levels[end])
    touching = (level > 0) & (flat_basins[start] != flat_basins[end])
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
    """Merge basins at their passes, in place: below a pass, one row takes the share of the other, which is cleared."""
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


def pixel_counts(basins: Basins, levels: np.ndarray, num_cuts: int) -> np.ndarray:
    """(K, C) pixels of each basin's part of each foreground."""
    return _above(basins.image.astype(np.int64) * (num_cuts + 1) + levels, basins.count, num_cuts)


def twice_polygon_areas(basins: Basins, levels: np.ndarray, num_cuts: int) -> np.ndarray:
    """(K, C) twice the area that the contours around each basin's part of each foreground enclose, holes left out.

    A contour runs through pixel centres, so a square of four centres adds 1 where all four are foreground and 1/2
    where three are. The square goes to a basin of its brightest pixels: those of one square are connected.
    """
    top, bottom = levels[:-1], levels[1:]
    low, high = np.minimum(top, bottom), np.maximum(top, bottom)
    lowest = np.minimum(low[:, :-1], low[:, 1:])
    second = np.minimum(np.maximum(low[:, :-1], low[:, 1:]), np.minimum(high[:, :-1], high[:, 1:]))
    # Of any two pixels of a square, the higher one is at least the second lowest.
    image = basins.image
    square = np.where(top[:, :-1] >= bottom[:, 1:], image[:-1, :-1], image[1:, 1:]).astype(np.int64) * (num_cuts + 1)
    return _above(square + lowest, basins.count, num_cuts) + _above(square + second, basins.count, num_cuts)


def _above(keys: np.ndarray, count: int, num_cuts: int) -> np.ndarray:
    """(K, C): how many keys basin * (C + 1) + level have a level above cut 0, 1, ..."""
    histogram = np.bincount(keys.ravel(), minlength=count * (num_cuts + 1)).reshape(count, num_cuts + 1)
    return np.ascontiguousarray(histogram[:, ::-1].cumsum(axis=1, dtype=np.int32)[:, -2::-1])
