"""What a model with an active SAT adapter returns."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from transformers.utils import ModelOutput


@dataclass
class SatOutput(ModelOutput):
    """Class logits and localisation maps of a batch; fields are read by name, by index or by key.

    Args:
        logits: (B, C) class logits, the spatial mean of the convolutional head.
        maps: (B, h, w) localisation maps in (0, 1), float32, on the grid of patches: the mean of `block_maps` over the
            K spatial blocks (SAT, Figure 2).
        block_maps: (K, B, h, w) the mask of every spatial block, first block first, float32.
        features: (B, h, w, D) patch tokens as the first spatial block gets them, before any mask and without gradient,
            for the separation term of the loss; None for blocks of a class that no token can pass apart.
    """

    logits: torch.Tensor = None
    maps: torch.Tensor = None
    block_maps: torch.Tensor = None
    features: torch.Tensor = None
