"""What baselines on a frozen backbone share: patch tokens, the training mode, and files of what was trained."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import save
from torch import nn

from sat_peft.errors import UsageError
from sat_peft.files import read_safetensors
from sat_peft.tuner.embedding import grid_size


class Summaries(NamedTuple):
    """What a classifier reads of a batch of images, in place of them: the backbone is then passed over."""

    values: torch.Tensor  # (B, F)


class FrozenBackboneClassifier(nn.Module, ABC):
    """A classifier on the patch tokens of a frozen timm Vision Transformer, which stays deterministic in training.

    Its logits depend on a few numbers per image alone, so that training needs the backbone once per view of an image.

    Args:
        backbone: a timm Vision Transformer; its parameters are frozen here.
        num_classes: number of classes C.
    """

    def __init__(self, backbone: nn.Module, num_classes: int):
        super().__init__()
        self.backbone = backbone.requires_grad_(False)
        self.num_classes = num_classes

    @abstractmethod
    def summarize(self, images: torch.Tensor) -> Summaries:
        """What the classifier reads of images (B, 3, H, W), without gradients."""

    @abstractmethod
    def classify(self, summaries: Summaries) -> torch.Tensor:
        """(B, C) logits."""

    def forward(self, images: torch.Tensor | Summaries) -> torch.Tensor:
        """(B, C) logits of images (B, 3, H, W), or of what `summarize` made of them."""
        return self.classify(images if isinstance(images, Summaries) else self.summarize(images))

    def train(self, mode: bool = True) -> FrozenBackboneClassifier:
        """Sets training mode; the frozen backbone stays deterministic."""
        super().train(mode)
        self.backbone.eval()
        return self

    def grid(self, images: torch.Tensor) -> tuple[int, int]:
        """(h, w) of the patch tokens of `images` (B, 3, H, W)."""
        return grid_size(self.backbone, images.shape[-2:])

    def patch_tokens(self, images: torch.Tensor) -> torch.Tensor:
        """(B, N, D) normalised patch tokens of the frozen backbone."""
        with torch.no_grad():
            tokens = self.backbone.forward_features(images)[:, self.backbone.num_prefix_tokens :]
            # Models with average pooling normalise after pooling; here every token is.
            return self.backbone.fc_norm(tokens) if isinstance(self.backbone.norm, nn.Identity) else tokens


def _trained(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}


def save_trained(module: nn.Module, file: Path) -> None:
    """Writes the trained parameters of a baseline, without its backbone, as safetensors."""
    weights = {name: value.detach().cpu().contiguous() for name, value in _trained(module).items()}
    # safetensors' save_file makes files that nobody but their owner may read, whatever the umask.
    file.write_bytes(save(weights))


def load_trained(module: nn.Module, file: Path) -> None:
    """Reads what `save_trained` wrote into a module of the same kind.

    Raises:
        UsageError: the file is missing or damaged, or its tensors are not those of `module`.
    """
    saved = read_safetensors(file)
    trained = _trained(module)
    found = {name: tuple(value.shape) for name, value in saved.items()}
    expected = {name: tuple(value.shape) for name, value in trained.items()}
    if found != expected:
        raise UsageError(
            f"the weights {str(file)!r} do not fit {type(module).__name__}: the file holds {found}, the module has "
            f"{expected}. Name the run that they belong to."
        )
    with torch.no_grad():
        for name, value in saved.items():
            trained[name].copy_(value)
