"""A run folder as a training recipe leaves it, with a small backbone of random weights."""

import json
from pathlib import Path

import timm
import torch
from peft import get_peft_model
from safetensors.torch import save_file

from sat_peft import SatConfig, save_adapter
from sat_peft.backbones import create_backbone

CLASSES = ["ant", "bee & wasp", "<script>"]
THRESHOLD = 0.45


def write_weights(folder: Path) -> Path:
    """Writes `folder` / model.safetensors with the random weights of a fresh `test_vit`, always the same ones."""
    torch.manual_seed(0)
    file = folder / "model.safetensors"
    save_file(timm.create_model("test_vit").state_dict(), file)
    return file


def write_run(folder: Path, *, class_names: list[str] | None = CLASSES) -> Path:
    """Writes `folder` / run, whose adapter tells 3 classes apart in images of 64 x 64 pixels; the grid is 4 x 4."""
    torch.manual_seed(0)
    state = timm.create_model("test_vit").state_dict()
    # Larger weights than at the start of a training, so that logits and maps differ between images.
    state = {name: value + 0.1 * torch.randn_like(value) for name, value in state.items()}
    save_file(state, folder / "model.safetensors")
    backbone = create_backbone("test_vit", weights=folder / "model.safetensors", image_size=64)
    model = get_peft_model(backbone, SatConfig(num_classes=3, num_spatial_blocks=1, class_names=class_names))
    run = folder / "run"
    save_adapter(model, run / "adapter")
    config = {"data": "/home/me/photos", "backbone": "test_vit", "weights": str(folder / "model.safetensors")}
    (run / "config.json").write_text(json.dumps(config | {"shots": [2], "steps": 7}))
    figures = {"gt_known": 81.25, "top1_loc": 62.5, "top5_loc": None, "top1_cls": 75.0}
    results = {
        "protocol": "original",
        "threshold": THRESHOLD,
        "threshold_source": "validation: best",
        "methods": {"sat": figures},
        "training_images": 6,
        "test_images": 16,
    }
    (run / "results.json").write_text(json.dumps(results))
    return run
