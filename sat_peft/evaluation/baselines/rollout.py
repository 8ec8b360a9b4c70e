"""Attention rollout: where the information in the class token comes from."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from sat_peft.evaluation.attention_maps import query_weights, record_attention
from sat_peft.evaluation.frozen import FrozenBackboneClassifier
from sat_peft.evaluation.registry import Baseline


def rollout(attentions: Sequence[torch.Tensor], queries: torch.Tensor) -> torch.Tensor:
    """Attention rollout (Abnar & Zuidema, ACL 2020, equation 1).

    Every block passes half of a token on along its residual path and half along its attention, (A + I) / 2; its rows
    sum to 1 as those of A do. The product over the blocks says how much of each input token is in each output token.

    Args:
        attentions: (B, N, N) per block, first block first, the mean over the heads.
        queries: (N,) weights of the output tokens that are asked for.

    Returns:
        (B, N) shares of the input tokens; they sum to 1 where `queries` does.
    """
    # From the last block back, a row vector times a matrix: the N x N products are never needed.
    row = queries.to(attentions[-1]).expand(len(attentions[-1]), 1, -1)
    for attention in reversed(attentions):
        row = (row @ attention + row) / 2
    return row.squeeze(1)


class AttentionRollout:
    """Attention rollout on a frozen Vision Transformer. It takes no training; maps do not depend on the class.

    Args:
        classifier: gives the logits, since rollout has none of its own; its backbone gives the attention.
    """

    def __init__(self, classifier: FrozenBackboneClassifier):
        self.classifier = classifier

    @torch.no_grad()
    def localize(self, images: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, C) logits of the classifier and (B, h, w) rollout maps, the same whatever the `labels` (B,)."""
        backbone = self.classifier.backbone
        with record_attention(backbone) as attentions:
            logits = self.classifier(images)
        shares = rollout(attentions, query_weights(backbone, attentions[-1].shape[-1]))
        return logits, shares[:, backbone.num_prefix_tokens :].unflatten(1, self.classifier.grid(images))


BASELINE = Baseline("attention rollout", lambda classifier: AttentionRollout(classifier).localize, classes_of="cam")
