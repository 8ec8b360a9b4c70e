"""What the class token attends to in the last block, which trains nothing."""

from __future__ import annotations

import torch

from sat_peft.evaluation.attention_maps import query_weights, record_attention
from sat_peft.evaluation.frozen import FrozenBackboneClassifier
from sat_peft.evaluation.registry import Baseline


class ClassAttention:
    """Attention of the class token to the patches in the last block, the mean over the heads. Where a backbone has no
    class token, all patches ask with equal weight. Maps do not depend on the class.

    Args:
        classifier: gives the logits; its backbone gives the attention.
    """

    def __init__(self, classifier: FrozenBackboneClassifier):
        self.classifier = classifier

    @torch.no_grad()
    def localize(self, images: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, C) logits of the classifier and (B, h, w) attention, the same whatever the `labels` (B,)."""
        backbone = self.classifier.backbone
        with record_attention(backbone) as attentions:
            logits = self.classifier(images)
        last = attentions[-1]
        shares = query_weights(backbone, last.shape[-1]).to(last) @ last
        return logits, shares[:, backbone.num_prefix_tokens :].unflatten(1, self.classifier.grid(images))


BASELINE = Baseline("class attention", lambda classifier: ClassAttention(classifier).localize, classes_of="cam")
