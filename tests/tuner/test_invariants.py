"""Invariants of an adapter, for every supported family of backbones and every way of tuning."""

import copy
import pickle

import pytest
import timm
import torch
from packaging.version import Version
from peft import PeftModel, get_peft_model
from timm.layers import DropPath
from tiny_backbones import BACKBONES, DEPTH, GRID, create, images_for

from sat_peft import SatConfig, SatLoss, load_adapter, save_adapter
from sat_peft.tuner.backbone import base_parameters

CONFIGS = {
    "none": {"tune": "none", "num_spatial_blocks": 2},
    "lora": {"tune": "lora", "num_spatial_blocks": 2, "r": 4},
    "full": {"tune": "full", "num_spatial_blocks": 2},
    "bias_norm": {"tune": "bias_norm", "num_spatial_blocks": 2},
    "dora": {"tune": "lora", "num_spatial_blocks": 2, "r": 4, "use_dora": True},
    "late": {"tune": "full", "num_spatial_blocks": 2, "token_entry": "late"},
    "isolated": {"tune": "lora", "num_spatial_blocks": 2, "r": 4, "token_entry": "isolated"},
    # Two tuned blocks, of which the mask reaches the last one.
    "deep_lora": {"tune": "lora", "num_spatial_blocks": 1, "num_tuned_blocks": 2, "r": 4},
    "deep_bias_norm": {"tune": "bias_norm", "num_spatial_blocks": 1, "num_tuned_blocks": 2, "token_entry": "isolated"},
}
BASIC = ("none", "lora", "full")
# Families that differ in where they keep biases, norms and layer scales and in their attention.
VARIED = ("qk_norm", "dinov2_registers", "dinov3", "eva", "eva02")
CASES = [(backbone, config) for backbone in BACKBONES for config in BASIC]
CASES += [(backbone, config) for backbone in VARIED for config in CONFIGS if config not in BASIC]
NUM_CLASSES = 4

every_case = pytest.mark.parametrize(("backbone", "config"), CASES)
# What depends on the configuration, and of the backbone on little but its class of attention: every configuration on
# two backbones, and on the others the one that copies whole blocks.
PAIR = ("dinov2_registers", "eva02")
few_cases = pytest.mark.parametrize(
    ("backbone", "config"),
    [(backbone, config) for backbone in BACKBONES for config in (CONFIGS if backbone in PAIR else ("full",))],
)


def adapted(backbone, config, **overrides):
    model = get_peft_model(create(backbone), SatConfig(num_classes=NUM_CLASSES, **(CONFIGS[config] | overrides)))
    return model.eval()


def train_one_step(model, images):
    """One step of SGD, large enough to change every trained part, in evaluation mode so that dropout plays no part."""
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0)
    SatLoss()(model(images), torch.arange(len(images)) % NUM_CLASSES).total.backward()
    optimizer.step()


def trained(backbone, config):
    """A model whose trained parts are all different from their initial values."""
    model = adapted(backbone, config)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.05)
    return model


def assert_rounds_alike(first, second):
    """Equal; torch 2.6 pools by attention with another last bit where weights lie elsewhere in memory."""
    torch.testing.assert_close(first, second, rtol=0, atol=0 if torch.__version__ >= "2.8" else 1e-6)


def assert_same_output(first, second):
    for name in ("logits", "maps", "block_maps"):
        assert torch.equal(first[name], second[name]), name


@few_cases
def test_output_shapes_and_ranges(backbone, config):
    model = adapted(backbone, config)
    output = model(images_for(model))
    assert output.logits.shape == (2, NUM_CLASSES)
    assert output.maps.shape == (2, *GRID)
    assert output.block_maps.shape == (CONFIGS[config]["num_spatial_blocks"], 2, *GRID)
    assert torch.equal(output.maps, output.block_maps.mean(0))
    assert output.maps.min() > 0
    assert output.maps.max() < 1
    assert output.maps.std() > 0


