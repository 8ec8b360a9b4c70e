"""Class activation maps of a linear classifier."""

from __future__ import annotations

from operator import attrgetter

import torch
from torch import nn

from sat_peft.evaluation.frozen import FrozenBackboneClassifier, Summaries
from sat_peft.evaluation.registry import Baseline


class LinearCam(FrozenBackboneClassifier):
    """Class activation maps (Zhou et al., CVPR 2016) of a linear classifier on a frozen Vision Transformer.

    The classifier reads the mean of the normalised patch tokens, so its logits are the spatial means of its maps.

    Args:
        backbone: a timm Vision Transformer; its parameters are frozen here.
        num_classes: number of classes C.
    """

    def __init__(self, backbone: nn.Module, num_classes: int):
        super().__init__(backbone, num_classes)
        self.classifier = nn.Linear(backbone.embed_dim, num_classes)
        nn.init.trunc_normal_(self.classifier.weight, std=0.02)
        nn.init.zeros_(self.classifier.bias)

    def summary(self, tokens: torch.Tensor) -> Summaries:
        """The mean patch tokens (B, D)."""
        return Summaries(tokens.mean((1, 2)))

    def classify(self, summaries: Summaries) -> torch.Tensor:
        """(B, C) logits."""
        return self.classifier(summaries.values)

    def localize(self, images: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, C) logits and the (B, h, w) activation maps of `labels` (B,)."""
        tokens = self.patch_tokens(images)
        maps = torch.einsum("bhwd,bd->bhw", tokens, self.classifier.weight[labels])
        return self.classify(self.summary(tokens)), maps


# A linear classifier learns with larger steps than SAT.
BASELINE = Baseline("CAM", attrgetter("localize"), LinearCam, learning_rate=1e-2)
