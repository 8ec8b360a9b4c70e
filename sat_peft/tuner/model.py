"""SAT as a PEFT tuner."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar

from peft.tuners.lora import LoraLayer, LoraModel
from peft.tuners.tuners_utils import (
    _filter_state_dict_by_key_prefixes,
    _get_tuner_state_dict_key_prefixes,
    check_target_module_exists,
)
from peft.utils import ModulesToSaveWrapper
from timm.layers import DropPath
from torch import nn

from sat_peft.errors import UsageError
from sat_peft.tuner.attention import (
    MASKED_ATTENTION,
    ORIGINAL_CLASSES,
    SWAPPED_CLASSES,
    TUNABLE_OWNERS,
    MaskedAttentionMixin,
)
from sat_peft.tuner.backbone import (
    base_modules,
    check_backbone,
    check_not_adapted,
    compare_backbones,
    describe_backbone,
    embedded_class_token,
    is_parameter_leaf,
    rotary_attentions,
)
from sat_peft.tuner.config import SatConfig
from sat_peft.tuner.forward import ForwardRecord, collect_output, open_record
from sat_peft.tuner.layer import (
    NO_MERGE,
    FullyTunedLayer,
    SatLayer,
    SpatialTokenEntry,
    SpatialTokenExit,
    TunedParameters,
)

ENTRY, EXIT = "norm_pre", "norm"


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
        if adapter_name in {part for name in model.state_dict() for part in name.split(".")}:
            # PEFT tells the parameters of several adapters apart by this part of their names.
            raise UsageError(f"adapter name {adapter_name!r} is also the name of a part of the model. Choose another.")
        super().inject_adapter(model, adapter_name, *args, **kwargs)
        self._install(adapter_name, config)
        self._synchronize()

    def _prepare_adapter_config(self, peft_config: SatConfig, model_config: dict) -> SatConfig:
        vit = self.model
        check_backbone(vit, peft_config.num_spatial_blocks, peft_config.tune)
        backbone = describe_backbone(vit)
        if peft_config.backbone is not None:
            compare_backbones(peft_config.backbone, backbone)
        if peft_config.backbone is None or not peft_config.inference_mode:
            peft_config.backbone = backbone
        self._check_modules_to_save(peft_config)
        if peft_config.tune == "lora":
            self._resolve_lora_targets(peft_config)
        elif peft_config.target_modules is None:
            peft_config.target_modules = set()
        return peft_config

    def _resolve_lora_targets(self, config: SatConfig) -> None:
        first = self._first_spatial_block(config)
        linear = {
            name.split(".", 2)[2]
            for name, module in base_modules(self.model)
            if _block_index(name, first) is not None and isinstance(module, nn.Linear)
        }
        if config.target_modules is None:
            if not config.target_parameters:
                config.target_modules = linear
            return
        if config.target_modules != "all-linear" and not any(
            self._check_target_module_exists(config, name)
            for name, _ in base_modules(self.model)
            if name.startswith("blocks.")
        ):
            raise UsageError(
                f"target_modules={config.target_modules!r} matches no layer of the last {config.num_spatial_blocks} "
                f"blocks, to which SAT confines LoRA. Their linear layers are: {', '.join(sorted(linear))}."
            )

    def _check_modules_to_save(self, config: SatConfig) -> None:
        for name, _ in base_modules(self.model):
            for wanted in config.modules_to_save or ():
                if name.endswith(wanted) and (name in (ENTRY, EXIT) or name.split(".")[0] == "blocks"):
                    raise UsageError(
                        f"modules_to_save={config.modules_to_save!r} would wrap {name}, in which SAT has its own "
                        'layers. To train whole blocks, use tune="full".'
                    )

    def _first_spatial_block(self, config: SatConfig) -> int:
        return len(self.model.blocks) - config.num_spatial_blocks

    def _check_target_module_exists(self, peft_config: SatConfig, key: str):
        if key in (ENTRY, EXIT):
            return True
        if _block_index(key, self._first_spatial_block(peft_config)) is None:
            return False
        if peft_config.tune == "full":
            _, module = next(base_modules(self.model.get_submodule(key)))
            return is_parameter_leaf(module)
        return peft_config.tune == "lora" and check_target_module_exists(peft_config, key)

    # Injection

    def _create_and_replace(
        self, lora_config: SatConfig, adapter_name, target, target_name, parent, current_key, **kwargs
    ) -> None:
        if current_key in (ENTRY, EXIT):
            self._add_token_or_head(lora_config, adapter_name, target, target_name, parent, current_key)
        elif lora_config.tune == "full":
            self._add_full_copy(lora_config, adapter_name, target, target_name, parent)
        else:
            super()._create_and_replace(
                lora_config, adapter_name, target, target_name, parent, current_key=current_key, **kwargs
            )

    def _add_token_or_head(self, config: SatConfig, adapter_name, target, target_name, parent, key) -> None:
        vit = self.model
        weight = next(vit.patch_embed.parameters())
        arguments = {
            "dim": vit.embed_dim,
            "device": weight.device,
            "dtype": weight.dtype,
            "inference_mode": config.inference_mode,
        }
        if key == EXIT:
            arguments |= {"num_classes": config.num_classes, "head": config.head}
        else:
            arguments["initial_token"] = embedded_class_token(vit) if config.token_init == "class_token" else None
        if not isinstance(target, SatLayer):
            if key == ENTRY:
                target = SpatialTokenEntry(target, adapter_name, vit.num_prefix_tokens)
            else:
                target = SpatialTokenExit(target, adapter_name, vit.num_prefix_tokens, ForwardRecord())
            setattr(parent, target_name, target)
        target.update_layer(adapter_name, **arguments)

    def _add_full_copy(self, config: SatConfig, adapter_name, target, target_name, parent) -> None:
        # A LoRA layer of another adapter stays outside, so that the order of adding adapters makes no difference.
        while isinstance(target, LoraLayer):
            parent, target_name, target = target, "base_layer", target.base_layer
        if not isinstance(target, FullyTunedLayer):
            target = FullyTunedLayer(target, adapter_name)
            setattr(parent, target_name, target)
        target.update_layer(adapter_name, config.inference_mode)

    def _install(self, adapter_name: str, config: SatConfig) -> None:
        """What has no layer of its own to wrap: masked attention classes, directly held parameters, hooks."""
        vit = self.model
        first = self._first_spatial_block(config)
        for block in vit.blocks[first:]:
            for module in list(block.modules()):
                swaps = SWAPPED_CLASSES if config.tune == "full" else MASKED_ATTENTION
                if type(module) in swaps:
                    module.__class__ = swaps[type(module)]
                if config.tune == "full" and type(module) in TUNABLE_OWNERS:
                    self._add_tuned_parameters(module, adapter_name, config)
        if not hasattr(self, "_hooks"):
            self._hooks = [
                vit.register_forward_pre_hook(open_record, with_kwargs=True),
                vit.register_forward_hook(collect_output, with_kwargs=True, always_call=True),
            ]

    def _add_tuned_parameters(self, owner: nn.Module, adapter_name: str, config: SatConfig) -> None:
        names = TUNABLE_OWNERS[type(owner)]
        if all(owner._parameters.get(name) is None for name in names):
            return
        if TunedParameters.MODULE_NAME not in owner._modules:
            owner.add_module(TunedParameters.MODULE_NAME, TunedParameters(self.active_adapters))
        tuned = owner._modules[TunedParameters.MODULE_NAME]
        tuned.update_layer(adapter_name, owner, names, config.inference_mode)

    # Switching

    def _synchronize(self) -> None:
        """Puts everything that is no adapter layer in the state that the active adapter asks for."""
        vit = self.model
        if not isinstance(vit.norm, SpatialTokenExit):  # not yet injected
            return
        name = vit.norm.current_adapter
        config = None if name is None else self.peft_config[name]
        first = len(vit.blocks) if config is None else self._first_spatial_block(config)
        for index, block in enumerate(vit.blocks):
            for module in block.modules():
                if isinstance(module, MaskedAttentionMixin):
                    module.sat_active = index >= first
                    module.sat_token_index = vit.num_prefix_tokens
                    module.sat_record = vit.norm.sat_record
        for module in rotary_attentions(vit):
            module.num_prefix_tokens = vit.num_prefix_tokens + (config is not None)
        self._switch_drop_path(self.training)

    def _switch_drop_path(self, training: bool) -> None:
        name = self.model.norm.current_adapter
        config = None if name is None else self.peft_config[name]
        for index, block in enumerate(self.model.blocks):
            frozen = config is not None and index < self._first_spatial_block(config)
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
            tuned = module._modules.get(TunedParameters.MODULE_NAME)
            if tuned is not None and not tuned.sat_full:
                del module._modules[TunedParameters.MODULE_NAME]
        self._synchronize()

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
        for module in list(vit.blocks.modules()):
            module._modules.pop(TunedParameters.MODULE_NAME, None)
            if type(module) in ORIGINAL_CLASSES:
                module.__class__ = ORIGINAL_CLASSES[type(module)]
                for attribute in ("sat_active", "sat_token_index", "sat_record"):
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
        prefixes = _get_tuner_state_dict_key_prefixes(model, adapter_name=adapter_name)
        expected = set(_filter_state_dict_by_key_prefixes(present, prefixes))
        expected |= {key for key in present if f".modules_to_save.{adapter_name}." in key}
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


def _block_index(key: str, first: int) -> int | None:
    """Index of the block that a module lies in, if it lies in one from `first` on."""
    parts = key.split(".")
    if len(parts) < 3 or parts[0] != "blocks" or not parts[1].isdigit() or int(parts[1]) < first:
        return None
    return int(parts[1])
