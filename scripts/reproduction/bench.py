"""What scripts/reproduce.py measures on one kind of data: experiments, their cells, and the page of their results.

A cell is a configuration of recipes/few_shot.py; cells of the same name are the same run in every experiment. Its runs,
one per seed, are folders `CELL/seed-N`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from sat_peft.files import is_file, read_json_object
from sat_peft.files.outputs import write_text_atomic
from sat_peft.options.regimes import DEFAULT_REGIME, REGIMES
from sat_peft.report.sweeps import point_table
from sat_peft.runs.sweep import Point, gather_point, pareto_front

# What "a few thousand parameters" means here.
SMALL = 5000
SAT_ALONE: dict = {"baselines": ()}


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
        least: how many of the cells have to be measured before there is anything to compare.
    """

    question: str
    cells: dict[str, dict]
    titles: list[str]
    column: str
    verdict: Callable[[Mapping[str, Point]], list[str]]
    methods: bool = False
    plot: tuple[str, Callable] | None = None
    least: int = 2


@dataclass(frozen=True)
class Bench:
    """The experiments on one kind of data.

    Args:
        title: title of the page.
        introduction: what was measured, for whoever reads the page alone.
        experiments: by the name that the command line gives them.
        measure_rulers: whether finished runs are evaluated by the rulers of published figures too.
        appendix: takes the folder of the runs and returns further sections.
    """

    title: str
    introduction: str
    experiments: dict[str, Experiment]
    measure_rulers: bool = False
    appendix: Callable[[Path], list[str]] = lambda folder: []

    def write_page(self, folder: Path) -> None:
        """Writes results.md and its plots from the cells below `folder` that have been measured."""
        sections = [f"# {self.title}", self.introduction]
        for experiment in self.experiments.values():
            sections += _section(experiment, folder)
        sections += self.appendix(folder)
        write_text_atomic(folder / "results.md", "\n\n".join(sections) + "\n")


def finished_runs(folder: Path, cell: str) -> list[Path]:
    """The folders of a cell's finished runs, in the order of their seeds."""
    runs = sorted((folder / cell).glob("seed-*"), key=lambda run: int(run.name.removeprefix("seed-")))
    return [run for run in runs if is_file(run / "results.json")]


def _section(experiment: Experiment, folder: Path) -> list[str]:
    titles = dict(zip(experiment.cells, experiment.titles, strict=True))
    points: dict[str, Point] = {}
    for name, title in titles.items():
        results = [
            read_json_object(run / "results.json", "the results of a run") for run in finished_runs(folder, name)
        ]
        if results:
            points[name] = gather_point(title, results)
    if len(points) < min(experiment.least, len(titles)):
        return []  # Nothing to compare yet.
    missing = [titles[name] for name in titles if name not in points]
    section = [f"## {experiment.question}", *experiment.verdict(points)]
    section.append(point_table(list(points.values()), first=experiment.column, methods=experiment.methods))
    if missing:
        section.append(f"Not measured within the time: {', '.join(missing)}.")
    if experiment.plot:
        name, draw = experiment.plot
        draw(folder / name, list(points.values()), title=experiment.question)
        section.append(f"![{experiment.question}]({name})")
    return section


def regime_cells(default: str) -> dict[str, dict]:
    """The cells of the regimes of `sat_peft.options.regimes`; that of the recipe itself is the cell `default`."""
    return {
        default if name == DEFAULT_REGIME else f"regime-{name}": SAT_ALONE | options
        for name, options in REGIMES.items()
    }


def in_points(value: float) -> str:
    return f"{value:+.1f} points"


def shots_verdict(points: Mapping[str, Point]) -> list[str]:
    """What more images bring, and whether that is more than the seeds differ."""
    ordered = list(points.values())
    first, last = ordered[0], ordered[-1]
    gain = last.mean() - first.mean()
    share = 100 * first.mean() / last.mean()
    spread = max(first.deviation(), last.deviation())
    sentence = f"From {first.title} to {last.title} images per class GT-known Loc changes by {in_points(gain)}"
    kept = f"one image per class keeps {share:.0f} % of the accuracy of {last.title}."
    word = "within" if abs(gain) <= spread else "beyond"
    return [f"{sentence}, {word} one standard deviation ({spread:.1f}): {kept}"]


def regimes_verdict(points: Mapping[str, Point]) -> list[str]:
    """The Pareto front of accuracy and trained parameters, and what the smallest reach."""
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


def reference_verdict(reference: str, what: str) -> Callable[[Mapping[str, Point]], list[str]]:
    """The difference of every point to the one of the cell `reference`."""

    def verdict(points: Mapping[str, Point]) -> list[str]:
        if reference not in points:
            return []
        base = points[reference].mean()
        changes = [f"{p.title} {in_points(p.mean() - base)}" for name, p in points.items() if name != reference]
        best = max(points.values(), key=lambda point: point.mean())
        return [f"Against {points[reference].title} ({base:.1f}): {'; '.join(changes)}. Best {what}: {best.title}."]

    return verdict
