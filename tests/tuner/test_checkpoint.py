"""Adapter folders and reference checkpoints: what is written, and what a damaged or foreign file says."""

import argparse
import errno
import json
import os
import pickle
import warnings

import pytest
import timm
import torch
from huggingface_hub import ModelCard
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
from safetensors.torch import load_file, save_file
from tiny_backbones import create_plain, images_for

from sat_peft import SatConfig, load_adapter, load_reference_weights, save_adapter
from sat_peft.errors import UsageError
from sat_peft.tuner import checkpoint
from sat_peft.tuner.reference import BLUR_KERNEL

CONFIG, WEIGHTS, CARD = "adapter_config.json", "adapter_model.safetensors", "README.md"


def adapted(tune="full", vit=None, name="default", **config):
    vit = create_plain() if vit is None else vit
    config = {"num_classes": 3, "num_spatial_blocks": 2, "tune": tune} | config
    return get_peft_model(vit, SatConfig(**config), adapter_name=name).eval()


@pytest.fixture
def folder(tmp_path):
    return save_adapter(adapted(), tmp_path / "adapter")


def edit_weights(folder, change):
    weights = load_file(folder / WEIGHTS)
    change(weights)
    save_file(weights, folder / WEIGHTS)


def assert_refused(folder, message, vit=None):
    """Loading raises `message`, and leaves the backbone as it was."""
    vit = create_plain() if vit is None else vit
    keys, images = list(vit.state_dict()), images_for(vit)
    expected = vit(images)
    with pytest.raises(UsageError, match=message):
        load_adapter(vit, folder)
    assert list(vit.state_dict()) == keys
    assert torch.equal(vit(images), expected)


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
def test_files_have_the_permissions_of_any_new_file(folder, tmp_path):
    (tmp_path / "other").touch()
    mode = (tmp_path / "other").stat().st_mode
    assert {path.name: path.stat().st_mode for path in folder.iterdir()} == dict.fromkeys((CONFIG, WEIGHTS, CARD), mode)


def test_saving_on_a_system_that_opens_no_folders(tmp_path, monkeypatch):
    """As Windows, which also flushes no file through a descriptor that may not write."""
    system_open, system_fsync, writable = os.open, os.fsync, set()

    def open_file(path, flags, *arguments, **options):
        if os.path.isdir(path):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        descriptor = system_open(path, flags, *arguments, **options)
        (writable.add if flags & (os.O_RDWR | os.O_WRONLY) else writable.discard)(descriptor)
        return descriptor

    def fsync(descriptor):
        if descriptor not in writable:
            raise OSError(errno.EBADF, "Bad file descriptor")
        system_fsync(descriptor)

    monkeypatch.setattr(checkpoint.os, "open", open_file)
    monkeypatch.setattr(checkpoint.os, "fsync", fsync)
    folder = save_adapter(adapted(), tmp_path / "adapter")
    assert sorted(path.name for path in folder.iterdir()) == sorted((CONFIG, WEIGHTS, CARD))


def test_folder_holds_three_files_and_no_machine_paths(folder):
    assert set(os.listdir(folder)) == {CONFIG, WEIGHTS, CARD}
    assert os.listdir(folder.parent) == ["adapter"]
    config = json.loads((folder / CONFIG).read_text())
    assert config["peft_type"] == "SAT"
    assert config["base_model_name_or_path"] is None
    assert config["inference_mode"] is True
    assert str(folder.parent) not in (folder / CONFIG).read_text() + (folder / CARD).read_text()


def test_folders_of_peft_itself_are_the_same_and_are_read(folder, tmp_path):
    model = adapted()
    model.save_pretrained(str(tmp_path / "peft"))
    assert set(os.listdir(tmp_path / "peft")) == set(os.listdir(folder))
    images = images_for(model)
    assert torch.equal(load_adapter(create_plain(), tmp_path / "peft")(images).logits, model(images).logits)


def test_saving_twice_writes_the_same_bytes(tmp_path):
    model = adapted("lora")
    first, second = (save_adapter(model, tmp_path / name) for name in ("first", "second"))
    for name in (CONFIG, WEIGHTS, CARD):
        assert (first / name).read_bytes() == (second / name).read_bytes()


def test_the_adapter_name_is_not_stored(folder, tmp_path):
    other = save_adapter(adapted(name="other"), tmp_path / "other", "other")
    assert set(load_file(other / WEIGHTS)) == set(load_file(folder / WEIGHTS))


