"""Baselines with the interface that the evaluator expects of every method."""

from __future__ import annotations

import torch
from torch import nn


class LinearCam(nn.Module):
    """Class activation maps (Zhou et al., CVPR 2016) of a linear classifier on a frozen Vision Transformer.

    The classifier reads the mean of the normalised patch tokens, so its logits are the spatial means of its maps.

    Args:
        backbone: a timm Vision Transformer; its parameters are frozen here.
        num_classes: number of classes C.
    """

    def __init__(self, backbone: nn.Module, num_classes: int):
        super().__init__()
        self.backbone = backbone.requires_grad_(False)
        self.classifier = nn.Linear(backbone.embed_dim, num_classes)
        nn.init.trunc_normal_(self.classifier.weight, std=0.02)
        nn.init.zeros_(self.classifier.bias)

    def train(self, mode: bool = True) -> LinearCam:
        """Sets training mode; the frozen backbone stays deterministic."""
        super().train(mode)
        self.backbone.eval()
        return self

    def patch_tokens(self, images: torch.Tensor) -> torch.Tensor:
        """(B, N, D) normalised patch tokens of the frozen backbone."""
        with torch.no_grad():
            tokens = self.backbone.forward_features(images)[:, self.backbone.num_prefix_tokens :]
            # Models with average pooling normalise after pooling; here every token is.
            return self.backbone.fc_norm(tokens) if isinstance(self.backbone.norm, nn.Identity) else tokens

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(B, C) logits."""
        return self.classifier(self.patch_tokens(images).mean(1))

    def localize(self, images: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, C) logits and the (B, h, w) activation maps of `labels` (B,)."""
        tokens = self.patch_tokens(images)
        maps = torch.einsum("bnd,bd->bn", tokens, self.classifier.weight[labels])
        grid = self.backbone.patch_embed.dynamic_feat_size(images.shape[-2:])
        return self.classifier(tokens.mean(1)), maps.unflatten(1, grid)
