"""SAT as a PEFT tuner."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar

import torch
from peft.tuners.lora import LoraLayer, LoraModel
from peft.utils import ModulesToSaveWrapper
from timm.layers import AttentionRope, DropPath
from timm.models.eva import EvaAttention
from torch import nn

from sat_peft.errors import UsageError
from sat_peft.tuner.attention import SatAttentionMixin
from sat_peft.tuner.backbone import (
    check_backbone,
    check_not_adapted,
    compare_backbones,
    describe_backbone,
    embedded_class_token,
    frozen_fingerprint,
    own_parameters,
)
from sat_peft.tuner.block import ORIGINAL_CLASSES, SWAPPED_CLASSES, TUNABLE_OWNERS, SatBlockMixin
from sat_peft.tuner.config import SatConfig
from sat_peft.tuner.embedding import patch_embedding
from sat_peft.tuner.forward import ForwardRecord, collect_output, open_record, refuse_features, restore_features
from sat_peft.tuner.frozen import FrozenTokens
from sat_peft.tuner.kept import kept_tokens_after, take_kept_tokens
from sat_peft.tuner.layer import (
    NO_MERGE,
    InsertedLayer,
    MaskCalibration,
    SatLayer,
    SpatialTokenEntry,
    SpatialTokenExit,
    TunedLayer,
    TunedParameters,
)
from sat_peft.tuner.readout import empty_readout
from sat_peft.tuner.scope import (
    ENTRY,
    EXIT,
    attention_mode,
    check_scope,
    copied_parameters,
    entry_block,
    first_adapted_block,
    first_spatial_block,
    first_tuned_block,
    frozen_blocks,
    is_tuned,
    resolve_lora_targets,
    token_path,
)

# What `_synchronize` sets on attention modules and blocks.
STATE = ("sat_mode", "sat_token_index", "sat_record", "sat_token_path")


class SatModel(LoraModel):
    """A timm Vision Transformer with Spatial-Aware Token adapters (SAT, ICCV 2023, https://arxiv.org/abs/2303.10438).

    A learned token joins the patch tokens; in the last K blocks its similarity to every token masks the attention,
    and the mean of these masks over the blocks is the localisation map. Class logits come from a convolutional head
    on the patch tokens. While an adapter is active, the model returns [`SatOutput`]; inside `disable_adapter()` it
    returns what timm returns, bit for bit, and `unload()` gives the backbone back (frozen, as PEFT leaves it).

    One adapter is active at a time. Merging is refused, since no plain ViT computes the same.

    `train()` switches on the stochastic depth of all blocks, frozen ones included, as in the published training; with
    `SatConfig(drop_path_in_frozen_blocks=False)` the frozen blocks stay deterministic. Dropout follows `train()` as
    usual.

    Args:
        model: The timm model. It is changed in place.
        peft_config: A [`SatConfig`]. The model keeps a copy, so that the same object may serve several backbones.
        adapter_name: Name of the adapter.

    Example:

        ```py
        >>> import timm
        >>> from peft import get_peft_model
        >>> from sat_peft import SatConfig

        >>> vit = timm.create_model("deit_small_patch16_224", pretrained=True, drop_path_rate=0.1)
        >>> model = get_peft_model(vit, SatConfig(num_classes=200, tune="full"))
        >>> model(images).maps.shape  # images: (B, 3, 224, 224)
        torch.Size([8, 14, 14])
        ```

    Raises:
        UsageError: for a backbone that cannot work, or more spatial blocks than it has.
    """

    tuner_layer_cls = (LoraLayer, SatLayer)
    target_module_mapping: ClassVar[dict] = {}
    # The forward hooks and switches live here, so the layers are of no use without the tuner.
    uses_shared_state = True

    # Preparation

    def __init__(self, model: nn.Module, *args, **kwargs):
        check_not_adapted(model)  # before PEFT adds the new adapter to the configuration it finds on the model
        super().__init__(model, *args, **kwargs)

    def inject_adapter(self, model: nn.Module, adapter_name: str, *args, **kwargs) -> None:
        config = copy.deepcopy(self.peft_config[adapter_name])
        self.peft_config[adapter_name] = config
        if not adapter_name or "." in adapter_name:
            raise UsageError(f"adapter name {adapter_name!r} is empty or has a dot. Choose another.")
        if adapter_name in {part for name in model.state_dict() for part in name.split(".")}:
            # PEFT tells the parameters of several adapters apart by this part of their names.
            raise UsageError(f"adapter name {adapter_name!r} is also the name of a part of the model. Choose another.")
        super().inject_adapter(model, adapter_name, *args, **kwargs)
        self._install(adapter_name, config)
        self._synchronize()

    def _prepare_adapter_config(self, peft_config: SatConfig, model_config: dict) -> SatConfig:
        vit = self.model
        check_backbone(vit)
        check_scope(vit, peft_config)
        backbone = describe_backbone(vit)
        if peft_config.backbone is not None:
            compare_backbones(peft_config.backbone, backbone)
        if peft_config.backbone is None or not peft_config.inference_mode:
            peft_config.backbone = backbone
        if peft_config.tune == "lora":
            resolve_lora_targets(vit, peft_config)
        elif peft_config.target_modules is None:
            peft_config.target_modules = set()
        return peft_config

    def _check_target_module_exists(self, peft_config: SatConfig, key: str):
        return key in (ENTRY, EXIT) or is_tuned(self.model, peft_config, key)

    # Injection

    def _create_and_replace(
        self, lora_config: SatConfig, adapter_name, target, target_name, parent, current_key, **kwargs
    ) -> None:
        if current_key in (ENTRY, EXIT):
            self._add_token_or_head(lora_config, adapter_name, target, target_name, parent, current_key)
        elif lora_config.tune != "lora":
            self._add_copy(lora_config, adapter_name, target, target_name, parent)
        else:
            super()._create_and_replace(
                lora_config, adapter_name, target, target_name, parent, current_key=current_key, **kwargs
            )

    def _add_token_or_head(self, config: SatConfig, adapter_name, target, target_name, parent, key) -> None:
        vit = self.model
        weight = next(patch_embedding(vit).parameters())
        arguments = {
            "dim": vit.embed_dim,
            "device": weight.device,
            "dtype": weight.dtype,
            "inference_mode": config.inference_mode,
        }
        if key == EXIT:
            arguments |= {"num_classes": config.num_classes, "head": config.head, "train_head": config.train_head}
            arguments["readout"] = empty_readout(config, vit.embed_dim, weight.device) if config.class_readout else None
        else:
            arguments["initial_token"] = embedded_class_token(vit) if config.token_init == "class_token" else None
        if not isinstance(target, SatLayer):
            layers = (layer for layer in (vit.norm_pre, vit.norm) if isinstance(layer, SatLayer))
            record = next((layer.sat_record for layer in layers), None) or ForwardRecord()
            if key == ENTRY:
                target = SpatialTokenEntry(target, adapter_name, vit.num_prefix_tokens, record)
            else:
                target = SpatialTokenExit(target, adapter_name, vit.num_prefix_tokens, record)
            setattr(parent, target_name, target)
        target.update_layer(adapter_name, **arguments)

    def _add_copy(self, config: SatConfig, adapter_name, target, target_name, parent) -> None:
        # A LoRA layer of another adapter stays outside, so that the order of adding adapters makes no difference.
        while isinstance(target, LoraLayer):
            parent, target_name, target = target, "base_layer", target.base_layer
        if not isinstance(target, TunedLayer):
            target = TunedLayer(target, adapter_name)
            setattr(parent, target_name, target)
        layer = target.get_base_layer()
        bias_only = copied_parameters(layer, config.tune) != own_parameters(layer)
        target.update_layer(adapter_name, bias_only, config.inference_mode)

    def _install(self, adapter_name: str, config: SatConfig) -> None:
        """What has no layer of its own to wrap: classes of attention and blocks, directly held parameters, hooks."""
        vit = self.model
        first = first_tuned_block(vit, config)
        for index, block in enumerate(vit.blocks):
            for module in list(block.modules()):
                if type(module) in SWAPPED_CLASSES:
                    module.__class__ = SWAPPED_CLASSES[type(module)]
                if index >= first and type(module) in TUNABLE_OWNERS:
                    self._add_tuned_parameters(module, adapter_name, config)
            if config.calibrated_masks and index >= first_spatial_block(vit, config):
                calibration = MaskCalibration.insert(block.attn, self.active_adapters)
                calibration.update_layer(adapter_name, next(block.parameters()).device, config.inference_mode)
        if not hasattr(self, "_hooks"):
            self._hooks = [
                vit.register_forward_pre_hook(take_kept_tokens, with_kwargs=True),
                vit.register_forward_pre_hook(open_record, with_kwargs=True),
                vit.register_forward_hook(collect_output, with_kwargs=True, always_call=True),
            ]
            refuse_features(vit)

    def _add_tuned_parameters(self, owner: nn.Module, adapter_name: str, config: SatConfig) -> None:
        names = copied_parameters(owner, config.tune)
        if not names:
            return
        tuned = TunedParameters.insert(owner, self.active_adapters)
        tuned.update_layer(adapter_name, owner, names, config.inference_mode)

    # Switching

    def _synchronize(self) -> None:
        """Puts everything that is no adapter layer in the state that the active adapter asks for."""
        vit = self.model
        if not isinstance(vit.norm, SpatialTokenExit):  # not yet injected
            return
        vit.norm.freeze_untrained()
        config = self._active_config()
        entry = len(vit.blocks) if config is None else entry_block(vit, config)
        vit.norm_pre.joins_later = config is not None and entry > 0
        vit.norm_pre.num_frozen_blocks = frozen_blocks(vit, config)
        for index, block in enumerate(vit.blocks):
            if isinstance(block, SatBlockMixin):
                block.sat_token_path = token_path(vit, config, index)
            for module in block.modules():
                if isinstance(module, SatAttentionMixin):
                    module.sat_mode = attention_mode(vit, config, index)
                    module.sat_token_index = vit.num_prefix_tokens
                    module.sat_record = vit.norm.sat_record
                if isinstance(module, (AttentionRope, EvaAttention)):
                    # Rotary position embeddings skip the tokens before the patches.
                    module.num_prefix_tokens = vit.num_prefix_tokens + (index >= entry)
        self._switch_drop_path(self.training)

    def _active_config(self) -> SatConfig | None:
        name = self.model.norm.current_adapter
        return None if name is None else self.peft_config[name]

    def _switch_drop_path(self, training: bool) -> None:
        config = self._active_config()
        for index, block in enumerate(self.model.blocks):
            frozen = config is not None and index < first_adapted_block(self.model, config)
            for module in block.modules():
                if isinstance(module, DropPath):
                    module.train(training and (not frozen or config.drop_path_in_frozen_blocks))

    def train(self, mode: bool = True) -> SatModel:
        """Sets training mode; see the class for what it means to the stochastic depth of frozen blocks."""
        super().train(mode)
        if isinstance(self.model.norm, SpatialTokenExit):
            self._switch_drop_path(mode)
        return self

    def _enable_adapter_layers(self, enabled: bool = True) -> None:
        super()._enable_adapter_layers(enabled)
        self._synchronize()

    def set_adapter(self, adapter_name: str | list[str], inference_mode: bool = False) -> None:
        """Makes one adapter the active one."""
        if not isinstance(adapter_name, str) and len(adapter_name) > 1:
            raise UsageError(f"SAT has one active adapter at a time, not {list(adapter_name)}. Pass one name.")
        super().set_adapter(adapter_name, inference_mode=inference_mode)
        self._synchronize()

    def delete_adapter(self, adapter_name: str) -> None:
        """Deletes an adapter. If it was the active one, the first of the others becomes active."""
        others = [name for name in self.peft_config if name != adapter_name]
        if adapter_name in self.peft_config and not others:
            raise UsageError(f"{adapter_name!r} is the only adapter. Use unload() to get the base model back.")
        if adapter_name in self.active_adapters:
            # Left to PEFT, every layer would choose among the adapters that it holds itself.
            warnings.warn(f"{adapter_name!r} was active and is deleted; {others[0]!r} is active now.", stacklevel=2)
            self.set_adapter(others[0])
        super().delete_adapter(adapter_name)
        for module in list(self.model.blocks.modules()):
            for name, child in list(module._modules.items()):
                if isinstance(child, InsertedLayer) and not getattr(child, child.adapter_layer_names[0]):
                    del module._modules[name]
        self._synchronize()

    # Frozen blocks

    def frozen_tokens(self, images: torch.Tensor) -> FrozenTokens:
        """What the frozen blocks make of images, to be given to the model in place of them, any number of times.

        Only with `token_entry="late"` does nothing that is trained reach these blocks. They are computed as in
        evaluation, without stochastic depth, and without gradients.

        Args:
            images: (B, 3, H, W), preprocessed for the backbone, on its device.

        Raises:
            UsageError: if no adapter is active, or the active one leaves no blocks that are frozen in this sense.
        """
        vit, config = self.model, self._active_config()
        blocks = frozen_blocks(vit, config)
        if blocks == 0:
            names = ("token_entry", "num_spatial_blocks", "num_tuned_blocks")
            raise UsageError(
                "frozen tokens need an active adapter that leaves the first blocks alone: token_entry='late', and "
                f"fewer spatial and tuned blocks than the {len(vit.blocks)} of the backbone. This one has "
                f"{ {name: getattr(config, name, None) for name in names} }."
            )
        training = self.training
        self.eval()
        try:
            return FrozenTokens(kept_tokens_after(vit, images, blocks), tuple(images.shape[1:]))
        finally:
            self.train(training)

    def frozen_fingerprint(self) -> str:
        """SHA-256 of everything that `frozen_tokens` depends on: where it is the same, so are they."""
        return frozen_fingerprint(self.model, frozen_blocks(self.model, self._active_config()))

    # Removal

    def _check_merge_allowed(self) -> None:
        raise UsageError(NO_MERGE)

    def add_weighted_adapter(self, *args, **kwargs) -> None:
        raise UsageError("SAT adapters cannot be added up: their tokens and heads mean different things.")

    @contextmanager
    def _enable_peft_forward_hooks(self, *args, **kwargs) -> Iterator[None]:
        if kwargs.get("adapter_names") is not None:
            raise UsageError(
                "SAT has one active adapter for the whole batch. Use set_adapter() instead of adapter_names."
            )
        with super()._enable_peft_forward_hooks(*args, **kwargs):
            yield

    def _unload_and_optionally_merge(self, merge: bool = True, *args, **kwargs) -> nn.Module:
        if merge:
            self._check_merge_allowed()
        vit = self.model
        self._enable_adapter_layers(False)  # puts prefix counts and drop path back
        for hook in self._hooks:
            hook.remove()
        del self._hooks
        restore_features(vit)
        for module in list(vit.blocks.modules()):
            for name, child in list(module._modules.items()):
                if isinstance(child, InsertedLayer):
                    del module._modules[name]
            if type(module) in ORIGINAL_CLASSES:
                module.__class__ = ORIGINAL_CLASSES[type(module)]
                for attribute in STATE:
                    module.__dict__.pop(attribute, None)
        for name, module in list(vit.named_modules()):
            if isinstance(module, ModulesToSaveWrapper):
                # PEFT hands out the trained copy here; unload() promises the base model.
                parent, _, child = name.rpartition(".")
                setattr(vit.get_submodule(parent), child, module.original_module)
        return super()._unload_and_optionally_merge(False, *args, **kwargs)

    # Adapter files

    @classmethod
    def _remove_adapter_name_from_key(cls, key: str, adapter_name: str) -> str:
        # Which layer lies inside which depends on the other adapters of the model, and must not show in the file.
        return super()._remove_adapter_name_from_key(key, adapter_name).replace(".base_layer.", ".")

    @classmethod
    def _remap_adapter_state_dict_for_load(cls, model, config, adapter_name, state_dict):
        remapped = super()._remap_adapter_state_dict_for_load(model, config, adapter_name, state_dict)
        present = model.state_dict()
        # The name of an adapter is a part of the names of its parameters and of no others.
        expected = {key for key in present if adapter_name in key.split(".")}
        problems = []
        if missing := sorted(expected - set(remapped)):
            problems.append(f"missing: {', '.join(missing)}")
        if extra := sorted(set(remapped) - expected):
            problems.append(f"not part of the adapter: {', '.join(extra)}")
        for key in sorted(expected & set(remapped)):
            if remapped[key].shape != present[key].shape:
                problems.append(f"{key} has shape {tuple(remapped[key].shape)}, expected {tuple(present[key].shape)}")
        if problems:
            raise UsageError(
                f"the weights do not fit adapter {adapter_name!r} ({'; '.join(problems)}). Its adapter_config.json and "
                "adapter_model.safetensors must come from the same save."
            )
        return remapped
