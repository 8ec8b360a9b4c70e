"""Few-shot fine-tuning: learns to localise objects from a few labelled images per class, without any box.

    accelerate launch recipes/few_shot.py                             one image per class of the generated PartScenes
    accelerate launch recipes/few_shot.py --data DIR --shots 5        your images: DIR/train/CLASS/*.jpg, DIR/test/…
    accelerate launch recipes/few_shot.py --data cub --data-root DIR  a known data set or format
    accelerate launch recipes/few_shot.py --shots 1 3 5 10 all --trials 5 --output runs/curve     accuracy over shots

A pretrained Vision Transformer stays frozen; a spatial token and a small head are trained on it (more with --tune). The
run ends with a table of localisation accuracy on the test split beside two baselines, and leaves a run folder. Several
shots or trials leave one for each of them, a table and a plot; launched again, what is finished is not run again.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from sat_peft.commands.command_line import RESUMABLE, parse, run
from sat_peft.errors import UsageError
from sat_peft.options.presets import PRESETS
from sat_peft.training.options import RecipeOptions

# What needs torch is imported inside the functions, so that --help and a mistyped option answer at once.

PresetName = Literal[tuple(PRESETS["few_shot"])]


@dataclass(frozen=True)
class Config(RecipeOptions):
    preset: PresetName | None = None
    """Named settings, which other options override; by default `part_scenes` for that data (of
    `--difficulty cluttered`, `cluttered_scenes`), else `photos`."""
    shots: tuple[int | Literal["all"], ...] = (1,)
    """Labelled training images per class; `all` takes every one there is. Several are run one after the other."""
    image_ids: Path | None = None
    """The image_ids.json of a run: its training images are taken, instead of drawing --shots."""
    trials: int = 1
    """Runs for each number of shots, with the seeds from --seed on."""
    steps: int = 150
    """Optimizer steps."""


def main(config: Config) -> None:
    from accelerate import PartialState

    from sat_peft.data.options import load
    from sat_peft.runs.sweep import run_cells
    from sat_peft.training.experiment import refuse_taken_folder, settled

    if config.trials < 1 or not config.shots:
        raise UsageError(f"trials must be at least 1 and shots be given, got {config.trials} and {config.shots}.")
    if config.image_ids is not None and (config.trials > 1 or len(config.shots) > 1 or "all" in config.shots):
        raise UsageError("--image-ids names the training images of one run; leave out --shots and --trials.")
    config = settled(config)
    output = config.folder("few_shot")
    needed = max((shots for shots in config.shots if shots != "all"), default=0)
    read_data = partial(load, config, shots=needed)
    if len(config.shots) == config.trials == 1:
        cell = dataclasses.replace(config, output=output)
        refuse_taken_folder(cell)
        run_cell(cell, read_data)
        return
    data = read_data()
    cells = {
        f"shots-{shots}/seed-{seed}": dataclasses.replace(config, shots=(shots,), trials=1, seed=seed)
        for shots in config.shots
        for seed in range(config.seed, config.seed + config.trials)
    }
    results = run_cells(output, cells, lambda cell: run_cell(cell, lambda: data), overwrite=config.overwrite)
    if PartialState().is_main_process:
        report(config, output, results)


def run_cell(config: Config, read_data) -> dict:
    """One run: a number of shots and a seed. Returns its results.json."""
    from sat_peft import save_adapter
    from sat_peft.training.building import fit_readout
    from sat_peft.training.experiment import Experiment

    (shots,) = config.shots
    experiment = Experiment(config, read_data, shots=shots, image_ids=config.image_ids)
    with experiment.open(config.steps) as training:
        # SAT learns from image labels: logits are held to them, maps to an area, to 0 and 1, to object and ground.
        for batch in training:
            loss = experiment.criterion(training.module(batch["images"]), batch["labels"])
            training.update(loss._asdict())
        model = training.finish()
        fit_readout(model, experiment.loaders, config)
        if experiment.accelerator.is_main_process:
            save_adapter(model, config.output / "adapter")
        return experiment.conclude(model)


def report(config: Config, output: Path, results: dict[str, dict]) -> None:
    """Table and plot of all cells: mean and standard deviation over the trials."""
    from sat_peft.files.outputs import write_json_atomic, write_text_atomic
    from sat_peft.report.sweeps import draw_shots, point_table
    from sat_peft.runs.sweep import gather_point

    points = [
        gather_point(str(shots), [cell for name, cell in results.items() if name.startswith(f"shots-{shots}/")])
        for shots in config.shots
    ]
    table = point_table(points, first="shots")
    write_json_atomic(output / "results.json", results)
    write_text_atomic(output / "table.md", table + "\n")
    draw_shots(output / "curve.png", points, title=f"{config.data}, {config.trials} trials, protocol {config.protocol}")
    print(f"\n{table}\n\nWritten to {output / 'table.md'} and {output / 'curve.png'}")


if __name__ == "__main__":
    run(
        main,
        partial(parse, Config, PRESETS["few_shot"], description=__doc__),
        interrupted=RESUMABLE,
    )
