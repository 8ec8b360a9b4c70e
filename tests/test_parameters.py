"""Trainable parameters by component, against counts made by hand."""

import pytest
import timm
import torch
from peft import get_peft_model

from sat_peft import SatConfig, load_adapter, save_adapter
from sat_peft.nano import NANO_BACKBONE
from sat_peft.parameters import ParameterCount, count_parameters

# timm's test_vit: width 64, hidden width 192, 6 blocks, patches of 16 pixels.
DIM, HIDDEN = 64, 192
# Two norms, qkv, projection, and the two layers of the MLP.
BLOCK = 2 * 2 * DIM + (3 * DIM * DIM + 3 * DIM) + (DIM * DIM + DIM) + (HIDDEN * DIM + HIDDEN) + (DIM * HIDDEN + DIM)
# Patch embedding, class token, position embedding of 4 patches and the class token, blocks, final norm.
BACKBONE = (3 * 16 * 16 * DIM + DIM) + DIM + (4 + 1) * DIM + 6 * BLOCK + 2 * DIM


def create(num_classes: int = 5, **options):
    vit = timm.create_model("test_vit", num_classes=0, img_size=32)
    assert sum(parameter.numel() for parameter in vit.parameters()) == BACKBONE
    return get_peft_model(vit, SatConfig(**{"num_classes": num_classes, "num_spatial_blocks": 2} | options))


def count(num_classes: int = 5, **options) -> ParameterCount:
    return count_parameters(create(num_classes, **options))


HEADS = {"conv3x3": 5 * (9 * DIM + 1), "conv1x1": 5 * (DIM + 1)}


@pytest.mark.parametrize("head", HEADS)
def test_token_and_head_alone(head):
    parameters = count(tune="none", head=head)
    assert parameters.components == {"spatial token": DIM, "position embedding": DIM, "head": HEADS[head]}
    assert parameters.trainable == 2 * DIM + HEADS[head]
    assert parameters.total == BACKBONE + parameters.trainable
    assert parameters.share == pytest.approx(100 * parameters.trainable / parameters.total)


def test_lora_is_counted_block_by_block():
    # qkv 64 -> 192, projection 64 -> 64, MLP 64 -> 192 and 192 -> 64, each with rank 2.
    lora = 2 * ((64 + 192) + (64 + 64) + (64 + 192) + (192 + 64))
    parameters = count(tune="lora", r=2)
    assert parameters.components["LoRA in block 4"] == parameters.components["LoRA in block 5"] == lora
    assert parameters.total == BACKBONE + parameters.trainable


def test_block_that_is_trained_whole_counts_once():
    parameters = count(tune="full")
    assert parameters.components["block 4"] == parameters.components["block 5"] == BLOCK
    assert parameters.trainable == 2 * BLOCK + 2 * DIM + HEADS["conv3x3"]
    assert parameters.total == BACKBONE + 2 * DIM + HEADS["conv3x3"]


def test_biases_and_norms_are_counted_block_by_block():
    # Two norms, and the biases of qkv, projection and the two layers of the MLP.
    biases_and_norms = 2 * 2 * DIM + 3 * DIM + DIM + HIDDEN + DIM
    parameters = count(tune="bias_norm", head="conv1x1")
    for index in (4, 5):
        assert parameters.components[f"biases and norms in block {index}"] == biases_and_norms
    assert parameters.trainable == 2 * biases_and_norms + 2 * DIM + HEADS["conv1x1"]
    assert parameters.total == BACKBONE + 2 * DIM + HEADS["conv1x1"]


def test_dora_adds_a_magnitude_for_every_output():
    outputs = 3 * DIM + DIM + HIDDEN + DIM
    plain, dora = (count(tune="lora", r=2, use_dora=use_dora) for use_dora in (False, True))
    assert dora.components["LoRA in block 5"] == plain.components["LoRA in block 5"] + outputs
    assert dora.total == BACKBONE + dora.trainable


