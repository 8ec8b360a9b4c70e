"""Plots of an evaluation: accuracy against the threshold, and how the IoU spreads over the images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from sat_peft.run import atomic_replacement

# Okabe and Ito's colours, which colour-blind readers can tell apart; line styles tell them apart in grey print.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00")
_STYLES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)))
_BINS = np.linspace(0, 1, 21)


def _axes(title: str):
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.set_title(title, fontsize=10, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.3)
    axes.set_xlim(0, 1)
    return figure, axes


def _look(number: int) -> dict:
    return {"color": _COLOURS[number % len(_COLOURS)], "ls": _STYLES[number % len(_STYLES)], "lw": 1.8}


def _save(figure: Figure, path: Path) -> None:
    # Below the axes, where it hides no curve.
    figure.legend(loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    with atomic_replacement(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)


def draw_threshold_curves(
    path: Path,
    curves: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    chosen: Mapping[str, float],
    *,
    title: str,
) -> None:
    """Writes a PNG of GT-known Loc against the threshold.

    Args:
        path: of the PNG.
        curves: method -> (thresholds, GT-known Loc in percent at each).
        chosen: method -> the threshold that its figures are reported at, marked by a dot on its curve.
        title: above the axes.
    """
    figure, axes = _axes(title)
    for number, (method, (thresholds, accuracy)) in enumerate(curves.items()):
        axes.plot(thresholds, accuracy, label=method, **_look(number))
        # A chosen threshold need not be among the swept ones; the dot lies on the line between its neighbours.
        height = np.interp(chosen[method], thresholds, accuracy)
        axes.plot([chosen[method]], [height], "o", ms=7, mec="white", color=_look(number)["color"], zorder=3)
    axes.set_ylim(0, None)
    axes.set_xlabel("threshold of the map (dot: the one reported)")
    axes.set_ylabel("GT-known Loc (%)")
    _save(figure, path)


def draw_iou_histograms(path: Path, values: Mapping[str, Sequence[float]], *, title: str) -> None:
    """Writes a PNG with the share of images in each of 20 bins of IoU.

    Args:
        path: of the PNG.
        values: method -> the IoU of every image at the reported threshold.
        title: above the axes.
    """
    figure, axes = _axes(title)
    for number, (method, iou) in enumerate(values.items()):
        share = 100 * np.histogram(np.clip(iou, 0, 1), _BINS)[0] / len(iou)
        axes.stairs(share, _BINS, label=method, **_look(number))
    axes.axvline(0.5, color="0.4", lw=1, zorder=0)
    axes.annotate("localised", (0.5, 1), (4, -2), ("data", "axes fraction"), "offset points", va="top", color="0.4")
    axes.set_ylim(0, None)
    axes.set_xlabel("IoU of the predicted box with the best matching true box")
    axes.set_ylabel("images (%)")
    _save(figure, path)
