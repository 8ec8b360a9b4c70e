"""Evaluates a trained adapter under one or several protocols, beside the baselines that were trained with it.

    sat-peft evaluate --run runs/NAME --protocols original sat wsol
    sat-peft evaluate --adapter DIR --data DIR --output DIR
    accelerate launch -m sat_peft evaluate --run runs/NAME          on several GPUs

Writes tables, plots, figures and per-image records into the run's folder `evaluation`. Thresholds come from the
validation split, are given, or are read off the maps; the evaluated split chooses one only with
--threshold-source oracle, and every output then says so.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sat_peft.data.options import DataOptions
from sat_peft.errors import UsageError
from sat_peft.options.choices import BaselineName, ProtocolName, ThresholdSource, TtaName
from sat_peft.options.trained import TrainedOptions

INTERRUPTED = "the output folder is as it was"


@dataclass(frozen=True)
class Config(TrainedOptions, DataOptions):
    data: str | None = None
    """The data, as few_shot.py takes it; by default the run's. Without it, other options of the data change the run's:
    --data-root where the folder has moved, for example."""
    protocols: tuple[ProtocolName, ...] = ("original",)
    """Evaluation protocols. One that fixes the image size gets the backbone at that size."""
    split: Literal["test", "validation"] = "test"
    """The split that is evaluated."""
    baselines: tuple[BaselineName, ...] | None = None
    """Evaluated beside SAT; by default all whose weights the run has, and the centre box."""

    threshold_source: ThresholdSource | None = None
    """`fixed` (--threshold, or the protocol's own), `validation` (the best there), `unsupervised` (from the maps of
    the validation or, without one, the training images; no boxes) or `oracle` (the best on the evaluated images). By
    default `fixed` with --threshold, else `validation` where that split has boxes, else `unsupervised` for a run and
    `fixed` for an adapter."""
    threshold: float | None = None
    """Threshold of the maps of every method."""

    bootstrap: int = 1000
    """Bootstrap samples for the confidence intervals; 0 for none."""
    tta: TtaName | None = None
    """Test-time augmentation of all methods: `flip` takes the mean over an image and its mirror image, `edges`
    refines maps along the edges of the image; by default that of the run, `none` for an adapter."""
    ten_crop: bool = False
    """Classify by the mean softmax of ten crops where the protocol crops (`sat` on CUB); maps from the centre crop."""
    eval_batch_size: int = 64
    """Images per process and step."""
    num_workers: int = 0
    """Loader processes."""
    threads: int | None = None
    """Threads per process on a CPU; by default all cores, shared among the processes."""
    output: Path | None = None
    """Folder for the results; by default `evaluation` in the run folder."""
    overwrite: bool = False
    """Replace an evaluation in the output folder."""


def main(config: Config) -> None:
    # The heavy imports wait until the options are read, so that --help and a mistyped option answer at once.
    from accelerate import Accelerator, PartialState

    from sat_peft.cpu import prepare_cpu
    from sat_peft.data.options import changed_data_options, data_options
    from sat_peft.evaluation.trained import measure_trained, trained_baselines
    from sat_peft.localization import choose_threshold, get_protocol
    from sat_peft.report.evaluation import check_evaluation_folder, evaluation_contents, markdown, write_evaluation
    from sat_peft.runs.restore import trained_from_adapter, trained_from_run

    # Options: whatever is wrong with them is said before anything is computed.
    folder, output = config.trained_folder(), config.output_folder(config.output, "evaluation")
    if PartialState().is_main_process:
        check_evaluation_folder(output, overwrite=config.overwrite)
    if config.threshold is not None and config.threshold_source not in (None, "fixed"):
        raise UsageError(
            f"--threshold {config.threshold:g} and --threshold-source {config.threshold_source} exclude each other."
        )
    if config.bootstrap < 0:
        raise UsageError(f"bootstrap must be 0 or more, got {config.bootstrap}.")
    protocols = [get_protocol(name) for name in dict.fromkeys(config.protocols)]
    if config.ten_crop and not any(protocol.image.crop for protocol in protocols):
        raise UsageError("--ten-crop needs a protocol that crops its images: sat.")
    if config.threshold is not None:
        choose_threshold("fixed", value=config.threshold)

    find = trained_from_run if config.run else trained_from_adapter
    trained = find(folder, backbone=config.backbone, weights=config.weights)
    selection, set_aside = data_options(config), {}
    if config.data is None:
        if trained.data is None:
            raise UsageError("an adapter does not record its data; name it with --data (part_scenes, or a folder).")
        selection = changed_data_options(trained.data, selection, DataOptions(data=None))
        set_aside = trained.set_aside
    names = trained_baselines(trained, config.baselines)

    accelerator = Accelerator()
    if accelerator.device.type == "cpu":
        prepare_cpu(config.threads)
    measured = measure_trained(
        trained,
        selection,
        config.split,
        protocols,
        accelerator,
        set_aside=set_aside,
        names=names,
        source=config.threshold_source,
        threshold=config.threshold,
        # A run without validation boxes took its threshold from its maps too; an adapter alone gets the protocol's.
        otherwise="unsupervised" if config.run else "fixed",
        bootstrap=config.bootstrap,
        tta=config.tta or trained.tta,
        ten_crops=config.ten_crop,
        batch_size=config.eval_batch_size,
        num_workers=config.num_workers,
    )
    about = {
        "run": config.run,
        "adapter": trained.adapter,
        "backbone": trained.backbone,
        "data": selection.data,
        "data_root": selection.data_root,
        "split": config.split,
        "bootstrap": config.bootstrap,
        "tta": config.tta or trained.tta,
    }
    results, *details = evaluation_contents(about, measured)
    if accelerator.is_main_process:
        write_evaluation(output, results, *details)
    accelerator.print(f"\n{markdown(results)}\nWritten to {output}")
