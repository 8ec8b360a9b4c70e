"""What is trained: parameters by component, of a model with a SAT adapter."""

from __future__ import annotations

import re
from dataclasses import dataclass

from peft import PeftModel

from sat_peft.tuner.backbone import base_parameters

_BLOCK = re.compile(r"\bblocks\.(\d+)\.")


@dataclass(frozen=True)
class ParameterCount:
    """Numbers of parameters.

    Args:
        components: trainable parameters by component, in the order of the forward pass.
        trainable: their sum.
        total: parameters of the deployed model: the backbone without its classifier, and the active adapter. What the
            adapter replaces by a copy of its own counts once, although the frozen original stays loaded.
    """

    components: dict[str, int]
    trainable: int
    total: int

    @property
    def share(self) -> float:
        """Trainable parameters in percent of the total."""
        return 100.0 * self.trainable / self.total


def _component(name: str, tune: str) -> str:
    for part, component in (("sat_token", "spatial token"), ("sat_pos_embed", "position embedding")):
        if f".{part}." in name:
            return component
    if ".sat_head." in name:
        return "head"
    block = _BLOCK.search(name)
    if block is None:
        return "patch embedding" if ".patch_embed." in name else "other"
    if ".lora_" in name:
        return f"LoRA in block {block[1]}"
    return f"biases and norms in block {block[1]}" if tune == "bias_norm" else f"block {block[1]}"


def count_parameters(model: PeftModel) -> ParameterCount:
    """Counts the parameters of a PEFT model whose active adapter is a SAT adapter; other adapters do not count."""
    adapter = model.active_adapter
    components: dict[str, int] = {}
    total = sum(
        parameter.numel()
        for name, parameter in base_parameters(model.get_base_model())
        if not name.startswith(("head.", "head_dist."))
    )
    for name, parameter in model.named_parameters():
        # The name of an adapter is a part of the names of its parameters and of no others.
        if adapter not in name.split("."):
            continue
        if ".sat_full." not in name and ".modules_to_save." not in name:
            total += parameter.numel()
        if parameter.requires_grad:
            component = _component(name, model.peft_config[adapter].tune)
            components[component] = components.get(component, 0) + parameter.numel()
    return ParameterCount(components, sum(components.values()), total)
