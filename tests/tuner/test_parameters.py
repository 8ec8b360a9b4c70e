"""Trainable parameters by component, against counts made by hand."""

from dataclasses import replace

import pytest
import timm
import torch
from peft import PeftModel, get_peft_model

from sat_peft import SatConfig, load_adapter, save_adapter
from sat_peft.nano import NANO_BACKBONE
from sat_peft.tuner.parameters import ParameterCount, adapter_file_bytes, count_parameters

# timm's test_vit: width 64, hidden width 192, 6 blocks, patches of 16 pixels.
DIM, HIDDEN = 64, 192
# Two norms, qkv, projection, and the two layers of the MLP.
BLOCK = 2 * 2 * DIM + (3 * DIM * DIM + 3 * DIM) + (DIM * DIM + DIM) + (HIDDEN * DIM + HIDDEN) + (DIM * HIDDEN + DIM)
# Patch embedding, class token, position embedding of 4 patches and the class token, blocks, final norm.
BACKBONE = (3 * 16 * 16 * DIM + DIM) + DIM + (4 + 1) * DIM + 6 * BLOCK + 2 * DIM


def backbone():
    torch.manual_seed(0)
    vit = timm.create_model("test_vit", num_classes=0, img_size=32)
    assert sum(parameter.numel() for parameter in vit.parameters()) == BACKBONE
    return vit


def adapted(num_classes: int = 5, **options) -> PeftModel:
    return get_peft_model(backbone(), SatConfig(**{"num_classes": num_classes, "num_spatial_blocks": 2} | options))


def count(num_classes: int = 5, **options) -> ParameterCount:
    return count_parameters(adapted(num_classes, **options))


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
    assert parameters.components["patch_embed"] == 3 * 16 * 16 * DIM + DIM
    assert parameters.total == BACKBONE + 2 * DIM + HEADS["conv3x3"]


def test_other_adapters_do_not_count(tmp_path):
    model = adapted(tune="full")
    expected = count_parameters(model)
    model.add_adapter("other", SatConfig(num_classes=9, num_spatial_blocks=3, tune="full"))
    assert replace(count_parameters(model), loaded=expected.loaded) == expected
    model.set_adapter("other")
    assert count_parameters(model).total == BACKBONE + 2 * DIM + 9 * (9 * DIM + 1)
    folder = save_adapter(model, tmp_path / "adapter")
    vit = model.unload()
    # A loaded adapter is frozen, and deployed all the same.
    loaded = count_parameters(load_adapter(vit, folder))
    assert (loaded.components, loaded.trainable, loaded.total) == ({}, 0, expected.total)


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


@pytest.mark.parametrize("tune", ["none", "lora", "full"])
def test_frozen_and_trainable_components_make_up_the_deployed_model(tune):
    parameters = count(tune=tune)
    assert sum(parameters.frozen.values()) == parameters.total - parameters.trainable
    assert parameters.components.keys() <= parameters.frozen.keys()
    trained_whole = {"block 4", "block 5"} if tune == "full" else set()
    for name, number in {
        "patch_embed": 3 * 16 * 16 * DIM + DIM,
        "cls_token": DIM,
        "pos_embed": 5 * DIM,
        "norm": 2 * DIM,
        **{f"block {index}": BLOCK for index in range(6)},
    }.items():
        assert parameters.frozen[name] == (0 if name in trained_whole else number), name


@pytest.mark.parametrize(("tune", "copies"), [("none", 0), ("lora", 0), ("full", 2 * BLOCK)])
def test_loaded_and_trainable_are_the_numbers_of_peft(tune, copies, capsys):
    model = adapted(tune=tune)
    parameters = count_parameters(model)
    assert parameters.loaded == parameters.total + copies
    model.print_trainable_parameters()
    printed = capsys.readouterr().out
    assert f"trainable params: {parameters.trainable:,} || all params: {parameters.loaded:,} ||" in printed


def test_a_module_that_is_saved_whole_counts_once():
    parameters = count(tune="none", modules_to_save=["patch_embed"])
    assert parameters.components["patch_embed"] == 3 * 16 * 16 * DIM + DIM
    assert parameters.frozen["patch_embed"] == 0
    assert parameters.total == count(tune="none").total


def test_adapters_that_are_not_active_do_not_count():
    model = adapted(tune="none")
    model.add_adapter("other", SatConfig(num_classes=9, num_spatial_blocks=2, tune="full"))
    counted, alone = count_parameters(model), count(tune="none")
    assert (counted.components, counted.frozen) == (alone.components, alone.frozen)
    assert counted.loaded > alone.loaded


def test_a_loaded_adapter_is_deployed_but_not_trained(tmp_path):
    model = adapted(tune="full")
    loaded = count_parameters(load_adapter(backbone(), save_adapter(model, tmp_path / "adapter")))
    assert loaded.trainable == 0
    assert loaded.total == count_parameters(model).total


@pytest.mark.parametrize("head", ["conv3x3", "conv1x1", "separable"])
@pytest.mark.parametrize("options", [{"tune": "none"}, {"tune": "lora", "r": 3}, {"tune": "full"}], ids=str)
def test_size_of_the_adapter_is_known_before_it_is_saved(head, options, tmp_path):
    with torch.device("meta"):
        expected = adapter_file_bytes(adapted(head=head, **options))
    folder = save_adapter(adapted(head=head, **options), tmp_path / "adapter")
    assert (folder / "adapter_model.safetensors").stat().st_size == expected


def test_half_precision_adapters_are_smaller(tmp_path):
    model = adapted(tune="full").half()
    folder = save_adapter(model, tmp_path / "adapter")
    assert (folder / "adapter_model.safetensors").stat().st_size == adapter_file_bytes(model)
    assert adapter_file_bytes(model) < 0.6 * adapter_file_bytes(adapted(tune="full"))


def test_optimizer_memory_is_that_of_adamw():
    model = adapted(tune="lora")
    optimizer = torch.optim.AdamW([parameter for parameter in model.parameters() if parameter.requires_grad])
    output = model(torch.randn(1, 3, 32, 32))
    (output.logits.sum() + output.maps.sum()).backward()
    optimizer.step()
    tensors = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    tensors += [state[moment] for state in optimizer.state.values() for moment in ("exp_avg", "exp_avg_sq")]
    assert count_parameters(model).optimizer_bytes == sum(tensor.nbytes for tensor in tensors)
