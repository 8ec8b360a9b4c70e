"""What is trained: parameters by component, of a model with a SAT adapter."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

import torch
from peft import PeftModel, get_peft_model_state_dict

from sat_peft.tuner.backbone import base_parameters

_BLOCK = re.compile(r"\bblocks\.(\d+)\.")
_CLASSIFIERS = ("head.", "head_dist.")
# Copies that stand in for parameters of the backbone, whose originals stay loaded.
_PRIVATE_COPIES = (".sat_full.", ".modules_to_save.")
# Gradient and two moments, which AdamW keeps of every trainable parameter in float32.
_ADAMW_BYTES = 3 * 4
_SAFETENSORS_DTYPES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}


@dataclass(frozen=True)
class ParameterCount:
    """Numbers of parameters.

    Args:
        components: trainable parameters by component, in the order of the forward pass.
        trainable: their sum.
        total: parameters of the deployed model: the backbone without its classifier, and the active adapter. What the
            adapter replaces by a copy of its own counts once, although the frozen original stays loaded.
        frozen: frozen parameters of the deployed model by component: first the backbone's, under timm's names outside
            the blocks, then the adapter's. Every component is in it, with 0 where all of it is trained.
        loaded: parameters in memory, as PEFT counts them: classifier, frozen originals and other adapters included.
    """

    components: dict[str, int]
    trainable: int
    total: int
    frozen: dict[str, int]
    loaded: int

    @property
    def share(self) -> float:
        """Trainable parameters in percent of the total."""
        return 100.0 * self.trainable / self.total

    @property
    def optimizer_bytes(self) -> int:
        """Memory of training with AdamW in float32 beyond the weights: gradients and both moments, in bytes."""
        return _ADAMW_BYTES * self.trainable


def _backbone_part(name: str) -> str:
    block = _BLOCK.search(name)
    return f"block {block[1]}" if block else name.removeprefix("base_model.model.").partition(".")[0]


def _component(name: str, tune: str) -> str:
    for part, component in (("sat_token", "spatial token"), ("sat_pos_embed", "position embedding")):
        if f".{part}." in name:
            return component
    if ".sat_head." in name:
        return "head"
    part = _backbone_part(name)
    if ".lora_" in name:
        return f"LoRA in {part}"
    return f"biases and norms in {part}" if tune == "bias_norm" and part.startswith("block ") else part


def count_parameters(model: PeftModel) -> ParameterCount:
    """Counts the parameters of a PEFT model whose active adapter is a SAT adapter; other adapters do not count.

    The parameters may be on the meta device.
    """
    adapter = model.active_adapter
    tune = model.peft_config[adapter].tune
    components: dict[str, int] = {}
    frozen: dict[str, int] = {}
    for name, parameter in base_parameters(model.get_base_model()):
        if not name.startswith(_CLASSIFIERS):
            part = _backbone_part(name)
            frozen[part] = frozen.get(part, 0) + parameter.numel()
    for name, parameter in model.named_parameters():
        # The name of an adapter is a part of the names of its parameters and of no others.
        if adapter not in name.split("."):
            continue
        component = _component(name, tune)
        frozen.setdefault(component, 0)
        counts = components if parameter.requires_grad else frozen
        counts[component] = counts.get(component, 0) + parameter.numel()
        if any(part in name for part in _PRIVATE_COPIES):
            frozen[_backbone_part(name)] -= parameter.numel()
    trainable = sum(components.values())
    _, loaded = model.get_nb_trainable_parameters()
    return ParameterCount(components, trainable, trainable + sum(frozen.values()), frozen, loaded)


def adapter_file_bytes(model: PeftModel) -> int:
    """Size of the `adapter_model.safetensors` that `save_adapter` writes for the active adapter, in bytes.

    Worked out from names and shapes by the safetensors format (eight bytes of length, a JSON header padded to a
    multiple of eight, the values), so that the model may be on the meta device.
    """
    weights = get_peft_model_state_dict(model, adapter_name=model.active_adapter)
    header, end = {"__metadata__": {"format": "pt"}}, 0
    for name, tensor in sorted(weights.items(), key=lambda item: (-item[1].element_size(), item[0])):
        start, end = end, end + tensor.nbytes
        dtype = _SAFETENSORS_DTYPES[tensor.dtype]
        header[name] = {"dtype": dtype, "shape": list(tensor.shape), "data_offsets": [start, end]}
    header_bytes = len(json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode())
    return 8 + -(-header_bytes // 8) * 8 + end