def test_class_names_are_text_in_the_model_card(tmp_path):
    names = ["a\n---\n# b", "``<img src=x>`", "[c](http://d)"]
    card = (save_adapter(adapted(class_names=names), tmp_path / "adapter") / CARD).read_text()
    assert "3 classes: `a --- # b`, ``` ``<img src=x>` ```, `[c](http://d)`" in card


def test_model_card_names_backbone_and_classes(tmp_path):
    model = adapted(class_names=["wren", "robin", "jay"])
    card = (save_adapter(model, tmp_path / "adapter") / CARD).read_text()
    assert "3 classes: `wren`, `robin`, `jay`" in card
    data = ModelCard(card).data
    assert (data.library_name, data.pipeline_tag, data.base_model) == ("peft", "object-detection", None)
    assert load_adapter(create_plain(), tmp_path / "adapter").peft_config["default"].class_names[1] == "robin"


def test_model_card_and_configuration_link_to_the_base_on_the_hub(tmp_path):
    vit = timm.create_model("vit_tiny_patch16_224.augreg_in21k_ft_in1k", pretrained=False)
    model = get_peft_model(vit, SatConfig(num_classes=2))
    folder = save_adapter(model, tmp_path / "adapter")
    base = "timm/vit_tiny_patch16_224.augreg_in21k_ft_in1k"
    assert ModelCard.load(folder / CARD).data.base_model == base
    assert json.loads((folder / CONFIG).read_text())["base_model_name_or_path"] == base
    assert load_adapter(model.unload(), folder).peft_config["default"].base_model_name_or_path == base


def test_what_peft_saves_has_the_card_and_the_base_too(tmp_path):
    vit = timm.create_model("vit_tiny_patch16_224.augreg_in21k_ft_in1k", pretrained=False)
    model = get_peft_model(vit, SatConfig(num_classes=2))
    model.save_pretrained(tmp_path / "peft")
    save_adapter(model, tmp_path / "ours")
    assert (tmp_path / "peft" / CARD).read_text() == (tmp_path / "ours" / CARD).read_text()
    base = "timm/vit_tiny_patch16_224.augreg_in21k_ft_in1k"
    assert json.loads((tmp_path / "peft" / CONFIG).read_text())["base_model_name_or_path"] == base
    # A card that somebody wrote stays, with what PEFT adds to it.
    (tmp_path / "peft" / CARD).write_text("# Birds of my garden\n")
    model.save_pretrained(tmp_path / "peft")
    assert "# Birds of my garden" in (tmp_path / "peft" / CARD).read_text()


def test_an_adapter_folder_is_replaced(folder):
    save_adapter(adapted(num_classes=9), folder)
    assert set(os.listdir(folder)) == {CONFIG, WEIGHTS, CARD}
    assert os.listdir(folder.parent) == ["adapter"]
    assert load_adapter(create_plain(), folder).peft_config["default"].num_classes == 9


def test_a_failed_save_keeps_the_previous_adapter(folder, monkeypatch):
    before = {name: (folder / name).read_bytes() for name in os.listdir(folder)}
    monkeypatch.setattr(SatConfig, "save_pretrained", lambda config, folder: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        save_adapter(adapted(num_classes=9), folder)
    assert {name: (folder / name).read_bytes() for name in os.listdir(folder)} == before
    assert os.listdir(folder.parent) == ["adapter"]


def test_a_failed_rename_keeps_the_previous_adapter(folder, monkeypatch):
    before = {name: (folder / name).read_bytes() for name in os.listdir(folder)}
    rename = checkpoint.Path.rename

    def fail_on_new(path, target):
        if ".saving-" in path.name:
            raise OSError("disk full")
        return rename(path, target)

    monkeypatch.setattr(checkpoint.Path, "rename", fail_on_new)
    with pytest.raises(OSError, match="disk full"):
        save_adapter(adapted(num_classes=9), folder)
    assert {name: (folder / name).read_bytes() for name in os.listdir(folder)} == before
    assert os.listdir(folder.parent) == ["adapter"]


def test_folders_with_foreign_files_are_not_replaced(folder):
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match=r"files that are no part of an adapter \(notes.txt\)"):
        save_adapter(adapted(), folder)
    assert (folder / "notes.txt").read_text() == "mine"
    with pytest.raises(UsageError, match="a file is there"):
        save_adapter(adapted(), folder / "notes.txt")
    with pytest.raises(UsageError, match="no adapter 'nope'; the model has: default"):
        save_adapter(adapted(), folder, "nope")


