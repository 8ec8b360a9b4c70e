"""How the pieces of a forward pass reach the output: hooks around the backbone, and a record that layers write to."""

from __future__ import annotations

import threading
from functools import partial

import torch
from timm.layers import use_reentrant_ckpt
from torch import nn

from sat_peft.errors import UsageError
from sat_peft.tuner.embedding import grid_size
from sat_peft.tuner.frozen import FrozenTokens
from sat_peft.tuner.output import SatOutput


class ForwardRecord(threading.local):
    """What the layers of one forward pass leave for each other and for the output.

    For the output: the masks of the spatial blocks, the patch tokens that the first of them gets and the normalised
    patch tokens at the end. Recording is on only between the
    start and the end of the backbone's forward, so a recomputation by gradient checkpointing leaves nothing behind.
    For each other: within an isolated block, the keys and values of the sequence wait for the spatial token; frozen
    tokens that the model got in place of images wait for the place where the spatial token is made.

    Values are per thread, so that several threads may run inference on one model.
    Copies and pickles start empty: activations are no part of the model's state.
    """

    def __init__(self):
        self.masks: list[torch.Tensor] | None = None  # each (B, number of tokens), float32
        self.features: torch.Tensor | None = None  # (B, h * w, D), without gradient
        self.patch_tokens: torch.Tensor | None = None  # (B, h * w, D)
        self.keys_values: tuple[torch.Tensor, torch.Tensor] | None = None  # each (B, H, N, d)
        self.frozen_tokens: torch.Tensor | None = None  # (B, N, D)
        self.without_token = False  # the frozen blocks are wanted, as timm passes them

    @property
    def is_open(self) -> bool:
        return self.masks is not None

    def open(self, frozen_tokens: torch.Tensor | None = None) -> None:
        self.masks, self.features, self.patch_tokens, self.frozen_tokens = [], None, None, frozen_tokens

    def close(self) -> None:
        self.masks = self.features = self.patch_tokens = self.frozen_tokens = None

    def __deepcopy__(self, memo):
        return type(self)()

    def __reduce__(self):
        return type(self), ()


def open_record(vit: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict] | None:
    """Forward pre-hook of the backbone: starts recording if an adapter is active, and takes `FrozenTokens` as input."""
    exit_layer = vit.norm
    images = args[0] if args else kwargs.get("x")
    frozen = isinstance(images, FrozenTokens)
    if frozen and not vit.norm_pre.num_frozen_blocks:
        raise UsageError(
            'frozen tokens are input for an active adapter of token_entry="late" that leaves blocks frozen; give images'
        )
    if exit_layer.current_adapter is None:
        return None
    if not frozen and (not isinstance(images, torch.Tensor) or images.dim() != 4):
        got = f"shape {tuple(images.shape)}" if isinstance(images, torch.Tensor) else type(images).__name__
        raise UsageError(
            f"SAT takes images of one size as a tensor (B, C, H, W), got {got}. Maps need a grid, which NaFlex batches "
            "of patches have none of: resize the images instead."
        )
    others = (*args[1:], *(value for name, value in kwargs.items() if name != "x"))
    if any(argument is not None and argument is not False for argument in others):
        raise UsageError("SAT takes images alone, no attention mask or patch coordinates. Leave them out.")
    if torch.is_grad_enabled() and vit.grad_checkpointing and use_reentrant_ckpt():
        raise UsageError(
            "timm's reentrant checkpointing cuts the maps off from the gradient. "
            "Call timm.layers.set_reentrant_ckpt(False)."
        )
    exit_layer.sat_record.open(images.tokens if frozen else None)
    if not frozen:
        return None
    return (images.placeholder(vit), *args[1:]), {name: value for name, value in kwargs.items() if name != "x"}


def refuse_features(vit: nn.Module) -> None:
    """Puts something in the place of timm's methods that return tokens between blocks, which refuses while an adapter
    is active: the spatial token is one of them.
    """
    for method in _feature_methods(vit):
        setattr(vit, method, partial(_features_without_adapter, vit, method))  # which can be copied and pickled


def restore_features(vit: nn.Module) -> None:
    """Puts timm's own methods back."""
    for method in _feature_methods(vit):
        delattr(vit, method)


def _feature_methods(vit: nn.Module) -> list[str]:
    return [name for name in ("forward_intermediates", "get_intermediate_layers") if hasattr(type(vit), name)]


def _features_without_adapter(vit: nn.Module, method: str, *args, **kwargs):
    """timm's own method. Raises `UsageError` while an adapter is active."""
    if vit.norm.current_adapter is not None and not vit.norm.sat_record.without_token:
        raise UsageError(
            f"{method}() would return the spatial token among the patches. Call it inside disable_adapter() for the "
            "features of the backbone, or take `tokens` and `features` of the model's output."
        )
    return getattr(type(vit), method)(vit, *args, **kwargs)


def collect_output(vit: nn.Module, args: tuple, kwargs: dict, output: torch.Tensor | None) -> SatOutput | None:
    """Forward hook of the backbone: replaces its logits if an adapter is active. Also runs after a failed forward."""
    exit_layer = vit.norm
    record = exit_layer.sat_record
    if not record.is_open:
        return None
    masks, tokens, features = record.masks, record.patch_tokens, record.features
    record.close()
    if tokens is None:  # the forward pass failed before the end
        return None
    images = args[0] if args else kwargs["x"]
    height, width = grid_size(vit, images.shape[-2:])
    if isinstance(exit_layer.get_base_layer(), nn.Identity):
        # With average pooling timm normalises after pooling; the head of SAT reads every patch token normalised.
        tokens = vit.fc_norm(tokens)
    first_patch = exit_layer.token_index + 1
    block_maps = torch.stack([mask[:, first_patch:] for mask in masks]).unflatten(2, (height, width))
    grid = tokens.unflatten(1, (height, width))
    maps, foreground, evidence = block_maps.mean(0), None, None
    if exit_layer.readout is None:
        logits = exit_layer.classify(grid)
    else:
        logits, foreground, evidence = exit_layer.readout(tokens, features, maps.flatten(1))
    # All fields at once: with transformers 4, those that are set later have no key.
    output = SatOutput(
        logits,
        maps,
        block_maps,
        tokens=None if exit_layer.training else grid,
        features=None if features is None else features.unflatten(1, (height, width)),
        foreground=foreground,
        evidence=evidence,
    )
    if evidence is not None:
        output["maps"] = output.maps_of(logits.argmax(1))
    return output
