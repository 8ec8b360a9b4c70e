"""Creating backbones: local weights load whole or not at all, and every mistake is answered."""

import os
import pickle
from pathlib import Path

import pytest
import timm
import torch
from peft import get_peft_model
from safetensors.torch import save_file

from sat_peft import SatConfig, save_adapter
from sat_peft.backbones import (
    PHOTO_BACKBONE,
    DataConfig,
    choose_backbone,
    create_backbone,
    recognise_backbone,
    resolve_data_config,
)
from sat_peft.errors import UsageError
from sat_peft.runs.restore import trained_from_adapter


def save_weights(model: torch.nn.Module, file: Path) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    if file.suffix == ".safetensors":
        save_file(tensors, file)
    else:
        torch.save(tensors, file)
    return file


@pytest.fixture(scope="module")
def saved() -> torch.nn.Module:
    """A model with a classifier, as published ones have."""
    torch.manual_seed(0)
    return timm.create_model("test_vit", num_classes=10).eval()


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(1, 3, 160, 160, generator=torch.Generator().manual_seed(0))


# Local weights


@pytest.mark.parametrize("name", ["model.safetensors", "weights.pth", "pytorch_model.bin"])
def test_local_file_gives_the_saved_model(saved, images, tmp_path, name):
    model = create_backbone("test_vit", weights=save_weights(saved, tmp_path / name)).eval()
    assert torch.equal(model.forward_features(images), saved.forward_features(images))
    assert model(images).shape == (1, 64)  # features: there is no classifier


def test_folder_in_the_layout_of_the_hub_gives_the_saved_model(saved, images, tmp_path):
    timm.models.save_for_hf(saved, tmp_path, safe_serialization=True)
    assert {"config.json", "model.safetensors"} <= {path.name for path in tmp_path.iterdir()}
    for weights in (tmp_path, str(tmp_path)):
        model = create_backbone("test_vit", weights=weights).eval()
        assert torch.equal(model.forward_features(images), saved.forward_features(images))


def test_training_checkpoint_of_timm_is_read(saved, images, tmp_path):
    file = tmp_path / "checkpoint.pth.tar"
    torch.save({"epoch": 3, "state_dict": {f"module.{k}": v for k, v in saved.state_dict().items()}}, file)
    model = create_backbone("test_vit", weights=file).eval()
    assert torch.equal(model.forward_features(images), saved.forward_features(images))


def test_other_image_size_resizes_the_position_embedding_alone(saved, tmp_path):
    model = create_backbone(
        "test_vit", weights=save_weights(saved, tmp_path / "model.safetensors"), image_size=(32, 64)
    )
    assert model.pos_embed.shape == (1, 1 + 2 * 4, 64)
    others = {name: tensor for name, tensor in model.state_dict().items() if name != "pos_embed"}
    assert all(torch.equal(tensor, saved.state_dict()[name]) for name, tensor in others.items())
    assert model.forward_features(torch.zeros(1, 3, 32, 64)).shape == (1, 9, 64)


def test_missing_weights_are_named(tmp_path):
    with pytest.raises(UsageError, match=r"gone' do not exist; give a \.safetensors file or a folder"):
        create_backbone("test_vit", weights=tmp_path / "gone")
    with pytest.raises(UsageError, match=r"holds none of model\.safetensors, pytorch_model\.bin"):
        create_backbone("test_vit", weights=tmp_path)


@pytest.mark.parametrize("other", ["test_vit2", "test_vit3", "vit_tiny_patch16_224", "resnet18"])
def test_weights_of_another_model_are_refused(tmp_path, other):
    # Same width with other parts, another width, another depth, another family.
    file = save_weights(timm.create_model(other, num_classes=10), tmp_path / "model.safetensors")
    with pytest.raises(UsageError, match=r"are not those of 'test_vit': (size mismatch for|\d+ keys missing)"):
        create_backbone("test_vit", weights=file)


