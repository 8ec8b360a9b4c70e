"""Maps and classes read off the final patch tokens by statistics of the training images, without gradients.

The token's map says where an object is, whatever its class. Two things that the patch tokens know are added after the
training: which patches of an image are like its object and not like its ground, and which speak for its class.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from peft import PeftModel
from torch import distributed, nn

from sat_peft.errors import UsageError

# Chosen on validation photographs of twenty classes, 1 to 10 images a class. They change little by halves and doubles.
_CONTRAST_GAIN = 4.0
_EVIDENCE_GAIN = 1.5
_SHRINKAGE = 0.3
_EPSILON = 1e-6
# Of classes without an image, which no image is to be told to be.
_NEVER = -1e4


def _weighted_mean(values: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Means over the patches of (B, N, D) or (B, N) values with weights (B, N), both kept as (B, 1, D) or (B, 1)."""
    expanded = weights.unsqueeze(-1) if values.ndim == 3 else weights
    return (values * expanded).sum(1, keepdim=True) / expanded.sum(1, keepdim=True).clamp_min(_EPSILON)


def contrast(tokens: torch.Tensor, maps: torch.Tensor) -> torch.Tensor:
    """What is like the object of an image, by the patch tokens themselves: (B, N) in (0, 1).

    The map splits the patches into object and ground; each is then placed on the line between the two mean tokens,
    and a sigmoid makes a map of the place, 0.5 half way. Patches that the map got wrong change sides. A map that hardly
    tells two sides apart, as one that is uniform, stays as it is, the more so the less it does.

    Args:
        tokens: (B, N, D) float32 patch tokens.
        maps: (B, N) in (0, 1).
    """
    object_mean, ground_mean = _weighted_mean(tokens, maps), _weighted_mean(tokens, 1 - maps)
    place = (tokens * (object_mean - ground_mean)).sum(-1)
    low, high = _weighted_mean(place, 1 - maps), _weighted_mean(place, maps)
    # Two sides of one point each, the object a third of the image, are 2.1 deviations apart.
    sides = ((high - low) / place.std(1, keepdim=True).clamp_min(_EPSILON)).clamp_max(1)
    found = torch.sigmoid(_CONTRAST_GAIN * ((place - low) / (high - low).clamp_min(_EPSILON) - 0.5))
    return maps + sides * (found - maps)


def weigh(foreground: torch.Tensor, evidence: torch.Tensor) -> torch.Tensor:
    """The part of the foreground that speaks for a class: (B, N) in (0, 1).

    Evidence is relative to that of the foreground of the same image; a patch above its mean keeps its value.

    Args:
        foreground: (B, N) in (0, 1), of `contrast`.
        evidence: (B, N) for the class.
    """
    centred = evidence - _weighted_mean(evidence, foreground)
    deviation = _weighted_mean(centred.square(), foreground).sqrt().clamp_min(_EPSILON)
    return foreground * (2 * torch.sigmoid(_EVIDENCE_GAIN * centred / deviation)).clamp_max(1)


class ClassReadout(nn.Module):
    """Linear discriminants of C classes: `weight` (C, D) tells the evidence of a token, `bias` (C,) completes logits.

    Both are buffers, which PEFT saves with an adapter and never trains.
    """

    def __init__(self, num_classes: int, dim: int, device=None):
        super().__init__()
        self.register_buffer("weight", torch.zeros(num_classes, dim, device=device))
        self.register_buffer("bias", torch.zeros(num_classes, device=device))

    def forward(self, tokens: torch.Tensor, maps: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Logits (B, C), foreground (B, N) and evidence (B, C, N) of patch tokens (B, N, D) with maps (B, N)."""
        tokens = tokens.to(self.weight.dtype)
        foreground = contrast(tokens, maps)
        logits = _weighted_mean(tokens, foreground).squeeze(1) @ self.weight.T + self.bias
        return logits, foreground, self.weight @ tokens.mT


@torch.no_grad()
def fit_class_readout(model: PeftModel, batches: Iterable[tuple[torch.Tensor, torch.Tensor]]) -> None:
    """Fits the class readout of the active adapter, and adds it to the adapter.

    Linear discriminant analysis on the final patch tokens: class means are those of the object's tokens, the covariance
    is that of all patches, shrunk towards a multiple of the identity. In evaluation mode, the model's logits and maps
    are then those of the readout, see `SatOutput`; in training mode nothing changes. One pass over the images. In a
    process group, every process gives its own share of them, and all get the same readout.

    Args:
        model: PEFT model with a trained SAT adapter; it is left in evaluation mode.
        batches: images (B, 3, H, W), preprocessed for the backbone, on its device, and their labels (B,). Ten images a
            class are plenty.

    Raises:
        UsageError: there are no images.
    """
    model.eval()
    vit, config = model.get_base_model(), model.active_peft_config
    device = next(vit.patch_embed.parameters()).device
    vit.norm.drop_readout(model.active_adapter)
    dim = vit.embed_dim
    # On the CPU in double precision: sums over millions of patches, of which differences are taken.
    patches = torch.zeros(1, dtype=torch.float64)
    total, second = torch.zeros(dim, dtype=torch.float64), torch.zeros(dim, dim, dtype=torch.float64)
    weights = torch.zeros(config.num_classes, dtype=torch.float64)
    sums = torch.zeros(config.num_classes, dim, dtype=torch.float64)
    for images, labels in batches:
        output = model(images)
        tokens = output.tokens.flatten(1, 2).float()
        foreground = contrast(tokens, output.maps.flatten(1))
        tokens, foreground, labels = tokens.cpu().double(), foreground.cpu().double(), labels.cpu()
        rows = tokens.flatten(0, 1)
        patches += len(rows)
        total += rows.sum(0)
        second += rows.T @ rows
        weights.index_add_(0, labels, foreground.sum(1))
        sums.index_add_(0, labels, torch.einsum("bn,bnd->bd", foreground, tokens))
    for value in (patches, total, second, weights, sums):
        _sum_over_processes(value, device)
    if not patches:
        raise UsageError("a class readout needs images to be fitted on; there are none.")
    mean = total / patches
    covariance = second / patches - torch.outer(mean, mean)
    covariance += _SHRINKAGE * covariance.diagonal().mean() * torch.eye(dim, dtype=torch.float64)
    class_means = torch.where(weights[:, None] > 0, sums / weights.clamp_min(_EPSILON)[:, None] - mean, 0)
    weight = torch.linalg.solve(covariance, class_means.T).T
    bias = -(weight @ mean) - (class_means * weight).sum(1) / 2
    readout = vit.norm.add_readout(model.active_adapter, config.num_classes, dim, device)
    readout.weight.copy_(weight)
    readout.bias.copy_(torch.where(weights > 0, bias, _NEVER))
    config.class_readout = True


def _sum_over_processes(value: torch.Tensor, device: torch.device) -> None:
    if not (distributed.is_available() and distributed.is_initialized()):
        return
    # NCCL takes tensors of its device alone, where double precision may be slow but is there.
    shared = value.to(device)
    distributed.all_reduce(shared)
    value.copy_(shared)
