"""How little has to be trained: fine-tuning in several regimes, from the spatial token alone to every block.

    accelerate launch recipes/low_param.py                                          the cheapest good regime
    accelerate launch recipes/low_param.py --regimes all --trials 3 --output runs/regimes
    accelerate launch recipes/low_param.py --preset ilsvrc --data-root DIR --max-parameters 450000

A regime is a choice of what is trained on the frozen backbone. Every regime and seed leaves a run folder; several leave
a table and a plot of localisation accuracy against trained parameters with the Pareto front marked. Launched again,
what is finished is not run again.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from sat_peft.commands.command_line import RESUMABLE, parse, run
from sat_peft.errors import UsageError, unknown_choice
from sat_peft.options.choices import BaselineName, HeadName
from sat_peft.options.presets import PRESETS
from sat_peft.options.regimes import REGIMES
from sat_peft.training.options import RecipeOptions

# What needs torch is imported inside the functions, so that --help and a mistyped option answer at once.

PresetName = Literal[tuple(PRESETS["low_param"])]


@dataclass(frozen=True)
class Config(RecipeOptions):
    preset: PresetName | None = None
    """Named settings, which other options override; by default `part_scenes` for that data (of
    `--difficulty cluttered`, `cluttered_scenes`), else `photos`."""
    regimes: tuple[str, ...] = ()
    """What is trained: names of `sat_peft.options.regimes.REGIMES`, or `all`; they set --tune, --head and their like.
    Without any, these options say it themselves: LoRA of rank 1 in all linear layers and a pointwise head."""
    max_parameters: int | None = None
    """Refuse to train more parameters than these."""
    baselines: tuple[BaselineName, ...] = ()
    """Measured beside SAT, on the same backbone, images and steps."""
    head: HeadName = "conv1x1"
    """The classification head (the paper's is conv3x3)."""
    lora_rank: int = 1
    """Rank of LoRA, for --tune lora."""
    learning_rate: float = 3e-3
    """Learning rate of AdamW; few parameters take large steps."""
    shots: int | Literal["all"] = 1
    """Labelled training images per class; `all` takes every one there is."""
    image_ids: Path | None = None
    """The image_ids.json of a run: its training images are taken, instead of drawing --shots."""
    trials: int = 1
    """Runs of each regime, with the seeds from --seed on."""
    steps: int = 150
    """Optimizer steps."""
    epochs: int | None = None
    """Passes over the training images, instead of --steps."""


def main(config: Config) -> None:
    from accelerate import PartialState

    from sat_peft.data.options import load
    from sat_peft.runs.sweep import run_cells
    from sat_peft.training.experiment import refuse_taken_folder, settled

    if config.trials < 1:
        raise UsageError(f"trials must be at least 1, got {config.trials}.")
    names = list(REGIMES) if config.regimes == ("all",) else list(config.regimes)
    for name in names:
        if name not in REGIMES:
            raise unknown_choice("regime", name, [*REGIMES, "all"])
    if config.image_ids is not None and config.shots == "all":
        raise UsageError("--image-ids names the training images; leave out --shots all.")
    config = settled(config)
    output = config.folder("low_param")
    read_data = partial(load, config, shots=0 if config.shots == "all" else config.shots)
    if len(names) <= 1 and config.trials == 1:
        cell = dataclasses.replace(config, output=output, **(REGIMES[names[0]] if names else {}))
        refuse_taken_folder(cell)
        run_cell(cell, read_data)
        return
    data = read_data()
    cells = {
        f"{name or 'options'}/seed-{seed}": dataclasses.replace(
            config, regimes=(name,) if name else (), trials=1, seed=seed, **REGIMES.get(name, {})
        )
        for name in names or [None]
        for seed in range(config.seed, config.seed + config.trials)
    }
    results = run_cells(output, cells, lambda cell: run_cell(cell, lambda: data), overwrite=config.overwrite)
    if PartialState().is_main_process:
        report(config, output, results)


def run_cell(config: Config, read_data) -> dict:
    """One run: a regime and a seed. Returns its results.json."""
    from sat_peft import save_adapter
    from sat_peft.training.building import fit_readout
    from sat_peft.training.experiment import Experiment

    limits = {"max_parameters": config.max_parameters}
    experiment = Experiment(config, read_data, shots=config.shots, image_ids=config.image_ids, **limits)
    steps = config.steps if config.epochs is None else config.epochs * experiment.epoch_steps
    with experiment.open(steps) as training:
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
    """Table and plot of all regimes: mean and standard deviation over the trials."""
    from sat_peft.files.outputs import write_json_atomic, write_text_atomic
    from sat_peft.report.sweeps import draw_parameters, point_table
    from sat_peft.runs.sweep import gather_point, pareto_front

    runs: dict[str, list[dict]] = {}
    for name, cell in results.items():
        runs.setdefault(name.rpartition("/")[0], []).append(cell)
    points = sorted((gather_point(name, cells) for name, cells in runs.items()), key=lambda point: point.trainable)
    table = point_table(points, first="regime", methods=False)
    front = ", ".join(point.title for point in pareto_front(points))
    write_json_atomic(output / "results.json", results)
    write_text_atomic(output / "table.md", f"{table}\n\nPareto front: {front}\n")
    title = f"{config.data}, {config.shots} images per class, {config.trials} trials, protocol {config.protocol}"
    draw_parameters(output / "parameters.png", points, title=title)
    print(f"\n{table}\n\nPareto front: {front}\nWritten to {output / 'table.md'} and {output / 'parameters.png'}")


if __name__ == "__main__":
    run(
        main,
        partial(parse, Config, PRESETS["low_param"], description=__doc__),
        interrupted=RESUMABLE,
    )
