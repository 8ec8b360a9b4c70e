"""Tiny backbones with random weights, one per family that SAT supports, for non-square images: their grid is 4 x 6."""

import timm
import torch
from timm.models.vision_transformer import VisionTransformer

from sat_peft.tuner.embedding import patch_embedding

GRID = (4, 6)
DEPTH = 3

# name -> (timm name, patch size, further arguments)
BACKBONES = {
    "vit": ("vit_tiny_patch16_224", 16, {}),
    "deit_distilled": ("deit_tiny_distilled_patch16_224", 16, {}),
    "deit3": ("deit3_small_patch16_224", 16, {}),
    "dinov2": ("vit_small_patch14_dinov2", 14, {"dynamic_img_size": True}),
    "dinov2_registers": ("vit_small_patch14_reg4_dinov2", 14, {"dynamic_img_size": True}),
    "dinov3": ("vit_small_patch16_dinov3", 16, {}),
    "siglip": ("vit_base_patch16_siglip_224", 16, {}),
    "siglip_gap": ("vit_base_patch16_siglip_gap_224", 16, {}),
    "clip": ("vit_base_patch16_clip_224", 16, {}),
    "eva": ("eva_giant_patch14_224", 14, {}),
    "eva02": ("eva02_tiny_patch14_224", 14, {}),
    "rope": ("vit_small_patch16_rope_224", 16, {}),
    "rope_mixed": ("vit_small_patch16_rope_mixed_224", 16, {}),
    "pe": ("vit_pe_core_tiny_patch16_384", 16, {}),
    "naflex": ("naflexvit_base_patch16_par_gap", 16, {}),
    "naflex_map": ("naflexvit_base_patch16_siglip", 16, {"class_token": True, "pos_embed": "factorized"}),
    "qk_norm": ("vit_tiny_patch16_224", 16, {"qk_norm": True, "init_values": 0.1, "scale_attn_norm": True}),
}


def create(name: str, seed: int = 0, **overrides) -> torch.nn.Module:
    """A backbone of the table in evaluation mode, with weights far enough from zero to tell outputs apart."""
    timm_name, patch, arguments = BACKBONES[name]
    arguments = {
        "depth": DEPTH,
        "embed_dim": 32,
        "num_heads": 2,
        "num_classes": 10,
        "img_size": (GRID[0] * patch, GRID[1] * patch),
        **arguments,
        **overrides,
    }
    torch.manual_seed(seed)
    model = timm.create_model(timm_name, pretrained=False, **arguments).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            # Otherwise zero biases, unit norms and small layer scales would hide parts that are left out.
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return model


def create_plain(**overrides) -> VisionTransformer:
    """The smallest backbone, for tests that do not depend on the family: grid 4 x 4, depth 3, width 16."""
    arguments = {"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": DEPTH, "num_heads": 2, "num_classes": 5}
    torch.manual_seed(0)
    return VisionTransformer(**(arguments | overrides)).eval()


def images_for(model, batch: int = 2, seed: int = 1) -> torch.Tensor:
    """(B, 3, H, W) images of the size that a backbone takes."""
    # NaFlexVit takes any size and remembers none.
    height, width = patch_embedding(model).patch_size
    size = getattr(patch_embedding(model), "img_size", (GRID[0] * height, GRID[1] * width))
    return torch.randn(batch, 3, *size, generator=torch.Generator().manual_seed(seed))
