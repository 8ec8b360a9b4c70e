"""Behaviour of an adapted model that does not depend on the family of its backbone."""

import copy
import threading
import warnings

import pytest
import timm
import torch
from accelerate.utils import convert_outputs_to_fp32
from peft import PeftModel, get_peft_model
from tiny_backbones import create, create_plain, images_for

from sat_peft import SatConfig, SatLoss, SatOutput, save_adapter
from sat_peft.errors import UsageError


def adapted(tune="none", vit=None, **config):
    vit = create_plain() if vit is None else vit
    return get_peft_model(vit, SatConfig(num_classes=3, tune=tune, **({"num_spatial_blocks": 2} | config))).eval()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "num_classes must be a positive integer, not None"),
        ({"num_classes": 0}, "num_classes must be a positive integer, not 0"),
        ({"num_classes": 2.0}, "num_classes must be a positive integer, not 2.0"),
        ({"num_spatial_blocks": 0}, "num_spatial_blocks must be a positive integer, not 0"),
        ({"tune": "fulll"}, r"unknown tune 'fulll'. Did you mean 'full'\? Valid choices: none, bias_norm, lora, full"),
        ({"token_entry": "early"}, "unknown token_entry 'early'.* Valid choices: input, late, isolated"),
        ({"num_tuned_blocks": 0}, "num_tuned_blocks must be a positive integer, not 0"),
        ({"evidence_gain": -1.0}, "evidence_gain must be a number of 0 or more, or None, not -1.0"),
        ({"num_tuned_blocks": 2, "tune": "none"}, "num_tuned_blocks=2 has no effect with tune='none'"),
        ({"use_dora": True, "tune": "full"}, "use_dora=True has no effect with tune='full'. Use tune=\"lora\""),
        ({"r": 0}, r"r \(the rank of LoRA\) must be a positive integer, not 0"),
        ({"r": -4}, r"r \(the rank of LoRA\) must be a positive integer, not -4"),
        ({"rank_pattern": {"qkv": 0}}, r"rank_pattern\['qkv'\] must be a positive integer, not 0"),
        ({"head": "conv5x5"}, "unknown head 'conv5x5'.* Valid choices: conv3x3, conv1x1, separable"),
        ({"class_names": ["a"]}, "class_names has 1 names, but num_classes is 2"),
        ({"tune": "full", "target_modules": ["qkv"]}, "has no effect with tune='full'"),
        ({"bias": "all"}, "bias='all' trains base parameters in place"),
        ({"layer_replication": [(0, 2)]}, "layer_replication"),
    ],
)
def test_wrong_configurations_are_named(arguments, message):
    with pytest.raises(UsageError, match=message):
        SatConfig(**({"num_classes": 2} if arguments else {}) | arguments)


REFUSED = {
    "swin_tiny_patch4_window7_224": "windows",
    "swinv2_tiny_window8_256": "windows",
    "beit_base_patch16_224": "relative position bias",
    "samvit_base_patch16": "h x w grid",
    "convnext_atto": "no tokens",
    "resnet18": "no tokens",
    "mixer_s32_224": "it has no `patch_embed`",
    "vit_small_patch16_18x2_224": r"blocks.0 \(ParallelThingsBlock\) has no single attention module",
}


@pytest.mark.parametrize("name", REFUSED)
def test_unsupported_backbones_are_refused_by_name(name):
    with torch.device("meta"):
        model = timm.create_model(name, pretrained=False)
    before = [type(module) for module in model.modules()]
    with pytest.raises(UsageError, match=f"SAT does not support {type(model).__name__}: .*{REFUSED[name]}.*Supported:"):
        get_peft_model(model, SatConfig(num_classes=2))
    assert [type(module) for module in model.modules()] == before


def test_attention_classes_that_are_not_known_are_refused():
    vit = create_plain()

    class OwnAttention(type(vit.blocks[0].attn)):
        pass

    vit.blocks[1].attn.__class__ = OwnAttention
    with pytest.raises(UsageError, match=r"attention of blocks.1 is OwnAttention, which is none of Attention, "):
        adapted(vit=vit)


def test_patch_dropout_is_refused():
    with pytest.raises(UsageError, match="patch dropout leaves patches out"):
        adapted(vit=create_plain(patch_drop_rate=0.5))


def test_full_tuning_refuses_parameters_that_it_cannot_copy():
    vit = create_plain()
    vit.blocks[-1].shift = torch.nn.Parameter(torch.zeros(16))
    with pytest.raises(UsageError, match=r"cannot copy the parameters \['shift'\] of blocks.2"):
        adapted("full", vit=vit)
    assert adapted("lora", vit=vit)(images_for(vit)).logits.shape == (2, 3)


