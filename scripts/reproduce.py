"""The paper's low-data results, on the embedded PartScenes or on your photographs, within a given number of minutes.

    python scripts/reproduce.py --minutes 30                                       PartScenes and the nano ViT
    python scripts/reproduce.py --data DIR --weights FILE --minutes 120            your images, a pretrained backbone
    python scripts/reproduce.py --data DIR --experiments methods --seeds 3         only SAT beside the other methods

On PartScenes (of a --difficulty) it measures SAT against CAM, TS-CAM, attention rollout and the centre box; the number
K of spatial blocks; accuracy over shots and over trained parameters; and with the paper's three terms alone K, the loss
without each of these terms, the area target, how the token starts and where it enters. On other data, in their preset
`photos`: SAT against these, class-token attention and TokenCut with 1, 5 and 10 images per class, on four rulers; the
preset without each of its parts; trained parameters; image sizes; the area target.

Every cell is a run of recipes/few_shot.py in a folder of its own. All cells are measured with one seed before any gets
another, and what has been measured before is not run again, so that another launch goes on. The results page,
OUTPUT/results.md with its plots, tells what has been measured so far and what it does and does not support.
"""

from __future__ import annotations

import importlib.util
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType

import numpy as np
import tyro

from reproduction.bench import Bench, Experiment
from reproduction.miniature import MINIATURE, miniature
from reproduction.photographs import EXPERIMENTS, measure_rulers, needs_rulers, photographs
from sat_peft.commands.command_line import run
from sat_peft.data.features import labels
from sat_peft.data.options import DataOptions, data_options, load
from sat_peft.data.splits import DataSplits
from sat_peft.errors import UsageError, unknown_choice
from sat_peft.options.presets import PART_SCENES, PRESETS, default_preset
from sat_peft.runs.sweep import run_cells
from sat_peft.training.experiment import settled

RECIPE = Path(__file__).parents[1] / "recipes" / "few_shot.py"
# The first cell of a machine has no others to tell its time.
FIRST_GUESS = 120.0


@dataclass(frozen=True)
class Config(DataOptions):
    backbone: str | None = None
    """Backbone of your images, as few_shot.py takes it; PartScenes have the nano ViT."""
    weights: Path | None = None
    """Weights of the backbone, instead of those from the hub."""
    output: Path | None = None
    """Folder of the runs and of the results page; by default runs/reproduce, or runs/reproduce-NAME, of your images or
    with --difficulty and --scene-seed of the scenes."""
    minutes: float = 30
    """No cell is begun that would end after these; what is missing is left to the next launch."""
    seeds: int = 5
    """Runs of every cell, at most."""
    experiments: tuple[str, ...] = ()
    """Experiments to measure, by name; all of them by default."""
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


def cell_config(recipe: ModuleType, config: Config, options: dict, *, seed: int):
    """The recipe's configuration of a cell: the preset of the data, but for the cell's own options."""
    backbone = {} if config.data == PART_SCENES else {"backbone": config.backbone, "weights": config.weights}
    shared = vars(data_options(config)) | backbone | {"seed": seed, "threads": config.threads}
    preset = PRESETS["few_shot"][default_preset(config.data, config.difficulty)]
    return settled(recipe.Config(**(preset | shared | options)))


def chosen_cells(config: Config, experiments: Mapping[str, Experiment]) -> dict[str, dict]:
    """Options by the name of the cell, of the experiments and cells that were asked for.

    Raises:
        UsageError: a name that there is not.
    """
    names = config.experiments or tuple(experiments)
    for name in names:
        if name not in experiments:
            raise unknown_choice("experiment", name, experiments)
    cells = {cell: options for name in names for cell, options in experiments[name].cells.items()}
    for name in config.cells:
        if name not in cells:
            raise unknown_choice("cell", name, cells)
    return {name: options for name, options in cells.items() if not config.cells or name in config.cells}


def within_shots(cells: dict[str, dict], data: DataSplits) -> dict[str, dict]:
    """The cells for which every class has enough training images; the others are told."""
    train = data.splits["train"]
    least = int(np.bincount(labels(train), minlength=train.features["label"].num_classes).min())
    shots = {name: options.get("shots", (1,))[0] for name, options in cells.items()}
    short = [name for name in cells if shots[name] != "all" and shots[name] > least]
    if short:
        print(f"Left out, since a class has {least} training images: {', '.join(short)}.")
    return {name: options for name, options in cells.items() if name not in short}


class Budget:
    """Minutes in which no step is begun that would not end in them, as far as the earlier ones tell."""

    def __init__(self, minutes: float):
        self._end = time.monotonic() + 60 * minutes
        self._durations: list[float] = []

    def spend(self, step: Callable[[], None]) -> bool:
        """Takes a step if there is time for it; whether it did."""
        expected = statistics.median(self._durations) if self._durations else FIRST_GUESS
        start = time.monotonic()
        if start + expected > self._end:
            return False
        step()
        self._durations.append(time.monotonic() - start)
        return True


def scenes_name(config: Config) -> str | None:
    """What tells the chosen PartScenes from those of the default."""
    seed = f"seed-{config.scene_seed}" if config.scene_seed else None
    return "-".join(filter(None, [config.difficulty, seed])) or None


def main(config: Config) -> None:
    embedded = config.data == PART_SCENES
    if embedded and (config.backbone or config.weights):
        raise UsageError("PartScenes are measured with the embedded nano ViT; --backbone and --weights go with --data.")
    cells = chosen_cells(config, MINIATURE.experiments if embedded else EXPERIMENTS)
    recipe = load_recipe()
    example = cell_config(recipe, config, {}, seed=0)  # What is wrong with the backbone's options is told at once.
    data = load(config)
    name = scenes_name(config) if embedded else Path(config.data_root or config.data).name
    output = config.output or Path(f"runs/reproduce-{name}" if name else "runs/reproduce")
    bench = miniature(name) if embedded else photographs(name, example.backbone, len(data.splits["test"]))
    cells = within_shots(cells, data)
    output.mkdir(parents=True, exist_ok=True)
    measure_cells(config, bench, cells, output, recipe, data)
    bench.write_page(output)
    print(f"\n{(output / 'results.md').read_text(encoding='utf-8')}\nWritten to {output / 'results.md'}")


def measure_cells(
    config: Config, bench: Bench, cells: dict[str, dict], output: Path, recipe: ModuleType, data: DataSplits
) -> None:
    """Runs the cells seed by seed as long as there is time, and keeps the page up to date."""
    run_cell = partial(recipe.run_cell, read_data=lambda: data)
    runs, rulers = Budget(config.minutes), Budget(config.minutes)
    for seed in range(config.seeds):
        for name, options in cells.items():
            place = f"{name}/seed-{seed}"
            cell = {place: cell_config(recipe, config, options, seed=seed)}
            if (output / place / "results.json").exists():
                run_cells(output, cell, run_cell)  # Holds the folder's settings to those of today.
            elif runs.spend(partial(run_cells, output, cell, run_cell)):
                bench.write_page(output)
        for name in cells if bench.measure_rulers else ():
            folder = output / f"{name}/seed-{seed}"
            if needs_rulers(folder) and rulers.spend(partial(measure_rulers, folder, threads=config.threads)):
                bench.write_page(output)


if __name__ == "__main__":
    run(main, partial(tyro.cli, Config, description=__doc__), interrupted="launch it again to go on")
