"""Fine-tuning on all training images: learns to localise objects from image labels, without any box.

    accelerate launch recipes/full_data.py                                             the generated PartScenes
    accelerate launch recipes/full_data.py --preset cub --data-root CUB_200_2011       the published settings

After every epoch the model is measured on the validation split, and the best adapter is kept: by GT-known Loc where the
split has boxes, else by classification accuracy. The test split is looked at once, at the end, and chooses nothing.
"""

from __future__ import annotations

import dataclasses
import math
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

# What needs torch is imported inside the function, so that --help and a mistyped option answer at once.

PresetName = Literal[tuple(PRESETS["full_data"])]


@dataclass(frozen=True)
class Config(RunOptions, EvaluationOptions, OptimizationOptions, LossOptions, ModelOptions, DataOptions):
    preset: PresetName | None = None
    """Named settings, which other options override; by default `part_scenes` for that data, else `photos`."""
    config: Path | None = None
    """Take the settings of the run folder or config.json that is named."""
    seed: int = 0
    """Seed of the initialisation, the order and the augmentation."""
    epochs: int = 3
    """Passes over the training images."""


def main(config: Config) -> None:
    from accelerate import PartialState
    from accelerate.utils import set_seed

    from sat_peft import save_adapter
    from sat_peft.backbones import choose_backbone
    from sat_peft.data.options import load, with_absolute_paths
    from sat_peft.evaluation.evaluator import evaluate
    from sat_peft.evaluation.measure import sat_method
    from sat_peft.localization import choose_threshold
    from sat_peft.report.tables import parameter_table
    from sat_peft.runs.folder import RunFolder, check_output
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
    from sat_peft.tuner.checkpoint import load_adapter_weights
    from sat_peft.tuner.parameters import count_parameters

    start = time.perf_counter()
    if config.epochs < 1:
        raise UsageError(f"epochs must be at least 1, got {config.epochs}.")
    # A threshold that cannot be is refused now and not after the training.
    if config.threshold is not None:
        choose_threshold("fixed", value=config.threshold)
    backbone = choose_backbone(config.backbone, config.weights)
    config = dataclasses.replace(with_absolute_paths(config), output=config.folder("full_data"), backbone=backbone)
    resume = config.resume is not None
    if PartialState().is_main_process:
        check_output(config.output, asdict(config), overwrite=config.overwrite, resume=resume)
    accelerator = create_accelerator(config, config, config.output)
    say, main_process = accelerator.print, accelerator.is_main_process

    data = load(config, say=say)
    splits = data.splits
    class_names = splits["train"].features["label"].names
    # Every process has its own stochastic depth.
    set_seed(config.seed, device_specific=True)
    model = create_model(config, config, class_names)
    loaders = create_loaders(model, splits, config, config, config, seed=config.seed)
    start_masks(model, loaders.train, config, config.area_target)
    image_loader = accelerator.prepare(loaders.train)
    train_loader = accelerator.prepare(loaders.features) if loaders.features else image_loader
    validation_loader = accelerator.prepare(loaders.validation) if loaders.validation else None
    parameters = count_parameters(model)
    say(f"\nTrained on {config.backbone}, which stays frozen:\n{parameter_table(parameters)}")
    say(f"Training images: {len(splits['train'])} of {len(class_names)} classes, no boxes\n")

    epoch_steps = math.ceil(len(train_loader) / config.gradient_accumulation_steps)
    schedule = {"steps": config.epochs * epoch_steps, "checkpoint_every": config.checkpoint_every}
    with RunFolder(
        config.output, asdict(config), main_process=main_process, overwrite=config.overwrite, resume=resume
    ) as folder:
        accelerator.wait_for_everyone()
        for name, content in data.records().items():
            folder.write_json(name, content)
        accelerator.init_trackers("sat_peft")
        best = folder.read_json("best.json")

        # SAT: classification + batch area + normalization, from image labels.
        criterion = create_criterion(config)
        training = Training(accelerator, model, train_loader, config, folder, name="SAT", **schedule)
        for batch in training:
            loss = criterion(training.module(batch["images"]), batch["labels"])
            training.update(loss._asdict())
            if training.step % epoch_steps or not accelerator.sync_gradients:
                continue
            epoch, figure, score = training.step // epoch_steps, "no validation split: last epoch", 0.0
            if validation_loader is not None:
                with training.evaluation() as unwrapped:
                    known = evaluate(sat_method(unwrapped), validation_loader, accelerator, protocol=config.protocol)
                figure = "gt_known" if known.num_with_boxes else "top1_cls"
                score = known.result.summary[figure]
                say(f"epoch {epoch}: validation {figure} {score:.1f}")
            if validation_loader is None or best is None or score > best["score"]:
                best = {"epoch": epoch, "step": training.step, "figure": figure, "score": score}
                if main_process:
                    save_adapter(training.unwrapped(), folder.path / "adapter")
                folder.write_json("best.json", best)
        model = training.finish()
        accelerator.wait_for_everyone()
        load_adapter_weights(model, folder.path / "adapter")
        fit_readout(model, loaders, config)
        if main_process and config.class_readout:
            save_adapter(model, folder.path / "adapter")
        say(f"best epoch: {best['epoch']} ({best['figure']} {best['score']:.1f})")

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
            best=best,
        )
    close_run(accelerator, folder, comparison, results)


if __name__ == "__main__":
    run(
        main,
        partial(parse, Config, PRESETS["full_data"], description=__doc__),
        interrupted=RESUMABLE,
    )