@pytest.mark.parametrize("field", ["num_spatial_blocks", "num_tuned_blocks"])
def test_more_blocks_than_there_are_are_refused(field):
    with pytest.raises(UsageError, match=f"{field}=4 is more than the 3 blocks of this VisionTransformer"):
        adapted("lora", **{field: 4})


def test_all_blocks_may_be_spatial():
    model = adapted("full", num_spatial_blocks=3)
    assert model(images_for(model)).block_maps.shape == (3, 2, 4, 4)


def test_a_second_peft_model_on_one_backbone_is_refused():
    model = adapted()
    expected = model(images_for(model)).logits
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # PEFT warns as well
        with pytest.raises(UsageError, match="already carries a SAT adapter"):
            get_peft_model(model.get_base_model(), SatConfig(num_classes=9))
    assert model.peft_config["default"].num_classes == 3
    assert torch.equal(model(images_for(model)).logits, expected)


@pytest.mark.parametrize("name", ["attn", "weight", "0"])
def test_adapter_names_that_would_be_confused_with_modules_are_refused(name):
    with pytest.raises(UsageError, match=f"adapter name '{name}' is also the name of a part of the model"):
        get_peft_model(create_plain(), SatConfig(num_classes=2), adapter_name=name)


def test_one_configuration_may_serve_several_backbones():
    config = SatConfig(num_classes=2, num_spatial_blocks=2)
    before = copy.deepcopy(config)
    shallow, deep = get_peft_model(create_plain(), config), get_peft_model(create_plain(depth=4), config)
    assert config == before
    assert shallow.peft_config["default"].backbone["depth"] == 3
    assert deep.peft_config["default"].backbone["depth"] == 4
    assert deep.peft_config["default"].base_model_name_or_path is None


def test_backbone_record_names_what_is_needed_to_rebuild_it():
    vit = create("dinov2_registers")
    backbone = adapted(vit=vit).peft_config["default"].backbone
    expected = {
        "name": "vit_small_patch14_reg4_dinov2",
        "class": "VisionTransformer",
        "depth": 3,
        "embed_dim": 32,
        "num_prefix_tokens": 5,
        "patch_size": [14, 14],
        "img_size": [56, 84],
        "dynamic_img_size": True,
        "mean": [0.485, 0.456, 0.406],
        "interpolation": "bicubic",
    }
    assert {key: backbone[key] for key in expected} == expected


def test_fingerprint_tells_weights_apart_but_not_precision_head_or_image_size():
    def fingerprint(vit):
        return adapted("full", vit=vit).peft_config["default"].backbone["fingerprint"]

    reference = fingerprint(create("vit"))
    assert fingerprint(create("vit")) == reference
    assert fingerprint(create("vit").bfloat16()) == reference
    vit = create("vit")
    vit.reset_classifier(77)
    vit.set_input_size((32, 32))
    assert fingerprint(vit) == reference
    assert fingerprint(create("vit", seed=1)) != reference
    vit = create("vit")
    with torch.no_grad():
        vit.blocks[1].mlp.fc2.bias[0] += 0.1
    assert fingerprint(vit) != reference


def test_trainable_parameters_of_the_paper():
    with torch.device("meta"):
        vit = timm.create_model("deit_small_patch16_224", pretrained=False)
        model = get_peft_model(vit, SatConfig(num_classes=1000, tune="full"))
    trainable, _ = model.get_nb_trainable_parameters()
    # Head and three blocks of DeiT-S, then the token and its position embedding: the paper's 8.78M.
    assert trainable == (384 * 1000 * 9 + 1000) + 3 * 1_774_464 + 2 * 384


def test_print_trainable_parameters(capsys):
    model = adapted()
    model.print_trainable_parameters()
    assert f"trainable params: {2 * 16 + 16 * 9 * 3 + 3} " in capsys.readouterr().out


def test_lora_stays_inside_the_last_blocks():
    def targets(**config):
        model = adapted("lora", **config)
        return {
            name.split("base_model.model.")[1].split(".lora_A")[0]
            for name, _ in model.named_parameters()
            if "lora_A" in name
        }

    linear = {"attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"}
    assert targets() == {f"blocks.{i}.{name}" for i in (1, 2) for name in linear}
    assert targets(target_modules="all-linear") == targets()
    assert targets(target_modules=["qkv"]) == {"blocks.1.attn.qkv", "blocks.2.attn.qkv"}
    assert targets(target_modules=r"blocks\.[02]\.mlp\.fc1") == {"blocks.2.mlp.fc1"}
    assert targets(exclude_modules=["proj", "fc1", "fc2"]) == targets(target_modules=["qkv"])
    with pytest.raises(UsageError, match=r"target_modules=\{'query'\} matches no layer .* mlp.fc2"):
        targets(target_modules=["query"])


