"""The regions of every foreground of one map."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sat_peft.localization.regions import REGION_RULES, all_contours


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


def sweep_one_by_one(levels: np.ndarray, num_cuts: int, region_rule: str, contours: bool = False) -> RegionSweep:
    """Look at the foregrounds levels > 0, levels > 1, ... one after the other.

    Args:
        levels: (H, W) unsigned integers.
        num_cuts: C, the number of foregrounds.
        region_rule: a key of `REGION_RULES`.
        contours: also return every contour of every foreground.
    """
    rule = REGION_RULES[region_rule]
    sweep = RegionSweep(np.zeros((num_cuts, 4), np.int64), np.zeros(num_cuts, bool))
    every: list[np.ndarray] = []
    for cut in range(min(num_cuts, int(levels.max()))):
        foreground = levels > cut
        sweep.extents[cut] = rule(foreground)
        sweep.found[cut] = True
        if contours:
            every.append(all_contours(foreground))
    if contours:
        sweep.contour_extents = np.concatenate([np.zeros((0, 4), np.int64), *every])
        sweep.contour_cuts = np.repeat(np.arange(len(every)), [len(extents) for extents in every])
    return sweep
