"""In which blocks an adapter acts, and which of their parameters it trains."""

from __future__ import annotations

from peft.tuners.tuners_utils import check_target_module_exists
from torch import nn

from sat_peft.errors import UsageError
from sat_peft.tuner.attention import AttentionMode
from sat_peft.tuner.backbone import base_modules, is_parameter_leaf, own_parameters
from sat_peft.tuner.block import BLOCK_CLASSES, ORIGINAL_CLASSES, TUNABLE_OWNERS, TokenPath
from sat_peft.tuner.config import SatConfig

# Layers around which the spatial token comes in and goes out.
ENTRY, EXIT = "norm_pre", "norm"
# Parts of timm's models that take no part while an adapter is active, and those that may be trained beside one.
_UNREAD = ("head", "head_dist", "head_drop", "attn_pool")
_OUTSIDE = ("patch_embed", "embeds", "fc_norm")


def first_spatial_block(vit: nn.Module, config: SatConfig) -> int:
    """Index of the first block with a mask."""
    return len(vit.blocks) - config.num_spatial_blocks


def first_tuned_block(vit: nn.Module, config: SatConfig) -> int:
    """Index of the first block that is tuned; the depth if none is."""
    return len(vit.blocks) - (0 if config.tune == "none" else config.num_tuned_blocks or config.num_spatial_blocks)


def first_adapted_block(vit: nn.Module, config: SatConfig) -> int:
    """Index of the first block that is spatial or tuned; those before it are frozen."""
    return min(first_spatial_block(vit, config), first_tuned_block(vit, config))


def entry_block(vit: nn.Module, config: SatConfig) -> int:
    """Index of the block before which the spatial token joins the sequence."""
    if config.token_entry == "input":
        return 0
    return first_spatial_block(vit, config) if config.token_entry == "late" else first_adapted_block(vit, config)


def token_path(vit: nn.Module, config: SatConfig | None, index: int) -> TokenPath:
    """What block `index` does with a spatial token that arrives apart from the sequence."""
    if config is None or index >= entry_block(vit, config):
        return TokenPath.JOIN
    if config.token_entry == "isolated":
        return TokenPath.ISOLATED
    return TokenPath.FROZEN if index < frozen_blocks(vit, config) else TokenPath.WAIT


def frozen_blocks(vit: nn.Module, config: SatConfig | None) -> int:
    """Number of first blocks that are neither trained nor meet the spatial token, so that their result never changes.

    Only a late token leaves any. `config` is that of the active adapter, if any.
    """
    return 0 if config is None or config.token_entry != "late" else first_adapted_block(vit, config)


def attention_mode(vit: nn.Module, config: SatConfig | None, index: int) -> AttentionMode:
    """What the attention of block `index` does; `config` is that of the active adapter, if any."""
    if config is None:
        return AttentionMode.TIMM
    if index >= first_spatial_block(vit, config):
        return AttentionMode.MASKED
    if index >= first_adapted_block(vit, config):
        return AttentionMode.PLAIN
    return AttentionMode.ISOLATED if config.token_entry == "isolated" else AttentionMode.TIMM


def block_index(key: str, first: int) -> int | None:
    """Index of the block that a module lies in, if it lies in one from `first` on."""
    parts = key.split(".")
    if len(parts) < 3 or parts[0] != "blocks" or not parts[1].isdigit() or int(parts[1]) < first:
        return None
    return int(parts[1])


def copied_parameters(module: nn.Module, tune: str) -> tuple[str, ...]:
    """Names of those parameters held by `module` itself that `tune` replaces by private copies."""
    names = own_parameters(module)
    if tune == "full" or (tune == "bias_norm" and "norm" in type(module).__name__.lower()):
        return names
    return tuple(name for name in names if tune == "bias_norm" and name.endswith("bias"))


def is_tuned(vit: nn.Module, config: SatConfig, key: str) -> object:
    """Something true if the layer named `key` gets a private copy or low-rank updates; of LoRA what PEFT says, so that
    it knows which layers `exclude_modules` has left out."""
    if block_index(key, first_tuned_block(vit, config)) is None:
        return False
    if config.tune == "lora":
        return check_target_module_exists(config, key)
    _, module = next(base_modules(vit.get_submodule(key)))
    return is_parameter_leaf(module) and bool(copied_parameters(module, config.tune))


