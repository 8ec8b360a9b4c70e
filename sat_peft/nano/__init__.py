"""The embedded backbone: a small ViT pretrained on the base classes of PartScenes, registered with timm.

`timm.create_model("sat_peft_vit_nano_patch8_96", pretrained=True)` works without any network: the weights lie beside
this file, made by `scripts/pretrain_nano.py` and described in `MODEL_CARD.md`. It is a test bench that runs anywhere
in minutes and makes no claim about photographs.
"""

from __future__ import annotations

from pathlib import Path

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.vision_transformer import VisionTransformer, checkpoint_filter_fn

__all__ = ["NANO_BACKBONE", "sat_peft_vit_nano_patch8_96"]

NANO_BACKBONE = "sat_peft_vit_nano_patch8_96"
WEIGHTS_FILE = Path(__file__).with_name("sat_peft_vit_nano_patch8_96.safetensors")

default_cfgs = generate_default_cfgs(
    {
        NANO_BACKBONE: {
            "file": str(WEIGHTS_FILE),
            "num_classes": 64,
            "input_size": (3, 96, 96),
            "fixed_input_size": True,
            "pool_size": None,
            "crop_pct": 1.0,
            "crop_mode": "squash",
            "interpolation": "bilinear",
            "mean": (0.5, 0.5, 0.5),
            "std": (0.25, 0.25, 0.25),
            "first_conv": "patch_embed.proj",
            "classifier": "head",
            "license": "apache-2.0",
        }
    }
)


@register_model
def sat_peft_vit_nano_patch8_96(pretrained: bool = False, **kwargs) -> VisionTransformer:
    """A ViT of depth 6 and width 128 with 8 x 8 patches on 96 x 96 images (1.2M parameters)."""
    arguments = {"img_size": 96, "patch_size": 8, "embed_dim": 128, "depth": 6, "num_heads": 4, "mlp_ratio": 4}
    # The filter resizes the position embedding where another `img_size` than 96 is asked for.
    return build_model_with_cfg(
        VisionTransformer,
        NANO_BACKBONE,
        pretrained,
        pretrained_filter_fn=checkpoint_filter_fn,
        **(arguments | kwargs),
    )
