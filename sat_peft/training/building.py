"""From a recipe's options to what they mean: the model, the loss, Accelerate."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from importlib.metadata import version
from itertools import islice
from pathlib import Path

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import DistributedType
from accelerate.utils import imports as available
from datasets import Dataset
from peft import PeftModel, get_peft_model
from torch import nn
from torch.utils.data import DataLoader, Subset

from sat_peft.backbones import choose_backbone, create_backbone, resolve_data_config
from sat_peft.cpu import prepare_cpu
from sat_peft.data.feature_cache import FeatureRows, FeatureSource, build_feature_loader, open_feature_cache
from sat_peft.data.loaders import ImageRows, Loaders, build_loaders
from sat_peft.data.splits import check_class_names
from sat_peft.errors import UsageError
from sat_peft.options.training import EvaluationOptions, LossOptions, ModelOptions, OptimizationOptions, RunOptions
from sat_peft.training.losses import SatLoss
from sat_peft.tuner import SatConfig, calibrate_masks, fit_class_readout, load_adapter
from sat_peft.tuner.embedding import class_token
from sat_peft.tuner.scope import frozen_blocks

logger = logging.getLogger(__name__)

# Libraries that decide what the frozen blocks make of an image file.
DECIDING = ("pillow", "timm", "torchvision")
# Images that masks are calibrated on; mean and contrast over them change little with more.
CALIBRATION_IMAGES = 64


def create_model(options: ModelOptions, optimization: OptimizationOptions, class_names: list[str]) -> PeftModel:
    """The backbone with its adapter.

    Args:
        options: options of the backbone and the adapter.
        optimization: stochastic depth and gradient checkpointing of the backbone.
        class_names: class names of the head.

    Raises:
        UsageError: a backbone or weights that cannot be had, an option that does not fit the backbone, or an
            `init_adapter` of another configuration.
    """
    backbone = create_backbone(
        choose_backbone(options.backbone, options.weights),
        weights=options.weights,
        image_size=options.image_size,
        drop_path_rate=optimization.drop_path,
    )
    backbone.set_grad_checkpointing(optimization.gradient_checkpointing)
    config = _sat_config(options, backbone, class_names, cached=optimization.feature_cache is not None)
    if options.init_adapter is None:
        return get_peft_model(backbone, config)
    model = load_adapter(backbone, options.init_adapter, is_trainable=True)
    _check_same(config, model.peft_config["default"], options.init_adapter)
    return model


def _sat_config(options: ModelOptions, backbone: nn.Module, class_names: list[str], *, cached: bool) -> SatConfig:
    default_init = "random" if class_token(backbone) is None else "class_token"
    return SatConfig(
        num_classes=len(class_names),
        num_spatial_blocks=options.num_spatial_blocks or max(1, len(backbone.blocks) // 4),
        calibrated_masks=options.calibrated_masks,
        tune=options.tune,
        num_tuned_blocks=options.num_tuned_blocks,
        head=options.head,
        train_head=options.train_head,
        token_entry=options.token_entry,
        # Cached tokens are those of a deterministic pass.
        drop_path_in_frozen_blocks=not cached,
        token_init=options.token_init or default_init,
        **({"r": options.lora_rank, "lora_alpha": options.lora_rank} if options.tune == "lora" else {}),
        target_modules=list(options.lora_targets) or None,
        use_dora=options.use_dora,
        class_names=class_names,
    )


def _check_same(wanted: SatConfig, found: SatConfig, folder: Path) -> None:
    """Refuses an adapter to start from that is not what the options ask for."""
    check_class_names(found.class_names, found.num_classes, wanted.class_names)
    for name in (
        "num_spatial_blocks",
        "calibrated_masks",
        "tune",
        "num_tuned_blocks",
        "token_entry",
        "head",
        *(("r",) if wanted.tune == "lora" else ()),
    ):
        if getattr(wanted, name) != getattr(found, name):
            raise UsageError(
                f"the adapter {folder} was trained with {name} {getattr(found, name)!r}, the options ask for "
                f"{getattr(wanted, name)!r}. Give the adapter's, or start without --init-adapter."
            )


def create_loaders(
    model: PeftModel,
    splits: Mapping[str, Dataset],
    optimization: OptimizationOptions,
    evaluation: EvaluationOptions,
    run: RunOptions,
    *,
    seed: int,
) -> Loaders:
    """The loaders of a training of `model`, whose backbone decides size and normalisation of the images.

    Args:
        model: model of `create_model`.
        splits: `train`, `test` and maybe `validation`.
        optimization: batch size, augmentation and feature cache of the training images, which stay decoded in memory up
            to a bound.
        evaluation: protocol and batch size of the other splits.
        run: loader processes.
        seed: seed of the training order and its views.

    Raises:
        UsageError: options out of range, or a feature cache that the adapter has no use for or that cannot be built.
    """
    loaders = build_loaders(
        splits,
        resolve_data_config(model.get_base_model()),
        protocol=evaluation.protocol,
        batch_size=optimization.batch_size,
        eval_batch_size=evaluation.eval_batch_size,
        augmentation=optimization.augmentation,
        num_workers=run.num_workers,
        cache_train=True,
        seed=seed,
    )
    _tell_uneven(len(loaders.train.dataset), optimization.batch_size)
    if optimization.feature_cache is None:
        return loaders
    rows = _cached_features(model, loaders.train.dataset, optimization, run)
    return replace(
        loaders,
        features=build_feature_loader(rows, batch_size=optimization.batch_size, num_workers=run.num_workers, seed=seed),
    )


def _tell_uneven(images: int, batch_size: int) -> None:
    """Says where several processes do not train as one would."""
    state = PartialState()
    rest = images % (batch_size * state.num_processes)
    if state.num_processes > 1 and rest:
        logger.info(
            f"The last step of an epoch has {rest} images for {state.num_processes} processes of {batch_size}; "
            "Accelerate repeats others to fill it up, so the training differs a little from that of one process. A "
            f"--batch-size by which {images} images can be divided, times the processes, avoids it."
        )


def _cached_features(
    model: PeftModel, images: ImageRows, optimization: OptimizationOptions, run: RunOptions
) -> FeatureRows:
    """The training images as the frozen blocks of `model` leave them."""
    state, sat = PartialState(), model.base_model
    vit = model.get_base_model()
    if not frozen_blocks(vit, model.peft_config["default"]):
        raise UsageError(
            "--feature-cache needs first blocks that neither the spatial token nor the training reaches: give "
            "--token-entry late, and --num-spatial-blocks and --num-tuned-blocks below the number of the backbone's "
            f"blocks, {len(vit.blocks)}."
        )
    model.to(state.device)
    source = FeatureSource(
        images,
        views=1 if optimization.augmentation == "none" else optimization.feature_views,
        compute=lambda batch: sat.frozen_tokens(batch.to(state.device)).tokens,
        identity={"backbone": sat.frozen_fingerprint(), "versions": {name: version(name) for name in DECIDING}},
        image_shape=(3, *resolve_data_config(vit).image_size),
        dtype=optimization.feature_dtype,
        num_workers=run.num_workers,
    )
    return open_feature_cache(optimization.feature_cache, source, limit=optimization.feature_cache_limit)


def start_masks(model: PeftModel, loader: DataLoader, options: ModelOptions, area_target: float) -> None:
    """Calibrates the masks of a model that has such, on the first images of the training, to the area target.

    Every process calibrates on the same images. An adapter to start from has its calibration, and keeps it.

    Args:
        model: model of `create_model`.
        loader: the loader `train` of `create_loaders`, before it is prepared.
        options: options of the model.
        area_target: area target of the loss.

    Raises:
        UsageError: an area target that no mask can have.
    """
    if not options.calibrated_masks or options.init_adapter is not None:
        return
    samples = [loader.dataset[view] for view in islice(loader.sampler, CALIBRATION_IMAGES)]
    device = PartialState().device
    calibrate_masks(model.to(device), torch.stack([sample["image"] for sample in samples]).to(device), area_target)


def fit_readout(model: PeftModel, loaders: Loaders, options: ModelOptions) -> None:
    """Fits the class readout of a trained model that is to have one, on training images as they are evaluated.

    Args:
        model: model of `create_model`, trained.
        loaders: loaders of `create_loaders`, not prepared: every process takes its own share of the images.
        options: options of the model.
    """
    if not options.class_readout:
        return
    state, loader = PartialState(), loaders.readout
    share = Subset(loader.dataset, range(state.process_index, len(loader.dataset), state.num_processes))
    batches = DataLoader(
        share, batch_size=loader.batch_size, collate_fn=loader.collate_fn, num_workers=loader.num_workers
    )
    fit_class_readout(model, ((batch["images"].to(state.device), batch["labels"]) for batch in batches))
    gain = model.active_peft_config.evidence_gain
    found = f"tells object from ground and weighs the maps (gain {gain:.1f})" if gain else "does not weigh the maps"
    logger.info(f"Class readout: by held-out training images, what speaks for a class {found}")


def create_criterion(options: LossOptions) -> SatLoss:
    """The loss with its area target and weights."""
    return SatLoss(
        options.area_target,
        classification_weight=options.classification_weight,
        area_weight=options.area_weight,
        normalization_weight=options.normalization_weight,
        separation_weight=options.separation_weight,
        border_weight=options.border_weight,
        border_in_each_image=options.border_in_each_image,
    )


def create_accelerator(optimization: OptimizationOptions, run: RunOptions, folder: Path) -> Accelerator:
    """Accelerate as the options ask for it, and on a CPU the threads and memory that make it fast.

    Raises:
        UsageError: a tracker that is not installed, or fp16 on a CPU.
    """
    for name in run.track:
        if not getattr(available, f"is_{name}_available")():
            raise UsageError(f"the tracker {name!r} is not installed: pip install {name}.")
    accelerator = Accelerator(
        gradient_accumulation_steps=optimization.gradient_accumulation_steps,
        dynamo_backend="inductor" if optimization.compile else None,
        log_with=list(run.track) or None,
        project_dir=str(folder) if run.track else None,
    )
    if accelerator.distributed_type == DistributedType.DEEPSPEED:
        # DeepSpeed wants to know it where the model is prepared, which the loader is apart from.
        accelerator.deepspeed_plugin.deepspeed_config["train_micro_batch_size_per_gpu"] = optimization.batch_size
    if accelerator.device.type == "cpu":
        if accelerator.mixed_precision == "fp16":
            # Accelerate would train in float32 without a word.
            raise UsageError("fp16 mixed precision needs a GPU; on a CPU launch with --mixed_precision bf16 or no.")
        prepare_cpu(run.threads)
    return accelerator
