"""What `sat_peft.data.check` found, as text and as a picture."""

from __future__ import annotations

import textwrap
import warnings
from pathlib import Path

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torchvision.transforms import v2

from sat_peft.data.check import KINDS, DataCheck, SplitCheck
from sat_peft.data.decoding import decode_image, decode_masks
from sat_peft.data.features import mask_cells, undecoded
from sat_peft.errors import UsageError
from sat_peft.files.outputs import atomic_replacement
from sat_peft.files.paths import shown_name
from sat_peft.report.tables import text_table

_SHOWN_FINDINGS = 5
_SHOWN_CLASSES = 8
_THUMBNAIL = 160
# Around images with bad boxes, as a share of their sides.
_MARGIN = 0.2
_BOX, _BAD_BOX, _MASK = "#34c759", "#ff3b30", "#0a84ff"


def data_check_text(check: DataCheck) -> str:
    """The report for a terminal: a table of the splits, class counts, and every kind of finding with examples."""
    lines = _table(check) if check.splits else ["No split can be read."]
    if check.splits and not any(split.num_boxes.any() for name, split in check.splits.items() if name != "train"):
        lines += ["", "No evaluated image has a box: training works, localisation will not be measured."]
    if check.splits and "test" not in check.splits and not any(finding.kind == "split" for finding in check.findings):
        lines += ["", "There is no test split: recipes set a share of the training images aside (--test-fraction)."]
    for finding in check.findings:
        kind = KINDS[finding.kind]
        lines += ["", f"{'STOPS TRAINING' if finding.stops else 'note'}: {finding.count} {kind.title}. {kind.fix}"]
        lines += [textwrap.indent(text, "    ") for text in finding.listed[:_SHOWN_FINDINGS]]
        if finding.count > _SHOWN_FINDINGS:
            lines.append(f"    and {finding.count - _SHOWN_FINDINGS} more")
        if finding.hint:
            lines.append(f"    {finding.hint}")
    if check.remarks:
        lines += ["", *check.remarks]
    lines += ["", "Training may start." if check.ok else "Training may not start yet."]
    return "\n".join(lines)


def _table(check: DataCheck) -> list[str]:
    """Figures of the splits, and the classes with the fewest images; all of them are in the report file."""
    columns = [_figures(split) for split in check.splits.values()]
    rows = [[title, *(column[title] for column in columns)] for title in columns[0]]
    counts = np.stack([split.class_counts for split in check.splits.values()], axis=1)
    order = np.argsort(counts[:, 0], kind="stable")[:_SHOWN_CLASSES]
    classes = [[_shortened(shown_name(check.class_names[label]), 26), *map(str, counts[label])] for label in order]
    fewest = f", those with the fewest {next(iter(check.splits))} images" if len(counts) > len(order) else ""
    lines = text_table([*rows, *classes], ["", *check.splits]).splitlines()
    return [*lines[: len(rows) + 1], "", f"{len(counts)} classes{fewest}:", *lines[len(rows) + 1 :]]


def _figures(split: SplitCheck) -> dict[str, str]:
    counts, boxes = split.class_counts, split.num_boxes
    width, height = split.size[split.readable].T

    def span(values: np.ndarray, form: str = "{:.0f}") -> str:
        return f"{form} - {form}".format(values.min(), values.max()) if len(values) else "-"

    def middle(values: np.ndarray, form: str) -> str:
        return form.format(np.median(values)) if len(values) else "-"

    return {
        "images": f"{len(split.rows)}",
        "unreadable": f"{(~split.readable).sum()}",
        "classes with images": f"{(counts > 0).sum()}",
        "images per class": span(counts[counts > 0]),
        "images with boxes": f"{(boxes > 0).sum()}",
        "boxes per such image": span(boxes[boxes > 0]),
        "images with masks": f"{split.num_masked}",
        "width, pixels": span(width),
        "height, pixels": span(height),
        "box area, median": middle(100 * split.box_areas, "{:.1f} %"),
        "box area": span(100 * split.box_areas, "{:.1f}"),
        "turned by EXIF": f"{split.turned}",
    }


def _shortened(text: str, width: int) -> str:
    """`text` on one line of at most `width` characters: names of folders are often one long word."""
    text = " ".join(text.split())
    return text if len(text) <= width else text[: width - 1].rstrip() + "…"


