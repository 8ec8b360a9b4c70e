"""A picture of examples: image, map, predicted and true boxes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from sat_peft.files.outputs import atomic_replacement

_PREDICTED, _TRUE = "#ff3b30", "#34c759"


@dataclass(frozen=True)
class Example:
    """One image with what was found in it.

    Args:
        image: (H, W, 3) uint8 RGB.
        scores: (H, W) map in [0, 1], as it was thresholded.
        predicted: (4,) xyxy in pixels of `image`.
        true: (n, 4) xyxy; n may be 0.
        title: a line above the image.
    """

    image: np.ndarray
    scores: np.ndarray
    predicted: np.ndarray
    true: np.ndarray
    title: str


def _draw_boxes(axes, boxes: np.ndarray, colour: str, style: str) -> None:
    for x0, y0, x1, y1 in np.reshape(boxes, (-1, 4)):
        # imshow puts the centre of pixel 0 at 0, so its left edge is at -0.5.
        frame = Rectangle((x0 - 0.5, y0 - 0.5), x1 - x0, y1 - y0, fill=False, ec=colour, lw=2, ls=style)
        axes.add_patch(frame)


def draw_examples(path: Path, rows: dict[str, Sequence[Example]]) -> None:
    """Writes a PNG with a titled row of examples for each entry of `rows`; each shows the image beside its map."""
    rows = {title: examples for title, examples in rows.items() if examples}
    columns = max(len(examples) for examples in rows.values())
    # Two lines of text and a picture per row, in inches.
    figure = Figure(figsize=(3.2 * columns, 2.35 * len(rows) + 0.6), layout="constrained")
    FigureCanvasAgg(figure)
    for panel, (title, examples) in zip(np.atleast_1d(figure.subfigures(len(rows), 1)), rows.items(), strict=True):
        panel.suptitle(title, fontweight="bold", x=0.01, ha="left", fontsize=11)
        grid = np.reshape(panel.subplots(1, 2 * columns), -1)
        for axes in grid:
            axes.axis("off")
        for number, example in enumerate(examples):
            plain, overlaid = grid[2 * number : 2 * number + 2]
            for axes in (plain, overlaid):
                axes.imshow(example.image)
                _draw_boxes(axes, example.true, _TRUE, "-")
                _draw_boxes(axes, example.predicted, _PREDICTED, "--")
            overlaid.imshow(example.scores, cmap="jet", alpha=0.5, vmin=0, vmax=1)
            plain.set_title(example.title, fontsize=8, loc="left")
    handles = [
        Line2D([], [], color=_TRUE, lw=2, label="true box"),
        Line2D([], [], color=_PREDICTED, lw=2, ls="--", label="predicted box"),
    ]
    figure.legend(handles=handles, loc="outside lower right", ncols=2, frameon=False, fontsize=9)
    with atomic_replacement(path) as temporary:
        figure.savefig(temporary, format="png", dpi=100)
