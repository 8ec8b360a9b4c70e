"""Linear layers whose matrix products run in oneDNN, in float32 on a CPU.

PyTorch's builds for x86 hand these products to MKL, which on processors of other makers than Intel takes a path of half
the speed. oneDNN, in the same builds, takes the same one everywhere.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd.function import once_differentiable

# Of a weight's shorter side: below it, the change of the memory layout costs more than the product.
_SMALLEST_SIDE = 64


def _product(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """`F.linear`, by oneDNN, which takes tensors in its own layout."""
    return F.linear(x.to_mkldnn(), weight, bias).to_dense()


class _Linear(torch.autograd.Function):
    """`F.linear` with both passes in oneDNN.

    torch differentiates such products too, but keeps a copy of every input, of frozen weights as well, which need none.
    """

    @staticmethod
    def forward(ctx, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        of_input, of_weight, _ = ctx.needs_input_grad
        ctx.save_for_backward(x if of_weight else None, weight if of_input else None)
        return _product(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        rows = gradient.flatten(0, -2)
        return (
            None if weight is None else _product(gradient, weight.t().contiguous()),
            None if x is None else _product(rows.t().contiguous(), x.flatten(0, -2).t().contiguous()),
            rows.sum(0) if ctx.needs_input_grad[2] else None,
        )


class OneDnnLinear(nn.Linear):
    """`nn.Linear`, computed by oneDNN where the input is float32 on a CPU; the results agree to rounding."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        # Autocast, compilers and exporters have kernels of their own choice.
        if (
            x.device.type == "cpu"
            and x.dtype == self.weight.dtype == torch.float32
            and x.ndim > 1
            and x.numel() > 0
            and not torch.is_autocast_enabled("cpu")
            and not torch.compiler.is_compiling()
        ):
            return _Linear.apply(x, self.weight, self.bias)
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
