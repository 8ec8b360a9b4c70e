"""The experiments of scripts/reproduce.py and the page of their results.

A cell is a configuration of recipes/few_shot.py; cells of the same name are the same run in every experiment.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from sat_peft.files import is_file, read_json_object
from sat_peft.files.outputs import write_text_atomic
from sat_peft.options.regimes import DEFAULT_REGIME, REGIMES
from sat_peft.report.sweeps import draw_parameters, draw_shots, point_table
from sat_peft.runs.sweep import Point, gather_point, pareto_front

# What "a few thousand parameters" means here.
SMALL = 5000
_SAT_ALONE: dict = {"baselines": ()}


@dataclass(frozen=True)
class Experiment:
    """A question, the cells that answer it, and what they say.

    Args:
        question: title of the section.
        cells: options of recipes/few_shot.py by the name of the cell.
        titles: how the table calls the cells, in their order.
        column: title of the table's first column.
        verdict: sentences about the points that were measured, by name of the cell.
        methods: whether the table shows the other methods too.
        plot: writes a picture of the points, or None; and its file name.
    """

    question: str
    cells: dict[str, dict]
    titles: list[str]
    column: str
    verdict: Callable[[Mapping[str, Point]], list[str]]
    methods: bool = False
    plot: tuple[str, Callable] | None = None


def _points(value: float) -> str:
    return f"{value:+.1f} points"


def _methods_verdict(points: Mapping[str, Point]) -> list[str]:
    (point,) = points.values()
    sat = point.mean()
    names = {"cam": "CAM", "tscam": "TS-CAM", "rollout": "attention rollout", "centre_box": "the centre box"}
    others = {method: point.mean(method) for method in point.figures if method in names}
    beaten = [f"{names[method]} ({value:.1f})" for method, value in others.items() if value < sat]
    ahead = [f"{names[method]} ({value:.1f})" for method, value in others.items() if value >= sat]
    sentences = []
    if beaten:
        sentences.append(f"Supported: SAT ({sat:.1f} GT-known Loc) localises better than {', '.join(beaten)}.")
    if ahead:
        sentences.append(f"**Not supported: {', '.join(ahead)} is not beaten on this bench.**")
    return sentences


def _shots_verdict(points: Mapping[str, Point]) -> list[str]:
    ordered = list(points.values())
    first, last = ordered[0], ordered[-1]
    gain = last.mean() - first.mean()
    share = 100 * first.mean() / last.mean()
    spread = max(first.deviation(), last.deviation())
    sentence = f"From {first.title} to {last.title} images per class GT-known Loc changes by {_points(gain)}"
    kept = f"one image per class keeps {share:.0f} % of the accuracy of {last.title}."
    word = "within" if abs(gain) <= spread else "beyond"
    return [f"{sentence}, {word} one standard deviation ({spread:.1f}): {kept}"]


def _regimes_verdict(points: Mapping[str, Point]) -> list[str]:
    best = max(points.values(), key=lambda point: point.mean())
    small = [point for point in points.values() if point.trainable <= SMALL]
    front = pareto_front(list(points.values()))
    sentences = [f"Pareto front: {', '.join(f'{point.title} ({point.trainable:,})' for point in front)}."]
    if small:
        chosen = max(small, key=lambda point: point.mean())
        gap, spread = best.mean() - chosen.mean(), max(best.deviation(), chosen.deviation())
        words = (
            f"with at most {SMALL:,} trained parameters {chosen.title} ({chosen.trainable:,}) reaches "
            f"{chosen.mean():.1f}; the best regime, {best.title} ({best.trainable:,}), {best.mean():.1f} "
            f"± {best.deviation():.1f}."
        )
        sentences.append(f"Supported: {words}" if gap <= spread else f"**Not supported: {words}**")
    return sentences


def _reference_verdict(reference: str, what: str) -> Callable[[Mapping[str, Point]], list[str]]:
    def verdict(points: Mapping[str, Point]) -> list[str]:
        if reference not in points:
            return []
        base = points[reference].mean()
        changes = [f"{p.title} {_points(p.mean() - base)}" for name, p in points.items() if name != reference]
        best = max(points.values(), key=lambda point: point.mean())
        return [f"Against {points[reference].title} ({base:.1f}): {'; '.join(changes)}. Best {what}: {best.title}."]

    return verdict


_DEFAULT = {"shots-1": {"baselines": ("cam", "tscam", "rollout", "centre_box")}}
_SHOTS = _DEFAULT | {f"shots-{shots}": {"shots": (shots,)} for shots in (3, 5, 10, "all")}
_BLOCKS = {f"k-{k}": _SAT_ALONE | {"num_spatial_blocks": k} for k in (1, 2, 3, 4, 5)} | _DEFAULT
_LOSS = _DEFAULT | {
    "paper-weights": _SAT_ALONE | {"normalization_weight": 1.0},
    "no-area": _SAT_ALONE | {"area_weight": 0.0},
    "no-normalization": _SAT_ALONE | {"normalization_weight": 0.0},
    "classification-alone": _SAT_ALONE | {"area_weight": 0.0, "normalization_weight": 0.0},
}
_AREAS = {f"area-{area}": _SAT_ALONE | {"area_target": area} for area in (0.05, 0.1)} | _DEFAULT
_AREAS |= {f"area-{area}": _SAT_ALONE | {"area_target": area} for area in (0.25, 0.35)}
# With all blocks spatial, the three are the same; K = 3 of 6 as in the paper's 3 of 12, with the regimes that bear it.
_ENTRIES = {
    f"k-3-{tune}-{entry}": _SAT_ALONE | {"num_spatial_blocks": 3, "tune": tune, "token_entry": entry}
    for tune in ("none", "bias_norm")
    for entry in ("input", "isolated", "late")
}
_INITS = _DEFAULT | {"token-random": _SAT_ALONE | {"token_init": "random"}}

EXPERIMENTS: dict[str, Experiment] = {
    "methods": Experiment(
        "Does SAT localise better than what a frozen backbone gives?",
        _DEFAULT,
        ["1"],
        "shots",
        _methods_verdict,
        methods=True,
    ),
    "shots": Experiment(
        "How few images are enough?",
        _SHOTS,
        ["1", "3", "5", "10", "all"],
        "shots",
        _shots_verdict,
        methods=True,
        plot=("shots.png", draw_shots),
    ),
    "regimes": Experiment(
        "How few parameters are enough?",
        {
            "shots-1" if name == DEFAULT_REGIME else f"regime-{name}": _SAT_ALONE | options
            for name, options in REGIMES.items()
        }
        | _DEFAULT,
        list(REGIMES),
        "trained",
        _regimes_verdict,
        plot=("parameters.png", draw_parameters),
    ),
    "blocks": Experiment(
        "How many spatial blocks?",
        _BLOCKS,
        ["K = 1", "K = 2", "K = 3", "K = 4", "K = 5", "K = 6"],
        "blocks",
        _reference_verdict("shots-1", "number of blocks"),
    ),
    "loss": Experiment(
        "What is each term of the loss worth?",
        _LOSS,
        ["weights 1, 1, 3", "weights 1, 1, 1 (paper)", "without area", "without normalization", "classification alone"],
        "loss",
        _reference_verdict("shots-1", "loss"),
    ),
    "area": Experiment(
        "How much does the area target matter?",
        _AREAS,
        ["0.05", "0.1", "0.15", "0.25", "0.35"],
        "area target",
        _reference_verdict("shots-1", "area target"),
    ),
    "token": Experiment(
        "How should the token start?",
        _INITS,
        ["class token", "random (paper)"],
        "token",
        _reference_verdict("shots-1", "start"),
    ),
    "entry": Experiment(
        "Where should the token enter (K = 3)?",
        _ENTRIES,
        [f"{entry}, {tune}" for tune in ("token + head", "bias and norms") for entry in ("input", "isolated", "late")],
        "token entry",
        _reference_verdict("k-3-none-input", "entry"),
    ),
}


def _measured(folder: Path) -> dict[str, list[dict]]:
    """results.json of the finished runs by name of the cell, in the order of their seeds."""
    names = dict.fromkeys(name for experiment in EXPERIMENTS.values() for name in experiment.cells)
    return {
        name: [
            read_json_object(run / "results.json", "the results of a run")
            for run in sorted((folder / name).glob("seed-*"), key=lambda run: int(run.name.removeprefix("seed-")))
            if is_file(run / "results.json")
        ]
        for name in names
    }


def write_page(folder: Path) -> None:
    """Writes results.md and its plots from the cells below `folder` that have been measured."""
    results = _measured(folder)
    sections = [
        "# SAT in miniature",
        "PartScenes (20 novel classes, 600 test scenes) and the nano ViT (pretrained on 64 other classes), protocol "
        "`original`, threshold from the validation split. Percent, mean ± sample standard deviation over the runs. "
        "These are generated scenes and a tiny backbone: they show whether the method works, not how well it does on "
        "photographs.",
    ]
    for experiment in EXPERIMENTS.values():
        titles = dict(zip(experiment.cells, experiment.titles, strict=True))
        points = {name: gather_point(titles[name], results[name]) for name in titles if results.get(name)}
        if len(points) < min(2, len(titles)):
            continue  # Nothing to compare yet.
        missing = [titles[name] for name in titles if name not in points]
        section = [f"## {experiment.question}", *experiment.verdict(points)]
        section.append(point_table(list(points.values()), first=experiment.column, methods=experiment.methods))
        if missing:
            section.append(f"Not measured within the time: {', '.join(missing)}.")
        if experiment.plot:
            name, draw = experiment.plot
            draw(folder / name, list(points.values()), title=experiment.question)
            section.append(f"![{experiment.question}]({name})")
        sections.append("\n\n".join(section))
    write_text_atomic(folder / "results.md", "\n\n".join(sections) + "\n")