def check_scope(vit: nn.Module, config: SatConfig) -> None:
    """Refuses configurations that this supported backbone cannot follow.

    Raises:
        UsageError: for more spatial or tuned blocks than there are, blocks that a late or isolated token cannot pass,
            parameters that cannot be copied, and modules to save that SAT has layers in or leaves unread.
    """
    name, depth = type(vit).__name__, len(vit.blocks)
    for field in ("num_spatial_blocks", "num_tuned_blocks"):
        number = getattr(config, field)
        if number is not None and number > depth:
            raise UsageError(
                f"{field}={number} is more than the {depth} blocks of this {name}. Choose a number from 1 to {depth}."
            )
    if config.token_entry != "input":
        known = {*BLOCK_CLASSES, *BLOCK_CLASSES.values()}
        for index, block in enumerate(vit.blocks):
            if type(block) not in known:
                raise UsageError(
                    f"token_entry={config.token_entry!r} needs blocks of one of the classes "
                    f"{', '.join(cls.__name__ for cls in BLOCK_CLASSES)}, and blocks.{index} of this {name} is "
                    f'{type(block).__name__}. Use token_entry="input".'
                )
    for index in range(first_tuned_block(vit, config), depth):
        _check_copies(vit.blocks[index], f"blocks.{index}", config.tune)
    _check_modules_to_save(vit, config)


def _check_copies(block: nn.Module, block_name: str, tune: str) -> None:
    known = {ORIGINAL_CLASSES[owner]: names for owner, names in TUNABLE_OWNERS.items()} | TUNABLE_OWNERS
    for name, module in base_modules(block, block_name):
        copied = copied_parameters(module, tune)
        if is_parameter_leaf(module):
            # The bias alone can be copied where it is known what the layer computes.
            possible = not copied or copied == own_parameters(module) or isinstance(module, nn.Linear)
        else:
            possible = set(copied) <= set(known.get(type(module), ()))
        if not possible:
            raise UsageError(
                f"tune={tune!r} cannot copy the parameters {list(copied)} of {name} ({type(module).__name__}). "
                'Use tune="lora" or tune="none".'
            )


def _check_modules_to_save(vit: nn.Module, config: SatConfig) -> None:
    names = [name for name, _ in base_modules(vit) if name]
    for wanted in config.modules_to_save or ():
        found = [name for name in names if name.endswith(wanted)]
        problem = None
        if inside := [name for name in found if name in (ENTRY, EXIT) or name.split(".")[0] == "blocks"]:
            problem = f"would wrap {inside[0]}, in which SAT has its own layers"
        elif not any(name == wanted or name.endswith(f".{wanted}") for name in found):
            problem = f"names {wanted!r}, which is no module of this {type(vit).__name__}"
        elif unread := [name for name in found if name.split(".")[0] in _UNREAD]:
            problem = f"names {unread[0]}, which a model with SAT does not read: SAT has a head of its own"
        if problem:
            raise UsageError(
                f"modules_to_save={config.modules_to_save!r} {problem}. Outside of the blocks there are: "
                f"{', '.join(name for name in names if name.split('.')[0] in _OUTSIDE)}; to train whole blocks, "
                'use tune="full".'
            )


def resolve_lora_targets(vit: nn.Module, config: SatConfig) -> None:
    """Fills in `target_modules` in place: by default all linear layers of the tuned blocks.

    Raises:
        UsageError: if the given ones match no layer there.
    """
    first = first_tuned_block(vit, config)
    modules = {name: module for name, module in base_modules(vit) if block_index(name, first) is not None}
    linear = {name.split(".", 2)[2] for name, module in modules.items() if isinstance(module, nn.Linear)}
    if config.target_modules is None:
        if not config.target_parameters:
            config.target_modules = linear
        return
    matched = config.target_modules == "all-linear" or any(check_target_module_exists(config, key) for key in modules)
    if not matched:
        chosen = f"target_modules={config.target_modules!r}"
        if config.layers_to_transform is not None:
            chosen += f" with layers_to_transform={config.layers_to_transform!r} of blocks 0 to {len(vit.blocks) - 1}"
        raise UsageError(
            f"{chosen} matches no layer of the last {len(vit.blocks) - first} blocks, to which SAT confines "
            f"LoRA. Their linear layers are: {', '.join(sorted(linear))}."
        )
