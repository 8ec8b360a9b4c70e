"""What is trained: parameters by component, of a model with a SAT adapter."""

from __future__ import annotations

import re
from dataclasses import dataclass

from torch import nn

_BLOCK = re.compile(r"\bblocks\.(\d+)\.")


@dataclass(frozen=True)
class ParameterCount:
    """Numbers of parameters.

    Args:
        components: trainable parameters by component, in the order of the forward pass.
        trainable: their sum.
        total: parameters of the deployed model: the backbone without its classifier, token, head and LoRA; a block
            that is trained whole counts once, although its frozen original stays loaded.
    """

    components: dict[str, int]
    trainable: int
    total: int

    @property
    def share(self) -> float:
        """Trainable parameters in percent of the total."""
        return 100.0 * self.trainable / self.total


def _component(name: str) -> str:
    for part, component in (("sat_token", "spatial token"), ("sat_pos_embed", "position embedding")):
        if f".{part}." in name:
            return component
    if ".sat_head." in name:
        return "head"
    block = _BLOCK.search(name)
    if block is None:
        return "other"
    return f"LoRA in block {block[1]}" if ".lora_" in name else f"block {block[1]}"


def count_parameters(model: nn.Module) -> ParameterCount:
    """Counts the parameters of a PEFT model whose active adapter is a SAT adapter."""
    components: dict[str, int] = {}
    frozen = replaced = 0
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            component = _component(name)
            components[component] = components.get(component, 0) + parameter.numel()
            replaced += parameter.numel() if ".sat_full." in name else 0
        elif not name.startswith(("base_model.model.head.", "base_model.model.head_dist.")):
            frozen += parameter.numel()
    trainable = sum(components.values())
    return ParameterCount(components, trainable, frozen + trainable - replaced)
