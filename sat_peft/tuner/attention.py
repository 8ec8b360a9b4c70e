"""Spatial masking, and attention of the spatial token alone, inside timm's attention.

In a spatial block the mask of token j is m_j = sigmoid(mean over heads of q_t . k_j / sqrt(d)), t being the spatial
token; the attention after softmax is multiplied by m per key and not renormalised (SAT, spatial-query attention).
Since (A * m) V = A (m * V), scaling V per key gives the same result to rounding without ever forming the N x N
matrix, so fused kernels stay in use. A calibrated adapter scales and shifts these logits before the sigmoid.

In an isolated block the sequence and the spatial token pass one after the other: the token attends to the keys and
values that the sequence left, and to its own.

The classes here have no parameters of their own and replace the class of an existing attention module: its parameters,
hooks and name stay what they are, and PEFT still finds the linear layers inside.
"""

from __future__ import annotations

from enum import Enum

import torch
import torch.nn.functional as F
from timm.layers import Attention, AttentionRope, apply_rot_embed_cat
from timm.models.eva import EvaAttention
from torch import nn

from sat_peft.tuner.forward import ForwardRecord
from sat_peft.tuner.layer import MaskCalibration, tuned_parameter


def mask_logits(q: torch.Tensor, k: torch.Tensor, token_index: int, scale: float) -> torch.Tensor:
    """Mean over heads of the scaled dot products between the spatial token's query and all keys, in float32.

    Args:
        q, k: (B, H, N, d).
        token_index: Position of the spatial token in the sequence.
        scale: Scale of the attention, normally d ** -0.5.

    Returns:
        (B, N) float32.
    """
    # Heads and their dimensions are contracted in one product, so no (B, H, N) tensor is formed; with a fused qkv layer
    # the flattened keys are a view. Autocast would lower the precision.
    with torch.autocast(q.device.type, enabled=False):
        query = q[:, :, token_index].float().flatten(1) * (scale / q.shape[1])
        keys = k.transpose(1, 2).flatten(2).float()
        return torch.bmm(keys, query.unsqueeze(2)).squeeze(2)


class AttentionMode(Enum):
    """What an attention module of an adapted backbone does."""

    TIMM = "timm's own forward"
    PLAIN = "the same through calls of the linear layers, which may be tuned"  # EvaAttention reads the weight instead
    MASKED = "with the mask of the spatial token"
    ISOLATED = "the sequence first, then the spatial token, which reads the sequence"


class SatAttentionMixin:
    """State and computation that the classes below share."""

    sat_mode: AttentionMode = AttentionMode.TIMM
    sat_token_index: int = 0
    sat_record: ForwardRecord | None = None

    def _attention(self, x: torch.Tensor, rope: torch.Tensor | None = None) -> torch.Tensor:
        batch, length, _ = x.shape
        record = self.sat_record
        of_sequence = record.keys_values if self.sat_mode is AttentionMode.ISOLATED else None
        q, k, v = self._project(x)
        q, k = self.q_norm(q), self.k_norm(k)
        if rope is not None and of_sequence is None:  # the spatial token has no place in the image
            q, k = (self._rotate(t, rope).type_as(v) for t in (q, k))
        groups = getattr(self, "num_kv_groups", 1)
        if groups > 1:
            k, v = (t.repeat_interleave(groups, dim=1) for t in (k, v))

        if self.sat_mode is AttentionMode.MASKED:
            logits = mask_logits(q, k, self.sat_token_index, self.scale)
            calibration = MaskCalibration.of(self)
            mask = (logits if calibration is None else calibration(logits)).sigmoid()
            if record.is_open:
                record.masks.append(mask)
            v = v * mask[:, None, :, None].to(v.dtype)
        elif of_sequence is not None:
            keys, values = of_sequence
            q, k = q.type_as(keys), torch.cat((keys, k.type_as(keys)), dim=2)
            v = torch.cat((values, v), dim=2)
            record.keys_values = None
        elif self.sat_mode is AttentionMode.ISOLATED:
            record.keys_values = k, v

        dropout = self.attn_drop.p if self.training else 0.0
        out = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, scale=self.scale)
        out = self.norm(out.transpose(1, 2).reshape(batch, length, -1))
        if getattr(self, "gate", None) is not None:
            out = out * self.gate(x).sigmoid()
        return self.proj_drop(self.proj(out))

    def _project(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(B, N, D) tokens to q (B, H, N, d) and k, v (B, key-value heads, N, d)."""
        batch, length, _ = x.shape
        if self.qkv is not None:
            qkv = self.qkv(x)  # always called as a module, so that LoRA or a tuned copy inside takes effect
            if getattr(self, "q_bias", None) is not None:  # EvaAttention keeps its biases outside the linear layer
                qkv = qkv + torch.cat((self.q_bias, self.k_bias, self.v_bias)).to(qkv.dtype)
            return qkv.reshape(batch, length, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        kv_heads = getattr(self, "num_kv_heads", self.num_heads)
        return tuple(
            project(x).reshape(batch, length, heads, -1).transpose(1, 2)
            for project, heads in ((self.q_proj, self.num_heads), (self.k_proj, kv_heads), (self.v_proj, kv_heads))
        )

    def _rotate(self, t: torch.Tensor, rope: torch.Tensor) -> torch.Tensor:
        prefix, patches = t[:, :, : self.num_prefix_tokens], t[:, :, self.num_prefix_tokens :]
        return torch.cat((prefix, apply_rot_embed_cat(patches, rope, half=getattr(self, "rotate_half", False))), dim=2)


class SatAttention(SatAttentionMixin, Attention):
    """timm's `Attention` for SAT."""

    def forward(self, x, *masks, **more):
        # What else there is to be handed on depends on timm's version; none of it is taken while an adapter is active.
        if self.sat_mode is AttentionMode.TIMM:
            return super().forward(x, *masks, **more)
        return self._attention(x)


class SatAttentionRope(SatAttentionMixin, AttentionRope):
    """timm's `AttentionRope` for SAT."""

    def forward(self, x, rope=None, *masks, **more):
        if self.sat_mode is AttentionMode.TIMM:
            return super().forward(x, rope, *masks, **more)
        return self._attention(x, rope)


class SatEvaAttention(SatAttentionMixin, EvaAttention):
    """timm's `EvaAttention` for SAT."""

    q_bias = tuned_parameter("q_bias")
    v_bias = tuned_parameter("v_bias")

    def forward(self, x, rope=None, *masks, **more):
        if self.sat_mode is AttentionMode.TIMM:
            return super().forward(x, rope, *masks, **more)
        return self._attention(x, rope)


ATTENTION_CLASSES: dict[type[nn.Module], type[nn.Module]] = {
    Attention: SatAttention,
    AttentionRope: SatAttentionRope,
    EvaAttention: SatEvaAttention,
}
