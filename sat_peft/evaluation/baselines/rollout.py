"""Attention rollout: where the information in the class token comes from."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from sat_peft.evaluation.registry import attention_baseline


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


BASELINE = attention_baseline("attention rollout", rollout)