def test_weights_that_lack_one_tensor_are_refused(saved, tmp_path):
    tensors = {k: v for k, v in saved.state_dict().items() if k != "blocks.3.mlp.fc1.bias"}
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(UsageError, match=r"1 keys missing \(first: \['blocks\.3\.mlp\.fc1\.bias'\]\)"):
        create_backbone("test_vit", weights=tmp_path)


@pytest.mark.parametrize("name", ["model.safetensors", "model.pth"])
@pytest.mark.parametrize("kept", [0, 5000])
def test_damaged_file_is_named(saved, tmp_path, name, kept):
    file = save_weights(saved, tmp_path / name)
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(UsageError, match=rf"{name}' cannot be read: the file is damaged.*Give a \.safetensors file"):
        create_backbone("test_vit", weights=file)


@pytest.mark.parametrize("content", [[1, 2], "hello", {"state_dict": [1]}])
def test_file_of_something_else_is_named(tmp_path, content):
    file = tmp_path / "model.pth"
    torch.save(content, file)
    with pytest.raises(UsageError, match=r"model\.pth' (cannot be read|are not those of)"):
        create_backbone("test_vit", weights=file)


class Payload:
    """Creates the file when it is unpickled."""

    def __init__(self, file: Path):
        self.file = file

    def __reduce__(self):
        return os.mkdir, (str(self.file),)


@pytest.mark.parametrize("save", ["torch", "pickle"])
@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_code_in_a_weights_file_is_refused_and_not_run(tmp_path, save):
    file, trace = tmp_path / "model.pth", tmp_path / "executed"
    if save == "torch":
        torch.save({"state_dict": Payload(trace)}, file)
    else:
        file.write_bytes(pickle.dumps(Payload(trace)))
    with pytest.raises(UsageError, match=r"no file of tensors alone") as caught:
        create_backbone("test_vit", weights=file)
    assert not trace.exists()
    assert "weights_only=False" not in str(caught.value)
    pickle.loads(pickle.dumps(Payload(trace)))
    assert trace.exists()  # the payload works where it is unpickled


# Names


def test_unknown_name_is_answered_with_close_ones():
    with pytest.raises(
        UsageError, match=r"unknown backbone 'deit_smal_patch16_224'\. Did you mean deit_small_patch16_"
    ):
        create_backbone("deit_smal_patch16_224")


def test_unknown_name_without_close_ones_says_how_to_list_them():
    with pytest.raises(UsageError, match=r"unknown backbone '####'\. Any Vision Transformer of timm works; `python -c"):
        create_backbone("####")


def test_unknown_tag_is_answered_with_the_known_ones():
    with pytest.raises(UsageError, match=r"tag 'r16' of backbone 'test_vit'\. Known: test_vit\.r160_in1k\."):
        create_backbone("test_vit.r16")


@pytest.mark.parametrize("name", ["resnet18", "test_convnext", "swin_tiny_patch4_window7_224", "test_efficientnet"])
def test_models_without_patch_tokens_are_refused_before_any_download(name):
    with pytest.raises(UsageError, match=rf"'{name}' \(\w+\) has no sequence of patch tokens.*deit_small_patch16_224"):
        create_backbone(name)


@pytest.mark.parametrize("name", ["test_vit", "hf-hub:timm/test_vit.r160_in1k"])
def test_unreachable_hub_is_answered_with_local_weights(name):
    with pytest.raises(UsageError, match=rf"'{name}' could not be fetched.*--local-dir DIR.*--weights"):
        create_backbone(name)


def test_architecture_without_published_weights_is_answered_with_local_weights():
    with pytest.raises(UsageError, match=r"timm knows no pretrained weights of 'test_vit4'.*--weights"):
        create_backbone("test_vit4")


# Sizes and preprocessing


@pytest.mark.parametrize(
    ("size", "words"),
    [
        (70, r"height 70 is not a multiple of the patch size 16 of test_vit.*: 64 and 80\."),
        ((64, 100), r"width 100 is not a multiple of the patch size 16 .*: 96 and 112\."),
        (8, r"height 8 .*: 16 and 32\."),
        (0, r"height 0 .*: 16 and 32\."),
        (-16, r"height -16 .*: 16 and 32\."),
    ],
)
def test_size_that_the_patch_size_does_not_divide_is_refused_before_any_download(size, words):
    with pytest.raises(UsageError, match=words):
        create_backbone("test_vit", image_size=size)


