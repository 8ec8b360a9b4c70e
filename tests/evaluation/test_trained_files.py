"""Files of trained baselines: they hold the head alone and fit nothing else."""

import os

import pytest
import timm
import torch
from safetensors.torch import load_file

from sat_peft.errors import UsageError
from sat_peft.evaluation.baselines.cam import LinearCam
from sat_peft.evaluation.baselines.tscam import TsCam
from sat_peft.evaluation.frozen import load_trained, save_trained
from sat_peft.evaluation.registry import baselines, needed_classifiers


def create(kind: type, seed: int, num_classes: int = 3) -> torch.nn.Module:
    torch.manual_seed(7)
    backbone = timm.create_model("test_vit", num_classes=0, img_size=32)
    torch.manual_seed(seed)
    return kind(backbone, num_classes).eval()


@pytest.mark.parametrize("name", needed_classifiers(baselines()))
def test_reloaded_baseline_gives_the_same_logits_and_maps(name, tmp_path):
    trained, other = (create(baselines()[name].classifier, seed) for seed in (1, 2))
    images, labels = torch.randn(2, 3, 32, 32), torch.tensor([0, 2])
    expected = trained.localize(images, labels)
    assert not torch.equal(other.localize(images, labels)[0], expected[0])
    save_trained(trained, tmp_path / "weights.safetensors")
    load_trained(other, tmp_path / "weights.safetensors")
    for before, after in zip(expected, other.localize(images, labels), strict=True):
        assert torch.equal(before, after)


def test_file_holds_the_head_alone(tmp_path):
    save_trained(create(LinearCam, 0), tmp_path / "cam.safetensors")
    assert sorted(load_file(tmp_path / "cam.safetensors")) == ["classifier.bias", "classifier.weight"]


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
def test_file_has_the_permissions_of_any_new_file(tmp_path):
    (tmp_path / "other").touch()
    save_trained(create(LinearCam, 0), tmp_path / "cam.safetensors")
    assert (tmp_path / "cam.safetensors").stat().st_mode == (tmp_path / "other").stat().st_mode


def test_file_of_another_module_or_number_of_classes_is_refused(tmp_path):
    file = tmp_path / "cam.safetensors"
    save_trained(create(LinearCam, 0), file)
    with pytest.raises(UsageError, match=r"cam\.safetensors' do not fit TsCam.*classifier\.weight"):
        load_trained(create(TsCam, 0), file)
    with pytest.raises(UsageError, match=r"\(3, 64\).*\(4, 64\)"):
        load_trained(create(LinearCam, 0, num_classes=4), file)


def test_missing_and_damaged_files_are_refused(tmp_path):
    with pytest.raises(UsageError, match=r"none\.safetensors: the file does not exist"):
        load_trained(create(LinearCam, 0), tmp_path / "none.safetensors")
    save_trained(create(LinearCam, 0), tmp_path / "cut.safetensors")
    data = (tmp_path / "cut.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(data[: len(data) // 2])
    with pytest.raises(UsageError, match=r"cut\.safetensors: it is damaged"):
        load_trained(create(LinearCam, 0), tmp_path / "cut.safetensors")