def draw_contact_sheet(path: Path, check: DataCheck, *, columns: int = 5, max_classes: int = 12) -> int:
    """Writes a PNG of images with their boxes and the outlines of their masks, and returns how many images it shows.

    First those whose boxes leave the image, in red; then a row for each of `max_classes` classes, evenly taken from
    all, annotated images before others.

    Args:
        path: path of the PNG, replaced as a whole.
        check: whose images are shown.
        columns: images in a row.
        max_classes: rows of classes.
    """
    bad = [(name, row) for name, split in check.splits.items() for row in split.bad_boxes][:columns]
    rows = [("boxes that leave the image or are empty", bad)] if bad else []
    count = min(max_classes, len(check.class_names))
    for label in np.unique(np.linspace(0, len(check.class_names) - 1, count).round().astype(int)):
        rows.append((check.class_names[label], _places(check, label, columns)))
    figure = Figure(figsize=(1.7 * columns, 1.95 * len(rows)), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(len(rows), columns, squeeze=False)
    for axes in grid.flat:
        axes.axis("off")
    for line, (title, places) in zip(grid, rows, strict=True):
        for axes, (name, row) in zip(line, places, strict=False):
            _draw(axes, check.splits[name], row)
            axes.set_title(f"{name} {row}", fontsize=6, loc="left", pad=2)
        line[0].text(0, 1.13, _escaped(title), transform=line[0].transAxes, fontsize=8, fontweight="bold")
    with atomic_replacement(path) as temporary, warnings.catch_warnings():
        # Scripts that the font lacks are drawn as boxes.
        warnings.filterwarnings("ignore", message="Glyph")
        # Tight, since the layout makes no room for the text above the first row, its class.
        figure.savefig(temporary, format="png", dpi=110, bbox_inches="tight", pad_inches=0.05)
    return sum(len(places) for _, places in rows)


def _escaped(text: str) -> str:
    """A class name as it is: a pair of $ would be read as mathematics."""
    return _shortened(shown_name(text), 60).replace("$", r"\$")


def _places(check: DataCheck, label: int, count: int) -> list[tuple[str, int]]:
    """(split, row) of up to `count` readable images of a class, evenly taken; those with boxes first."""
    annotated, plain = [], []
    for name, split in check.splits.items():
        members = np.flatnonzero((split.label == label) & split.readable)
        annotated += [(name, int(row)) for row in members[split.num_boxes[members] > 0]]
        plain += [(name, int(row)) for row in members[split.num_boxes[members] == 0]]
    chosen = []
    for places in (annotated, plain):
        wanted = min(count - len(chosen), len(places))
        chosen += [places[index] for index in np.linspace(0, len(places) - 1, wanted).round().astype(int)]
    return chosen


def _draw(axes, split: SplitCheck, row: int) -> None:
    cells = undecoded(split.rows.select([row]))[0]
    image = decode_image(cells["image"], cells["image_id"])
    height, width = image.shape[-2:]
    # A sheet of thumbnails takes as little memory as it shows.
    scale = min(1, _THUMBNAIL / max(height, width))
    size = [max(1, round(height * scale)), max(1, round(width * scale))]
    extent = (0, width, height, 0)
    axes.imshow(v2.functional.resize(image, size, antialias=True).permute(1, 2, 0).numpy(), extent=extent)
    bad = row in split.bad_boxes
    for x0, y0, x1, y1 in cells["boxes"]:
        axes.add_patch(Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, ec=_BAD_BOX if bad else _BOX, lw=1.5))
    axes.autoscale(False)
    # A box that leaves its image is followed over the edge, but not to wherever it goes.
    margin = _MARGIN if bad else 0
    axes.set_xlim(-margin * width, (1 + margin) * width)
    axes.set_ylim((1 + margin) * height, -margin * height)
    masks, ignore = mask_cells(cells)
    if masks:
        try:
            mask, _ = decode_masks(masks, ignore, (width, height), cells["image_id"])
        except UsageError:
            return  # It is among the findings already.
        mask = v2.functional.resize(torch.from_numpy(mask)[None].float(), size, antialias=True)[0].numpy()
        if mask.min() < 0.5 < mask.max():
            axes.contour(mask, [0.5], colors=_MASK, linewidths=1, extent=extent, origin="upper")
