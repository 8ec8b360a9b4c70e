"""The experiments on photographs: somebody's data and a pretrained backbone, in the preset that own data get."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

from reproduction.bench import (
    SAT_ALONE,
    Bench,
    Experiment,
    finished_runs,
    in_points,
    reference_verdict,
    regime_cells,
    regimes_verdict,
    shots_verdict,
)
from sat_peft.commands import evaluate
from sat_peft.evaluation.registry import baselines, method_titles
from sat_peft.files import is_file, read_json_object
from sat_peft.options.regimes import REGIMES
from sat_peft.report.sweeps import draw_parameters, draw_shots
from sat_peft.report.tables import percent, text_table
from sat_peft.runs.sweep import Point

# Every other method: those that are trained, those that train nothing, and the box that sees nothing.
RIVALS = ("cam", "tscam", "rollout", "class_attention", "tokencut", "centre_box")
SHOTS = (1, 5, 10)
# The protocol that takes any contour of the map beside the largest, and the best threshold of the evaluated images.
RULERS = "wsol"
_RULER_COLUMNS = (
    "MaxBoxAcc, largest contour",
    "MaxBoxAcc, any contour",
    "MaxBoxAccV2, largest contour",
    "MaxBoxAccV2, any contour",
)


def shots_in_words(title: str) -> str:
    return "1 image per class" if title == "1" else f"{title} images per class"


def methods_verdict(points: Mapping[str, Point]) -> list[str]:
    """By how much SAT is above or below every other method, and who classifies better."""
    sentences = []
    for point in points.values():
        sat, titles = point.mean(), method_titles()
        margins = {method: sat - point.mean(method) for method in point.figures if method != "sat"}
        above = [f"{titles[method]} {in_points(gain)}" for method, gain in margins.items() if gain > 0]
        below = [f"{titles[method]} ({point.mean(method):.1f})" for method, gain in margins.items() if gain <= 0]
        words = f"{shots_in_words(point.title)}: SAT {sat:.1f} GT-known Loc"
        sentences.append(f"{words}, against {', '.join(above)}." if above else f"{words}.")
        if below:
            sentences.append(f"**{words}: {', '.join(below)} is not beaten.**")
        # A box without a map has the classes of SAT.
        others = [method for method in margins if not baselines()[method].prior]
        scores = {method: point.mean(method, "top1_cls") for method in others}
        scores = {method: score for method, score in scores.items() if not math.isnan(score)}
        if scores:
            best = max(scores, key=scores.get)
            sentences.append(
                f"{shots_in_words(point.title)}: SAT classifies {point.mean('sat', 'top1_cls'):.1f} % right, the best "
                f"of the others, {titles[best]}, {scores[best]:.1f} %."
            )
    return sentences


def rulers(curves: Mapping[str, list]) -> tuple[float, float, float, float]:
    """MaxBoxAcc with the largest and with any contour, and MaxBoxAccV2 with either, in percent.

    Args:
        curves: `per_threshold` of a `LocalizationResult` under a protocol with several contours.
    """
    single, several = ([max(curves[f"{kind}iou{iou}"]) for iou in (30, 50, 70)] for kind in ("", "multi_"))
    return single[1], several[1], sum(single) / 3, sum(several) / 3


def _rulers_section(folder: Path) -> list[str]:
    rows = []
    for shots in SHOTS:
        curves = [
            read_json_object(run / "evaluation" / "curves.json", "the curves of an evaluation")[RULERS]
            for run in finished_runs(folder, f"shots-{shots}")
            if is_file(run / "evaluation" / "results.json")
        ]
        for method in curves[0] if curves else ():
            figures = zip(*(rulers(run[method]) for run in curves), strict=True)
            means = [percent(sum(values) / len(values)) for values in figures]
            rows.append([str(shots), method_titles()[method], *means, str(len(curves))])
    if not rows:
        return []
    return [
        "## On which ruler?",
        "Images of 224 x 224, protocol `wsol`. Both figures take the best of 1,000 thresholds on the evaluated images, "
        "as published ones do, and lie above those with thresholds from elsewhere. Published figures mix the largest "
        "contour with any contour, and IoU .5 (MaxBoxAcc) with the mean over .3, .5 and .7 (V2): compare one column.",
        text_table(rows, ["shots", "method", *_RULER_COLUMNS, "runs"], titles=2, markdown=True),
    ]


def needs_rulers(run: Path) -> bool:
    """Whether a run is finished and has a place in the section on rulers, but was not evaluated for it yet."""
    if not is_file(run / "results.json"):
        return False
    return run.parent.name.startswith("shots-") and not is_file(run / "evaluation" / "results.json")


def measure_rulers(run: Path, *, threads: int | None = None) -> None:
    """Evaluates a finished run for the section on rulers, into its folder `evaluation`."""
    evaluate.main(evaluate.Config(run=run, protocols=(RULERS,), bootstrap=0, threads=threads))


_METHODS = {f"shots-{shots}": {"shots": (shots,), "baselines": RIVALS} for shots in SHOTS}
_ONE = {"shots-1": _METHODS["shots-1"]}
_PARTS = _ONE | {
    "no-readout": SAT_ALONE | {"class_readout": False},
    "no-flip": SAT_ALONE | {"tta": "edges"},
    "no-edges": SAT_ALONE | {"tta": "flip"},
    "no-border": SAT_ALONE | {"border_weight": 0.0},
    "no-separation": SAT_ALONE | {"separation_weight": 0.0},
    "no-calibration": SAT_ALONE | {"calibrated_masks": False},
    "full-classification": SAT_ALONE | {"classification_weight": 1.0},
    "paper-loss": SAT_ALONE
    | {
        "class_readout": False,
        "tta": "none",
        "calibrated_masks": False,
        "classification_weight": 1.0,
        "area_weight": 1.0,
        "normalization_weight": 1.0,
        "separation_weight": 0.0,
        "border_weight": 0.0,
    },
}
_SIZES = _ONE | {f"pixels-{size}": SAT_ALONE | {"image_size": size} for size in (336, 448)}
_AREAS = {f"area-{area}": SAT_ALONE | {"area_target": area} for area in (0.15, 0.25)} | _ONE
_AREAS |= {"area-0.5": SAT_ALONE | {"area_target": 0.5}}

EXPERIMENTS: dict[str, Experiment] = {
    "methods": Experiment(
        "Does SAT localise better than the others, on the same backbone?",
        _METHODS,
        [str(shots) for shots in SHOTS],
        "shots",
        methods_verdict,
        methods=True,
        least=1,
    ),
    "shots": Experiment(
        "How few images are enough?",
        _METHODS,
        [str(shots) for shots in SHOTS],
        "shots",
        shots_verdict,
        plot=("shots.png", draw_shots),
    ),
    "parts": Experiment(
        "What is each part of the preset worth?",
        _PARTS,
        [
            "preset `photos`",
            "without class readout",
            "without mirror image",
            "without refinement along edges",
            "without border term",
            "without separation term",
            "without calibrated masks",
            "cross-entropy with weight 1",
            "the paper's loss, no readout",
        ],
        "setting",
        reference_verdict("shots-1", "setting"),
    ),
    "regimes": Experiment(
        "How few parameters are enough?",
        regime_cells("shots-1") | _ONE,
        list(REGIMES),
        "trained",
        regimes_verdict,
        plot=("parameters.png", draw_parameters),
    ),
    "sizes": Experiment(
        "Do more pixels help?",
        _SIZES,
        ["224", "336", "448"],
        "pixels",
        reference_verdict("shots-1", "size"),
    ),
    "area": Experiment(
        "How much does the area target matter?",
        _AREAS,
        ["0.15", "0.25", "0.35 (preset)", "0.5"],
        "area target",
        reference_verdict("shots-1", "area target"),
    ),
}


def photographs(data: str, backbone: str, tested: int) -> Bench:
    """The bench on the data set `data`, of which `tested` images are tested."""
    return Bench(
        f"SAT on {data}",
        f"Preset `photos` on the frozen `{backbone}`, {tested} test images, protocol `original`; thresholds and the "
        "centre box from the validation split where that has boxes, else from the maps. Percent, mean ± sample "
        "standard deviation over the runs. All methods have the same backbone: what it has seen in its pretraining is "
        "in all rows alike, and figures of other backbones do not compare.",
        EXPERIMENTS,
        measure_rulers=True,
        appendix=_rulers_section,
    )