def test_missing_and_extra_weights_are_named(folder):
    edit_weights(folder, lambda weights: weights.pop("base_model.model.blocks.2.attn.qkv.sat_full.bias"))
    assert_refused(folder, f"{folder}.*missing: base_model.model.blocks.2.attn.qkv.sat_full.default.bias")
    edit_weights(folder, lambda weights: weights.update({"base_model.model.blocks.0.attn.qkv.bias": torch.zeros(48)}))
    assert_refused(folder, "not part of the adapter: base_model.model.blocks.0.attn.qkv.bias")


def test_weights_of_another_shape_are_named(folder):
    edit_weights(folder, lambda weights: weights.update({"base_model.model.norm.sat_head.bias": torch.zeros(4)}))
    assert_refused(folder, r"norm.sat_head.default.bias has shape \(4,\), expected \(3,\)")


def test_truncated_weights_are_refused(folder):
    content = (folder / WEIGHTS).read_bytes()
    for size in (len(content) // 2, 100, 0):
        (folder / WEIGHTS).write_bytes(content[:size])
        assert_refused(folder, f"{WEIGHTS}: it is damaged or incomplete")


class Harmful:
    def __reduce__(self):
        return os.mkdir, (os.environ["SAT_TEST_TRAP"],)


def test_pickled_weights_are_never_read(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("SAT_TEST_TRAP", str(tmp_path / "trap"))
    (folder / WEIGHTS).unlink()
    (folder / "adapter_model.bin").write_bytes(pickle.dumps(Harmful()))
    assert_refused(folder, f"{WEIGHTS} is missing. adapter_model.bin is a pickle")
    assert not (tmp_path / "trap").exists()


def test_adapters_of_other_methods_are_refused(tmp_path):
    get_peft_model(create_plain(), LoraConfig(target_modules=["qkv"])).save_pretrained(str(tmp_path))
    assert_refused(tmp_path, "adapter of type 'LORA', not 'SAT'")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda path: path.write_text(path.read_text()[:50]), "adapter_config.json: it is no JSON"),
        (lambda path: path.write_text("[]"), "is not the configuration of an adapter"),
        (lambda path: path.unlink(), "adapter_config.json is missing"),
        (lambda path: path.write_text(path.read_text().replace('"full"', '"most"')), "unknown tune 'most'"),
    ],
)
def test_damaged_configurations_are_refused(folder, change, message):
    change(folder / CONFIG)
    assert_refused(folder, message)


def test_a_missing_folder_points_at_what_an_interrupted_save_left(folder):
    folder.rename(folder.with_name(".adapter.replaced-12345678"))
    assert_refused(folder, r"An interrupted save left the previous adapter in .adapter.replaced-12345678")


@pytest.mark.parametrize(
    ("geometry", "message"),
    [
        ({"depth": 4}, "depth 3 there, 4 here"),
        ({"embed_dim": 32}, "embed_dim 16 there, 32 here"),
        ({"patch_size": 16}, r"patch_size \[8, 8\] there, \[16, 16\] here"),
        ({"reg_tokens": 2}, "num_prefix_tokens 1 there, 3 here"),
    ],
)
def test_other_backbones_are_refused(folder, geometry, message):
    assert_refused(folder, f"does not fit this VisionTransformer: .*{message}", create_plain(**geometry))


def test_other_base_weights_are_warned_about(folder):
    vit = create_plain()
    vit.reset_classifier(9)
    vit.set_input_size((64, 64))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_adapter(vit, folder).unload()  # neither matters to the adapter
    with torch.no_grad():
        vit.blocks[0].mlp.fc1.weight.mul_(2)
    with pytest.warns(UserWarning, match="weights of this VisionTransformer differ from those the adapter was trained"):
        model = load_adapter(vit, folder)
    recorded = json.loads((folder / CONFIG).read_text())["backbone"]
    assert model.peft_config["default"].backbone == recorded
    model.unload()
    with pytest.warns(UserWarning, match="differ"):
        retrained = load_adapter(vit, folder, is_trainable=True)
    assert retrained.peft_config["default"].backbone["fingerprint"] != recorded["fingerprint"]