@pytest.mark.parametrize(
    "options", [{"use_dora": True}, {"rank_pattern": {"qkv": 2}}, {"use_rslora": True, "lora_alpha": 16}]
)
def test_lora_options(options, tmp_path):
    model = adapted("lora", r=4, **options)
    ranks = {name: p.shape[0] for name, p in model.named_parameters() if "lora_A" in name}
    assert set(ranks.values()) == ({2, 4} if "rank_pattern" in options else {4})
    assert any("magnitude" in name for name, _ in model.named_parameters()) == ("use_dora" in options)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)), alpha=0.1)
    images = images_for(model)
    folder = save_adapter(model, tmp_path / "adapter")
    loaded = PeftModel.from_pretrained(create_plain(), str(folder))
    assert torch.equal(loaded(images).logits, model(images).logits)


def test_modules_to_save_train_beside_the_adapter(tmp_path):
    model = adapted("lora", modules_to_save=["patch_embed"])
    with torch.no_grad():
        model.get_base_model().patch_embed.modules_to_save["default"].proj.bias += 1
    images, vit = images_for(create_plain()), create_plain()
    expected = model(images).logits
    loaded = PeftModel.from_pretrained(create_plain(), str(save_adapter(model, tmp_path / "adapter")))
    assert torch.equal(loaded(images).logits, expected)
    assert torch.equal(model.unload()(images), vit(images))


@pytest.mark.parametrize("name", ["norm", "blocks.2", "qkv"])
def test_modules_to_save_inside_blocks_are_refused(name):
    with pytest.raises(UsageError, match="modules_to_save"):
        adapted("lora", modules_to_save=[name])


def test_what_sat_cannot_do_is_refused():
    model = adapted("lora")
    model.add_adapter("other", SatConfig(num_classes=2, num_spatial_blocks=1))
    images = images_for(model)
    for refused in (model.merge_and_unload, model.merge_adapter):
        with pytest.raises(UsageError, match="cannot be merged"):
            refused()
    with pytest.raises(UsageError, match="one active adapter at a time"):
        model.base_model.set_adapter(["default", "other"])
    with pytest.raises(UsageError, match="cannot be added up"):
        model.add_weighted_adapter(["default", "other"], [1, 1], "sum")
    with pytest.raises(UsageError, match="one active adapter for the whole batch"):
        model(images, adapter_names=["default", "other"])
    with pytest.raises(UsageError, match="no attention mask"):
        model(images, attn_mask=torch.ones(17, 17, dtype=torch.bool))
    model.delete_adapter("other")
    with pytest.raises(UsageError, match=r"'default' is the only adapter. Use unload\(\)"):
        model.delete_adapter("default")
    assert model(images).maps.shape == (2, 4, 4)


def test_images_of_several_sizes_in_one_batch_are_refused():
    model = adapted("full", vit=create("naflex"))
    patches = torch.zeros(1, 24, 16 * 16 * 3)
    batch = {"patches": patches, "patch_coord": torch.zeros(1, 24, 2), "patch_valid": torch.ones(1, 24)}
    with pytest.raises(UsageError, match=r"a tensor \(B, C, H, W\), got dict. Maps need a grid"):
        model(batch)
    with pytest.raises(UsageError, match=r"got shape \(1, 24, 768\)"):
        model(patches, patch_coord=batch["patch_coord"])
    with pytest.raises(UsageError, match="patch coordinates"):
        model(images_for(model), patch_coord=batch["patch_coord"])


def test_deleting_the_active_adapter_activates_another():
    model = adapted("full")
    model.add_adapter("other", SatConfig(num_classes=7, num_spatial_blocks=1, tune="lora"))
    with pytest.warns(UserWarning, match="'default' was active and is deleted; 'other' is active now"):
        model.delete_adapter("default")
    assert model.active_adapter == "other"
    assert model(images_for(model)).block_maps.shape[0] == 1
    trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trainable
    assert all("other" in name for name in trainable)
    assert not any("default" in name for name in model.state_dict())


def test_adding_an_adapter_leaves_the_active_one_trainable_and_active():
    model = adapted("full")
    before = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    model.add_adapter("other", SatConfig(num_classes=7, num_spatial_blocks=3, tune="full"))
    after = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert {name.replace(".base_layer", "") for name in after} == {name.replace(".base_layer", "") for name in before}
    model.set_adapter("other")
    trainable = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert trainable
    assert all(".other" in name for name in trainable)


