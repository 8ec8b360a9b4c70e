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
import time
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from sat_peft.commands.command_line import RESUMABLE, parse, run
from sat_peft.data.options import DataOptions
from sat_peft.errors import UsageError
from sat_peft.options.presets import PRESETS
from sat_peft.options.training import EvaluationOptions, LossOptions, ModelOptions, OptimizationOptions, RunOptions

# What needs torch is imported inside the functions, so that --help and a mistyped option answer at once.

PresetName = Literal[tuple(PRESETS["few_shot"])]


@dataclass(frozen=True)
class Config(RunOptions, EvaluationOptions, OptimizationOptions, LossOptions, ModelOptions, DataOptions):
    preset: PresetName | None = None
    """Named settings, which other options override; by default `part_scenes` for that data, else `photos`."""
    config: Path | None = None
    """Take the settings of the run folder or config.json that is named."""
    shots: tuple[int | Literal["all"], ...] = (1,)
    """Labelled training images per class; `all` takes every one there is. Several are run one after the other."""
    image_ids: Path | None = None
    """The image_ids.json of a run: its training images are taken, instead of drawing --shots."""
    trials: int = 1
    """Runs for each number of shots, with the seeds from --seed on."""
    seed: int = 0
    """Seed of the choice of images, the initialisation, the order and the augmentation."""
    steps: int = 150
    """Optimizer steps."""


def main(config: Config) -> None:
    from accelerate import PartialState

    from sat_peft.backbones import choose_backbone
    from sat_peft.data.options import load, with_absolute_paths
    from sat_peft.localization import choose_threshold
    from sat_peft.runs.folder import check_output
    from sat_peft.runs.sweep import run_cells

    if config.trials < 1 or not config.shots:
        raise UsageError(f"trials must be at least 1 and shots be given, got {config.trials} and {config.shots}.")
    # A threshold that cannot be is refused now and not after the training.
    if config.threshold is not None:
        choose_threshold("fixed", value=config.threshold)
    if config.image_ids is not None and (config.trials > 1 or len(config.shots) > 1 or "all" in config.shots):
        raise UsageError("--image-ids names the training images of one run; leave out --shots and --trials.")
    config = with_absolute_paths(config)
    config = dataclasses.replace(config, backbone=choose_backbone(config.backbone, config.weights))
    output = config.folder("few_shot")
    needed = max((shots for shots in config.shots if shots != "all"), default=0)
    read_data = partial(load, config, shots=needed)
    if len(config.shots) == config.trials == 1:
        cell = dataclasses.replace(config, output=output)
        if PartialState().is_main_process:
            check_output(output, asdict(cell), overwrite=cell.overwrite, resume=cell.resume is not None)
        run_cell(cell, read_data)
        return
    data = read_data()
    cells = {
        f"shots-{shots}/seed-{seed}": dataclasses.replace(config, shots=(shots,), trials=1, seed=seed)
        for shots in config.shots
        for seed in range(config.seed, config.seed + config.trials)
    }
    results = run_cells(output, cells, lambda cell: run_cell(cell, lambda say: data), overwrite=config.overwrite)
    if PartialState().is_main_process:
        report(config, output, results)


def run_cell(config: Config, read_data) -> dict:
    """One run: a number of shots and a seed. Returns its results.json."""
    from accelerate.utils import set_seed

    from sat_peft import save_adapter
    from sat_peft.data.shots import choose_shots
    from sat_peft.report.tables import parameter_table
    from sat_peft.runs.folder import RunFolder
    from sat_peft.training.building import (
        create_accelerator,
        create_criterion,
        create_loaders,
        create_model,
        fit_readout,
        start_masks,
    )
    from sat_peft.training.comparison import close_run, compare, write_results
    from sat_peft.training.loop import Training
    from sat_peft.tuner.parameters import count_parameters

    start = time.perf_counter()
    accelerator = create_accelerator(config, config, config.output)
    say, main_process = accelerator.print, accelerator.is_main_process

    # Data: the shots for training; validation boxes choose thresholds; test images are seen once, at the end.
    data = read_data(say=say)
    splits = dict(data.splits)
    (shots,) = config.shots
    if shots != "all":
        splits["train"] = choose_shots(splits["train"], shots, config.seed, image_ids=config.image_ids)
    class_names = splits["train"].features["label"].names

    # Every process has its own stochastic depth.
    set_seed(config.seed, device_specific=True)
    model = create_model(config, config, class_names)
    loaders = create_loaders(model, splits, config, config, config, seed=config.seed)
    start_masks(model, loaders.train, config, config.area_target)
    image_loader = accelerator.prepare(loaders.train)
    train_loader = accelerator.prepare(loaders.features) if loaders.features else image_loader
    parameters = count_parameters(model)
    say(f"\nTrained on {config.backbone}, which stays frozen:\n{parameter_table(parameters)}")
    chosen = f"listed in {config.image_ids}, of" if config.image_ids else f"{shots} for each of"
    say(f"Training images: {len(splits['train'])} ({chosen} {len(class_names)} classes), no boxes\n")

    resume = config.resume is not None
    with RunFolder(
        config.output, asdict(config), main_process=main_process, overwrite=config.overwrite, resume=resume
    ) as folder:
        accelerator.wait_for_everyone()
        if shots != "all":
            folder.write_json("image_ids.json", splits["train"]["image_id"][:])
        for name, content in data.records().items():
            folder.write_json(name, content)
        accelerator.init_trackers("sat_peft")
        schedule = {"steps": config.steps, "checkpoint_every": config.checkpoint_every}

        # SAT: classification + batch area + normalization, from image labels.
        criterion = create_criterion(config)
        training = Training(accelerator, model, train_loader, config, folder, name="SAT", **schedule)
        for batch in training:
            loss = criterion(training.module(batch["images"]), batch["labels"])
            training.update(loss._asdict())
        model = training.finish()
        fit_readout(model, loaders, config)
        if main_process:
            save_adapter(model, folder.path / "adapter")

        comparison = compare(
            model, image_loader, loaders, accelerator, folder, config, loss=config, optimization=config, **schedule
        )
        results = write_results(
            folder,
            comparison,
            protocol=config.protocol,
            tta=config.tta,
            parameters=parameters,
            training_images=len(splits["train"]),
            seconds=time.perf_counter() - start,
        )
    close_run(accelerator, folder, comparison, results)
    return results


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
