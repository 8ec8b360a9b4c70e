"""Predicts classes and boxes for image files with a trained adapter, and writes them for annotation tools.

    sat-peft predict PHOTOS --run runs/NAME --formats coco yolo
    sat-peft predict 'PHOTOS/**/*.jpg' one.png --adapter DIR --output DIR --overlays
    sat-peft predict --data cub --data-root DIR --split train --run runs/NAME
    accelerate launch -m sat_peft predict PHOTOS --run runs/NAME          on several GPUs

Boxes are in pixels of the upright image (EXIF orientation applied) under protocol `original`. Give the same command
again after an interruption: images that are done are not predicted twice. Images that cannot be read are counted,
listed in skipped.jsonl and tried again next time; so are images of more than 178 million pixels, which PIL refuses as
possible decompression bombs.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from sat_peft.commands.command_line import localizer_of
from sat_peft.data.options import SourceOptions, open_data, source_options, with_absolute_paths
from sat_peft.errors import UsageError
from sat_peft.options.choices import TTA_IN_WORDS, FormatName, TtaName
from sat_peft.options.trained import TrainedOptions

INTERRUPTED = "the same command goes on where this one stopped"


@dataclass(frozen=True)
class Config(SourceOptions, TrainedOptions):
    paths: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="[IMAGES ...]")] = ()
    """Image files, folders (searched recursively) and quoted glob patterns."""
    data: str | None = None
    """Instead of images, a data set as the training recipes take it: a source, a folder with a known layout, hub:ID."""
    skip_bad: bool = False
    """Leave out entries of --data that cannot be used, and say how many, instead of stopping at the first one."""
    split: Literal["train", "validation", "test"] = "test"
    """The split of --data."""

    classes: Literal["predicted", "folder", "data"] = "predicted"
    """`predicted`: the most probable class. `folder`: the class is known, as the name of a folder above the image, its
    own or the one that a classes.txt shows for it. `data`: the class is that of --data."""
    threshold: float | None = None
    """Threshold of the maps; by default the one that the run chose, else the protocol's."""
    tta: TtaName | None = None
    """Test-time augmentation: `flip` takes the mean over an image and its mirror image, in twice the time;
    `edges` refines maps along the edges of the image, and so masks; by default that of the run, `none` for an
    adapter."""
    multi: bool = False
    """A box for every component of the foreground, largest first, instead of the largest component alone."""
    min_area: float = 0.01
    """Smallest component that --multi keeps, as a share of the image."""

    formats: tuple[FormatName, ...] = ("jsonl", "coco")
    """`jsonl` (predictions.jsonl), `coco` (coco.json), `voc` (voc/*.xml), `yolo` (yolo/labels/*.txt), `label_studio`
    (label_studio/tasks.json, with the boxes as predictions), `imagefolder` (metadata.jsonl, for the root folder of the
    images)."""
    flat: tyro.conf.FlagCreatePairsOff[bool] = False
    """The files of `voc` and `yolo` in one folder, as most of their readers expect: the default where no two images
    have the same name."""
    no_flat: tyro.conf.FlagCreatePairsOff[bool] = False
    """The files of `voc` and `yolo` in folders like those of the images."""
    image_root_url: str = "/data/local-files/?d="
    """URL under which Label Studio finds the root folder of the images; by default its local files."""
    maps: bool = False
    """Also write every map as an 8-bit PNG in the size of its image."""
    masks: bool = False
    """Also write the region of every box as an 8-bit PNG, 0 or 255, in the size of its image, and its outlines as
    polygons into `coco` and `label_studio`."""
    overlays: bool = False
    """Also write a picture of map and boxes on every image."""

    strict: bool = False
    """Stop at the first image that cannot be read."""
    batch_size: int = 64
    """Images per process and forward pass."""
    num_workers: int = 2
    """Threads that read images, per process of the launch."""
    threads: int | None = None
    """Threads per process on a CPU; by default all cores, shared among the processes."""
    output: Path | None = None
    """Folder for the predictions; by default `predictions` in the run folder."""
    overwrite: bool = False
    """Replace predictions in the output folder."""


