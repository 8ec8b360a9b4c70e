"""Linear layers whose matrix products run in oneDNN, in float32 on a CPU.

PyTorch's builds for x86 hand these products to MKL, which on processors of other makers than Intel takes a path of half
the speed. oneDNN, in the same builds, takes the same one everywhere.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

# Of a weight's shorter side: below it, the change of the memory layout costs more than the product.
_SMALLEST_SIDE = 64


class OneDnnLinear(nn.Linear):
    """`nn.Linear`, computed by oneDNN where the input is float32 on a CPU; the results agree to rounding."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        # Autocast, compilers and exporters have kernels of their own choice.
        if (
            x.device.type == "cpu"
            and x.dtype == self.weight.dtype == torch.float32
            and not torch.is_autocast_enabled("cpu")
            and not torch.compiler.is_compiling()
        ):
            return F.linear(x.to_mkldnn(), self.weight, self.bias).to_dense()
        return super().forward(x)


def use_onednn(model: nn.Module) -> int:
    """Lets the linear layers of a model be computed by oneDNN, in place; parameters and names stay what they are.

    Layers of other classes than `nn.Linear` itself, and small ones such as low-rank updates, are left alone.

    Returns:
        The number of layers that were changed: none where this build of torch has no oneDNN.
    """
    if not torch.backends.mkldnn.is_available():
        return 0
    layers = [
        module for module in model.modules() if type(module) is nn.Linear and min(module.weight.shape) >= _SMALLEST_SIDE
    ]
    for layer in layers:
        layer.__class__ = OneDnnLinear
    return len(layers)
