"""What baselines on a frozen backbone share: its passes, the training mode, and files of what was trained."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import save
from torch import nn

from sat_peft.errors import UsageError
from sat_peft.evaluation.attention_maps import AttentionRead, query_weights, record_attention
from sat_peft.files import read_safetensors
from sat_peft.tuner.embedding import grid_size
from sat_peft.tuner.kept import KeptByImage


class Summaries(NamedTuple):
    """What a classifier reads of a batch of images, in place of them: the backbone is then passed over."""

    values: torch.Tensor  # (B, F)


class _KeptPasses:
    """Passes of images through backbones: the patch tokens, and what each of `reads` makes of the attention."""

    def __init__(self, reads: Collection[AttentionRead], limit: int):
        self.reads = list(reads)
        self._passes = KeptByImage(limit)

    def get(self, backbone: nn.Module, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """(B, N, D) tokens, and (B, N) for every one of `reads`."""
        return self._passes.get(str(id(backbone)), images, lambda new: _pass(backbone, new, self.reads))


_kept: _KeptPasses | None = None


@contextmanager
def keep_passes(reads: Collection[AttentionRead], limit: int = 2**30) -> Iterator[None]:
    """Within it, baselines of the same backbone pass an image through it once, for tokens and attention alike.

    Args:
        reads: what is going to be asked of the attention. All of it is read in the one pass.
        limit: bytes of memory; a ViT-S at 224 x 224 pixels takes 0.4 MB an image.
    """
    global _kept
    before, _kept = _kept, _KeptPasses(reads, limit)
    try:
        yield
    finally:
        _kept = before


@torch.no_grad()
def _pass(backbone: nn.Module, images: torch.Tensor, reads: Collection[AttentionRead]) -> tuple[torch.Tensor, ...]:
    if not reads:
        return (_patch_tokens(backbone, images),)
    with record_attention(backbone) as attentions:
        tokens = _patch_tokens(backbone, images)
    queries = query_weights(backbone, attentions[-1].shape[-1]).to(attentions[-1])
    return tokens, *(read(attentions, queries)[:, backbone.num_prefix_tokens :] for read in reads)


def _patch_tokens(backbone: nn.Module, images: torch.Tensor) -> torch.Tensor:
    tokens = backbone.forward_features(images)[:, backbone.num_prefix_tokens :]
    # Models with average pooling normalise after pooling; here every token is.
    return backbone.fc_norm(tokens) if isinstance(backbone.norm, nn.Identity) else tokens


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
    def summary(self, tokens: torch.Tensor) -> Summaries:
        """What the classifier reads of patch tokens (B, h, w, D)."""

    @abstractmethod
    def classify(self, summaries: Summaries) -> torch.Tensor:
        """(B, C) logits."""

    def summarize(self, images: torch.Tensor) -> Summaries:
        """What the classifier reads of images (B, 3, H, W), without gradients."""
        return self.summary(self.patch_tokens(images))

    def forward(self, images: torch.Tensor | Summaries) -> torch.Tensor:
        """(B, C) logits of images (B, 3, H, W), or of what `summarize` made of them."""
        return self.classify(images if isinstance(images, Summaries) else self.summarize(images))

    def train(self, mode: bool = True) -> FrozenBackboneClassifier:
        """Sets training mode; the frozen backbone stays deterministic."""
        super().train(mode)
        self.backbone.eval()
        return self

    def patch_tokens(self, images: torch.Tensor) -> torch.Tensor:
        """(B, h, w, D) normalised patch tokens of the frozen backbone for images (B, 3, H, W)."""
        tokens, *_ = _pass(self.backbone, images, ()) if _kept is None else _kept.get(self.backbone, images)
        return tokens.unflatten(1, grid_size(self.backbone, images.shape[-2:]))

    def tokens_and_attention(self, images: torch.Tensor, read: AttentionRead) -> tuple[torch.Tensor, torch.Tensor]:
        """`patch_tokens`, and (B, h, w) what `read` makes of the attention in the same pass."""
        if _kept is not None and read in _kept.reads:
            tokens, *shares = _kept.get(self.backbone, images)
            found = shares[_kept.reads.index(read)]
        else:
            tokens, found = _pass(self.backbone, images, (read,))
        grid = grid_size(self.backbone, images.shape[-2:])
        return tokens.unflatten(1, grid), found.unflatten(1, grid)


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
