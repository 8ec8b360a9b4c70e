"""A trained model measured again: SAT and the baselines that were trained with it, on whatever data."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from accelerate import Accelerator
from datasets import Dataset
from torch import nn

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
from sat_peft.evaluation.measure import Measured, MeasuredLoaders, measure, sat_method, threshold_source
from sat_peft.evaluation.registry import baselines, localizers, needed_classifiers
from sat_peft.localization import Protocol
from sat_peft.restore import TrainedModel
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
        methods: by name.
    """

    protocol: Protocol
    image_size: tuple[int, int]
    ten_crops: bool
    methods: dict[str, Measured]


@dataclass(frozen=True)
class EvaluationData:
    """The images that a trained model is measured on.

    Args:
        rows: of the evaluated split.
        class_names: as they are shown.
        source: where thresholds come from.
        held_out: rows of a validation split with boxes, which is not evaluated.
        unlabelled: rows whose maps suggest thresholds; None where they do not.
        problems: what was skipped.
    """

    rows: Dataset
    class_names: list[str]
    source: str
    held_out: Dataset | None
    unlabelled: Dataset | None
    problems: Problems


def evaluation_data(
    trained: TrainedModel,
    options: DataOptions,
    split: str,
    *,
    set_aside: Mapping[str, Sequence[str]],
    source: str | None = None,
    threshold: float | None = None,
    otherwise: str = "unsupervised",
    say: Callable[[str], None] = print,
) -> EvaluationData:
    """Loads the evaluated split, and the one that chooses thresholds where that is another.

    Args:
        trained: whose classes the data must have.
        options: of the data.
        split: that is evaluated.
        set_aside: as `load_splits` takes it.
        source, threshold, otherwise: see `threshold_source`.
        say: takes lines of text.

    Raises:
        UsageError: no such split, no boxes in it, or other classes than those of the model.
    """
    loaded = load(options, dict.fromkeys([split, "validation"]), set_aside=set_aside, say=say)
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
    unlabelled = None
    if source == "unsupervised":
        # As recipes do: the maps of a validation split without boxes, else of some training images.
        train = load(options, ["train"], set_aside=set_aside, say=say).splits["train"] if validation is None else None
        unlabelled = sample_evenly(train, UNLABELLED_IMAGES) if validation is None else validation
    return EvaluationData(rows, class_names, source, held_out, unlabelled, loaded.problems)


def measure_trained(
    trained: TrainedModel,
    data: EvaluationData,
    protocols: Sequence[Protocol],
    accelerator: Accelerator,
    *,
    names: Collection[str],
    threshold: float | None,
    bootstrap: int,
    ten_crops: bool = False,
    batch_size: int = 64,
    num_workers: int = 0,
) -> list[ProtocolMeasurement]:
    """Measures SAT and baselines under several protocols.

    Args:
        trained: the model.
        data: what it is measured on.
        protocols: one that fixes the image size gets the backbone at that size.
        accelerator: `Accelerator` of the run.
        names: of the baselines, see `trained_baselines`.
        threshold, bootstrap: see `measure`.
        ten_crops: classify by ten crops where a protocol crops.
        batch_size, num_workers: of the loaders, per process.

    Returns:
        One measurement for every protocol, in their order.
    """
    found = {}
    sizes = {protocol: protocol.image.crop or protocol.image.resize or trained.image_size for protocol in protocols}
    for size in dict.fromkeys(sizes.values()):
        backbone = trained.create_backbone(size)
        config = resolve_data_config(backbone)
        for protocol in [protocol for protocol in protocols if sizes[protocol] == size]:
            crops = ten_crops and protocol.image.crop is not None
            build = partial(
                build_evaluation_loader,
                config=config,
                protocol=protocol,
                batch_size=batch_size,
                num_workers=num_workers,
            )
            loaders = MeasuredLoaders(
                accelerator.prepare(build(data.rows, masks=True, ten_crop=crops)),
                *(rows and accelerator.prepare(build(rows)) for rows in (data.held_out, data.unlabelled)),
            )
            measured = measure(
                trained_methods(trained, backbone, names, accelerator.device),
                loaders,
                accelerator,
                protocol=protocol,
                source=data.source,
                threshold=threshold,
                priors=names,
                bootstrap=bootstrap,
                augment=ten_crop if crops else None,
            )
            found[protocol] = ProtocolMeasurement(protocol, config.image_size, crops, measured)
    return [found[protocol] for protocol in protocols]
