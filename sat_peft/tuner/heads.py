"""Convolutional heads that are only ever averaged over the image, and so never evaluated per position.

The class logits of SAT are the spatial mean of a zero-padded convolution of the patch tokens.
Convolution and mean are both linear, so the mean needs only sums of the tokens: one for a 1x1 kernel, and for a 3x3
kernel the nine sums over the windows that the nine taps see. The cost does not grow with positions times classes.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn


def window_means(tokens: torch.Tensor) -> torch.Tensor:
    """Means of the windows seen by the taps of a 3x3 convolution with zero padding 1.

    Tap (i, j) sees position (y + i - 1, x + j - 1) while (y, x) runs over the grid: all rows but the last for i = 0,
    all rows for i = 1, all but the first for i = 2, and the same for columns. What falls into the padding counts as
    zero.

    Args:
        tokens: (B, h, w, D).

    Returns:
        (B, D, 3, 3): the sums over the windows, divided by h * w.
    """
    rows = tokens.sum(1)
    rows = torch.stack((rows - tokens[:, -1], rows, rows - tokens[:, 0]), dim=1)  # (B, 3, w, D)
    cells = rows.sum(2)
    cells = torch.stack((cells - rows[:, :, -1], cells, cells - rows[:, :, 0]), dim=2)  # (B, 3, 3, D)
    return cells.permute(0, 3, 1, 2) / (tokens.shape[1] * tokens.shape[2])


class Conv3x3Head(nn.Conv2d):
    """Spatial mean of a 3x3 convolution, padding 1: the head of the paper, with the parameters of an `nn.Conv2d`."""

    def __init__(self, dim: int, num_classes: int, device=None, dtype=None):
        super().__init__(dim, num_classes, 3, padding=1, device=device, dtype=dtype)
        _init_classifier(self)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """(B, h, w, D) patch tokens to (B, C) logits."""
        return F.linear(window_means(tokens).flatten(1), self.weight.flatten(1), self.bias)


class Conv1x1Head(nn.Conv2d):
    """Spatial mean of a 1x1 convolution, i.e. a linear classifier of the mean patch token."""

    def __init__(self, dim: int, num_classes: int, device=None, dtype=None):
        super().__init__(dim, num_classes, 1, device=device, dtype=dtype)
        _init_classifier(self)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """(B, h, w, D) patch tokens to (B, C) logits."""
        return F.linear(tokens.mean((1, 2)), self.weight.flatten(1), self.bias)


class SeparableHead(nn.Module):
    """Spatial mean of a depthwise 3x3 and a pointwise 1x1 convolution; starts out as the pointwise one alone."""

    def __init__(self, dim: int, num_classes: int, device=None, dtype=None):
        super().__init__()
        # No bias: the pointwise bias already shifts the logits by any constant.
        self.depthwise = nn.Conv2d(dim, dim, 3, padding=1, groups=dim, bias=False, device=device, dtype=dtype)
        self.pointwise = nn.Conv2d(dim, num_classes, 1, device=device, dtype=dtype)
        nn.init.dirac_(self.depthwise.weight, groups=dim)
        _init_classifier(self.pointwise)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """(B, h, w, D) patch tokens to (B, C) logits."""
        mean = (window_means(tokens) * self.depthwise.weight[:, 0]).sum((2, 3))
        return F.linear(mean, self.pointwise.weight.flatten(1), self.pointwise.bias)


def _init_classifier(conv: nn.Conv2d) -> None:
    nn.init.trunc_normal_(conv.weight, std=0.02)
    nn.init.zeros_(conv.bias)


HEAD_CLASSES: dict[str, type[nn.Module]] = {
    "conv3x3": Conv3x3Head,
    "conv1x1": Conv1x1Head,
    "separable": SeparableHead,
}
