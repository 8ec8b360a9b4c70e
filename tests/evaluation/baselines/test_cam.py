"""CAM: its maps and logits are two readings of one thing."""

import pytest
import timm
import torch

from sat_peft.evaluation.baselines.cam import LinearCam

# Class token and a norm; average pooling with the norm after it; registers; a model of the EVA family.
MODELS = {
    "class token": ("test_vit", {}),
    "average pooling": ("test_vit", {"global_pool": "avg", "fc_norm": True}),
    "registers": ("test_vit2", {}),
    "naflex": ("naflexvit_base_patch16_gap", {"embed_dim": 48, "depth": 2, "num_heads": 3}),
    "rotary": ("vit_small_patch16_dinov3", {"embed_dim": 48, "depth": 2, "num_heads": 3}),
}


@pytest.fixture(params=MODELS)
def cam(request) -> LinearCam:
    name, options = MODELS[request.param]
    torch.manual_seed(0)
    backbone = timm.create_model(name, num_classes=0, img_size=48, **options)
    model = LinearCam(backbone, num_classes=4).eval()
    torch.nn.init.normal_(model.classifier.bias)
    return model


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(2, 3, 48, 48, generator=torch.Generator().manual_seed(0))


def test_logits_are_the_spatial_means_of_the_maps_plus_bias(cam, images):
    for label in range(4):
        logits, maps = cam.localize(images, torch.full((2,), label))
        assert maps.shape == (2, 3, 3)
        torch.testing.assert_close(maps.mean((1, 2)) + cam.classifier.bias[label], logits[:, label])
        torch.testing.assert_close(logits, cam(images))


def test_patch_tokens_are_normalised(cam, images):
    tokens = cam.patch_tokens(images)
    assert tokens.shape == (2, 3, 3, cam.backbone.embed_dim)
    torch.testing.assert_close(tokens.mean(3), torch.zeros(2, 3, 3), atol=1e-4, rtol=0)
    torch.testing.assert_close(tokens.std(3, unbiased=False), torch.ones(2, 3, 3), atol=1e-2, rtol=0)


def test_maps_are_those_of_the_given_labels(cam, images):
    _, mixed = cam.localize(images, torch.tensor([1, 3]))
    for row, label in enumerate((1, 3)):
        torch.testing.assert_close(mixed[row], cam.localize(images, torch.full((2,), label))[1][row])


def test_only_the_classifier_is_trained_and_the_backbone_stays_deterministic(images):
    backbone = timm.create_model("test_vit", num_classes=0, img_size=48, drop_path_rate=0.5)
    cam = LinearCam(backbone, num_classes=4).train()
    assert [name for name, p in cam.named_parameters() if p.requires_grad] == ["classifier.weight", "classifier.bias"]
    assert torch.equal(cam(images), cam(images))
    cam(images).sum().backward()
    assert cam.classifier.weight.grad.abs().sum() > 0
    assert all(p.grad is None for p in cam.backbone.parameters())


def test_maps_follow_a_rectangular_image():
    backbone = timm.create_model("test_vit", num_classes=0, img_size=(32, 64))
    _, maps = LinearCam(backbone, num_classes=2).localize(torch.randn(1, 3, 32, 64), torch.tensor([0]))
    assert maps.shape == (1, 2, 4)
