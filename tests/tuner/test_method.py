"""The equations of the method, each against a direct transcription."""

import inspect
import math

import pytest
import timm
import torch
import torch.nn.functional as F
from peft import get_peft_model
from timm.layers import Attention, AttentionRope
from timm.models.eva import EvaAttention
from tiny_backbones import BACKBONES, create, create_plain, images_for
from torch import nn

from sat_peft import SatConfig
from sat_peft.tuner import attention as attention_module
from sat_peft.tuner.attention import ATTENTION_CLASSES, AttentionMode, mask_logits
from sat_peft.tuner.forward import ForwardRecord
from sat_peft.tuner.heads import HEAD_CLASSES, window_means
from sat_peft.tuner.layer import SpatialTokenEntry

GATE = {"gated": True} if "gated" in inspect.signature(Attention).parameters else {}


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_mask_logits_are_the_mean_over_heads_of_scaled_dot_products():
    q, k = random(2, 3, 7, 4), random(2, 3, 7, 4, seed=1)
    expected = torch.stack([q[:, h, 5, None] @ k[:, h].mT / math.sqrt(4) for h in range(3)]).mean(0)[:, 0]
    torch.testing.assert_close(mask_logits(q, k, token_index=5, scale=4**-0.5), expected)


def test_mask_logits_keep_float32_under_autocast():
    q, k = random(2, 3, 7, 4), random(2, 3, 7, 4, seed=1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = mask_logits(q, k, 5, 0.5)
    assert torch.equal(found, mask_logits(q, k, 5, 0.5))


def test_scaling_values_multiplies_the_attention_after_softmax():
    torch.manual_seed(0)
    attn = Attention(12, num_heads=3, qkv_bias=True).eval()
    x = random(2, 7, 12)
    q, k, v = attn.qkv(x).reshape(2, 7, 3, 3, 4).permute(2, 0, 3, 1, 4)
    weights = (q @ k.mT / math.sqrt(4)).softmax(-1)
    mask = (q[:, :, 2:3] @ k.mT / math.sqrt(4)).mean(1).sigmoid()  # (B, 1, N)
    expected = attn.proj(((weights * mask[:, None]) @ v).transpose(1, 2).reshape(2, 7, 12))

    record = ForwardRecord()
    record.open()
    attn.__class__ = ATTENTION_CLASSES[Attention]
    attn.sat_mode, attn.sat_token_index, attn.sat_record = AttentionMode.MASKED, 2, record
    torch.testing.assert_close(attn(x), expected)
    torch.testing.assert_close(record.masks[0], mask[:, 0])


ATTENTIONS = {
    "plain": (Attention, {"qkv_bias": True}),
    "norms_gate": (Attention, {"qk_norm": True, "scale_norm": True, "gated": True, "norm_layer": nn.LayerNorm}),
    "rope": (AttentionRope, {"num_prefix_tokens": 2}),
    "rope_norms": (
        AttentionRope,
        {"qkv_fused": False, "qk_norm": True, "rotate_half": True, "norm_layer": nn.LayerNorm},
    ),
    "rope_grouped": (AttentionRope, {"num_kv_heads": 1, "qkv_fused": False, "rotate_half": True, "gated": True}),
    "eva": (EvaAttention, {"norm_layer": nn.LayerNorm}),
    "eva_unfused": (EvaAttention, {"qkv_fused": False, "scale_norm": False}),
    "eva_separate_bias": (EvaAttention, {"qkv_bias_separate": True, "scale_norm": False}),
    "eva_no_bias": (EvaAttention, {"qkv_bias": False, "scale_norm": False}),
}


@pytest.mark.parametrize("name", ATTENTIONS)
def test_a_mask_of_ones_gives_the_attention_of_timm(name, monkeypatch):
    torch.manual_seed(0)
    attention, arguments = ATTENTIONS[name]
    if later := arguments.keys() - inspect.signature(attention).parameters:
        pytest.skip(f"timm {timm.__version__} has no {', '.join(sorted(later))}")
    attn = attention(12, num_heads=3, **arguments).eval()
    for parameter in attn.parameters():
        nn.init.normal_(parameter, std=0.5)
    x = random(2, 7, 12)
    arguments = {}
    if not isinstance(attn, Attention):
        arguments["rope"] = random(7 - attn.num_prefix_tokens, 8, seed=1)
    expected = attn(x, **arguments)
    attn.__class__ = ATTENTION_CLASSES[type(attn)]
    attn.sat_mode, attn.sat_record = AttentionMode.MASKED, ForwardRecord()
    monkeypatch.setattr(attention_module, "mask_logits", lambda q, k, i, s: torch.full((2, 7), torch.inf))
    torch.testing.assert_close(attn(x, **arguments), expected)


def test_map_is_the_mean_over_the_last_blocks_of_the_masks_of_patches():
    vit = create_plain()
    model = get_peft_model(vit, SatConfig(num_classes=2, num_spatial_blocks=2, tune="none")).eval()
    images = images_for(vit)
    inputs = {}
    for index in (1, 2):
        vit.blocks[index].attn.register_forward_pre_hook(lambda m, args, i=index: inputs.update({i: args[0]}))
    output = model(images)
    for position, index in enumerate((1, 2)):
        attn = vit.blocks[index].attn
        q, k, _ = attn.qkv(inputs[index]).reshape(2, 18, 3, 2, 8).permute(2, 0, 3, 1, 4)
        logits = (q[:, :, 1:2] @ k.mT / math.sqrt(8)).mean(1)[:, 0]  # the token follows the class token
        torch.testing.assert_close(output.block_maps[position], logits.sigmoid()[:, 2:].reshape(2, 4, 4))
    torch.testing.assert_close(output.maps, (output.block_maps[0] + output.block_maps[1]) / 2)


def test_token_enters_after_the_prefix_tokens():
    entry = SpatialTokenEntry(nn.Identity(), "default", token_index=2, record=ForwardRecord())
    entry.update_layer("default", dim=3, device=None, dtype=torch.float32, inference_mode=False)
    x = random(2, 6, 3)
    found = entry(x)
    token = (entry.sat_token["default"] + entry.sat_pos_embed["default"])[0, 0]
    assert torch.equal(found[:, 2], token.expand(2, -1))
    assert torch.equal(torch.cat((found[:, :2], found[:, 3:]), dim=1), x)


@pytest.mark.parametrize("grid", [(4, 6), (1, 5), (5, 1), (1, 1), (2, 2)])
@pytest.mark.parametrize("head", HEAD_CLASSES)
def test_logits_are_the_spatial_mean_of_the_convolution(head, grid):
    torch.manual_seed(0)
    module = HEAD_CLASSES[head](8, 5)
    for parameter in module.parameters():
        nn.init.normal_(parameter)
    tokens = random(2, *grid, 8)
    image = tokens.permute(0, 3, 1, 2)
    if head == "separable":
        deep = F.conv2d(image, module.depthwise.weight, padding=1, groups=8)
        maps = F.conv2d(deep, module.pointwise.weight, module.pointwise.bias)
    else:
        maps = F.conv2d(image, module.weight, module.bias, padding=1 if head == "conv3x3" else 0)
    torch.testing.assert_close(module(tokens), maps.mean((2, 3)), rtol=1e-5, atol=1e-5)


def test_window_means_of_a_known_grid():
    tokens = torch.arange(6.0).reshape(1, 2, 3, 1)  # rows (0 1 2) and (3 4 5)
    expected = torch.tensor([[0 + 1, 0 + 1 + 2, 1 + 2], [0 + 1 + 3 + 4, 15, 1 + 2 + 4 + 5], [3 + 4, 12, 4 + 5]]) / 6
    assert torch.equal(window_means(tokens)[0, 0], expected)


@pytest.mark.parametrize("head", HEAD_CLASSES)
def test_heads_start_as_a_small_classifier(head):
    torch.manual_seed(0)
    logits = HEAD_CLASSES[head](64, 10)(random(4, 7, 7, 64))
    assert logits.abs().max() < 0.5
    assert logits.std() > 0


@pytest.mark.parametrize("backbone", BACKBONES)
def test_head_reads_normalised_patch_tokens(backbone):
    vit = create(backbone)
    model = get_peft_model(vit, SatConfig(num_classes=2, num_spatial_blocks=1, tune="none", head="conv1x1")).eval()
    found, blocks_output = {}, {}
    vit.norm.sat_head["default"].register_forward_pre_hook(lambda m, args: found.update(tokens=args[0]))
    vit.blocks[-1].register_forward_hook(lambda m, args, output: blocks_output.update(tokens=output))
    model(images_for(vit))
    norm = vit.norm.base_layer if not isinstance(vit.norm.base_layer, nn.Identity) else vit.fc_norm
    patches = norm(blocks_output["tokens"])[:, vit.num_prefix_tokens + 1 :]
    torch.testing.assert_close(found["tokens"].flatten(1, 2), patches)
    assert not isinstance(norm, nn.Identity)
