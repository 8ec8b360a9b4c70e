"""Which baselines need training, and which methods come of their names."""

import pytest
import timm
import torch

from sat_peft.baselines import BASELINES, TRAINED_BASELINES, localizers, needed_classifiers


@pytest.mark.parametrize(
    ("names", "needed"),
    [
        ((), []),
        (("centre_box",), []),
        (("rollout",), ["cam"]),
        (("tscam", "rollout"), ["cam", "tscam"]),
        (tuple(BASELINES), ["cam", "tscam"]),
    ],
)
def test_classifiers_are_trained_for_those_who_use_them(names, needed):
    assert needed_classifiers(names) == needed


def test_methods_are_those_named_and_rollout_has_the_classes_of_cam():
    torch.manual_seed(0)
    backbone = timm.create_model("test_vit", num_classes=0, img_size=32)
    trained = {name: kind(backbone, 3).eval() for name, kind in TRAINED_BASELINES.items()}
    images, labels = torch.randn(2, 3, 32, 32), torch.tensor([0, 2])
    assert list(localizers(["rollout", "centre_box"], {"cam": trained["cam"]})) == ["rollout"]
    methods = localizers(BASELINES, trained)
    assert list(methods) == ["cam", "tscam", "rollout"]
    logits = {name: method(images, labels)[0] for name, method in methods.items()}
    torch.testing.assert_close(logits["rollout"], logits["cam"], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(logits["tscam"], logits["cam"])
