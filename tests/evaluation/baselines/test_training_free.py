"""TokenCut and the attention of the class token: what they find where it is known."""

import pytest
import timm
import torch

from sat_peft.evaluation.attention_maps import record_attention
from sat_peft.evaluation.baselines import class_attention, tokencut
from sat_peft.evaluation.baselines.cam import LinearCam
from sat_peft.evaluation.baselines.tokencut import cut


@pytest.fixture
def backbone() -> torch.nn.Module:
    torch.manual_seed(0)
    return timm.create_model("test_vit", num_classes=0, img_size=(32, 48)).eval()


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(2, 3, 32, 48, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("size", [3, 9])
def test_tokencut_separates_two_kinds_of_patches_and_takes_the_smaller_for_the_object(size):
    generator = torch.Generator().manual_seed(1)
    kinds = torch.eye(8)[:2]
    tokens = kinds[(torch.arange(30) < size).long()] + 0.1 * torch.rand(30, 8, generator=generator)
    found = cut(tokens)
    assert found[:size].min() > 0 > found[size:].max()


def test_class_attention_is_the_first_row_of_the_last_matrix(backbone, images):
    localize = class_attention.BASELINE.localizer(LinearCam(backbone, 3).eval())
    with record_attention(backbone) as attentions:
        backbone.forward_features(images)
    expected = attentions[-1][:, 0, backbone.num_prefix_tokens :].unflatten(1, (2, 3))
    _, maps = localize(images, torch.zeros(2, dtype=torch.long))
    torch.testing.assert_close(maps, expected)


@pytest.mark.parametrize("baseline", [class_attention.BASELINE, tokencut.BASELINE], ids=lambda each: each.title)
def test_classes_are_those_of_the_classifier_and_maps_ask_for_none(baseline, backbone, images):
    classifier = LinearCam(backbone, 3).eval()
    localize = baseline.localizer(classifier)
    logits, maps = localize(images, torch.zeros(2, dtype=torch.long))
    torch.testing.assert_close(logits, classifier(images), rtol=1e-4, atol=1e-5)
    assert maps.shape == (2, 2, 3)
    assert torch.equal(maps, localize(images, torch.ones(2, dtype=torch.long))[1])
