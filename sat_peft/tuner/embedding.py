"""Where timm's models make tokens of images."""

from __future__ import annotations

from torch import nn


def patch_embedding(vit: nn.Module) -> nn.Module | None:
    """The module that makes patch tokens of images; `None` where a model has none.

    timm's NaFlexVit calls it `embeds`, and has prefix tokens and position embeddings in it too.
    """
    return getattr(vit, "patch_embed", None) or getattr(vit, "embeds", None)


def grid_size(vit: nn.Module, image_size: tuple[int, int]) -> tuple[int, int]:
    """(h, w) of the patch tokens of images of (height, width) pixels."""
    return patch_embedding(vit).dynamic_feat_size(image_size)


def class_token(vit: nn.Module) -> nn.Parameter | None:
    """The class token (1, 1, D); `None` where a model has none."""
    return getattr(vit, "cls_token", getattr(patch_embedding(vit), "cls_token", None))
