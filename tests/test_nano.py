"""The embedded backbone: created by name like any other, small, and worth its name."""

import timm
import torch
from timm.data import resolve_model_data_config

from sat_peft.data.scenes import BASE_CLASSES, render_scene, scene_seed
from sat_peft.nano import NANO_BACKBONE, WEIGHTS_FILE


def test_weights_are_small_and_described():
    assert WEIGHTS_FILE.stat().st_size < 4e6
    card = WEIGHTS_FILE.with_name("MODEL_CARD.md").read_text()
    assert "Top-1" in card
    assert "pretrain_nano.py" in card


def test_created_by_name_it_classifies_unseen_base_scenes():
    model = timm.create_model(NANO_BACKBONE, pretrained=True).eval()
    config = resolve_model_data_config(model)
    mean, std = (torch.tensor(config[name]).view(3, 1, 1) for name in ("mean", "std"))
    images, labels = [], []
    for label, scene_class in enumerate(BASE_CLASSES):
        for index in range(4):
            image = render_scene(scene_class, scene_seed("validation", index)).image
            images.append((torch.from_numpy(image).permute(2, 0, 1) / 255 - mean) / std)
            labels.append(label)
    with torch.inference_mode():
        predicted = model(torch.stack(images)).argmax(1)
    assert (predicted == torch.tensor(labels)).float().mean() > 0.85


def test_takes_other_sizes_and_no_classifier():
    model = timm.create_model(NANO_BACKBONE, pretrained=True, num_classes=0, img_size=(64, 128)).eval()
    assert model(torch.zeros(1, 3, 64, 128)).shape == (1, 128)
