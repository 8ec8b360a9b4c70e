"""A trained model measured again: SAT and the baselines that were trained with it, on whatever data."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from datasets import Dataset
from torch import nn
from torch.utils.data import DataLoader

from sat_peft.backbones import resolve_data_config
from sat_peft.data.features import rows_with_boxes
from sat_peft.data.loaders import UNLABELLED_IMAGES, build_evaluation_loader
from sat_peft.data.options import DataOptions, load
from sat_peft.data.shots import sample_evenly
from sat_peft.data.sources import Problems
from sat_peft.data.splits import check_class_names
from sat_peft.errors import UsageError
from sat_peft.evaluation.evaluator import Method, ten_crop
from sat_peft.evaluation.frozen import load_trained
from sat_peft.evaluation.measure import BOOTSTRAP, Measured, MeasuredLoaders, measure, sat_method, threshold_source
from sat_peft.evaluation.registry import baselines, localizers, needed_classifiers, shared_passes
from sat_peft.localization import Protocol
from sat_peft.runs.restore import TrainedModel
from sat_peft.tuner import load_adapter


def trained_baselines(trained: TrainedModel, names: Collection[str] | None = None) -> list[str]:
    """The baselines `names`, by default all, of which the run has what they need.

    Raises:
        UsageError: one that is named lacks its weights.
    """
    missing = {name: [n for n in needed_classifiers([name]) if n not in trained.baselines] for name in baselines()}
    if names is None:
        return [name for name in baselines() if not missing[name]]
    lacking = list(dict.fromkeys(each for name in names for each in missing[name]))
    if lacking:
        raise UsageError(
            f"there are no trained weights of the baselines {', '.join(lacking)} here; a run of few_shot.py with "
            f"--baselines {' '.join(lacking)} leaves them in its folder."
        )
    return [name for name in baselines() if name in names]


def baseline_methods(
    trained: TrainedModel, backbone: nn.Module, names: Collection[str], device: torch.device
) -> Iterator[tuple[str, Method]]:
    """Name and method of the baselines of a run that have maps, on a bare backbone."""
    classifiers = {}
    for name in needed_classifiers(names):
        classifiers[name] = baselines()[name].classifier(backbone, trained.num_classes).eval()
        load_trained(classifiers[name], trained.baselines[name])
        classifiers[name].to(device)
    return localizers(names, classifiers)


def trained_methods(
    trained: TrainedModel, backbone: nn.Module, names: Collection[str], device: torch.device
) -> Iterator[tuple[str, Method]]:
    """SAT, then the baselines: they read the bare backbone, out of which the adapter is taken again."""
    model = load_adapter(backbone, trained.adapter).to(device)
    yield "sat", sat_method(model)
    yield from baseline_methods(trained, model.unload(), names, device)


@dataclass(frozen=True)
class ProtocolMeasurement:
    """What was measured under one protocol.

    Args:
        protocol: the protocol.
        image_size: (height, width) of the images in pixels.
        ten_crops: classes are those of ten crops.
        methods: methods by name.
    """

    protocol: Protocol
    image_size: tuple[int, int]
    ten_crops: bool
    methods: dict[str, Measured]


@dataclass(frozen=True)
class TrainedMeasurement:
    """What a trained model and its baselines reached on a split.

    Args:
        protocols: one measurement for every protocol.
        image_ids, labels: of all rows of the split; labels as they are shown.
        num_classes: number of classes C.
        problems: what was skipped of the data.
    """

    protocols: list[ProtocolMeasurement]
    image_ids: list[str]
    labels: list[str]
    num_classes: int
    problems: Problems


def measure_trained(
    trained: TrainedModel,
    options: DataOptions,
    split: str,
    protocols: Sequence[Protocol],
    accelerator: Accelerator,
    *,
    set_aside: Mapping[str, Sequence[str]],
    names: Collection[str],
    source: str | None = None,
    threshold: float | None = None,
    otherwise: str = "unsupervised",
    bootstrap: int = BOOTSTRAP,
    tta: str = "none",
    ten_crops: bool = False,
    batch_size: int = 64,
    num_workers: int = 0,
) -> TrainedMeasurement:
    """Measures SAT and baselines under several protocols.

    Args:
        trained: the model, whose classes the data must have.
        options: options of the data.
        split: split that is evaluated; a validation split with boxes that is another chooses thresholds.
        protocols: one that fixes the image size gets the backbone at that size.
        accelerator: `Accelerator` of the run.
        set_aside: as `load_splits` takes it.
        names: names of the baselines, see `trained_baselines`.
        source, threshold, otherwise: see `threshold_source`.
        bootstrap, tta: see `measure`.
        ten_crops: classify by ten crops where a protocol crops.
        batch_size, num_workers: of the loaders, per process.

    Raises:
        UsageError: no such split, no boxes in it, or other classes than those of the model.
    """
    loaded = load(options, dict.fromkeys([split, "validation"]), set_aside=set_aside)
    if split not in loaded.splits:
        raise UsageError(f"{options.data} has no {split} split.")
    rows = loaded.splits[split]
    class_names = rows.features["label"].names
    shown = trained.display_names | loaded.display_names
    check_class_names(trained.class_names, trained.num_classes, class_names, shown)
    if not loaded.display_names:
        class_names = [shown.get(name, name) for name in class_names]
    if not len(rows_with_boxes(rows)):
        raise UsageError(f"the {split} split of {options.data} has no boxes, so localisation cannot be measured.")
    validation = loaded.splits.get("validation") if split != "validation" else None
    held_out = validation if validation is not None and len(rows_with_boxes(validation)) else None
    source = threshold_source(source, threshold=threshold, held_out=held_out, otherwise=otherwise)
    # As recipes do: the maps of a validation split without boxes, else of some training images.
    unlabelled = validation if source == "unsupervised" else None
    if source == "unsupervised" and validation is None:
        train = load(options, ["train"], set_aside=set_aside).splits["train"]
        unlabelled = sample_evenly(train, UNLABELLED_IMAGES)

    backbones, measured = {}, []
    for protocol in protocols:
        size = protocol.image.crop or protocol.image.resize or trained.image_size
        # Position embeddings are resized where a protocol fixes another image size than the training's.
        if size not in backbones:
            backbones = {size: trained.create_backbone(size)}
        config = resolve_data_config(backbones[size])
        crops = ten_crops and protocol.image.crop is not None

        def loader(rows: Dataset | None, protocol=protocol, config=config, **views) -> DataLoader | None:
            sizes = {"batch_size": batch_size, "num_workers": num_workers}
            made = rows and build_evaluation_loader(rows, config, protocol=protocol, **sizes, **views)
            return made and accelerator.prepare(made)

        with shared_passes(names):
            methods = measure(
                trained_methods(trained, backbones[size], names, accelerator.device),
                MeasuredLoaders(loader(rows, masks=True, ten_crop=crops), loader(held_out), loader(unlabelled)),
                accelerator,
                protocol=protocol,
                source=source,
                threshold=threshold,
                priors=names,
                bootstrap=bootstrap,
                tta=tta,
                augment=ten_crop if crops else None,
            )
        measured.append(ProtocolMeasurement(protocol, config.image_size, crops, methods))
    labels = [class_names[label] for label in rows["label"]]
    return TrainedMeasurement(measured, rows["image_id"][:], labels, len(class_names), loaded.problems)
