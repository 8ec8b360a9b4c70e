"""Tables and plots of sweeps: accuracy against shots, accuracy against trained parameters."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from sat_peft.evaluation.figures import FIGURES, MAIN_FIGURES
from sat_peft.evaluation.registry import method_titles
from sat_peft.files.outputs import atomic_replacement
from sat_peft.files.shared_paths import without_absolute_paths
from sat_peft.report.tables import percent, text_table
from sat_peft.runs.sweep import Point, pareto_front


def _cell(point: Point, method: str, figure: str) -> str:
    values = point.figures[method][figure]
    # A single run has no deviation.
    deviation = f" ± {point.deviation(method, figure):.1f}" if values and len(values) > 1 else ""
    return percent(point.mean(method, figure) if values else None) + deviation


def point_table(points: Sequence[Point], *, first: str, methods: bool = True) -> str:
    """A Markdown table of mean ± sample standard deviation over the runs of each point.

    Args:
        points: one block of rows each.
        first: title of the first column.
        methods: a row for every method that was measured, not for SAT alone.
    """
    figures = [FIGURES[figure] for figure in MAIN_FIGURES]
    columns = [first, *(["method"] if methods else []), "trained parameters", *figures, "runs", "seconds"]
    rows = [
        [
            point.title,
            *([method_titles()[method]] if methods else []),
            f"{point.trainable:,}" if method == "sat" else "",
            *(_cell(point, method, figure) for figure in MAIN_FIGURES),
            str(len(point.figures[method]["top1_cls"])),
            f"{point.seconds:.0f}" if method == "sat" else "",
        ]
        for point in points
        for method in (point.figures if methods else ["sat"])
    ]
    return text_table(rows, columns, titles=1 + methods, markdown=True)


def _save(figure: Figure, file: Path) -> None:
    with atomic_replacement(file) as temporary:
        figure.savefig(temporary, format="png", dpi=150)


def draw_shots(file: Path, points: Sequence[Point], *, title: str) -> None:
    """GT-known Loc of every method against the training images per class, which are the titles of the points."""
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.subplots()
    for method in [name for name in points[0].figures if all(name in point.figures for point in points)]:
        means = [point.mean(method) for point in points]
        deviations = [point.deviation(method) for point in points]
        axes.errorbar(range(len(points)), means, deviations, marker="o", capsize=3, label=method_titles()[method])
    axes.set_xticks(range(len(points)), [point.title for point in points])
    axes.set(
        xlabel="training images per class",
        ylabel="GT-known Loc (%)",
        ylim=(0, 101),
        title=without_absolute_paths(title),
    )
    axes.grid(alpha=0.3)
    axes.legend()
    _save(figure, file)


def draw_parameters(file: Path, points: Sequence[Point], *, title: str) -> None:
    """GT-known Loc of SAT against the trained parameters; the Pareto front is a line."""
    figure = Figure(figsize=(7.2, 4.8), layout="constrained")
    axes = figure.subplots()
    front = pareto_front(points)
    axes.step(
        [point.trainable for point in front],
        [point.mean() for point in front],
        where="post",
        color="tab:orange",
        label="Pareto front",
        zorder=1,
    )
    for point in points:
        color = "tab:orange" if point in front else "tab:blue"
        axes.errorbar(point.trainable, point.mean(), point.deviation(), marker="o", capsize=3, color=color)
        axes.annotate(
            point.title, (point.trainable, point.mean()), xytext=(5, 4), textcoords="offset points", fontsize=7
        )
    axes.set(xscale="log", xlabel="trained parameters", ylabel="GT-known Loc (%)", title=without_absolute_paths(title))
    axes.grid(alpha=0.3, which="both")
    axes.legend(loc="lower right")
    _save(figure, file)