def test_data_config_is_the_models_own():
    model = create_backbone("test_vit", pretrained=False)
    assert resolve_data_config(model) == DataConfig((160, 160), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), "bicubic")


def test_data_config_knows_the_size_that_the_model_was_created_at():
    model = create_backbone("test_vit", pretrained=False, image_size=(32, 64))
    assert resolve_data_config(model).image_size == (32, 64)
    assert resolve_data_config(model, 96).image_size == (96, 96)


def test_naflex_is_created_at_a_size_which_its_adapters_remember(tmp_path):
    options = {"pretrained": False, "image_size": (32, 64)}
    model = create_backbone("naflexvit_base_patch16_gap", **options)
    assert resolve_data_config(model).image_size == (32, 64)
    with pytest.raises(UsageError, match="image width 40 is not a multiple of the patch size 16"):
        create_backbone("naflexvit_base_patch16_gap", pretrained=False, image_size=(32, 40))
    adapted = get_peft_model(model, SatConfig(num_classes=2, num_spatial_blocks=1, tune="none"))
    save_adapter(adapted, tmp_path / "adapter")
    assert trained_from_adapter(tmp_path / "adapter").image_size == (32, 64)


def test_drop_path_rises_to_the_given_rate():
    model = create_backbone("test_vit", pretrained=False, drop_path_rate=0.5)
    rates = [getattr(block.drop_path1, "drop_prob", 0.0) for block in model.blocks]
    assert rates == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4, 0.5])


@pytest.mark.parametrize("rate", [-0.1, 1.0])
def test_drop_path_rate_out_of_range_is_refused(rate):
    with pytest.raises(UsageError, match=rf"at least 0 and less than 1, got {rate}"):
        create_backbone("test_vit", pretrained=False, drop_path_rate=rate)


def test_embedded_architecture_is_found_by_name():
    model = create_backbone("sat_peft_vit_nano_patch8_96", pretrained=False)
    assert len(model.blocks) == 6
    assert resolve_data_config(model).image_size == (96, 96)


@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
def test_local_weights_tell_their_backbone(tmp_path, suffix):
    nano = timm.create_model("sat_peft_vit_nano_patch8_96", num_classes=7, img_size=64)
    file = save_weights(nano, tmp_path / f"model.{suffix}")
    assert recognise_backbone(file) == choose_backbone(None, file) == "sat_peft_vit_nano_patch8_96"


def test_the_configuration_beside_the_weights_names_their_backbone(tmp_path):
    save_file({"a": torch.zeros(1)}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text('{"architecture": "vit_small_patch16_dinov3"}')
    assert recognise_backbone(tmp_path) == "vit_small_patch16_dinov3"


@pytest.mark.parametrize("config", ["{", "[]", '{"architecture": 3}', "{}"])
def test_weights_that_tell_nothing_ask_for_a_name(tmp_path, config):
    save_file({"a": torch.zeros(1)}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(UsageError, match=r"model\.safetensors.* none of the known: name the backbone with --backbone"):
        recognise_backbone(tmp_path)


def test_weights_of_two_families_that_differ_in_their_images_ask_for_a_name(tmp_path):
    save_weights(timm.create_model("deit_tiny_patch16_224"), tmp_path / "model.safetensors")
    with pytest.raises(UsageError, match=r"deit_tiny_patch16_224 and vit_tiny_patch16_224.*--backbone"):
        recognise_backbone(tmp_path)


def test_damaged_weights_are_named(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{")
    with pytest.raises(UsageError, match="cannot be read"):
        recognise_backbone(tmp_path)


def test_without_weights_photographs_get_the_backbone_for_them_and_a_name_counts_first(tmp_path):
    assert choose_backbone(None, None) == PHOTO_BACKBONE
    assert choose_backbone("deit_small_patch16_224", tmp_path / "gone") == "deit_small_patch16_224"