def test_loaded_adapters_are_frozen_unless_asked_otherwise(folder):
    model = load_adapter(create_plain().train(), folder)
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert not model.training
    model = load_adapter(create_plain(), folder, is_trainable=True)
    assert {name for name, p in model.named_parameters() if p.requires_grad} == {
        name for name, _ in adapted().named_parameters() if "sat_" in name
    }
    load_adapter(model, folder, "second", is_trainable=True)
    assert any(p.requires_grad for name, p in model.named_parameters() if "second" in name)
    with pytest.raises(UsageError, match="already has an adapter 'second'"):
        load_adapter(model, folder, "second")


def test_a_failed_second_adapter_leaves_the_first(folder):
    model = adapted(num_classes=5)
    images, keys = images_for(model), set(model.state_dict())
    expected = model(images)
    edit_weights(folder, lambda weights: weights.pop("base_model.model.norm.sat_head.bias"))
    with pytest.raises(UsageError, match="missing"):
        load_adapter(model, folder, "second")
    assert set(model.peft_config) == {"default"}
    assert set(model.state_dict()) == keys
    assert torch.equal(model(images).logits, expected.logits)


def reference_weights(model):
    """The state dict of the reference implementation that equals a model with untrained copies."""
    vit = create_plain()
    weights = {name: value for name, value in vit.state_dict().items() if not name.startswith("head.")}
    adapter = get_peft_model_state_dict(model)
    for name, key in {
        "loc_token": "norm_pre.sat_token",
        "loc_embed": "norm_pre.sat_pos_embed",
        "head.weight": "norm.sat_head.weight",
        "head.bias": "norm.sat_head.bias",
    }.items():
        weights[name] = adapter[f"base_model.model.{key}"].clone()
    return weights | {"weight": BLUR_KERNEL[None, None].clone()}


@pytest.mark.parametrize("wrap", ["plain", "module", "model", "namespace", "safetensors"])
def test_reference_weights_are_read_in_every_wrapping(wrap, tmp_path):
    source = adapted()
    weights = reference_weights(source)
    images = images_for(source)
    target = adapted()
    with torch.no_grad():
        for parameter in target.parameters():
            parameter.zero_()
    if wrap == "module":
        weights = {f"module.{name}": value for name, value in weights.items()}
    if wrap in ("plain", "module"):
        load_reference_weights(target, weights)
    elif wrap == "safetensors":
        save_file({name: value.contiguous() for name, value in weights.items()}, tmp_path / "weights.safetensors")
        load_reference_weights(target, tmp_path / "weights.safetensors")
    else:
        extra = {"args": argparse.Namespace(lr=1e-4), "epoch": 3} if wrap == "namespace" else {}
        torch.save({"model": weights} | extra, tmp_path / "checkpoint.pth")
        load_reference_weights(target, tmp_path / "checkpoint.pth")
    assert torch.equal(target(images).logits, source(images).logits)
    found, expected = (model.peft_config["default"].backbone["fingerprint"] for model in (target, source))
    assert found == expected


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("loc_token"), "missing: loc_token"),
        (lambda w: w.pop("blocks.2.mlp.fc1.bias"), "missing: blocks.2.mlp.fc1.bias"),
        (lambda w: w.update(other=torch.zeros(1)), "unknown: other"),
        (lambda w: w.update({"head.bias": torch.zeros(8)}), r"head.bias has shape \(8,\), the model \(3,\)"),
        (lambda w: w.update(weight=torch.ones(1, 1, 3, 3)), "blurs with another kernel"),
        (lambda w: w.update(epoch=3), "entry 'epoch' is int, not a tensor"),
    ],
)
def test_reference_weights_that_do_not_fit_change_nothing(change, message):
    model = adapted()
    weights = {name: value + 1 for name, value in reference_weights(model).items()} | {"weight": BLUR_KERNEL}
    change(weights)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(UsageError, match=message):
        load_reference_weights(model, weights)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_reference_files_that_need_code_are_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("SAT_TEST_TRAP", str(tmp_path / "trap"))
    torch.save({"model": Harmful()}, tmp_path / "checkpoint.pth")
    with pytest.raises(UsageError, match=r"cannot read .* as weights"):
        load_reference_weights(adapted(), tmp_path / "checkpoint.pth")
    assert not (tmp_path / "trap").exists()
    with pytest.raises(UsageError, match="no reference weights at"):
        load_reference_weights(adapted(), tmp_path / "absent.pth")


def test_reference_weights_need_a_model_with_one_adapter():
    model = adapted()
    weights = reference_weights(model)
    model.add_adapter("other", SatConfig(num_classes=2, num_spatial_blocks=1))
    with pytest.raises(UsageError, match=r"adapters \['default', 'other'\]"):
        load_reference_weights(model, weights)