def test_dynamic_image_size_gives_maps_of_any_grid():
    model = adapted("full", vit=create("dinov2"))
    for size, grid in (((56, 84), (4, 6)), ((28, 98), (2, 7)), ((14, 14), (1, 1))):
        assert model(torch.randn(1, 3, *size)).maps.shape == (1, *grid)


def test_a_failed_forward_leaves_no_trace():
    model = adapted()
    images = images_for(model)
    expected = model(images)
    block = model.get_base_model().blocks[2]
    handle = block.register_forward_pre_hook(lambda module, args: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        model(images)
    handle.remove()
    assert not model.get_base_model().norm.sat_record.is_open
    copy.deepcopy(model)
    assert torch.equal(model(images).block_maps, expected.block_maps)


def test_threads_do_not_mix_their_maps():
    model = adapted()
    waiting, images = images_for(model, batch=3), images_for(model, batch=2, seed=2)
    with torch.no_grad():
        expected = model(waiting), model(images)
    half_way, go_on, found = threading.Event(), threading.Event(), []

    def pause(module, args):
        if len(args[0]) == 3:  # only the first thread, between its two spatial blocks
            half_way.set()
            assert go_on.wait(timeout=60)

    def work():
        with torch.no_grad():
            found.append(model(waiting))

    model.get_base_model().blocks[2].register_forward_pre_hook(pause)
    thread = threading.Thread(target=work)
    thread.start()
    assert half_way.wait(timeout=60)
    with torch.no_grad():
        found.append(model(images))
    go_on.set()
    thread.join()
    assert len(found) == 2
    for output in found:
        reference = expected[0] if len(output.maps) == 3 else expected[1]
        assert torch.equal(output.block_maps, reference.block_maps)


def test_output_reads_by_name_index_and_key_and_survives_accelerate():
    model = adapted()
    output = model(images_for(model))
    assert output[0] is output.logits is output["logits"]
    assert list(output) == ["logits", "maps", "block_maps", "tokens", "features"]
    half = SatOutput(**{name: value.bfloat16() for name, value in output.items()})
    converted = convert_outputs_to_fp32(lambda: half)()
    assert isinstance(converted, SatOutput)
    assert {value.dtype for value in converted.values()} == {torch.float32}
    assert converted.maps is converted["maps"]


def test_autocast_keeps_maps_in_float32():
    model = adapted("full")
    images = images_for(model)
    expected = model(images)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = model(images)
    assert output.maps.dtype == torch.float32
    torch.testing.assert_close(output.maps, expected.maps, atol=0.02, rtol=0)
    SatLoss()(output, torch.tensor([0, 1])).total.backward()


def test_reentrant_checkpointing_is_refused():
    model = adapted()
    model.get_base_model().set_grad_checkpointing()
    timm.layers.set_reentrant_ckpt(True)
    try:
        with pytest.raises(UsageError, match="reentrant"):
            model(images_for(model))
        with torch.no_grad():
            model(images_for(model))
    finally:
        timm.layers.set_reentrant_ckpt(False)


@pytest.mark.skipif(torch.__version__ < "2.8", reason="this torch does not compile the context of PEFT's forward")
@pytest.mark.parametrize(
    ("backbone", "tune", "token_entry"),
    [("vit", "full", "input"), ("vit", "lora", "late"), ("dinov3", "bias_norm", "isolated")],
)
def test_compiled_model(backbone, tune, token_entry):
    model = adapted(tune, vit=create(backbone), token_entry=token_entry)
    images = images_for(model)
    expected = model(images)
    SatLoss()(expected, torch.tensor([0, 1])).total.backward()
    gradients = [p.grad.clone() for p in model.parameters() if p.requires_grad]
    model.zero_grad()
    torch.compiler.reset()
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    for _ in range(2):
        output = compiled(images)
        torch.testing.assert_close(output.maps, expected.maps)
        torch.testing.assert_close(output.logits, expected.logits)
    SatLoss()(output, torch.tensor([0, 1])).total.backward()
    for found, reference in zip((p.grad for p in model.parameters() if p.requires_grad), gradients, strict=True):
        torch.testing.assert_close(found, reference, rtol=1e-4, atol=1e-6)
    with model.disable_adapter():
        torch.testing.assert_close(compiled(images), create(backbone)(images))
    torch.testing.assert_close(compiled(images).maps, expected.maps)
    torch.compiler.reset()


def test_low_cpu_memory_loading(tmp_path):
    model = adapted("full", vit=create("dinov3"))
    images = images_for(model)
    folder = str(save_adapter(model, tmp_path / "adapter"))
    loaded = PeftModel.from_pretrained(create("dinov3"), folder, low_cpu_mem_usage=True)
    assert torch.equal(loaded(images).logits, model(images).logits)
