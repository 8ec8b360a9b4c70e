"""A checkout of the published code as a contestant, stood in for by small modules of the same interface."""

import sys

import pytest
import torch
import torch.nn.functional as F

from benchmark.reference import ARCHITECTURES, build_reference, import_model_code, largest_difference
from benchmark.regimes import DROP_PATH, Workload
from sat_peft.errors import UsageError
from sat_peft.tuner.output import SatOutput

WORKLOAD = Workload("deit_tiny_patch16_224", num_classes=3, batch_size=2)
NAMES = tuple(ARCHITECTURES.values())
CODE = """
import torch
from skimage import measure
from torch import nn

class Small(nn.Module):
    def __init__(self, **options):
        super().__init__()
        self.options = options
        self.head = nn.Linear(3, options["num_classes"])
        self.loc_token = nn.Parameter(torch.zeros(1, 1, 3))
        self.weight = nn.Parameter(torch.ones(1, 1, 3, 3), requires_grad=False)

    def no_weight_decay(self):
        return {"loc_token"}

    def forward(self, images, label=None, phase="train"):
        means = images.mean((2, 3))
        maps = (images[:, 0, ::16, ::16] + self.loc_token.mean()).sigmoid()
        if phase == "test":
            return self.head(means), maps
        return self.head(means), maps.mean((1, 2)), (maps * (1 - maps)).mean((1, 2))

"""


@pytest.fixture
def checkout(tmp_path):
    """Writes Model/SAT.py below a folder; what is imported of it is forgotten afterwards."""
    before = set(sys.modules)

    def write(names=NAMES, code=CODE):
        (tmp_path / "Model").mkdir()
        (tmp_path / "Model" / "SAT.py").write_text(code + "".join(f"{name} = Small\n" for name in names))
        return tmp_path

    yield write
    for name in set(sys.modules) - before:
        if name.split(".")[0] in ("Model", "skimage"):
            del sys.modules[name]


def test_loss_and_optimiser_are_those_of_the_published_training(checkout):
    contestant = build_reference(WORKLOAD, checkout())
    model = contestant.model
    assert model.training
    assert model.options == {"num_classes": 3, "drop_rate": 0.0, "drop_path_rate": DROP_PATH}
    logits, maps = model(WORKLOAD.images, phase="test")
    expected = F.cross_entropy(logits, WORKLOAD.labels) + (maps.mean() - 0.25).abs() + (maps * (1 - maps)).mean()
    torch.testing.assert_close(contestant.loss(), expected)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    decays = {
        names[id(p)]: group["weight_decay"] for group in contestant.optimizer.param_groups for p in group["params"]
    }
    assert decays == {"head.weight": 0.05, "head.bias": 0.0, "loc_token": 0.0}
    before = model.loc_token.detach().clone()
    contestant.step()
    assert not torch.equal(model.loc_token, before)


def test_difference_of_maps_is_measured_in_evaluation_mode(checkout):
    reference = build_reference(WORKLOAD, checkout()).model

    class Ours(torch.nn.Module):
        def forward(self, images):
            assert not self.training
            _, maps = reference(images, phase="test")
            return SatOutput(logits=None, maps=maps + 0.25 * (torch.arange(14) == 3))

    assert largest_difference(Ours(), reference, WORKLOAD.images) == pytest.approx(0.25)
    assert reference.training


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"backbone": "vit_small_patch14_dinov2"}, "unknown backbone of the published code 'vit_small_patch14_dinov2'"),
        ({"image_size": 448}, "image_size 224 written in, not 448"),
        ({"num_spatial_blocks": 4}, "num_spatial_blocks 3 written in, not 4"),
    ],
)
def test_workloads_beyond_the_published_model_are_refused(checkout, changes, words):
    with pytest.raises(UsageError, match=words):
        build_reference(Workload(**{"backbone": "deit_tiny_patch16_224"} | changes), checkout())


def test_other_folders_and_versions_are_named(checkout, tmp_path):
    with pytest.raises(UsageError, match=r"no checkout of the published code: it holds no Model/SAT\.py"):
        import_model_code(tmp_path / "nowhere")
    with pytest.raises(UsageError, match="has no deit_sat_small_patch16_224: it is another version"):
        import_model_code(checkout(names=["deit_sat_base_patch16_224", "deit_sat_tiny_patch16_224"]))


def test_code_that_does_not_run_here_is_named(checkout):
    folder = checkout(code="import package_of_long_ago\n")
    with pytest.raises(UsageError, match="cannot be imported with these packages: No module named 'package_of_long_"):
        import_model_code(folder)
