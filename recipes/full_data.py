"""Fine-tuning on all training images: learns to localise objects from image labels, without any box.

    accelerate launch recipes/full_data.py                                             the generated PartScenes
    accelerate launch recipes/full_data.py --preset cub --data-root CUB_200_2011       the published settings

After every epoch the model is measured on the validation split, and the best adapter is kept: by GT-known Loc where the
split has boxes, else by classification accuracy. The test split is looked at once, at the end, and chooses nothing.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import partial
from typing import Literal

from sat_peft.commands.command_line import RESUMABLE, parse, run
from sat_peft.errors import UsageError
from sat_peft.options.presets import PRESETS
from sat_peft.training.options import RecipeOptions

# What needs torch is imported inside the function, so that --help and a mistyped option answer at once.

PresetName = Literal[tuple(PRESETS["full_data"])]


@dataclass(frozen=True)
class Config(RecipeOptions):
    preset: PresetName | None = None
    """Named settings, which other options override; by default `part_scenes` for that data (of
    `--difficulty cluttered`, `cluttered_scenes`), else `photos`."""
    seed: int = 0
    """Seed of the initialisation, the order and the augmentation."""
    epochs: int = 3
    """Passes over the training images."""


def main(config: Config) -> None:
    from sat_peft import save_adapter
    from sat_peft.data.options import load
    from sat_peft.evaluation.evaluator import evaluate
    from sat_peft.evaluation.measure import sat_method
    from sat_peft.training.building import fit_readout
    from sat_peft.training.experiment import Experiment, refuse_taken_folder, settled
    from sat_peft.tuner.checkpoint import load_adapter_weights

    if config.epochs < 1:
        raise UsageError(f"epochs must be at least 1, got {config.epochs}.")
    config = dataclasses.replace(settled(config), output=config.folder("full_data"))
    refuse_taken_folder(config)
    experiment = Experiment(config, partial(load, config))
    accelerator, epoch_steps = experiment.accelerator, experiment.epoch_steps
    say, main_process = accelerator.print, accelerator.is_main_process
    validation_loader = None
    if experiment.loaders.validation:
        validation_loader = accelerator.prepare(experiment.loaders.validation)
    with experiment.open(config.epochs * epoch_steps) as training:
        best = experiment.folder.read_json("best.json")

        # SAT learns from image labels: logits are held to them, maps to an area, to 0 and 1, to object and ground.
        for batch in training:
            loss = experiment.criterion(training.module(batch["images"]), batch["labels"])
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
                    save_adapter(training.unwrapped(), config.output / "adapter")
                experiment.folder.write_json("best.json", best)
        model = training.finish()
        accelerator.wait_for_everyone()
        load_adapter_weights(model, config.output / "adapter")
        fit_readout(model, experiment.loaders, config)
        if main_process and config.class_readout:
            save_adapter(model, config.output / "adapter")
        say(f"best epoch: {best['epoch']} ({best['figure']} {best['score']:.1f})")
        experiment.conclude(model, best=best)


if __name__ == "__main__":
    run(
        main,
        partial(parse, Config, PRESETS["full_data"], description=__doc__),
        interrupted=RESUMABLE,
    )
