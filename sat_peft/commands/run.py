"""From a folder of images to boxes: checks the images, trains, predicts and draws the report.

    sat-peft run PHOTOS --output boxes
    sat-peft run PHOTOS --output boxes --formats coco voc label_studio

PHOTOS/CLASS/*.jpg are images whose class is known, at least two of each class; a fifth of them is set aside to test
on. Every image below PHOTOS gets boxes: of its own class where all of them lie in the folder of a class, else of the
predicted one. The output folder holds `check` (what is wrong with the images), `run` (the trained adapter and
report.html) and `predictions`. Given again after an interruption, the command goes on where it stopped.
"""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from sat_peft.errors import UsageError
from sat_peft.options.choices import FormatName
from sat_peft.options.presets import PHOTOS, PRESETS

INTERRUPTED = "the same command goes on where this one stopped"

# A training that sees an image this often at most learns nothing from other views of it, and its tokens may be kept.
_FEW_TIMES = 4


@dataclass(frozen=True)
class Config:
    images: tyro.conf.Positional[Path]
    """Folder with a folder of images for every class, or with the splits train, test and maybe validation of such."""
    output: Path = Path("boxes")
    """Folder for the check, the trained run and the predictions."""
    shots: int | Literal["all"] = "all"
    """Training images per class; by default every one there is. The time of a training depends on its steps alone."""
    steps: int | None = None
    """Optimizer steps; by default those of the preset `photos`."""
    seed: int = 0
    """Seed of the choice of images, the initialisation, the order and the augmentation."""
    backbone: str | None = None
    """Any Vision Transformer of timm; by default what the --weights are of, else DINOv2-S with registers."""
    weights: Path | None = None
    """Local weights of the backbone (a .safetensors file, or a folder with one), instead of a download."""
    image_size: int | None = None
    """Side of the images in pixels; by default that of the preset `photos`."""
    skip_bad: bool = False
    """Leave out images that cannot be used, counted and listed, instead of stopping."""

    formats: tuple[FormatName, ...] = ("jsonl", "coco")
    """Formats of the boxes, as `sat-peft predict` writes them."""
    multi: bool = False
    """A box for every component of the foreground, largest first, instead of the largest component alone."""
    masks: bool = False
    """Also write the region of every box as a PNG mask, and as polygons into `coco` and `label_studio`."""
    overlays: bool = False
    """Also write a picture of map and boxes on every image."""
    threads: int | None = None
    """Threads on a CPU; by default all cores."""


def main(config: Config) -> int:
    # The heavy imports wait until the options are read, so that --help and a mistyped option answer at once.
    from sat_peft.commands import check_data
    from sat_peft.files.outputs import check_writable
    from sat_peft.runs.reader import RunReader
    from sat_peft.tuner import keep_frozen_tokens

    start = time.perf_counter()
    images, output = config.images.absolute(), config.output.absolute()
    if output.is_relative_to(images):
        raise UsageError(
            f"the output folder {str(config.output)!r} lies in the folder of the images, where it would be taken for a "
            "class. Name another with --output."
        )
    check_writable(output)
    run = output / "run"
    if RunReader(run).status() != "finished":
        print(f"[1/3] checking {config.images}")
        checked = check_data.Config(
            data=str(images), output=output / "check", overwrite=True, skip_bad=config.skip_bad, workers=config.threads
        )
        if check_data.main(checked):
            print("\nNothing was trained: correct what stops training, or leave it out with --skip-bad.")
            return 1
    # Training, evaluation and prediction see the same images, most of whose way is through frozen blocks.
    with keep_frozen_tokens():
        print(f"\n[2/3] training in {run}")
        _train(config, images, run)
        print(f"\n[3/3] predicting boxes for the images below {config.images}")
        _predict(config, images, run)
    print(
        f"\nDone in {time.perf_counter() - start:.0f} s.\n"
        f"  boxes:   {output / 'predictions'}\n"
        f"  report:  {run / 'report.html'}  (look at it before you use the boxes)"
    )
    return 0


def _train(config: Config, images: Path, run: Path) -> None:
    """Trains with the recipe few_shot, unless the run is finished; one that was killed goes on, as it was started.

    Raises:
        UsageError: what the recipe raises; the folder holds a run of other options.
    """
    from sat_peft.commands import train
    from sat_peft.runs.folder import is_new
    from sat_peft.runs.reader import RunReader

    arguments = ["few_shot", "--data", str(images), "--shots", str(config.shots), "--seed", str(config.seed)]
    for name in ("steps", "backbone", "weights", "image_size", "threads"):
        value = getattr(config, name)
        if value is not None:
            arguments += [f"--{name.replace('_', '-')}", str(value)]
    if config.skip_bad:
        arguments.append("--skip-bad")
    # Nobody who wants boxes asks how other methods do, which takes as long as the training.
    arguments += ["--baselines", "--output", str(run)]
    features = run.with_name("features")
    if not is_new(run):
        arguments += ["--resume", str(run)]
    elif _sees_few_times(config, images):
        arguments += ["--augmentation", "none", "--feature-cache", str(features)]
    training = train.parse(arguments)  # which holds the options against those of a run that is there
    if RunReader(run).status() == "finished":
        print(f"{run}: finished before")
    else:
        train.main(training)
    shutil.rmtree(features, ignore_errors=True)  # of no use to a run that is finished


def _sees_few_times(config: Config, images: Path) -> bool:
    """Whether the training sees every image, and none of them often."""
    from sat_peft.options.training import OptimizationOptions
    from sat_peft.prediction.inputs import find_images

    steps = config.steps or PRESETS["few_shot"][PHOTOS]["steps"]
    seen, there = steps * OptimizationOptions().batch_size, len(find_images([images]).image_ids)
    return config.shots == "all" and there <= seen <= _FEW_TIMES * there


def _predict(config: Config, images: Path, run: Path) -> None:
    """Predicts a box for every image."""
    from sat_peft.commands import predict

    predict.main(
        predict.Config(
            paths=(str(images),),
            run=run,
            classes="folder" if _all_labelled(images, run) else "predicted",
            formats=config.formats,
            multi=config.multi,
            masks=config.masks,
            overlays=config.overlays,
            threads=config.threads,
            output=config.output.absolute() / "predictions",
        )
    )


def _all_labelled(images: Path, run: Path) -> bool:
    """Whether every image lies in a folder that is named like a class of the trained run."""
    from sat_peft.prediction.inputs import find_images, known_folder_labels
    from sat_peft.runs.restore import trained_from_run

    trained = trained_from_run(run)
    return None not in known_folder_labels(find_images([images]), trained.class_names, trained.display_names)
