"""Many runs of one recipe, each in a folder of its own: what is finished is not run again."""

from __future__ import annotations

import dataclasses
import logging
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from accelerate import PartialState

from sat_peft.errors import UsageError
from sat_peft.files.outputs import FolderLock, check_writable, remove_unfinished
from sat_peft.runs.folder import changed_settings, is_new
from sat_peft.runs.reader import RunReader

logger = logging.getLogger(__name__)


def run_cells(
    folder: Path, cells: Mapping[str, Any], run_cell: Callable[[Any], dict], *, overwrite: bool = False
) -> dict[str, dict]:
    """Runs every cell that is not finished, one after the other.

    A cell is finished where its folder says so and holds a run of the same configuration. One that was killed goes on
    from its last checkpoint.

    Args:
        folder: folder of the sweep; a cell called `shots-1/seed-0` has the folder of that name in it.
        cells: the recipe's configuration of each cell, by name.
        run_cell: runs a configuration and returns its results.json.
        overwrite: run finished cells again.

    Returns:
        The results by cell.

    Raises:
        UsageError: a cell's folder holds a run of another configuration, or another process runs the sweep.
    """
    state = PartialState()
    if not state.is_main_process:
        return _run_cells(folder, cells, run_cell, overwrite, state)
    check_writable(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with FolderLock(folder):
        # Not those of the cells, of which one may be run alone at the same time.
        remove_unfinished(folder, below=False)
        return _run_cells(folder, cells, run_cell, overwrite, state)


def _run_cells(
    folder: Path, cells: Mapping[str, Any], run_cell: Callable[[Any], dict], overwrite: bool, state: PartialState
) -> dict[str, dict]:
    plans, results = {}, {}
    for name, cell in cells.items():
        place = folder / name
        status = None if overwrite or is_new(place) else RunReader(place).status()
        if status is not None:
            changed = changed_settings(place, vars(cell), defaults=vars(type(cell)()))
            if changed:
                raise UsageError(
                    f"the folder {place} holds a run with other values of {', '.join(changed[:5])}. Name another "
                    "folder with --output, or replace its runs with --overwrite."
                )
        plans[name] = status
    state.wait_for_everyone()  # before any process writes what another still looks at
    for number, (name, cell) in enumerate(cells.items(), 1):
        place = folder / name
        if plans[name] == "finished":
            logger.info(f"[{number}/{len(cells)}] {name}: finished before")
            results[name] = RunReader(place).results()
            continue
        logger.info(f"[{number}/{len(cells)}] {name}")
        unfinished = place if plans[name] is not None else None
        results[name] = run_cell(dataclasses.replace(cell, output=place, resume=unfinished, overwrite=overwrite))
    return results


@dataclasses.dataclass(frozen=True)
class Point:
    """Several runs that differ in their seed alone.

    Args:
        title: in tables and plots.
        trainable: trained parameters.
        figures: figures by method and figure, the percentages of the runs; None where not measured.
        seconds: median of a run.
    """

    title: str
    trainable: int
    figures: dict[str, dict[str, list[float] | None]]
    seconds: float

    def mean(self, method: str = "sat", figure: str = "gt_known") -> float:
        """Mean over the runs; NaN where it was not measured."""
        values = self.figures[method][figure]
        return statistics.mean(values) if values else float("nan")

    def deviation(self, method: str = "sat", figure: str = "gt_known") -> float:
        """Sample standard deviation over the runs; 0 for one."""
        values = self.figures[method][figure]
        return statistics.stdev(values) if values and len(values) > 1 else 0.0


def gather_point(title: str, runs: Sequence[Mapping]) -> Point:
    """The results of runs that differ in their seed alone as one point."""
    methods = {
        method: {
            figure: None
            if any(run["methods"][method][figure] is None for run in runs)
            else [run["methods"][method][figure] for run in runs]
            for figure in figures
        }
        for method, figures in runs[0]["methods"].items()
    }
    seconds = statistics.median(run["seconds"] for run in runs)
    return Point(title, runs[0]["trainable_parameters"], methods, seconds)


def pareto_front(points: Sequence[Point]) -> list[Point]:
    """The points that no other beats in GT-known Loc with as few or fewer trained parameters, cheapest first."""
    front: list[Point] = []
    for point in sorted(points, key=lambda point: (point.trainable, -point.mean())):
        if not front or point.mean() > front[-1].mean():
            front.append(point)
    return front