@every_case
def test_only_the_adapter_trains(backbone, config):
    model = adapted(backbone, config)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    base = {id(parameter) for _, parameter in base_parameters(model.get_base_model())}
    trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    train_one_step(model, images_for(model))
    for name, parameter in model.named_parameters():
        assert (id(parameter) in base) != (name in trainable), name
        if id(parameter) in base:
            assert parameter.grad is None, name
            assert torch.equal(parameter, before[name]), name
        else:
            assert parameter.grad is not None, name
            # lora_B starts at zero, so that lora_A has a zero gradient in the first step.
            if "lora_A" not in name:
                assert not torch.equal(parameter, before[name]), name


@few_cases
def test_trained_parts(backbone, config):
    model = adapted(backbone, config)
    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    blocks = {name.split("blocks.")[1].split(".")[0] for name in names if "blocks." in name}
    assert blocks == (set() if config == "none" else {str(DEPTH - 2), str(DEPTH - 1)})
    tune = CONFIGS[config]["tune"]
    if tune in ("full", "bias_norm"):
        copied = sum(parameter.numel() for name, parameter in model.named_parameters() if "sat_full" in name)
        vit = create(backbone)
        assert copied == sum(
            parameter.numel()
            for block in vit.blocks[-2:]
            for name, parameter in block.named_parameters()
            if tune == "full" or "norm" in name or name.endswith("bias")
        )
    counted, _ = model.get_nb_trainable_parameters()
    assert counted == sum(p.numel() for p in model.parameters() if p.requires_grad)


@every_case
def test_disabling_gives_the_base(backbone, config):
    vit = create(backbone)
    images = images_for(vit)
    expected = vit(images)
    model = trained(backbone, config)
    with model.disable_adapter():
        assert_rounds_alike(model(images), expected)
        assert torch.equal(model.get_base_model().forward_features(images), vit.forward_features(images))
    assert model(images).maps.shape == (2, *GRID)


@every_case
def test_unload_gives_the_base_back(backbone, config):
    vit = create(backbone)
    images = images_for(vit)
    model = trained(backbone, config)
    model(images)
    unloaded = model.unload()
    assert_rounds_alike(unloaded(images), vit(images))
    assert torch.equal(unloaded.forward_features(images), vit.forward_features(images))
    assert list(unloaded.state_dict()) == list(vit.state_dict())
    assert all(torch.equal(value, vit.state_dict()[name]) for name, value in unloaded.state_dict().items())
    for (name, module), (_, original) in zip(unloaded.named_modules(), vit.named_modules(), strict=True):
        assert type(module) is type(original), name
        assert set(vars(module)) == set(vars(original)), name
        assert getattr(module, "num_prefix_tokens", None) == getattr(original, "num_prefix_tokens", None), name
        assert len(module._forward_hooks) == len(module._forward_pre_hooks) == 0
    assert get_peft_model(unloaded, SatConfig(num_classes=2))(images).logits.shape == (2, 2)


@every_case
def test_save_and_load_is_bit_identical(backbone, config, tmp_path):
    model = trained(backbone, config)
    images = images_for(model)
    expected = model(images)
    folder = save_adapter(model, tmp_path / "adapter")
    assert sorted(p.name for p in folder.iterdir()) == ["README.md", "adapter_config.json", "adapter_model.safetensors"]
    assert_same_output(load_adapter(create(backbone), folder)(images), expected)
    assert_same_output(PeftModel.from_pretrained(create(backbone), str(folder))(images), expected)