def read_split(config: Config):
    """The rows of the data set that the options name, and how it is called."""
    from accelerate import PartialState

    from sat_peft.data.sources import Problems

    options, problems = with_absolute_paths(config), Problems(skip=config.skip_bad)
    rows = open_data(options).read(config.split, problems)
    for line in problems.lines():
        PartialState().print(line)
    if rows is None:
        raise UsageError(f"{config.data} has no {config.split} split; name another with --split.")
    return rows, " ".join([config.split, "of", options.data, *([str(options.data_root)] if options.data_root else [])])


def main(config: Config) -> None:
    # The heavy imports wait until the options are read, so that --help and a mistyped option answer at once.
    from accelerate import Accelerator, PartialState

    from sat_peft.cpu import prepare_cpu
    from sat_peft.prediction.folder import check_prediction_folder
    from sat_peft.prediction.inputs import (
        data_set_images,
        data_set_labels,
        find_images,
        folder_labels,
        known_folder_labels,
    )
    from sat_peft.prediction.predict import predict
    from sat_peft.runs.restore import trained_from_run

    config.trained_folder()  # A mistake in it is told before images are looked for.
    output = config.output_folder(config.output, "predictions")
    of_data = [name for name in ("data_root", "skip_bad", "allow_outside") if getattr(config, name)]
    of_data += source_options(config)
    if config.data is None and (of_data or config.classes == "data"):
        flags = [f"--{name.replace('_', '-')}" for name in of_data] or ["--classes data"]
        raise UsageError(
            f"{', '.join(flags)} goes with a data set, and none is named. Name it with --data, or leave the option out."
        )
    if config.data is not None and (config.paths or config.classes == "folder"):
        raise UsageError("image files and --classes folder do not go with --data; leave out one of them.")
    if config.flat and config.no_flat:
        raise UsageError("--flat and --no-flat exclude each other; leave out both, and flat is taken where it can be.")
    if PartialState().is_main_process:
        check_prediction_folder(output)
    if config.data is None:
        images = find_images(config.paths, leave_out=output)
    else:
        rows, name = read_split(config)
        images = data_set_images(rows, name)

    accelerator = Accelerator()
    if accelerator.device.type == "cpu":
        prepare_cpu(config.threads)
    say = accelerator.print
    localizer = localizer_of(config, device=accelerator.device)
    shown = trained_from_run(config.run).display_names if config.run else {}
    labels, names = None, localizer.class_names
    if config.classes == "folder":
        labels = folder_labels(images, names, shown)
    elif config.classes == "data":
        labels = data_set_labels(rows, names, shown)
    if config.data is None:
        # Told beside the predicted classes, where the folders tell them.
        known = labels or known_folder_labels(images, names, shown)
        given = [None if label is None else names[label] for label in known]
    else:
        given = [shown.get(name, name) for name in map(rows.features["label"].int2str, rows["label"])]
    say(f"{len(images.image_ids)} images {'below' if config.data is None else 'of'} {images.root}")
    threshold = f"threshold {localizer.threshold.value:g} ({localizer.threshold.source})"
    say(", ".join(filter(None, ["Protocol original", threshold, TTA_IN_WORDS[localizer.tta]])))
    summary = predict(
        localizer,
        images,
        output,
        accelerator,
        labels=labels,
        given_labels=given,
        formats=config.formats,
        multi=config.multi,
        min_area=config.min_area,
        maps=config.maps,
        masks=config.masks,
        overlays=config.overlays,
        flat=config.flat or (False if config.no_flat else None),
        image_root_url=config.image_root_url,
        strict=config.strict,
        overwrite=config.overwrite,
        batch_size=config.batch_size,
        num_workers=config.num_workers,
    )
    new = summary.images - summary.done_before
    if summary.done_before:
        say(f"{summary.done_before} images were done before")
    say(f"{new} images in {summary.seconds:.1f} s ({new / max(summary.seconds, 1e-9):.0f} a second)")
    for file in summary.files:
        say(f"  {file}")
    if summary.whole_image_boxes:
        say(f"{summary.whole_image_boxes} of {summary.images} boxes are the whole image; where that is wrong, a higher")
        say(f"--threshold (it is {localizer.threshold.value:g}) makes them smaller")
    if summary.failures:
        first, reason = next(iter(summary.failures.items()))
        say(f"warning: {len(summary.failures)} of {summary.images} images skipped, listed in skipped.jsonl; {first}:")
        say(f"  {reason}")
