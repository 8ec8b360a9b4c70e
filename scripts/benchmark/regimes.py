"""Training steps that are compared: what is trained, by the name of the regime."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, cached_property, partial
from typing import NamedTuple

import timm
import torch
import torch.nn.functional as F
from peft import get_peft_model
from torch import nn

from sat_peft.backbones import create_backbone
from sat_peft.training.loop import create_optimizer
from sat_peft.training.losses import SatLoss
from sat_peft.tuner import FrozenTokens, SatConfig
from sat_peft.tuner.backbone import base_parameters

# Published settings of CUB. No time depends on them, stochastic depth apart.
LEARNING_RATE, WEIGHT_DECAY, AREA_TARGET, DROP_PATH = 1e-4, 0.05, 0.25, 0.1
_SEED = 0


@dataclass(frozen=True)
class Workload:
    """What every regime trains on: random images and labels, the same for all.

    Args:
        backbone: timm name; its weights are random.
        image_size: side in pixels.
        num_classes, batch_size: of the random labels and images.
        num_spatial_blocks: K.
        device: of the model and the images.
    """

    backbone: str = "deit_small_patch16_224"
    image_size: int = 224
    num_classes: int = 200
    batch_size: int = 16
    num_spatial_blocks: int = 3
    device: str = "cpu"

    @cached_property
    def images(self) -> torch.Tensor:
        """(B, 3, H, W) standard normal."""
        shape = (self.batch_size, 3, self.image_size, self.image_size)
        return torch.randn(shape, generator=torch.Generator().manual_seed(_SEED)).to(self.device)

    @cached_property
    def labels(self) -> torch.Tensor:
        """(B,) class indices."""
        return (torch.arange(self.batch_size) % self.num_classes).to(self.device)


@dataclass(frozen=True)
class Contestant:
    """A model in training, and the loss of the workload's batch under it."""

    model: nn.Module
    loss: Callable[[], torch.Tensor]
    optimizer: torch.optim.Optimizer

    def step(self) -> None:
        """One training step: forward, loss, backward, AdamW."""
        self.optimizer.zero_grad(set_to_none=True)
        self.loss().backward()
        self.optimizer.step()


class Regime(NamedTuple):
    """`title` says what is trained; `build` makes the model; `published_forward`: it computes what the paper's does."""

    title: str
    build: Callable[[Workload], Contestant]
    published_forward: bool = False


def build_plain(workload: Workload) -> Contestant:
    """Fine-tuning of timm's model with its own classifier, all parameters, by cross-entropy."""
    torch.manual_seed(_SEED)
    model = timm.create_model(
        workload.backbone, num_classes=workload.num_classes, img_size=workload.image_size, drop_path_rate=DROP_PATH
    )
    model.to(workload.device).train()
    optimizer = create_optimizer(model, learning_rate=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    return Contestant(model, lambda: F.cross_entropy(model(workload.images), workload.labels), optimizer)


def build_sat(workload: Workload, *, all_blocks: bool = False, whole_backbone: bool = False, **config) -> Contestant:
    """SAT with its loss.

    Args:
        workload: the backbone and the batch.
        all_blocks: `tune` reaches every block.
        whole_backbone: what lies outside the blocks is trained too, in place.
        **config: of `SatConfig`.
    """
    torch.manual_seed(_SEED)
    vit = create_backbone(workload.backbone, pretrained=False, image_size=workload.image_size, drop_path_rate=DROP_PATH)
    if all_blocks:
        config["num_tuned_blocks"] = len(vit.blocks)
    common = {"num_classes": workload.num_classes, "num_spatial_blocks": workload.num_spatial_blocks}
    model = get_peft_model(vit, SatConfig(**common, **config)).to(workload.device).train()
    if whole_backbone:
        for name, parameter in base_parameters(vit):
            parameter.requires_grad_(parameter.requires_grad or not name.startswith("blocks."))
    criterion = SatLoss(AREA_TARGET)
    optimizer = create_optimizer(model, learning_rate=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    return Contestant(model, lambda: criterion(model(workload.images), workload.labels).total, optimizer)


def build_cached(workload: Workload) -> Contestant:
    """SAT with a late token on what the frozen blocks have made of the images before, kept as in a feature cache."""
    contestant = build_sat(workload, tune="full", token_entry="late")
    model, criterion = contestant.model, SatLoss(AREA_TARGET)

    @cache
    def frozen() -> FrozenTokens:  # in the first step, since the weights of a reference may come before it
        tokens, shape = model.base_model.frozen_tokens(workload.images)
        return FrozenTokens(tokens.half(), shape)

    return replace(contestant, loss=lambda: criterion(model(frozen()), workload.labels).total)


def _token_entries(name: str, trained: str, tune: str) -> dict[str, Regime]:
    """The regime in every mode of `token_entry`."""
    return {
        f"{name}_{entry}": Regime(
            f"{trained}; token_entry={entry!r}",
            partial(build_sat, tune=tune, token_entry=entry),
            published_forward=entry == "input",
        )
        for entry in ("input", "isolated", "late")
    }


PLAIN = "plain"
REGIMES: dict[str, Regime] = {
    PLAIN: Regime("timm's model, all parameters, cross-entropy", build_plain),
    "everything": Regime(
        "every parameter, token at the input",
        partial(build_sat, tune="full", all_blocks=True, whole_backbone=True),
        published_forward=True,
    ),
    **_token_entries("last_blocks", "the K spatial blocks, token, head", tune="full"),
    "last_blocks_cached": Regime(
        "the K spatial blocks, token, head; token_entry='late', from a feature cache", build_cached
    ),
    **_token_entries("token", "token and head", tune="none"),
    "lora": Regime(
        "LoRA of rank 8 in the K spatial blocks, token, head; token at the input",
        partial(build_sat, tune="lora"),
        published_forward=True,  # until the first step: low-rank updates start at zero
    ),
}
