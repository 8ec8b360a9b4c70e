"""Which baselines there are, which need training, and which methods come of their names."""

import subprocess
import sys
from typing import get_args

import pytest
import timm
import torch

from sat_peft.evaluation.baselines import rollout
from sat_peft.evaluation.registry import (
    BASELINE_NAMES,
    BaselineName,
    baselines,
    localizers,
    method_titles,
    needed_classifiers,
)


def test_every_module_is_a_baseline_and_a_choice_of_the_command_line():
    assert set(baselines()) == set(BASELINE_NAMES) == set(get_args(BaselineName))
    assert baselines()["rollout"] is rollout.BASELINE
    assert list(method_titles()) == ["sat", *baselines()]


def test_names_are_known_without_anything_heavy():
    code = "import sys, sat_peft.evaluation.registry as r; print(len(r.BASELINE_NAMES), 'torch' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == [str(len(BASELINE_NAMES)), "False"]


def test_a_baseline_is_one_file(tmp_path):
    """A module beside the others is found, named, titled and measured like them."""
    (tmp_path / "whole_image.py").write_text(
        "from sat_peft.evaluation.registry import Baseline\n"
        "BASELINE = Baseline('whole image', lambda classifier: classifier.localize, classes_of='cam')\n"
    )
    code = (
        f"import sat_peft.evaluation.baselines as package; package.__path__.append({str(tmp_path)!r})\n"
        "from sat_peft.evaluation.registry import method_titles, needed_classifiers\n"
        "from sat_peft.options import EvaluationOptions\n"
        "import typing; print('whole_image' in str(typing.get_type_hints(EvaluationOptions)['baselines']))\n"
        "print(method_titles()['whole_image'], needed_classifiers(['whole_image']))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.splitlines() == ["True", "whole image ['cam']"]


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
    assert list(methods) == ["cam", "rollout", "tscam"]
    logits = {name: method(images, labels)[0] for name, method in methods.items()}
    torch.testing.assert_close(logits["rollout"], logits["cam"], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(logits["tscam"], logits["cam"])
