"""How the spatial token passes timm's blocks.

Blocks, like attention modules, get another class in place, without parameters of its own. `SWAPPED_CLASSES` lists all
classes of the backbone that are replaced while it carries a SAT adapter.
"""

from __future__ import annotations

from enum import Enum

import torch
from timm.models.eva import EvaBlock, EvaBlockPostNorm
from timm.models.vision_transformer import Block, ResPostBlock
from torch import nn

from sat_peft.tuner.attention import ATTENTION_CLASSES, AttentionMode, SatEvaAttention
from sat_peft.tuner.layer import TokenApart, tuned_parameter


class TokenPath(Enum):
    """What a block does with a spatial token that arrives apart from the sequence."""

    FROZEN = "hands it on as it is, and the sequence too if it has passed the frozen blocks before"
    WAIT = "hands it on as it is"
    ISOLATED = "updates it: it reads the sequence, which does not read it"
    JOIN = "lets it join the sequence"


class SatBlockMixin:
    """State and computation that the classes below share; a sequence on its own passes as in the timm parent."""

    sat_token_path: TokenPath = TokenPath.JOIN

    def forward(self, x: torch.Tensor | TokenApart, *args, **kwargs) -> torch.Tensor | TokenApart:
        """(B, N, D) tokens to (B, N, D), or what `sat_token_path` makes of sequence and spatial token."""
        if isinstance(x, TokenApart) and self.sat_token_path is TokenPath.JOIN:
            x = x.join(self.attn.sat_token_index)
        if not isinstance(x, TokenApart):
            self._record_features(x)
            return super().forward(x, *args, **kwargs)
        if self.sat_token_path is TokenPath.FROZEN and x.after_frozen_blocks:
            return x
        # A pass that ended early, as recomputations of gradient checkpointing do, may have left something behind.
        self.attn.sat_record.keys_values = None
        sequence = super().forward(x.sequence, *args, **kwargs)
        if self.sat_token_path is not TokenPath.ISOLATED:
            return TokenApart(sequence, x.token)
        # The same layers once more: norms, MLP, layer scales and stochastic depth act on every token for itself, and
        # the attention finds the keys and values of the sequence. A frozen sequence thus needs no graph.
        return TokenApart(sequence, super().forward(x.token, *args, **kwargs))

    def _record_features(self, x: torch.Tensor) -> None:
        """Leaves the patch tokens that the first spatial block gets, which no mask has changed yet, for the output."""
        record = self.attn.sat_record
        if self.attn.sat_mode is AttentionMode.MASKED and record.is_open and record.features is None:
            record.features = x[:, self.attn.sat_token_index + 1 :].detach()


class SatBlock(SatBlockMixin, Block):
    """timm's `Block` for SAT."""


class SatResPostBlock(SatBlockMixin, ResPostBlock):
    """timm's `ResPostBlock` for SAT."""


class SatEvaBlock(SatBlockMixin, EvaBlock):
    """timm's `EvaBlock` for SAT, whose layer scales can be tuned."""

    gamma_1 = tuned_parameter("gamma_1")
    gamma_2 = tuned_parameter("gamma_2")


class SatEvaBlockPostNorm(SatBlockMixin, EvaBlockPostNorm):
    """timm's `EvaBlockPostNorm` for SAT."""


BLOCK_CLASSES: dict[type[nn.Module], type[nn.Module]] = {
    Block: SatBlock,
    ResPostBlock: SatResPostBlock,
    EvaBlock: SatEvaBlock,
    EvaBlockPostNorm: SatEvaBlockPostNorm,
}
SWAPPED_CLASSES = ATTENTION_CLASSES | BLOCK_CLASSES
ORIGINAL_CLASSES = {swapped: original for original, swapped in SWAPPED_CLASSES.items()}
# Modules with parameters of their own that adapters can copy, and the names of those parameters.
TUNABLE_OWNERS: dict[type[nn.Module], tuple[str, ...]] = {
    SatEvaAttention: ("q_bias", "v_bias"),
    SatEvaBlock: ("gamma_1", "gamma_2"),
}
