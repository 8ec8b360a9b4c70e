"""A trained model is found again from its run folder or its adapter alone."""

import json
from pathlib import Path

import pytest
import timm
import torch
from peft import get_peft_model
from safetensors.torch import save_file

from sat_peft import SatConfig, load_adapter, save_adapter
from sat_peft.backbones import create_backbone
from sat_peft.data.options import DataOptions
from sat_peft.errors import UsageError
from sat_peft.nano import NANO_BACKBONE
from sat_peft.runs.restore import trained_from_adapter, trained_from_run


@pytest.fixture
def run(tmp_path) -> Path:
    """A run folder with an adapter that was trained on images of 48 x 32 pixels."""
    torch.manual_seed(0)
    save_file(timm.create_model("test_vit").state_dict(), tmp_path / "model.safetensors")
    backbone = create_backbone("test_vit", weights=tmp_path / "model.safetensors", image_size=(48, 32))
    model = get_peft_model(backbone, SatConfig(num_classes=2, num_spatial_blocks=1, class_names=["a", "b"]))
    save_adapter(model, tmp_path / "run" / "adapter")
    config = {
        "data": "coco",
        "data_root": "DIR",
        "validation_fraction": 0.1,
        "backbone": "test_vit",
        "weights": str(tmp_path / "model.safetensors"),
    }
    (tmp_path / "run" / "config.json").write_text(json.dumps(config))
    (tmp_path / "run" / "baselines").mkdir()
    (tmp_path / "run" / "baselines" / "cam.safetensors").touch()
    return tmp_path / "run"


def test_run_names_everything(run):
    trained = trained_from_run(run)
    assert (trained.backbone, trained.image_size) == ("test_vit", (48, 32))
    assert trained.data == DataOptions(data="coco", data_root=Path("DIR"), validation_fraction=0.1)
    assert trained.set_aside == {}
    assert (trained.num_classes, trained.class_names) == (2, ["a", "b"])
    assert trained.weights == run.parent / "model.safetensors"
    assert trained.baselines == {"cam": run / "baselines" / "cam.safetensors"}


def test_images_that_were_set_aside_come_from_the_run(run):
    (run / "set_aside.json").write_text(json.dumps({"test": ["a/1.jpg"]}))
    assert trained_from_run(run).set_aside == {"test": ["a/1.jpg"]}


def test_weights_of_the_run_are_not_those_of_another_backbone(run):
    assert trained_from_run(run, backbone="test_vit2").weights is None
    assert trained_from_run(run, weights=run / "other").weights == run / "other"


@pytest.mark.filterwarnings("error:the weights of this")
@pytest.mark.parametrize("size", [None, (64, 64)])
def test_rebuilt_model_has_the_trained_or_the_wanted_size(run, size):
    trained = trained_from_run(run)
    model = load_adapter(trained.create_backbone(size), trained.adapter)
    height, width = size or (48, 32)
    with torch.no_grad():
        output = model(torch.zeros(1, 3, height, width))
    assert output.maps.shape == (1, height // 16, width // 16)
    assert output.logits.shape == (1, 2)


def test_adapter_alone_names_its_backbone_with_the_tag(run):
    trained = trained_from_adapter(run / "adapter")
    assert (trained.backbone, trained.image_size, trained.data) == ("test_vit.r160_in1k", (48, 32), None)
    file = run / "adapter" / "adapter_config.json"
    config = json.loads(file.read_text())
    config["backbone"]["pretrained_tag"] = None
    file.write_text(json.dumps(config))
    assert trained_from_adapter(run / "adapter").backbone == "test_vit"
    config["backbone"] = None
    file.write_text(json.dumps(config))
    with pytest.raises(UsageError, match="does not record the backbone"):
        trained_from_adapter(run / "adapter")
    assert trained_from_adapter(run / "adapter", backbone="test_vit").backbone == "test_vit"


def test_nano_backbone_resizes_its_position_embedding(tmp_path):
    """Protocols of 224 pixels ask for that size; the embedded weights are of 96."""
    torch.manual_seed(0)
    trained = timm.create_model(NANO_BACKBONE)
    with torch.no_grad():  # a pattern that bicubic resizing carries over: left half 0, right half 1
        trained.pos_embed[:, 1:] = (torch.arange(144) % 12 >= 6).float()[None, :, None]
    save_file(trained.state_dict(), tmp_path / "nano.safetensors")
    overlay = {"file": str(tmp_path / "nano.safetensors")}
    larger = timm.create_model(NANO_BACKBONE, pretrained=True, pretrained_cfg_overlay=overlay, img_size=224)
    grid = larger.pos_embed[0, 1:].reshape(28, 28, -1)
    torch.testing.assert_close(grid[:, :10], torch.zeros(28, 10, 128), atol=0.05, rtol=0)
    torch.testing.assert_close(grid[:, 18:], torch.ones(28, 10, 128), atol=0.05, rtol=0)
    assert torch.equal(larger.blocks[0].mlp.fc1.weight, trained.blocks[0].mlp.fc1.weight)
