"""What a model with an active SAT adapter returns."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from transformers.utils import ModelOutput

from sat_peft.tuner.readout import weigh


@dataclass
class SatOutput(ModelOutput):
    """Class logits and localisation maps of a batch; fields are read by name, by index or by key.

    Args:
        logits: (B, C) class logits, the spatial mean of the convolutional head; those of the class readout, where the
            adapter has one and the model evaluates.
        maps: (B, h, w) localisation maps in (0, 1), float32, on the grid of patches: the mean of `block_maps` over the
            K spatial blocks (SAT, Figure 2). With a readout, those of the most probable class: see `maps_of`.
        block_maps: (K, B, h, w) the mask of every spatial block, first block first, float32.
        tokens: (B, h, w, D) normalised patch tokens at the end, which head and readout read; None in training mode.
        features: (B, h, w, D) patch tokens as the first spatial block gets them, before any mask and without gradient,
            for the separation term of the loss; None for blocks of a class that no token can pass apart.
        foreground: (B, h * w) with a readout, the map of the object whatever its class.
        evidence: (B, C, h * w) with a readout, how much each patch speaks for each class, relative to the foreground.
    """

    logits: torch.Tensor = None
    maps: torch.Tensor = None
    block_maps: torch.Tensor = None
    tokens: torch.Tensor = None
    features: torch.Tensor = None
    foreground: torch.Tensor = None
    evidence: torch.Tensor = None

    def maps_of(self, labels: torch.Tensor) -> torch.Tensor:
        """(B, h, w) maps of the given classes (B,); without a readout `maps`, which do not depend on the class."""
        if self.evidence is None:
            return self.maps
        chosen = labels.to(self.evidence.device)[:, None, None].expand(-1, 1, self.evidence.shape[-1])
        return weigh(self.foreground, self.evidence.gather(1, chosen).squeeze(1)).unflatten(1, self.maps.shape[1:])


def border_per_image(maps: torch.Tensor) -> torch.Tensor:
    """Mean of each map over the outermost positions, where images seldom have their object: (B, h, w) to (B,)."""
    inner = maps[:, 1:-1, 1:-1]
    patches = maps[0].numel() - inner[0].numel()
    # Sums, since an index by a mask would make a GPU wait.
    return (maps.sum((1, 2)) - inner.sum((1, 2))) / patches
