"""Who localises best, in words: whether a training was worth it beside what trains nothing."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from sat_peft.evaluation.measure import Measured
from sat_peft.evaluation.registry import method_titles

# Standard errors that two methods lie apart before the images tell which is better.
_APART = 2.0


def standing(methods: Mapping[str, Measured]) -> str | None:
    """A sentence on SAT beside the best of the others by GT-known Loc; None where there is nothing to compare.

    Two methods count as told apart where the images that only one of them has right differ by more than two standard
    errors (McNemar's test); for a box without a map, whose images are not known, where the two shares do.

    Args:
        methods: what was measured on the same images, by name; SAT is `sat`.
    """
    known = {name: each for name, each in methods.items() if each.figures.get("gt_known") is not None}
    others = [name for name in known if name != "sat"]
    if "sat" not in known or not others:
        return None
    best = max(others, key=lambda name: known[name].figures["gt_known"])
    # Of a box without a map, the title in a table says more than a sentence should.
    sat, rival, title = known["sat"], known[best], method_titles().get(best, known[best].title)
    ours, theirs = sat.figures["gt_known"], rival.figures["gt_known"]
    images = sat.evaluation.result.num_images
    doubt = "" if _told_apart(sat, rival) else f"; {images} images do not tell the two apart"
    if theirs > ours:
        return f"Not SAT ({ours:.1f} % GT-known Loc) but {title} ({theirs:.1f} %) localises best here{doubt}."
    return f"SAT localises best here: {ours:.1f} % GT-known Loc, the next, {title}, {theirs:.1f} %{doubt}."


def _told_apart(one: Measured, other: Measured) -> bool:
    if other.evaluation is None:
        first, second = (each.figures["gt_known"] / 100 for each in (one, other))
        error = np.sqrt((first * (1 - first) + second * (1 - second)) / one.evaluation.result.num_images)
        return bool(abs(first - second) > _APART * error)
    first, second = (each.evaluation.result.per_image["correct"].astype(bool) for each in (one, other))
    ours, theirs = int((first & ~second).sum()), int((second & ~first).sum())
    return abs(ours - theirs) > _APART * np.sqrt(ours + theirs)
