"""Which blocks and which of their parameters an adapter trains."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tiny_backbones import DEPTH, create, create_plain, images_for

from sat_peft import SatConfig, SatLoss, load_adapter, save_adapter
from sat_peft.errors import UsageError

TOKEN = {"norm_pre.sat_token.default", "norm_pre.sat_pos_embed.default"}
HEAD = {"norm.sat_head.default.weight", "norm.sat_head.default.bias"}


def adapted(vit=None, **config):
    vit = create_plain() if vit is None else vit
    return get_peft_model(vit, SatConfig(**{"num_classes": 3, "num_spatial_blocks": 1} | config)).eval()


def trainable(model):
    names = (name for name, parameter in model.named_parameters() if parameter.requires_grad)
    return {name.removeprefix("base_model.model.") for name in names}


def tuned_blocks(model):
    return {int(name.split(".")[1]) for name in trainable(model) if name.startswith("blocks.")}


@pytest.mark.parametrize("tune", ["bias_norm", "lora", "full"])
def test_tuned_blocks_are_the_spatial_ones_unless_told_otherwise(tune):
    assert tuned_blocks(adapted(tune=tune, num_spatial_blocks=2)) == {1, 2}
    assert tuned_blocks(adapted(tune=tune, num_spatial_blocks=2, num_tuned_blocks=1)) == {2}
    model = adapted(tune=tune, num_spatial_blocks=2, num_tuned_blocks=DEPTH)
    assert tuned_blocks(model) == {0, 1, 2}
    assert model(images_for(model)).block_maps.shape[0] == 2


def test_lora_targets_are_those_of_the_tuned_blocks():
    model = adapted(tune="lora", num_tuned_blocks=2, target_modules=r"blocks\.[01]\.mlp\.fc1")
    assert tuned_blocks(model) == {1}
    with pytest.raises(UsageError, match="matches no layer of the last 2 blocks"):
        adapted(tune="lora", num_tuned_blocks=2, target_modules=r"blocks\.0\.mlp\.fc1")


def test_fewer_tuned_than_spatial_blocks_leave_the_others_frozen():
    model = adapted(tune="full", num_spatial_blocks=2, num_tuned_blocks=1, token_entry="isolated")
    SatLoss()(model(images_for(model)), torch.tensor([0, 1])).total.backward()
    assert model(images_for(model)).block_maps.shape[0] == 2
    assert all(p.grad.abs().max() > 0 for p in model.parameters() if p.requires_grad)


def test_biases_and_norms_of_a_plain_vit():
    layers = {"norm1": "wb", "norm2": "wb", "attn.qkv": "b", "attn.proj": "b", "mlp.fc1": "b", "mlp.fc2": "b"}
    parameters = {"w": "weight", "b": "bias"}
    expected = {f"{layer}.sat_full.default.{parameters[p]}" for layer, kinds in layers.items() for p in kinds}
    assert trainable(adapted(tune="bias_norm")) == TOKEN | HEAD | {f"blocks.2.{name}" for name in expected}


def test_biases_that_attention_holds_itself_and_no_layer_scales():
    names = trainable(adapted(create("eva"), tune="bias_norm"))
    assert {name for name in names if "sat_tuned_parameters" in name} == {
        f"blocks.2.attn.sat_tuned_parameters.sat_full.default.{name}" for name in ("q_bias", "v_bias")
    }
    names = trainable(adapted(create("qk_norm"), tune="bias_norm"))
    assert any(".q_norm." in name for name in names)
    assert not any(".ls1." in name for name in names)


def test_biases_that_cannot_be_copied_are_refused():
    vit = create_plain()
    vit.blocks[-1].shift_bias = torch.nn.Parameter(torch.zeros(16))
    with pytest.raises(UsageError, match=r"tune='bias_norm' cannot copy the parameters \['shift_bias'\] of blocks.2"):
        adapted(vit, tune="bias_norm")
    vit = create_plain()
    vit.blocks[-1].mlp.fc1 = torch.nn.Bilinear(16, 16, 64)
    with pytest.raises(UsageError, match=r"cannot copy the parameters \['bias'\] of blocks.2.mlp.fc1 \(Bilinear\)"):
        adapted(vit, tune="bias_norm")


def test_a_fixed_head_is_frozen_and_saved(tmp_path):
    model = adapted(tune="none", train_head=False)
    assert trainable(model) == TOKEN
    images = images_for(model)
    SatLoss()(model(images), torch.tensor([0, 1])).total.backward()
    assert model.get_base_model().norm_pre.sat_token["default"].grad.abs().max() > 0
    expected = model(images)
    folder = save_adapter(model, tmp_path / "adapter")
    assert "not trained" in (folder / "README.md").read_text()
    torch.manual_seed(7)  # the head that loading initialises first is another one
    loaded = load_adapter(create_plain(), folder, is_trainable=True).eval()
    assert torch.equal(loaded(images).logits, expected.logits)
    assert trainable(loaded) == TOKEN


def test_a_fixed_head_stays_fixed_while_adapters_are_switched():
    model = adapted(tune="none", train_head=False)
    model.add_adapter("other", SatConfig(num_classes=2, num_spatial_blocks=1, tune="none"))
    assert trainable(model) == TOKEN
    model.set_adapter("other")
    assert trainable(model) == {name.replace("default", "other") for name in TOKEN | HEAD}
    model.set_adapter("default")
    with model.disable_adapter():
        model(images_for(model))
    assert trainable(model) == TOKEN
    model.set_requires_grad("default")
    assert trainable(model) == TOKEN
    model.set_adapter("other")
    model.delete_adapter("default")
    model.add_adapter("default", SatConfig(num_classes=2, num_spatial_blocks=1, tune="none"))
    model.set_adapter("default")
    assert trainable(model) == TOKEN | HEAD


@pytest.mark.parametrize("tune", ["bias_norm", "full"])
def test_adapters_that_copy_different_parts_of_one_layer(tune):
    other = "full" if tune == "bias_norm" else "bias_norm"
    model, alone = adapted(tune=tune), adapted(tune=tune)
    model.add_adapter("other", SatConfig(num_classes=3, num_spatial_blocks=1, tune=other))
    alone.load_state_dict(model.state_dict(), strict=False)
    images = images_for(model)
    with torch.no_grad():
        for each in (model, alone):
            qkv = each.get_base_model().blocks[-1].attn.qkv
            qkv.sat_full["default"]["bias"].add_(1) if tune == "bias_norm" else qkv.sat_full["default"].bias.add_(1)
    assert torch.equal(model(images).logits, alone(images).logits)
    model.set_adapter("other")
    assert not torch.equal(model(images).logits, alone(images).logits)


def test_backbone_with_an_adapter_of_peft_is_refused_with_the_cause():
    lora = get_peft_model(create_plain(), LoraConfig(target_modules=["qkv"]))
    for name in ("default", "other"):
        with pytest.raises(UsageError, match=r"already carries a linear adapter of PEFT, in .*merge_and_unload"):
            get_peft_model(lora.base_model.model, SatConfig(num_classes=2, num_spatial_blocks=1), adapter_name=name)
    merged = get_peft_model(lora.merge_and_unload(), SatConfig(num_classes=2, num_spatial_blocks=1))
    assert merged.active_adapter == "default"
