"""TS-CAM: its maps are semantic maps times attention, its logits the means of the semantic maps."""

import pytest
import timm
import torch

from sat_peft.evaluation.attention_maps import record_attention
from sat_peft.evaluation.baselines.tscam import TsCam


@pytest.fixture(params=["class token", "no class token"])
def tscam(request) -> TsCam:
    torch.manual_seed(0)
    options = {} if request.param == "class token" else {"class_token": False, "global_pool": "avg"}
    backbone = timm.create_model("test_vit", num_classes=0, img_size=(32, 48), drop_path_rate=0.5, **options)
    model = TsCam(backbone, num_classes=4).eval()
    torch.nn.init.normal_(model.head.weight)
    torch.nn.init.normal_(model.head.bias)
    return model


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(2, 3, 32, 48, generator=torch.Generator().manual_seed(0))


def test_semantic_maps_are_a_convolution_of_the_tokens_in_their_grid(tscam, images):
    """The value of a class in the corner: a sum over the four tokens that its window covers."""
    tokens = tscam.patch_tokens(images)
    weight = tscam.head.weight[1]
    corner = tscam.head.bias[1] + sum(tokens[:, i, j] @ weight[:, i + 1, j + 1] for i in (0, 1) for j in (0, 1))
    torch.testing.assert_close(tscam.semantic_maps(tscam.patch_tokens(images))[:, 1, 0, 0], corner)


def test_logits_are_the_means_of_the_semantic_maps(tscam, images):
    semantic = tscam.semantic_maps(tscam.patch_tokens(images))
    assert semantic.shape == (2, 4, 2, 3)
    expected = semantic.sum((2, 3)) / 6
    torch.testing.assert_close(tscam(images), expected)
    torch.testing.assert_close(tscam.localize(images, torch.tensor([0, 1]))[0], expected)


def test_maps_are_semantic_maps_of_the_labels_times_attention(tscam, images):
    _, maps = tscam.localize(images, torch.tensor([3, 1]))
    with record_attention(tscam.backbone) as attentions, torch.no_grad():
        tscam.backbone.forward_features(images)
    prefix = tscam.backbone.num_prefix_tokens
    rows = [block[:, 0] if prefix else block.mean(1) for block in attentions]
    attended = sum(rows)[:, prefix:].reshape(2, 2, 3) / len(rows)
    semantic = tscam.semantic_maps(tscam.patch_tokens(images))
    torch.testing.assert_close(maps[0], semantic[0, 3] * attended[0])
    torch.testing.assert_close(maps[1], semantic[1, 1] * attended[1])


def test_uniform_attention_leaves_the_semantic_map(tscam, images):
    """Where no token is preferred, every block gives each of the N tokens 1 / N."""
    for block in tscam.backbone.blocks:
        torch.nn.init.zeros_(block.attn.qkv.weight)
        torch.nn.init.zeros_(block.attn.qkv.bias)
    _, maps = tscam.localize(images, torch.tensor([0, 2]))
    semantic = tscam.semantic_maps(tscam.patch_tokens(images))
    tokens = 6 + tscam.backbone.num_prefix_tokens
    torch.testing.assert_close(maps, torch.stack([semantic[0, 0], semantic[1, 2]]) / tokens)


def test_only_the_head_is_trained_and_the_backbone_stays_deterministic(tscam, images):
    tscam.train()
    assert [name for name, p in tscam.named_parameters() if p.requires_grad] == ["head.weight", "head.bias"]
    assert torch.equal(tscam(images), tscam(images))
    tscam(images).square().sum().backward()
    assert tscam.head.weight.grad.abs().sum() > 0
    assert all(p.grad is None for p in tscam.backbone.parameters())
