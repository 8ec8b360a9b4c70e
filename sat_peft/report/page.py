"""report.html: one self-contained page, drawn from the run folder alone."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import replace
from pathlib import Path

import matplotlib
import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined

from sat_peft.errors import UsageError
from sat_peft.evaluation.figures import FIGURES
from sat_peft.files.outputs import write_text_atomic
from sat_peft.report.curves import iou_figure, loss_figure, threshold_figure, to_svg
from sat_peft.report.evaluation import ORACLE_WARNING
from sat_peft.report.folder import Gallery, Measurement, RunRecord, read_run
from sat_peft.report.tables import percent, setting

REPORT = "report.html"

# What the page's script reads of a record.
_RECORD_FIELDS = (
    *("image_id", "label", "predicted", "score", "iou", "box", "true_boxes", "size"),
    *("thumbnail", "maps", "grid", "map_ranges"),
)
_TILES = ("gt_known", "top1_loc", "top1_cls")


def write_report(run_folder: str | Path, output: str | Path | None = None, *, status: str | None = None) -> Path:
    """Draws the report of a run folder, of a run that is finished, running, interrupted or failed, or of a folder that
    recipes/evaluate.py wrote. Needs no model, no data set and no network; neither does the page.

    Args:
        run_folder: folder of the run.
        output: the HTML file; by default report.html in `run_folder`.
        status: status of the run, told instead of the recorded one: a run draws its page before it is finished.

    Returns:
        The path of the page.

    Raises:
        UsageError: no run folder, or an output that is no HTML file or has no folder.
    """
    run_folder = Path(run_folder)
    output = run_folder / REPORT if output is None else Path(output)
    # Nothing else, say a config.json that was named by mistake, is to be overwritten with a page.
    if output.suffix.lower() not in (".html", ".htm") or output.is_dir():
        raise UsageError(f"the output {str(output)!r} is no HTML file; name one, for example {REPORT}.")
    if output != run_folder / REPORT and not output.parent.is_dir():
        raise UsageError(f"the folder of the output {str(output)!r} does not exist; create it first.")
    run = read_run(run_folder)
    if status is not None:
        run = replace(run, status={"status": status})
    try:
        page = render(run)
    except Exception as error:  # of values that no run writes, template and plots raise what they like
        raise UsageError(
            f"{str(run_folder)!r} holds values that no run writes ({type(error).__name__}: {error}). Restore its "
            "files, or run it again."
        ) from error
    write_text_atomic(output, page)
    return output


def render(run: RunRecord) -> str:
    """The page as HTML."""
    environment = Environment(
        loader=PackageLoader("sat_peft.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.policies["json.dumps_kwargs"] = {"ensure_ascii": False, "separators": (",", ":"), "allow_nan": False}
    environment.filters["percent"] = percent
    environment.filters["setting"] = setting
    style, script = (environment.loader.get_source(environment, name)[0] for name in ("report.css", "report.js"))
    # The page may run this script and no other, whatever a name in the data looks like.
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    first = run.measurements[0] if run.measurements else None
    return environment.get_template("report.html.jinja").render(
        run=run,
        first=first,
        tiles={FIGURES[name]: name for name in _TILES},
        figures=FIGURES,
        oracle_warning=ORACLE_WARNING.strip("*"),
        sections=[_section(measurement) for measurement in run.measurements],
        losses=[to_svg(loss_figure(terms, title=method)) for method, terms in run.losses.items()],
        data=_data(run.gallery),
        style=style,
        script=script,
        script_hash=digest,
    )


def _section(measurement: Measurement) -> dict:
    """A measurement with its plots, and the figures that are defined for any of its methods."""
    methods = measurement.methods
    shown = [name for name in FIGURES if any(method["summary"].get(name) is not None for method in methods.values())]
    titles = {name: method["title"] for name, method in methods.items()}
    curves = {titles[name]: (curve["threshold"], curve["gt_known"]) for name, curve in measurement.curves.items()}
    plots = []
    if curves:
        chosen = {titles[name]: methods[name]["threshold"] for name in measurement.curves}
        plots.append(to_svg(threshold_figure(curves, chosen, title="Accuracy against the threshold")))
    if measurement.iou_histograms:
        histograms = {titles[name]: counts for name, counts in measurement.iou_histograms.items()}
        plots.append(to_svg(iou_figure(histograms, title="IoU of the images")))
    sources = dict.fromkeys(m["threshold_source"] for m in methods.values() if m["threshold_source"] is not None)
    return {
        "of": measurement,
        "shown": shown,
        "plots": plots,
        "sources": list(sources),
        "has_intervals": any(method["confidence_intervals"] for method in methods.values()),
    }


def _data(gallery: Gallery | None) -> dict | None:
    """What the page's script reads."""
    if gallery is None:
        return None
    colours = matplotlib.colormaps["turbo"](np.arange(256), bytes=True)[:, :3]
    records = [{name: record[name] for name in _RECORD_FIELDS} for record in gallery.records]
    return {"colours": base64.b64encode(colours.tobytes()).decode("ascii"), "records": records}
