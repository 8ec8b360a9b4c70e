"""What SAT asks of a backbone, and how a backbone is recognised again."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterator

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import ModulesToSaveWrapper
from torch import nn

from sat_peft.errors import UsageError
from sat_peft.tuner.attention import ATTENTION_CLASSES
from sat_peft.tuner.embedding import class_token, patch_embedding
from sat_peft.tuner.layer import InsertedLayer, SpatialTokenEntry

SUPPORTED = (
    "timm models built on VisionTransformer or Eva: ViT, DeiT (plain, distilled, III), DINOv2, DINOv3, CLIP, SigLIP, "
    "EVA, EVA02, RoPE ViTs, PE; NaFlexViT (SigLIP 2 NaFlex, C-RADIO) with images of one size"
)
REQUIRED_ATTRIBUTES = ("norm_pre", "blocks", "norm", "num_prefix_tokens", "embed_dim", "head")
WINDOWED = "its attention is confined to windows of the grid, so that no token sees the whole image"
REFUSED_CLASSES = {
    "SwinTransformer": WINDOWED,
    "SwinTransformerV2": WINDOWED,
    "VisionTransformerSAM": "its blocks take an h x w grid, which has no place for another token",
    "Beit": "its attention adds a relative position bias of fixed size, which has no entry for another token",
    "ConvNeXt": "it has no tokens and no attention",
    "ResNet": "it has no tokens and no attention",
}
# Different values mean that the parameters of an adapter cannot act as they did: loading is refused.
GEOMETRY = ("class", "depth", "embed_dim", "num_prefix_tokens", "patch_size")
# Not part of the features that SAT reads (heads), or changing with the image size alone (position embedding).
NOT_FINGERPRINTED = ("head.", "head_dist.", "attn_pool.", "pos_embed", "embeds.pos_embed")
FINGERPRINT_SAMPLES = 64
# In these types the weights of a float32 model have the fingerprint that they have there: see `comparable_fingerprint`.
COMPARABLE_DTYPES = (torch.float32, torch.float64, torch.bfloat16)
# Parts of timm's models that act after the blocks.
AFTER_BLOCKS = ("norm", "fc_norm", "attn_pool", "head_drop", "head", "head_dist")


def base_modules(module: nn.Module, name: str = "") -> Iterator[tuple[str, nn.Module]]:
    """Names and modules below `module` as in the bare backbone: adapter layers are looked through."""
    while isinstance(module, (BaseTunerLayer, ModulesToSaveWrapper)) and not isinstance(module, InsertedLayer):
        module = module.base_layer if isinstance(module, BaseTunerLayer) else module.original_module
    yield name, module
    for child_name, child in module.named_children():
        if not isinstance(child, InsertedLayer):
            yield from base_modules(child, f"{name}.{child_name}" if name else child_name)


def base_parameters(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Names and parameters as in the bare backbone."""
    for module_name, module in base_modules(model):
        for name, parameter in module._parameters.items():
            if parameter is not None:
                yield (f"{module_name}.{name}" if module_name else name), parameter


def is_parameter_leaf(module: nn.Module) -> bool:
    """Whether a module has parameters and no children, so that a copy of it can stand in for it."""
    return not any(True for _ in module.children()) and any(True for _ in module.parameters())


def own_parameters(module: nn.Module) -> tuple[str, ...]:
    """Names of the parameters that a module holds itself."""
    return tuple(name for name, parameter in module._parameters.items() if parameter is not None)


def check_backbone(vit: nn.Module) -> None:
    """Refuses backbones on which SAT cannot work.

    Raises:
        UsageError: naming the model class and the reason.
    """
    name = type(vit).__name__
    reason = REFUSED_CLASSES.get(name) or _missing_part(vit) or _unsupported_block(vit)
    if reason is None and getattr(getattr(vit, "patch_drop", None), "prob", 0) > 0:
        reason = "its patch dropout leaves patches out, so that the rest is no grid; create it with patch_drop_rate=0"
    if reason is not None:
        raise UsageError(f"SAT does not support {name}: {reason}. Supported: {SUPPORTED}.")


def _missing_part(vit: nn.Module) -> str | None:
    embedding = patch_embedding(vit)
    if embedding is None:
        return "it has no `patch_embed`"
    for attribute in REQUIRED_ATTRIBUTES:
        if not hasattr(vit, attribute):
            return f"it has no `{attribute}`"
    if not hasattr(embedding, "dynamic_feat_size"):
        return f"its patch embedding ({type(embedding).__name__}) does not tell the size of its grid"
    return None


def _unsupported_block(vit: nn.Module) -> str | None:
    supported = {*ATTENTION_CLASSES, *ATTENTION_CLASSES.values()}
    for index, block in enumerate(vit.blocks):
        attn = getattr(block, "attn", None)
        if attn is None:
            return f"blocks.{index} ({type(block).__name__}) has no single attention module `attn`"
        if type(attn) not in supported:
            names = ", ".join(cls.__name__ for cls in ATTENTION_CLASSES)
            return f"the attention of blocks.{index} is {type(attn).__name__}, which is none of {names}"
    return None


def check_not_adapted(vit: nn.Module) -> None:
    """Refuses a backbone that carries adapters of another PEFT model, SAT's or others."""
    if isinstance(getattr(vit, "norm_pre", None), SpatialTokenEntry):
        raise UsageError(
            "this backbone already carries a SAT adapter. Add a second one with peft_model.add_adapter(), or take the "
            "first out with peft_model.unload()."
        )
    for name, module in vit.named_modules():
        if isinstance(module, BaseTunerLayer):
            raise UsageError(
                f"this backbone already carries a {type(module).__name__.lower()} adapter of PEFT, in {name!r}. Put it "
                "into the weights with peft_model.merge_and_unload(), or take it out with peft_model.unload()."
            )