@few_cases
def test_adapters_switch(backbone, config, tmp_path):
    images = images_for(create(backbone))
    first = trained(backbone, config)
    expected = first(images)
    save_adapter(first, tmp_path / "first")

    for other in BASIC:
        # Added before and after the adapter under test: which layer wraps which must not matter.
        model = get_peft_model(
            create(backbone), SatConfig(num_classes=7, num_spatial_blocks=DEPTH, tune=other), "other"
        ).eval()
        other_output = model(images)
        assert other_output.logits.shape == (2, 7)
        assert other_output.block_maps.shape[0] == DEPTH
        load_adapter(model, tmp_path / "first", "loaded")
        assert_same_output(model(images), other_output)
        model.set_adapter("loaded")
        assert_same_output(model(images), expected)
        save_adapter(model, tmp_path / "again", "loaded")
        model.set_adapter("other")
        assert_same_output(model(images), other_output)
        model.delete_adapter("other") if other == "lora" else model.set_adapter("loaded")
        assert_same_output(model(images), expected)
        assert_same_output(load_adapter(create(backbone), tmp_path / "again")(images), expected)
        assert_rounds_alike(model.unload()(images), create(backbone)(images))


@few_cases
def test_copy_and_pickle(backbone, config):
    model = trained(backbone, config)
    images = images_for(model)
    expected = model(images)
    for clone in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert_same_output(clone(images), expected)
        with torch.no_grad():
            for parameter in clone.parameters():
                parameter.zero_()
        assert_same_output(model(images), expected)
        clone.unload()
    assert_same_output(model(images), expected)


@few_cases
def test_half_precision_backbone(backbone, config):
    if backbone == "rope_mixed" and Version(timm.__version__) < Version("1.0.26"):
        pytest.skip("this timm mixes precisions in its mixed rotary embeddings")
    expected = adapted(backbone, config)
    images = images_for(expected)
    model = get_peft_model(create(backbone).bfloat16(), SatConfig(num_classes=NUM_CLASSES, **CONFIGS[config])).eval()
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
    own = {name: value for name, value in expected.state_dict().items() if "sat_" in name or "lora_" in name}
    model.load_state_dict(own, strict=False)
    output = model(images.bfloat16())
    assert output.maps.dtype == torch.float32
    reference = expected(images)
    assert (output.maps - reference.maps).abs().max() < 0.05
    SatLoss()(output, torch.tensor([0, 1])).total.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)


@few_cases
def test_gradient_checkpointing_changes_nothing(backbone, config):
    gradients = []
    for checkpointing in (False, True):
        model = trained(backbone, config)
        model.train()
        model.get_base_model().set_grad_checkpointing(checkpointing)
        SatLoss()(model(images_for(model)), torch.tensor([0, 1])).total.backward()
        # The recomputed masks are not kept: they would hold the graph until the next forward pass.
        assert not model.get_base_model().norm.sat_record.is_open
        gradients.append([p.grad for p in model.parameters() if p.requires_grad])
    for plain, checkpointed in zip(*gradients, strict=True):
        torch.testing.assert_close(checkpointed, plain, rtol=1e-4, atol=1e-6)


@few_cases
def test_drop_path_of_frozen_blocks(backbone, config):
    for allowed in (True, False):
        vit = create(backbone, drop_path_rate=0.5)
        # The first rate of timm's schedule is 0, for which it creates no module: give the frozen block one.
        vit.blocks[0].drop_path1 = DropPath(0.5)
        model = get_peft_model(
            vit, SatConfig(num_classes=2, drop_path_in_frozen_blocks=allowed, **CONFIGS[config])
        ).train()
        assert model.get_base_model().blocks[0].drop_path1.training is allowed
        assert model.get_base_model().blocks[-1].drop_path1.training
        with model.disable_adapter():
            assert model.get_base_model().blocks[0].drop_path1.training
        assert model.get_base_model().blocks[0].drop_path1.training is allowed
        assert not model.eval().get_base_model().blocks[-1].drop_path1.training


@every_case
def test_copies_all_take_effect(backbone, config):
    model = adapted(backbone, config)
    images = images_for(model)
    reference = model(images).logits
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and "lora_A" not in name:  # lora_B starts at zero
            with torch.no_grad():
                original = parameter.clone()
                parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3)))
                assert not torch.equal(model(images).logits, reference), name
                parameter.copy_(original)
