"""Which baselines there are, which need training, and which methods come of their names."""

from typing import get_args, get_type_hints

import pytest
import timm
import torch
from added_modules import run_with_modules

from sat_peft.commands import evaluate
from sat_peft.evaluation.evaluator import mirrored
from sat_peft.evaluation.registry import baselines, localizers, method_titles, needed_classifiers, shared_passes
from sat_peft.localization import PROTOCOLS
from sat_peft.options.choices import BASELINE_NAMES, BaselineName, ProtocolName
from sat_peft.options.training import EvaluationOptions


def test_choices_of_the_command_line_are_the_registries():
    assert set(baselines()) == set(get_args(BaselineName))
    assert set(PROTOCOLS) == set(get_args(ProtocolName))
    assert list(method_titles()) == ["sat", *baselines()]
    hints = [get_type_hints(kind) for kind in (EvaluationOptions, evaluate.Config)]
    assert hints[0]["baselines"] == tuple[BaselineName, ...]
    assert hints[0]["protocol"] == ProtocolName
    assert hints[1]["protocols"] == tuple[ProtocolName, ...]


def test_a_baseline_and_a_protocol_are_one_file_each(tmp_path):
    """Files beside the others are found, named and taken like them, and names alone import nothing heavy."""
    modules = {
        "evaluation/baselines/cam_again.py": (
            "from sat_peft.evaluation.registry import Baseline\n"
            "BASELINE = Baseline('CAM again', lambda classifier: classifier.localize, classes_of='cam')\n"
        ),
        "localization/protocols/wsol96.py": (
            "import dataclasses\n"
            "from sat_peft.localization.protocols.wsol import PROTOCOL as WSOL, ImageTransform\n"
            "PROTOCOL = dataclasses.replace(WSOL, name='wsol96', image=ImageTransform(resize=(96, 96)))\n"
        ),
    }
    code = (
        "import sys, tyro; from sat_peft.options.training import EvaluationOptions\n"
        "options = tyro.cli(EvaluationOptions, args='--baselines cam_again --protocol wsol96'.split())\n"
        "print(options.baselines[0], options.protocol, 'torch' in sys.modules, 'cv2' in sys.modules)\n"
        "from sat_peft.evaluation.registry import method_titles, needed_classifiers\n"
        "from sat_peft.localization import get_protocol\n"
        "print(method_titles()['cam_again'], needed_classifiers(['cam_again']))\n"
        "print(get_protocol('wsol96').evaluation_size())"
    )
    lines = run_with_modules(tmp_path, modules, code)
    assert lines == ["cam_again wsol96 False False", "CAM again ['cam']", "(96, 96)"]


@pytest.mark.parametrize(
    ("names", "needed"),
    [
        ((), []),
        (("centre_box",), []),
        (("rollout",), ["cam"]),
        (("tscam", "rollout"), ["cam", "tscam"]),
        (BASELINE_NAMES, ["cam", "tscam"]),
    ],
)
def test_classifiers_are_trained_for_those_who_use_them(names, needed):
    assert needed_classifiers(names) == needed


def test_methods_are_those_named_and_rollout_has_the_classes_of_cam():
    torch.manual_seed(0)
    backbone = timm.create_model("test_vit", num_classes=0, img_size=32)
    trained = {name: baselines()[name].classifier(backbone, 3).eval() for name in ("cam", "tscam")}
    images, labels = torch.randn(2, 3, 32, 32), torch.tensor([0, 2])
    assert [name for name, _ in localizers(["rollout", "centre_box"], {"cam": trained["cam"]})] == ["rollout"]
    methods = dict(localizers(BASELINE_NAMES, trained))
    assert list(methods) == ["cam", "class_attention", "rollout", "tokencut", "tscam"]
    logits = {name: method(images, labels)[0] for name, method in methods.items()}
    torch.testing.assert_close(logits["rollout"], logits["cam"], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(logits["tscam"], logits["cam"])


@torch.inference_mode()
@pytest.mark.parametrize(
    ("names", "shared"),
    [(BASELINE_NAMES, True), (("cam", "tokencut"), True), (("rollout",), False), (("cam", "centre_box"), False)],
)
def test_baselines_share_the_passes_of_their_backbone(names, shared):
    """Two rounds over the same images, as for a threshold and a test: one pass of each image and its mirror image."""
    torch.manual_seed(0)
    backbone = timm.create_model("test_vit", num_classes=0, img_size=(32, 48))
    trained = {name: baselines()[name].classifier(backbone, 3).eval() for name in needed_classifiers(names)}
    methods = {name: mirrored(method) for name, method in localizers(names, trained)}
    images, labels = torch.randn(4, 3, 32, 48), torch.tensor([0, 2, 1, 0])
    expected = {name: method(images, labels) for name, method in methods.items()}
    passed = []
    backbone.patch_embed.register_forward_hook(lambda module, args, output: passed.append(len(args[0])))
    with shared_passes(names):
        for name, method in methods.items():
            for rows in ([0, 1, 2], [3, 1, 0, 2]):
                for found, whole in zip(method(images[rows], labels[rows]), expected[name], strict=True):
                    torch.testing.assert_close(found, whole[rows], rtol=1e-4, atol=1e-5)
    assert sum(passed) == (2 * 4 if shared else 2 * 7)
    passed.clear()
    for method in methods.values():
        method(images, labels)
    assert sum(passed) == 2 * 4 * len(methods)  # each by itself, and once
