"""Loading checkpoints of the published SAT code."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

import torch
from peft import PeftModel
from safetensors.torch import load_file
from torch import nn

from sat_peft.errors import UsageError
from sat_peft.tuner.backbone import base_parameters, comparable_fingerprint
from sat_peft.tuner.layer import SpatialTokenEntry, SpatialTokenExit, TunedLayer, TunedParameters

# The 3x3 Gaussian that smooths a map before the normalization loss: a constant of the published model.
BLUR_CORNER, BLUR_EDGE, BLUR_CENTRE = 0.00262846, 0.0460116, 0.8054397
BLUR_KERNEL = torch.tensor(
    [
        [BLUR_CORNER, BLUR_EDGE, BLUR_CORNER],
        [BLUR_EDGE, BLUR_CENTRE, BLUR_EDGE],
        [BLUR_CORNER, BLUR_EDGE, BLUR_CORNER],
    ]
)
BLUR_KEY = "weight"
TOKEN_KEY, POSITION_KEY = "loc_token", "loc_embed"
CLASSIFIER_PREFIXES = ("head.", "head_dist.", "fc_norm.", "attn_pool.")
MAX_NAMED = 5  # tensors that an error names


@torch.no_grad()
def load_reference_weights(peft_model: PeftModel, source: Mapping[str, torch.Tensor] | str | Path) -> None:
    """Overwrites base and adapter weights with those of a checkpoint of the published SAT code, in place.

    The spatial token and its position embedding (`loc_token`, `loc_embed`) and the head go into the active adapter; all
    other weights go into the base model *and* into the fully tuned copies of the adapter. The place of the spatial
    token in the sequence makes no difference to a ViT without rotary position embeddings. Low-rank updates are left
    as they are, and have no effect as long as they are untrained. The `weight` entry, the blur kernel of the loss, is
    only checked.

    Args:
        peft_model: Model with one SAT adapter with the head `"conv3x3"`, on a backbone of the reference's geometry.
        source: State dict, or path of a `.safetensors` or torch file (read without unpickling code). Names may start
            with `module.`, and the state dict may be inside `{"model": ...}` or `{"state_dict": ...}`.

    Raises:
        UsageError: for missing or unknown names and differing shapes, the first of which are named, a file that cannot
            be read, or a model with several adapters. Nothing is overwritten then.
    """
    if len(peft_model.peft_config) > 1:
        raise UsageError(
            f"the model has the adapters {sorted(peft_model.peft_config)}, and new base weights would change them all. "
            "Load the reference into a model with one adapter."
        )
    weights = state_dict_of(read_checkpoint(source) if isinstance(source, (str, Path)) else source)
    kernel = weights.pop(BLUR_KEY, None)
    if kernel is not None and not torch.allclose(kernel.float().reshape(-1).cpu(), BLUR_KERNEL.reshape(-1), atol=1e-6):
        raise UsageError(
            f"the reference blurs with another kernel ({kernel.reshape(-1).tolist()}) than SatLoss "
            f"({BLUR_KERNEL.reshape(-1).tolist()}); is this a SAT checkpoint?"
        )
    vit = peft_model.get_base_model()
    name = peft_model.active_adapter
    targets = _targets(vit, name)
    expected = {key: tuple(parameters[0].shape) for key, parameters in targets.items()}
    problems = []
    if missing := [key for key in expected if key not in weights]:
        problems.append(f"missing: {_first(missing)}")
    if unknown := [key for key in weights if key not in expected]:
        problems.append(f"unknown: {_first(unknown)}")
    if differing := [key for key in expected if key in weights and tuple(weights[key].shape) != expected[key]]:
        shapes = [f"{key} has shape {tuple(weights[key].shape)}, the model {expected[key]}" for key in differing]
        problems.append(_first(shapes))
    if problems:
        raise UsageError(
            f"the reference weights do not fit the model ({'; '.join(problems)}). Create the backbone with the "
            'reference\'s depth, width, patch and image size, and the adapter with its num_classes and head="conv3x3".'
        )
    for key, parameters in targets.items():
        for parameter in parameters:
            parameter.copy_(weights[key])
    peft_model.peft_config[name].backbone["fingerprint"] = comparable_fingerprint(vit)


def _targets(vit: nn.Module, adapter_name: str) -> dict[str, list[torch.Tensor]]:
    """Reference names and the parameters that each of them is written to."""
    targets = {key: [parameter] for key, parameter in base_parameters(vit) if not key.startswith(CLASSIFIER_PREFIXES)}
    for module_name, module in vit.named_modules():
        name = module_name.replace(".base_layer", "")
        if isinstance(module, SpatialTokenEntry):
            targets[TOKEN_KEY] = [module.sat_token[adapter_name]]
            targets[POSITION_KEY] = [module.sat_pos_embed[adapter_name]]
        elif isinstance(module, SpatialTokenExit):
            for key, parameter in module.sat_head[adapter_name].named_parameters():
                targets[f"head.{key}"] = [parameter]
        elif isinstance(module, (TunedLayer, TunedParameters)):
            owner = name.removesuffix(f".{TunedParameters.MODULE_NAME}")
            for key, parameter in module.sat_full[adapter_name].named_parameters():
                targets[f"{owner}.{key}"].append(parameter)
    return targets


def _first(items: list[str]) -> str:
    """The first of many, and how many more there are: another backbone differs in every single tensor."""
    shown = ", ".join(items[:MAX_NAMED])
    return f"{shown} and {len(items) - MAX_NAMED} more" if len(items) > MAX_NAMED else shown


def state_dict_of(checkpoint: Mapping) -> dict[str, torch.Tensor]:
    """The weights of a checkpoint by name, without `module.` and whatever mapping they are wrapped in.

    Raises:
        UsageError: naming an entry that is no tensor.
    """
    for key in ("model", "state_dict"):
        if isinstance(checkpoint.get(key), Mapping):
            checkpoint = checkpoint[key]
    for key, value in checkpoint.items():
        if not isinstance(key, str) or not isinstance(value, torch.Tensor):
            raise UsageError(f"the reference entry {key!r} is {type(value).__name__}, not a tensor: not a state dict.")
    return {key.removeprefix("module."): value for key, value in checkpoint.items()}


def read_checkpoint(path: str | Path) -> Mapping:
    """What a `.safetensors` or torch file holds, on the CPU; code in it is never run.

    Raises:
        UsageError: no such file, a damaged one, one that needs code to be unpickled, or one without named entries.
    """
    path = Path(path)
    if not path.is_file():
        raise UsageError(f"no reference weights at {path}.")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        # The published code stores its command line options, a plain holder of values, beside the weights.
        with torch.serialization.safe_globals([argparse.Namespace]):
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch's reader raises whatever it trips over, from AssertionError to struct.error
        # Its own message advises to run the code in the file, which is what must not be done.
        raise UsageError(
            f"cannot read {path} as weights: the file is damaged, no checkpoint, or needs code to be unpickled, which "
            f"is refused ({type(error).__name__}). Give a file that holds a state dict of tensors."
        ) from error
    if not isinstance(checkpoint, Mapping):
        raise UsageError(f"{path} holds {type(checkpoint).__name__}, not a state dict.")
    return checkpoint
