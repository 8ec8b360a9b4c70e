"""What people do with any PEFT method: it works with SAT, or is refused in words before anything is changed."""

import copy
import pickle
import warnings

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.utils.hotswap import hotswap_adapter
from tiny_backbones import create, create_plain, images_for

from sat_peft import SatConfig, save_adapter
from sat_peft.errors import UsageError


def adapted(vit=None, adapter_name="default", **config):
    config = {"num_classes": 3, "num_spatial_blocks": 2} | config
    return get_peft_model(create_plain() if vit is None else vit, SatConfig(**config), adapter_name).eval()


@pytest.mark.parametrize("adapter_name", ["default", "sat2"])
@pytest.mark.filterwarnings("ignore:You are trying to modify", "ignore:Adapter name")
def test_a_base_with_another_method_is_refused_and_left_alone(adapter_name):
    lora = get_peft_model(create_plain(), LoraConfig(target_modules=["qkv"], init_lora_weights=False)).eval()
    images = images_for(lora)
    expected, trainable = lora(images), lora.get_nb_trainable_parameters()
    with pytest.raises(UsageError, match=r"already carries a linear adapter.*merge_and_unload\(\)"):
        adapted(lora.get_base_model(), adapter_name)
    assert torch.equal(lora(images), expected)
    assert lora.get_nb_trainable_parameters() == trainable
    assert adapted(lora.merge_and_unload(), adapter_name)(images).maps.shape == (2, 4, 4)


@pytest.mark.parametrize("name", ["", "a.b"])
@pytest.mark.filterwarnings("ignore:Adapter name")
def test_adapter_names_that_torch_cannot_hold_are_refused(name):
    with pytest.raises(UsageError, match=f"adapter name '{name}'"):
        adapted(adapter_name=name)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_the_same_weights_in_another_precision_are_no_other_weights(dtype, tmp_path):
    save_adapter(adapted(create("vit")), tmp_path / "adapter")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = PeftModel.from_pretrained(create("vit").to(dtype), tmp_path / "adapter")
    assert model(images_for(model).to(dtype)).maps.isfinite().all()


def test_a_float16_base_records_no_fingerprint_that_only_float16_has(tmp_path):
    save_adapter(adapted(create("vit").half()), tmp_path / "adapter")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        PeftModel.from_pretrained(create("vit"), tmp_path / "adapter")


@pytest.mark.parametrize("token_entry", ["input", "late"])
@pytest.mark.parametrize(
    "copied", [lambda model: model, copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))]
)
def test_tokens_between_blocks_are_those_of_the_backbone_or_refused(copied, token_entry):
    expected = create_plain().get_intermediate_layers(images_for(create_plain()), n=2)
    model = copied(adapted(token_entry=token_entry))
    images, vit = images_for(model), model.get_base_model()
    for method in ("get_intermediate_layers", "forward_intermediates"):
        with pytest.raises(UsageError, match=rf"{method}\(\) would return the spatial token.*disable_adapter"):
            getattr(vit, method)(images)
    with model.disable_adapter():
        found = vit.get_intermediate_layers(images, n=2)
    assert all(torch.equal(*pair) for pair in zip(found, expected, strict=True))
    found = model.unload().get_intermediate_layers(images, n=2)
    assert all(torch.equal(*pair) for pair in zip(found, expected, strict=True))


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("head", "SAT has a head of its own"),
        ("token", "no module of this VisionTransformer"),
        ("pos_embed", "no module of this VisionTransformer"),
        ("cls_token", "no module of this VisionTransformer"),
        ("d", "no module of this VisionTransformer"),
    ],
)
def test_modules_to_save_that_would_train_nothing_are_refused(name, reason):
    with pytest.raises(UsageError, match=rf"modules_to_save=\['{name}'\].*{reason}.*there are: patch_embed"):
        adapted(modules_to_save=[name])


def test_what_peft_says_of_methods_names_this_one(tmp_path):
    model = adapted()
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="'SAT' is not compatible with the `PeftMixedModel`"):
        get_peft_model(create_plain(), SatConfig(num_classes=3), mixed=True)
    with pytest.raises(ValueError, match="SAT was passed"):
        hotswap_adapter(model, str(tmp_path), "default")
    assert model.get_model_status().peft_types == {"default": "SAT"}


def test_excluded_layers_are_known_to_peft():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = adapted(exclude_modules=["proj", "fc1", "fc2"])
    assert model.targeted_module_names == ["norm_pre", "blocks.1.attn.qkv", "blocks.2.attn.qkv", "norm"]


def test_layers_to_transform_counts_blocks():
    model = adapted(target_modules=["qkv"], layers_to_transform=[2])
    assert model.targeted_module_names == ["norm_pre", "blocks.2.attn.qkv", "norm"]
    with pytest.raises(UsageError, match=r"layers_to_transform=\[0\].*of blocks 0 to 2.*last 2 blocks"):
        adapted(target_modules=["qkv"], layers_to_transform=[0])


@pytest.mark.parametrize(
    "field",
    [
        {"r": 4},
        {"lora_dropout": 0.1},
        {"exclude_modules": ["fc1"]},
        {"layers_to_transform": [1]},
        {"rank_pattern": {"qkv": 2}},
        {"init_lora_weights": False},
        {"use_rslora": True},
        {"target_parameters": ["weight"]},
        {"lora_bias": True},
    ],
)
def test_fields_of_lora_without_lora_are_refused(field):
    [name] = field
    with pytest.raises(UsageError, match=rf"{name}=.* has no effect with tune='full'. Use tune=\"lora\""):
        SatConfig(num_classes=2, tune="full", **field)


def test_saved_adapters_with_fields_of_lora_are_still_loaded():
    assert SatConfig(num_classes=2, tune="full", r=4, inference_mode=True).r == 4


def test_casts_of_inputs_can_be_switched_off():
    helpers = pytest.importorskip("peft.helpers")
    model = adapted()
    images = images_for(model)
    expected = model(images).logits
    with helpers.disable_input_dtype_casting(model):
        assert torch.equal(model(images).logits, expected)