@pytest.mark.parametrize("token_entry", ["input", "late", "isolated"])
def test_more_tuned_than_spatial_blocks(token_entry):
    parameters = count(tune="full", num_tuned_blocks=6, token_entry=token_entry)
    assert [parameters.components[f"block {index}"] for index in range(6)] == [BLOCK] * 6
    assert parameters.total == BACKBONE + 2 * DIM + HEADS["conv3x3"]


def test_fixed_head_is_deployed_but_not_trained():
    parameters = count(tune="none", train_head=False)
    assert parameters.components == {"spatial token": DIM, "position embedding": DIM}
    assert parameters.total == BACKBONE + 2 * DIM + HEADS["conv3x3"]


def test_trained_patch_embedding_counts_once():
    parameters = count(tune="full", modules_to_save=["patch_embed"])
    assert parameters.components["patch embedding"] == 3 * 16 * 16 * DIM + DIM
    assert parameters.total == BACKBONE + 2 * DIM + HEADS["conv3x3"]


def test_other_adapters_do_not_count(tmp_path):
    model = create(tune="full")
    expected = count_parameters(model)
    model.add_adapter("other", SatConfig(num_classes=9, num_spatial_blocks=3, tune="full"))
    assert count_parameters(model) == expected
    model.set_adapter("other")
    assert count_parameters(model).total == BACKBONE + 2 * DIM + 9 * (9 * DIM + 1)
    folder = save_adapter(model, tmp_path / "adapter")
    vit = model.unload()
    # A loaded adapter is frozen, and deployed all the same.
    assert count_parameters(load_adapter(vit, folder)) == ParameterCount({}, 0, expected.total)


def on_meta(name: str, **options) -> ParameterCount:
    with torch.device("meta"):
        vit = timm.create_model(name, pretrained=False, num_classes=0)
        return count_parameters(get_peft_model(vit, SatConfig(**options)))


@pytest.mark.parametrize(
    ("options", "trainable"),
    [
        ({"tune": "none", "head": "conv1x1"}, 2836),
        ({"tune": "none", "head": "separable"}, 3988),
        ({"tune": "bias_norm", "num_tuned_blocks": 1, "head": "conv1x1"}, 4500),
        ({"tune": "lora", "num_tuned_blocks": 1, "r": 1, "head": "conv1x1"}, 4884),
        ({"tune": "lora", "target_modules": ["attn.proj"], "r": 1, "head": "separable"}, 4756),
    ],
)
def test_regimes_of_at_most_five_thousand_parameters(options, trainable):
    assert on_meta(NANO_BACKBONE, num_classes=20, num_spatial_blocks=3, **options).trainable == trainable <= 5000


@pytest.mark.parametrize("name", ["deit_small_patch16_224", "vit_small_patch14_dinov2"])
def test_a_thousand_classes_with_less_than_half_a_million_parameters(name):
    parameters = on_meta(name, num_classes=1000, tune="bias_norm", head="separable", token_entry="isolated")
    biases_and_norms = 3 * (2 * 2 * 384 + (3 + 1 + 4 + 1) * 384)
    assert parameters.trainable == 2 * 384 + (9 * 384 + 385 * 1000) + biases_and_norms <= 450_000


def test_classifier_of_the_backbone_is_not_deployed():
    vit = timm.create_model("test_vit", num_classes=7, img_size=32)
    with_classifier = count_parameters(get_peft_model(vit, SatConfig(num_classes=5, tune="none")))
    assert with_classifier.total == count(tune="none").total


def test_published_count_of_deit_small_with_a_thousand_classes():
    vit = timm.create_model("deit_small_patch16_224", num_classes=0)
    config = SatConfig(num_classes=1000, num_spatial_blocks=3, tune="full")
    assert round(count_parameters(get_peft_model(vit, config)).trainable / 1e6, 2) == 8.78
