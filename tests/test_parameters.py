"""Trainable parameters by component, against counts made by hand."""

import pytest
import timm
from peft import get_peft_model

from sat_peft import SatConfig
from sat_peft.parameters import ParameterCount, count_parameters

# timm's test_vit: width 64, hidden width 192, 6 blocks, patches of 16 pixels.
DIM, HIDDEN = 64, 192
# Two norms, qkv, projection, and the two layers of the MLP.
BLOCK = 2 * 2 * DIM + (3 * DIM * DIM + 3 * DIM) + (DIM * DIM + DIM) + (HIDDEN * DIM + HIDDEN) + (DIM * HIDDEN + DIM)
# Patch embedding, class token, position embedding of 4 patches and the class token, blocks, final norm.
BACKBONE = (3 * 16 * 16 * DIM + DIM) + DIM + (4 + 1) * DIM + 6 * BLOCK + 2 * DIM


def count(num_classes: int = 5, **options) -> ParameterCount:
    vit = timm.create_model("test_vit", num_classes=0, img_size=32)
    assert sum(parameter.numel() for parameter in vit.parameters()) == BACKBONE
    config = SatConfig(num_classes=num_classes, num_spatial_blocks=2, **options)
    return count_parameters(get_peft_model(vit, config))


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


def test_classifier_of_the_backbone_is_not_deployed():
    vit = timm.create_model("test_vit", num_classes=7, img_size=32)
    with_classifier = count_parameters(get_peft_model(vit, SatConfig(num_classes=5, tune="none")))
    assert with_classifier.total == count(tune="none").total


def test_published_count_of_deit_small_with_a_thousand_classes():
    vit = timm.create_model("deit_small_patch16_224", num_classes=0)
    config = SatConfig(num_classes=1000, num_spatial_blocks=3, tune="full")
    assert round(count_parameters(get_peft_model(vit, config)).trainable / 1e6, 2) == 8.78
