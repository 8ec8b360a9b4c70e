"""What every recipe does around its training loop: model and loaders from its options, the run folder, the figures at
the end. The loop and the loss stay in the recipe.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, TypeVar

from accelerate import PartialState
from accelerate.utils import set_seed
from peft import PeftModel

from sat_peft.backbones import choose_backbone
from sat_peft.data.options import with_absolute_paths
from sat_peft.data.shots import choose_shots
from sat_peft.data.splits import DataSplits
from sat_peft.errors import UsageError
from sat_peft.localization import choose_threshold
from sat_peft.report.tables import parameter_table
from sat_peft.runs.folder import RunFolder, check_output
from sat_peft.training.building import (
    create_accelerator,
    create_criterion,
    create_loaders,
    create_model,
    start_masks,
)
from sat_peft.training.comparison import close_run, compare, write_results
from sat_peft.training.loop import Training
from sat_peft.training.options import RecipeOptions
from sat_peft.tuner.parameters import count_parameters

logger = logging.getLogger(__name__)

Options = TypeVar("Options", bound=RecipeOptions)


def settled(options: Options) -> Options:
    """The options with absolute paths and a named backbone: what config.json records.

    Raises:
        UsageError: a threshold that cannot be, which is refused now and not after the training; weights without a
            backbone that they are of.
    """
    if options.threshold is not None:
        choose_threshold("fixed", value=options.threshold)
    options = with_absolute_paths(options)
    return dataclasses.replace(options, backbone=choose_backbone(options.backbone, options.weights))


def refuse_taken_folder(options: RecipeOptions) -> None:
    """Raises `UsageError` in the main process if the output folder cannot take the run, before data are read."""
    if PartialState().is_main_process:
        check_output(
            options.output,
            dataclasses.asdict(options),
            overwrite=options.overwrite,
            resume=options.resume is not None,
        )


class Experiment:
    """One training and what it is measured on, as the options of a recipe ask for it.

    Args:
        options: settled, with an output folder.
        read_data: returns the splits.
        shots: training images of every class, drawn by the seed, or `all` of them.
        image_ids: image_ids.json of a run, whose training images are taken instead.
        max_parameters: refuse to train more parameters than these.

    Attributes:
        accelerator: `Accelerator` of the run.
        model: the backbone with its adapter.
        loaders: loaders of all splits, not prepared.
        train_loader: prepared, with images or cached features.
        criterion: loss of output and labels.
        folder: run folder, while it is `open`.

    Raises:
        UsageError: whatever reading data, creating the model or the loaders raises; more than `max_parameters`.
    """

    def __init__(
        self,
        options: RecipeOptions,
        read_data: Callable[[], DataSplits],
        *,
        shots: int | Literal["all"] = "all",
        image_ids: Path | None = None,
        max_parameters: int | None = None,
    ):
        self._start = time.perf_counter()
        self.options, self._drawn = options, shots != "all"
        self.accelerator = create_accelerator(options, options, options.output)
        self._data = read_data()
        splits = dict(self._data.splits)
        if self._drawn:
            splits["train"] = choose_shots(splits["train"], shots, options.seed, image_ids=image_ids)
        self._train, class_names = splits["train"], splits["train"].features["label"].names
        # Every process has its own stochastic depth.
        set_seed(options.seed, device_specific=True)
        self.model = create_model(options, options, class_names)
        self._parameters = count_parameters(self.model)
        logger.info(f"\nTrained on {options.backbone}, which stays frozen:\n{parameter_table(self._parameters)}")
        if max_parameters is not None and self._parameters.trainable > max_parameters:
            raise UsageError(
                f"{self._parameters.trainable:,} parameters would be trained, more than --max-parameters "
                f"{max_parameters:,}. Take a smaller head (--head conv1x1), a lower --lora-rank, "
                "fewer layers (--lora-targets proj), or --tune none."
            )
        self.loaders = create_loaders(self.model, splits, options, options, options, seed=options.seed)
        start_masks(self.model, self.loaders.train, options, options.area_target)
        self._images = self.accelerator.prepare(self.loaders.train)
        features = self.loaders.features
        self.train_loader = self.accelerator.prepare(features) if features else self._images
        chosen = f"listed in {image_ids}, of" if image_ids else f"{shots} for each of" if self._drawn else "all of"
        logger.info(f"Training images: {len(self._train)} ({chosen} {len(class_names)} classes), no boxes\n")
        self.criterion = create_criterion(options)

    @property
    def epoch_steps(self) -> int:
        """Optimizer steps of one pass over the training images."""
        return math.ceil(len(self.train_loader) / self.options.gradient_accumulation_steps)

    @contextmanager
    def open(self, steps: int) -> Iterator[Training]:
        """The run folder, locked and with the records of the data, and the training of SAT in it.

        Args:
            steps: optimizer steps of SAT, and of every baseline that is trained.
        """
        options, accelerator = self.options, self.accelerator
        self._schedule = {"steps": steps, "checkpoint_every": options.checkpoint_every}
        with RunFolder(
            options.output,
            dataclasses.asdict(options),
            main_process=accelerator.is_main_process,
            overwrite=options.overwrite,
            resume=options.resume is not None,
        ) as self.folder:
            accelerator.wait_for_everyone()
            if self._drawn:
                self.folder.write_json("image_ids.json", self._train["image_id"][:])
            for name, content in self._data.records().items():
                self.folder.write_json(name, content)
            accelerator.init_trackers("sat_peft")
            yield Training(
                accelerator, self.model, self.train_loader, options, self.folder, name="SAT", **self._schedule
            )
        close_run(accelerator, self.folder, self._comparison, self._results)

    def conclude(self, model: PeftModel, **more: object) -> dict:
        """Measures the trained model and the baselines, and writes what is left of a run. Returns its results.json.

        Args:
            model: the trained model, which is unloaded; its adapter is saved.
            more: entries of results.json that are the recipe's own.
        """
        options = self.options
        self._comparison = compare(
            model,
            self._images,
            self.loaders,
            self.accelerator,
            self.folder,
            options,
            loss=options,
            optimization=options,
            **self._schedule,
        )
        self._results = write_results(
            self.folder,
            self._comparison,
            protocol=options.protocol,
            tta=options.tta,
            parameters=self._parameters,
            training_images=len(self._train),
            seconds=time.perf_counter() - self._start,
            **more,
        )
        return self._results
