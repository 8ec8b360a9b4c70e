"""TS-CAM: semantic maps of a convolutional head, coupled with the attention of the class token."""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter

import torch
import torch.nn.functional as F
from torch import nn

from sat_peft.evaluation.frozen import FrozenBackboneClassifier, Summaries
from sat_peft.evaluation.registry import Baseline
from sat_peft.tuner.heads import window_means


def mean_attention(attentions: Sequence[torch.Tensor], queries: torch.Tensor) -> torch.Tensor:
    """(B, N) attention of the class token, the mean over all heads and blocks.

    Args:
        attentions: (B, N, N) per block.
        queries: (N,) weights of the tokens that ask.
    """
    return torch.stack([queries @ attention for attention in attentions]).mean(0)


class TsCam(FrozenBackboneClassifier):
    """Token semantic coupled attention maps (Gao et al., ICCV 2021) on a frozen Vision Transformer.

    A 3x3 convolution turns the normalised patch tokens into one semantic map per class; their spatial means are the
    logits. The map of a class is its semantic map times the attention of the class token to the patches, the mean
    over all heads and blocks (section 3.3). The paper trains the whole backbone; here it stays frozen, as SAT's does.

    Args:
        backbone: a timm Vision Transformer; its parameters are frozen here.
        num_classes: number of classes C.
    """

    def __init__(self, backbone: nn.Module, num_classes: int):
        super().__init__(backbone, num_classes)
        self.head = nn.Conv2d(backbone.embed_dim, num_classes, kernel_size=3, padding=1)
        nn.init.trunc_normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)

    def summary(self, tokens: torch.Tensor) -> Summaries:
        """The window means (B, 9 D) of the patch tokens, on which the mean of a 3x3 convolution depends linearly."""
        return Summaries(window_means(tokens).flatten(1))

    def classify(self, summaries: Summaries) -> torch.Tensor:
        """(B, C) logits, the spatial means of the semantic maps."""
        return F.linear(summaries.values, self.head.weight.flatten(1), self.head.bias)

    def semantic_maps(self, tokens: torch.Tensor) -> torch.Tensor:
        """(B, C, h, w) one map per class, of patch tokens (B, h, w, D)."""
        return self.head(tokens.permute(0, 3, 1, 2))

    @torch.no_grad()
    def localize(self, images: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, C) logits and the (B, h, w) coupled maps of `labels` (B,)."""
        tokens, attended = self.tokens_and_attention(images, mean_attention)
        semantic = self.semantic_maps(tokens)
        of_labels = semantic[torch.arange(len(labels), device=labels.device), labels]
        return semantic.mean((2, 3)), of_labels * attended


# It has the head of SAT, and its learning rate.
BASELINE = Baseline("TS-CAM", attrgetter("localize"), TsCam, reads=mean_attention)
