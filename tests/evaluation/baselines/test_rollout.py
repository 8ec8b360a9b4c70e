"""Attention rollout: hand-computed products, and the attention that is read off real blocks."""

import pytest
import timm
import torch

from sat_peft.errors import UsageError
from sat_peft.evaluation.attention_maps import record_attention
from sat_peft.evaluation.baselines.cam import LinearCam
from sat_peft.evaluation.baselines.rollout import BASELINE, rollout

# Attention, with and without a class token; AttentionRope; EvaAttention with registers, rotary embeddings, separate q.
MODELS = {
    "class token": ("test_vit", {}),
    "no class token": ("test_vit", {"class_token": False, "global_pool": "avg"}),
    "norm of q and k": ("test_vit", {"qk_norm": True}),
    "rope": ("vit_small_patch16_rope_224", {"embed_dim": 48, "depth": 2, "num_heads": 3}),
    "dinov3": ("vit_small_patch16_dinov3", {"embed_dim": 48, "depth": 2, "num_heads": 3}),
    "naflex": ("naflexvit_base_patch16_gap", {"embed_dim": 48, "depth": 2, "num_heads": 3}),
    "naflex with a class token": ("naflexvit_base_patch16_gap", {"embed_dim": 48, "depth": 2, "class_token": True}),
    "eva02": ("eva02_tiny_patch14_224", {"embed_dim": 48, "depth": 2, "num_heads": 3, "patch_size": 16}),
}


@pytest.fixture(params=MODELS)
def backbone(request) -> torch.nn.Module:
    name, options = MODELS[request.param]
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=0, img_size=(32, 48), **options).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))  # attention far from uniform
    return model


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(2, 3, 32, 48, generator=torch.Generator().manual_seed(0))


def test_uniform_attention_rolls_out_by_hand():
    # One block: half stays with the token, half is spread over all four. Two blocks: a quarter stays.
    uniform = torch.full((1, 4, 4), 0.25)
    query = torch.tensor([1.0, 0, 0, 0])
    torch.testing.assert_close(rollout([uniform], query), torch.tensor([[0.625, 0.125, 0.125, 0.125]]))
    torch.testing.assert_close(rollout([uniform] * 2, query), torch.tensor([[0.4375, 0.1875, 0.1875, 0.1875]]))


def test_first_block_is_applied_first():
    # The first block moves token 2 into token 1, the second token 1 into token 0: the other way round, 2 is left out.
    first, second = torch.eye(3)[None].clone(), torch.eye(3)[None].clone()
    first[0, 1] = torch.tensor([0.0, 0, 1])
    second[0, 0] = torch.tensor([0.0, 1, 0])
    query = torch.tensor([1.0, 0, 0])
    torch.testing.assert_close(rollout([first, second], query), torch.tensor([[0.5, 0.25, 0.25]]))
    torch.testing.assert_close(rollout([second, first], query), torch.tensor([[0.5, 0.5, 0.0]]))


def test_maps_are_the_explicit_product_of_matrices(backbone, images):
    classifier = LinearCam(backbone, 3).eval()
    logits, maps = BASELINE.localizer(classifier)(images, torch.zeros(2, dtype=torch.long))
    torch.testing.assert_close(logits, classifier(images), rtol=1e-4, atol=1e-5)

    with record_attention(backbone) as attentions, torch.no_grad():
        backbone.forward_features(images)
    assert len(attentions) == len(backbone.blocks)
    product = torch.eye(attentions[0].shape[-1])
    for attention in attentions:
        mixed = (attention + torch.eye(attention.shape[-1])) / 2
        product = mixed / mixed.sum(-1, keepdim=True) @ product
    prefix = backbone.num_prefix_tokens
    has_class_token = any(name.endswith("cls_token") for name, _ in backbone.named_parameters())
    row = product[:, 0] if has_class_token else product[:, prefix:].mean(1)
    torch.testing.assert_close(maps, row[:, prefix:].reshape(2, 2, 3))


def test_recorded_attention_is_the_softmax_of_queries_and_keys(images):
    torch.manual_seed(0)
    vit = timm.create_model("test_vit", num_classes=0, img_size=(32, 48)).eval()
    first = vit.blocks[0]
    with record_attention(vit) as attentions, torch.no_grad():
        vit.forward_features(images)
        tokens = first.norm1(vit.norm_pre(vit._pos_embed(vit.patch_embed(images))))
        q, k, _ = first.attn.qkv(tokens).chunk(3, dim=-1)
    heads = [(q[..., i : i + 32] @ k[..., i : i + 32].mT / 32**0.5).softmax(-1) for i in (0, 32)]
    torch.testing.assert_close(attentions[0], (heads[0] + heads[1]) / 2)


def test_rows_of_recorded_attention_sum_to_one(backbone, images):
    with record_attention(backbone) as attentions, torch.no_grad():
        backbone.forward_features(images)
    for attention in attentions:
        assert attention.shape == (2, 6 + backbone.num_prefix_tokens, 6 + backbone.num_prefix_tokens)
        torch.testing.assert_close(attention.sum(-1), torch.ones(attention.shape[:2]))
        assert attention.std(-1).min() > 1e-3


def test_recording_changes_no_features_and_leaves_nothing_behind(backbone, images):
    fused = [block.attn.fused_attn for block in backbone.blocks]
    with torch.no_grad():
        plain = backbone.forward_features(images)
        with record_attention(backbone) as attentions:
            recorded = backbone.forward_features(images)
        after = backbone.forward_features(images)
    torch.testing.assert_close(recorded, plain, rtol=1e-4, atol=1e-5)
    assert torch.equal(after, plain)
    assert len(attentions) == len(backbone.blocks)
    assert [block.attn.fused_attn for block in backbone.blocks] == fused
    assert not any(block.attn.attn_drop._forward_pre_hooks for block in backbone.blocks)


def test_failed_forward_pass_leaves_the_blocks_as_they_were(backbone):
    with pytest.raises(RuntimeError), record_attention(backbone):
        backbone(torch.zeros(1, 4, 32, 48))  # one channel too many
    assert not any(block.attn.attn_drop._forward_pre_hooks for block in backbone.blocks)
    assert all(block.attn.fused_attn for block in backbone.blocks)


def test_blocks_without_one_attention_are_refused():
    parallel = timm.create_model("test_vit", block_fn=timm.models.vision_transformer.ParallelThingsBlock)
    with pytest.raises(UsageError, match=r"blocks\.0 \(ParallelThingsBlock\)"), record_attention(parallel):
        pass