def embedded_class_token(vit: nn.Module) -> torch.Tensor:
    """The class token (1, 1, D) as it enters the first block, its position embedding included where it has one.

    Raises:
        UsageError: if the backbone has none.
    """
    token = class_token(vit)
    if token is None:
        raise UsageError(
            f'token_init="class_token" needs a class token, and this {type(vit).__name__} has none. '
            'Use token_init="random".'
        )
    position = getattr(vit, "pos_embed", None)
    # Some families give prefix tokens no position, and then the embedding has one entry per patch alone.
    has_position = position is not None and not getattr(vit, "no_embed_class", False)
    return (token + position[:, :1] if has_position else token).detach()


def describe_backbone(vit: nn.Module) -> dict:
    """Identity of a backbone as plain JSON values: timm name, geometry, preprocessing and a weight fingerprint."""
    cfg = getattr(vit, "pretrained_cfg", None) or {}
    embedding = patch_embedding(vit)
    img_size = getattr(embedding, "img_size", None)
    return {
        "name": cfg.get("architecture"),
        "pretrained_tag": cfg.get("tag") or None,
        "class": type(vit).__name__,
        "depth": len(vit.blocks),
        "embed_dim": vit.embed_dim,
        "num_prefix_tokens": vit.num_prefix_tokens,
        "patch_size": list(embedding.patch_size),
        "img_size": list(img_size) if img_size else None,
        "dynamic_img_size": bool(getattr(vit, "dynamic_img_size", False)),
        "global_pool": getattr(vit, "global_pool", None),
        "mean": list(cfg["mean"]) if cfg.get("mean") else None,
        "std": list(cfg["std"]) if cfg.get("std") else None,
        "interpolation": cfg.get("interpolation"),
        "fingerprint": comparable_fingerprint(vit),
    }


@torch.no_grad()
def weight_fingerprint(vit: nn.Module) -> str | None:
    """SHA-256 over names, shapes and a fixed sample of the base weights; `None` on the meta device.

    At most 64 evenly spaced values per parameter are read, rounded to bfloat16, so that the same weights have the same
    fingerprint in float64, float32 and bfloat16. Classifier and position embedding are left out: SAT does not use the
    one, and the other changes with the image size.
    """
    digest, samples = hashlib.sha256(), []
    for name, parameter in sorted(base_parameters(vit), key=lambda item: item[0]):
        if name.startswith(NOT_FINGERPRINTED):
            continue
        if parameter.is_meta:
            return None
        digest.update(f"{name}{tuple(parameter.shape)}".encode())
        flat = parameter.reshape(-1)
        samples.append(flat[:: max(1, flat.numel() // FINGERPRINT_SAMPLES)][:FINGERPRINT_SAMPLES].to(torch.bfloat16))
    digest.update(torch.cat(samples).view(torch.int16).cpu().numpy().tobytes())
    return digest.hexdigest()


def comparable_fingerprint(vit: nn.Module) -> str | None:
    """The weight fingerprint, to compare with that of the same weights in another precision; `None` if it would differ.

    So it would for float16, whose rounding before that to bfloat16 shows, and for quantised weights.
    """
    exact = all(parameter.dtype in COMPARABLE_DTYPES for _, parameter in base_parameters(vit))
    return weight_fingerprint(vit) if exact else None


def frozen_fingerprint(vit: nn.Module, blocks: int) -> str:
    """SHA-256 over structure and values of all that comes before the block of index `blocks`."""
    digest = hashlib.sha256()
    for name, module in base_modules(vit):
        room, *rest = name.split(".")
        if room in AFTER_BLOCKS or (room == "blocks" and rest and int(rest[0]) >= blocks):
            continue
        # Without its children, which come by themselves, and so without adapters of later blocks.
        digest.update(f"{name} {type(module).__name__} {module.extra_repr()}".encode())
        for kind in (module._parameters, module._buffers):
            for key, value in kind.items():
                if value is not None:
                    digest.update(f"{key} {value.dtype} {tuple(value.shape)}".encode())
                    digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def compare_backbones(recorded: dict, found: dict) -> None:
    """Compares the backbone that an adapter was trained on with the one it is loaded on.

    Raises:
        UsageError: if the geometry differs. Different weights are warned about.
    """
    differences = [
        f"{key} {recorded[key]!r} there, {found[key]!r} here"
        for key in GEOMETRY
        if key in recorded and recorded[key] != found[key]
    ]
    if differences:
        raise UsageError(
            f"the adapter was trained on {_title(recorded)} and does not fit this {_title(found)}: "
            f"{'; '.join(differences)}. Create the backbone that the adapter was trained on."
        )
    there, here = recorded.get("fingerprint"), found["fingerprint"]
    if there is not None and here is not None and there != here:
        warnings.warn(
            f"the weights of this {_title(found)} differ from those the adapter was trained on ({_title(recorded)}): "
            f"fingerprint {here[:12]} instead of {there[:12]}. Maps and logits will not be those of the trained model; "
            "check the model name, its pretrained tag and that pretrained weights are loaded.",
            UserWarning,
            stacklevel=2,
        )


def _title(backbone: dict) -> str:
    name = backbone.get("name") or backbone.get("class") or "unknown backbone"
    tag = backbone.get("pretrained_tag")
    return f"{name}.{tag}" if tag else name
