"""What the class token attends to in the last block, which trains nothing."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from sat_peft.evaluation.registry import attention_baseline


def last_attention(attentions: Sequence[torch.Tensor], queries: torch.Tensor) -> torch.Tensor:
    """(B, N) attention of the class token in the last block, the mean over the heads. Where a backbone has no class
    token, all patches ask with equal weight.

    Args:
        attentions: (B, N, N) per block.
        queries: (N,) weights of the tokens that ask.
    """
    return queries @ attentions[-1]


BASELINE = attention_baseline("class attention", last_attention)
