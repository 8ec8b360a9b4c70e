"""The paper's low-data results in miniature, on PartScenes and the nano ViT, within a given number of minutes.

    python scripts/reproduce.py --minutes 30 --output runs/reproduce

Measures SAT against CAM, TS-CAM, attention rollout and the centre box; accuracy over shots and over trained parameters;
the number K of spatial blocks; the loss without each of its terms; the area target; how the token starts and where it
enters. Every cell is a run of recipes/few_shot.py in a folder of its own. All cells are measured with one seed before
any gets another, and what has been measured before is not run again, so that another launch goes on. The results page,
OUTPUT/results.md with its plots, tells what has been measured so far and what it does and does not support.
"""

from __future__ import annotations

import importlib.util
import statistics
import sys
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType

import tyro

from miniature import EXPERIMENTS, write_page
from sat_peft.commands.command_line import run
from sat_peft.data.splits import load_splits
from sat_peft.errors import unknown_choice
from sat_peft.options.presets import PART_SCENES, PRESETS
from sat_peft.runs.sweep import run_cells

RECIPE = Path(__file__).parents[1] / "recipes" / "few_shot.py"
# The first cell of a machine has no others to tell its time.
FIRST_GUESS = 120.0


@dataclass(frozen=True)
class Config:
    output: Path = Path("runs/reproduce")
    """Folder of the runs and of the results page."""
    minutes: float = 30
    """No cell is begun that would end after these; what is missing is left to the next launch."""
    seeds: int = 5
    """Runs of every cell, at most."""
    experiments: tuple[str, ...] = tuple(EXPERIMENTS)
    """Which to measure."""
    cells: tuple[str, ...] = ()
    """Only these of their cells, by the name of the folder, say to give some of them more seeds."""
    threads: int | None = None
    """Threads of a run; by default all cores."""


def load_recipe() -> ModuleType:
    """recipes/few_shot.py as a module."""
    spec = importlib.util.spec_from_file_location("few_shot", RECIPE)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def cell_config(recipe: ModuleType, options: dict, *, seed: int, threads: int | None):
    """The recipe's configuration of a cell: the settings for PartScenes, but for the cell's own options."""
    return recipe.Config(seed=seed, threads=threads, **(PRESETS["few_shot"][PART_SCENES] | options))


def main(config: Config) -> None:
    start = time.monotonic()
    for name in config.experiments:
        if name not in EXPERIMENTS:
            raise unknown_choice("experiment", name, EXPERIMENTS)
    recipe = load_recipe()
    cells: dict[str, dict] = {}
    for experiment in config.experiments:
        cells |= EXPERIMENTS[experiment].cells
    for name in config.cells:
        if name not in cells:
            raise unknown_choice("cell", name, cells)
    data = load_splits("part_scenes")
    durations: list[float] = []
    run_cell = partial(recipe.run_cell, read_data=lambda say: data)
    for seed in range(config.seeds):
        for name, options in cells.items():
            if config.cells and name not in config.cells:
                continue
            place = f"{name}/seed-{seed}"
            expected = statistics.median(durations) if durations else FIRST_GUESS
            finished = (config.output / place / "results.json").exists()
            if not finished and time.monotonic() - start + expected > 60 * config.minutes:
                continue
            before = time.monotonic()
            cell = cell_config(recipe, options, seed=seed, threads=config.threads)
            run_cells(config.output, {place: cell}, run_cell)
            if not finished:
                durations.append(time.monotonic() - before)
                write_page(config.output)
    write_page(config.output)
    print(f"\n{(config.output / 'results.md').read_text(encoding='utf-8')}\nWritten to {config.output / 'results.md'}")


if __name__ == "__main__":
    run(main, partial(tyro.cli, Config, description=__doc__), interrupted="launch it again to go on")
