"""Classifiers that train from what they read of each view of an image, computed once."""

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from datasets import Dataset
from PIL import Image
from timm.models.vision_transformer import VisionTransformer

from sat_peft.backbones import DataConfig
from sat_peft.data.features import localization_features
from sat_peft.data.loaders import build_loaders
from sat_peft.evaluation.registry import baselines, needed_classifiers
from sat_peft.evaluation.summaries import VIEWS, summary_loader

COUNT = 6
TRAINED = needed_classifiers(baselines())


@pytest.fixture
def backbone():
    torch.manual_seed(0)
    return VisionTransformer(img_size=32, patch_size=8, embed_dim=16, depth=2, num_heads=2, num_classes=0).eval()


@pytest.fixture
def train_loader(tmp_path):
    generator = np.random.default_rng(0)
    paths = [tmp_path / f"{number}.png" for number in range(COUNT)]
    for path in paths:
        Image.fromarray(generator.integers(0, 256, (40, 32, 3), dtype=np.uint8)).save(path)
    rows = Dataset.from_dict(
        {
            "image_id": [path.name for path in paths],
            "image": [{"bytes": None, "path": str(path)} for path in paths],
            "label": [number % 2 for number in range(COUNT)],
            "boxes": [[] for _ in paths],
        },
        features=localization_features(["a", "b"]),
    )
    config = DataConfig((32, 32), (0.5, 0.5, 0.5), (0.25, 0.25, 0.25), "bilinear")
    return build_loaders({"train": rows}, config, protocol="original", batch_size=4).train


def counted(classifier) -> list[int]:
    """The numbers of images that pass through the backbone of `classifier` from now on."""
    passed = []
    classifier.backbone.patch_embed.register_forward_hook(lambda module, args, output: passed.append(len(args[0])))
    return passed


@pytest.mark.parametrize("name", TRAINED)
def test_logits_of_summaries_are_those_of_the_images_and_of_the_mean_map(name, backbone):
    classifier = baselines()[name].classifier(backbone, 3)
    torch.nn.init.normal_(next(p for p in classifier.parameters() if p.requires_grad))
    images = torch.randn(2, 3, 32, 32)
    logits = classifier(images)
    assert torch.equal(classifier(classifier.summarize(images)), logits)
    torch.testing.assert_close(classifier.localize(images, torch.tensor([0, 1]))[0], logits)


@pytest.mark.parametrize("name", TRAINED)
def test_every_view_passes_the_backbone_once_and_keeps_its_label(name, backbone, train_loader):
    classifier = baselines()[name].classifier(backbone, 2).eval()
    passed = counted(classifier)
    loader = summary_loader(classifier, train_loader, Accelerator(cpu=True), steps=100)
    assert sum(passed) == COUNT * VIEWS + 1  # and one to know the size
    batches = list(loader)
    assert [len(batch["labels"]) for batch in batches] == [4, 2]
    seen = {tuple(row.tolist()) for batch in batches for row in batch["images"].values}
    assert len(seen) == COUNT
    for batch in batches:
        classifier(batch["images"])
    assert sum(passed) == COUNT * VIEWS + 1
    labels = torch.cat([batch["labels"] for batch in batches])
    assert sorted(labels.tolist()) == [0, 0, 0, 1, 1, 1]


def test_short_trainings_and_large_summaries_keep_to_the_images(backbone, train_loader, monkeypatch):
    classifier = baselines()["cam"].classifier(backbone, 2).eval()
    # Two batches are an epoch, and eight views cost as much as eight epochs.
    assert summary_loader(classifier, train_loader, Accelerator(cpu=True), steps=2 * VIEWS - 4) is None
    monkeypatch.setattr("sat_peft.evaluation.summaries.MAX_BYTES", 16 * 4 * COUNT * VIEWS - 1)
    assert summary_loader(classifier, train_loader, Accelerator(cpu=True), steps=100) is None
