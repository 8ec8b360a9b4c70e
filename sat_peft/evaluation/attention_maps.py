"""The attention matrices of a timm Vision Transformer, and their query tokens: the class token or all patches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn

from sat_peft.errors import UsageError
from sat_peft.tuner.embedding import class_token

# What a method reads of the attention in a pass: of the matrices that `record_attention` gives and the weights (N,) of
# the queries, (B, N) shares of the tokens.
AttentionRead = Callable[[Sequence[torch.Tensor], torch.Tensor], torch.Tensor]


@contextmanager
def record_attention(vit: nn.Module) -> Iterator[list[torch.Tensor]]:
    """Records the attention of every block during the forward passes inside the context.

    timm's fused kernels never form the attention matrix, so they are switched off meanwhile; timm then computes it
    from the queries and keys, rotary embeddings and norms included, and hands it to the module `attn_drop`, where it
    is read. This holds for `Attention`, `AttentionRope` and `EvaAttention` alike.

    Args:
        vit: a timm Vision Transformer in evaluation mode, without adapters.

    Yields:
        A list that every block adds to, first block first: (B, N, N) float32, the mean over the heads. Row i says how
        much token i attends to each token, prefix tokens first; rows sum to 1.

    Raises:
        UsageError: a block has no single attention of that form.
    """
    recorded: list[torch.Tensor] = []
    attentions = []
    for index, block in enumerate(vit.blocks):
        attention = getattr(block, "attn", None)
        if not isinstance(getattr(attention, "attn_drop", None), nn.Module) or not hasattr(attention, "fused_attn"):
            raise UsageError(
                f"the attention of blocks.{index} ({type(block).__name__}) of {type(vit).__name__} cannot be read; "
                "attention maps need timm's Attention, AttentionRope or EvaAttention."
            )
        attentions.append(attention)

    def read(module: nn.Module, arguments: tuple[torch.Tensor, ...]) -> None:
        recorded.append(arguments[0].float().mean(1))

    fused = [attention.fused_attn for attention in attentions]
    hooks = []
    try:
        for attention in attentions:
            hooks.append(attention.attn_drop.register_forward_pre_hook(read))
            attention.fused_attn = False
        yield recorded
    finally:
        for hook in hooks:
            hook.remove()
        for attention, before in zip(attentions, fused, strict=True):
            attention.fused_attn = before


def query_weights(vit: nn.Module, num_tokens: int) -> torch.Tensor:
    """(num_tokens,) weights of the queries whose attention is the map of the image; they sum to 1.

    The class token asks alone. A model without one (SigLIP, models with average pooling) has no token that stands for
    the image; its patch tokens then ask with equal weight.
    """
    weights = torch.zeros(num_tokens)
    if class_token(vit) is not None:
        weights[0] = 1.0
    else:
        weights[vit.num_prefix_tokens :] = 1.0 / (num_tokens - vit.num_prefix_tokens)
    return weights
