"""How the spatial token starts."""

import pytest
import timm
import torch
from peft import get_peft_model

from sat_peft import SatConfig
from sat_peft.errors import UsageError

TINY = {"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2, "pretrained": False}


def entry_token(name: str, token_init: str, **arguments) -> tuple[torch.nn.Module, torch.Tensor]:
    """The backbone and what joins its sequence."""
    vit = timm.create_model(name, **TINY | arguments)
    model = get_peft_model(vit, SatConfig(num_classes=3, num_spatial_blocks=1, tune="none", token_init=token_init))
    entry = model.base_model.model.norm_pre
    return vit, entry.sat_token["default"] + entry.sat_pos_embed["default"]


def test_class_token_with_its_position():
    vit, token = entry_token("deit_tiny_patch16_224", "class_token")
    assert torch.equal(token, vit.cls_token + vit.pos_embed[:, :1])


def test_class_token_of_a_backbone_that_gives_it_no_position():
    vit, token = entry_token("vit_small_patch14_reg4_dinov2", "class_token")
    assert vit.pos_embed.shape[1] == 16  # one entry per patch
    assert torch.equal(token, vit.cls_token)


def test_random_by_default():
    assert SatConfig(num_classes=3).token_init == "random"
    vit, token = entry_token("deit_tiny_patch16_224", "random")
    assert not torch.equal(token, vit.cls_token + vit.pos_embed[:, :1])
    assert token.std() < 0.1


def test_a_backbone_without_class_token_is_refused():
    with pytest.raises(UsageError, match=r'has none. Use token_init="random"'):
        entry_token("vit_base_patch16_siglip_224", "class_token")


def test_unknown_start_is_named():
    with pytest.raises(UsageError, match="random, class_token"):
        SatConfig(num_classes=3, token_init="cls")
