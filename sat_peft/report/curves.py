"""Plots of a run: losses, accuracy against the threshold, and how the IoU spreads over the images."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from sat_peft.files.outputs import atomic_replacement

# Okabe and Ito's colours, which colour-blind readers can tell apart, with a grey for their black; line styles tell them
# apart in grey print, and as there are fewer of them, no two of 35 lines look the same.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f7f7f")
_STYLES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)))
_BINS = np.linspace(0, 1, 21)
# Points of a loss curve; of longer trainings, means of as many equal stretches are drawn.
_MAX_POINTS = 300


def _axes(title: str, size: tuple[float, float] = (6.4, 4.2)):
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.set_title(title, fontsize=10, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.3)
    return figure, axes


def _look(number: int) -> dict:
    return {"color": _COLOURS[number % len(_COLOURS)], "ls": _STYLES[number % len(_STYLES)], "lw": 1.8}


def _add_legend(figure: Figure) -> None:
    # Below the axes, where it hides no curve.
    figure.legend(loc="outside lower center", ncols=4, frameon=False, fontsize=9)


def _save(figure: Figure, path: Path) -> None:
    with atomic_replacement(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)


def to_svg(figure: Figure) -> str:
    """The figure as an `<svg>` element for a web page: no background, text as text, the same bytes every time."""
    buffer = io.StringIO()
    metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "sat_peft"}):
        figure.savefig(buffer, format="svg", transparent=True, metadata=metadata)
    svg = buffer.getvalue()
    # Matplotlib numbers the groups of every figure from 1, and an id must not occur twice in a page.
    return re.sub(r'<g id="[^"]*">', "<g>", svg[svg.index("<svg") :])


def iou_histogram(values: Sequence[float]) -> list[int]:
    """Number of images in each of 20 bins of IoU from 0 to 1."""
    return np.histogram(np.clip(values, 0, 1), _BINS)[0].tolist()


def threshold_figure(
    curves: Mapping[str, tuple[Sequence[float], Sequence[float]]], chosen: Mapping[str, float], *, title: str
) -> Figure:
    """GT-known Loc against the threshold.

    Args:
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
    axes.set_xlim(0, 1)
    axes.set_ylim(0, None)
    axes.set_xlabel("threshold of the map (dot: the one reported)")
    axes.set_ylabel("GT-known Loc (%)")
    _add_legend(figure)
    return figure


def iou_figure(histograms: Mapping[str, Sequence[int]], *, title: str) -> Figure:
    """The share of images in each bin of IoU.

    Args:
        histograms: method -> `iou_histogram` at the reported threshold.
        title: above the axes.
    """
    figure, axes = _axes(title)
    for number, (method, counts) in enumerate(histograms.items()):
        axes.stairs(100 * np.asarray(counts) / sum(counts), _BINS, label=method, **_look(number))
    axes.axvline(0.5, color="0.4", lw=1, zorder=0)
    axes.annotate("localised", (0.5, 1), (4, -2), ("data", "axes fraction"), "offset points", va="top", color="0.4")
    axes.set_xlim(0, 1)
    axes.set_ylim(0, None)
    axes.set_xlabel("IoU of the predicted box with the best matching true box")
    axes.set_ylabel("images (%)")
    _add_legend(figure)
    return figure


def loss_figure(terms: Mapping[str, tuple[Sequence[float], Sequence[float]]], *, title: str) -> Figure:
    """The terms of a loss over the training; of long trainings the means of equal stretches.

    Args:
        terms: term -> (steps, values), equally long.
        title: above the axes.
    """
    figure, axes = _axes(title)
    for number, (term, curve) in enumerate(terms.items()):
        stretches = min(_MAX_POINTS, len(curve[0]))
        steps, values = ([part.mean() for part in np.array_split(np.asarray(row, float), stretches)] for row in curve)
        axes.plot(steps, values, label=term, **_look(number))
    axes.set_ylim(0, None)
    axes.set_xlabel("step")
    axes.set_ylabel("loss")
    _add_legend(figure)
    return figure


def draw_threshold_curves(
    path: Path,
    curves: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    chosen: Mapping[str, float],
    *,
    title: str,
) -> None:
    """Writes `threshold_figure` as a PNG."""
    _save(threshold_figure(curves, chosen, title=title), path)


def draw_iou_histograms(path: Path, values: Mapping[str, Sequence[float]], *, title: str) -> None:
    """Writes `iou_figure` as a PNG; `values` are method -> the IoU of every image at the reported threshold."""
    _save(iou_figure({method: iou_histogram(iou) for method, iou in values.items()}, title=title), path)
