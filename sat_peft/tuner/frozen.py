"""What the frozen blocks make of images: computed once, it can be the input of the model in place of them."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn

from sat_peft.errors import UsageError
from sat_peft.tuner.embedding import grid_size, patch_embedding


class FrozenTokens(NamedTuple):
    """The tokens of a batch of images after the frozen blocks, without the spatial token.

    `SatModel.frozen_tokens` computes them, and a model whose adapter has `token_entry="late"` takes them in place of
    the images. The patch embedding and the frozen blocks are then passed over.
    """

    tokens: torch.Tensor  # (B, N, D)
    image_shape: tuple[int, int, int]  # (channels, height, width) of the images

    def placeholder(self, vit: nn.Module) -> torch.Tensor:
        """(1, C, H, W) zeros that the embeddings of `vit` get instead of the images, whose tokens nobody reads.

        What else a backbone makes of the size of its images, as rotary position embeddings, comes out right.

        Raises:
            UsageError: tokens of another shape than the images would have.
        """
        height, width = grid_size(vit, self.image_shape[1:])
        expected = (vit.num_prefix_tokens + height * width, vit.embed_dim)
        if tuple(self.tokens.shape[1:]) != expected:
            raise UsageError(
                f"frozen tokens of shape {tuple(self.tokens.shape)} are not those of images of "
                f"{self.image_shape[1]} x {self.image_shape[2]} pixels: (B, {expected[0]}, {expected[1]}) expected. "
                "Compute them with this backbone."
            )
        weight = next(patch_embedding(vit).parameters())
        return torch.zeros(1, *self.image_shape, dtype=weight.dtype, device=weight.device)


@torch.no_grad()
def tokens_after(vit: nn.Module, images: torch.Tensor, blocks: int) -> torch.Tensor:
    """The tokens (B, N, D) of images after the first blocks of a timm model with SAT layers, prefix included.

    Args:
        vit: in evaluation mode; an active adapter's spatial token stays out.
        images: (B, 3, H, W), preprocessed, on its device.
        blocks: how many blocks, at least 1.
    """
    record = vit.norm.sat_record
    record.without_token = True
    try:
        (found,) = vit.forward_intermediates(
            images,
            indices=[blocks - 1],
            return_prefix_tokens=True,
            stop_early=True,
            output_fmt="NLC",
            intermediates_only=True,
        )
    finally:
        record.without_token = False
    # timm gives a pair, unless there are no prefix tokens.
    if isinstance(found, tuple):
        patches, prefix = found
        return torch.cat((prefix, patches), dim=1)
    return found
