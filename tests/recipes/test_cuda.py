"""On a GPU: `pytest -m cuda`. Where there is none, these are skipped."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from sat_peft import Localizer
from sat_peft.commands import evaluate
from sat_peft.tuner.refine import refine_along_edges

DEVICE = "cuda"
RECIPE = Path(__file__).parents[2] / "recipes" / "few_shot.py"

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.slow,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here"),
]


@pytest.fixture(scope="module")
def options(tiny) -> dict:
    """What a run of `photos` has of its own: class readout, calibrated masks, mirror images, refined maps."""
    return tiny | {
        "steps": 4,
        "shots": (2,),
        "token_entry": "late",
        "class_readout": True,
        "calibrated_masks": True,
        "tta": "flip-edges",
        "baselines": ("cam", "class_attention"),
    }


@pytest.fixture(scope="module")
def run(options, load_recipe, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("cuda") / "run"
    recipe = load_recipe("few_shot")
    recipe.main(recipe.Config(**options, output=folder))
    return folder


def results(folder: Path) -> dict:
    return json.loads((folder / "results.json").read_text(encoding="utf-8"))


def test_model_of_the_gpu_finds_the_same_on_the_cpu(run):
    image = np.random.default_rng(0).integers(0, 255, (60, 90, 3), dtype=np.uint8)
    localizer = Localizer.from_pretrained(run, device=DEVICE)
    assert next(localizer.model.parameters()).device.type == DEVICE
    [there], [here] = localizer(image), Localizer.from_pretrained(run, device="cpu")(image)
    np.testing.assert_allclose(there.map, here.map, atol=5e-3)
    assert (there.label, there.score) == (here.label, pytest.approx(here.score, abs=5e-3))


def test_evaluation_has_the_figures_of_the_run(run, tmp_path):
    evaluate.main(evaluate.Config(run=run, output=tmp_path / "out", bootstrap=0))
    methods = results(tmp_path / "out")["protocols"]["original"]["methods"]
    trained = results(run)["methods"]
    assert {"sat", "cam", "class_attention"} == set(trained) <= set(methods)
    for name, figures in trained.items():
        for figure, value in figures.items():
            assert methods[name]["summary"][figure] == pytest.approx(value), (name, figure)


def test_stopped_run_goes_on(options, load_recipe, tmp_path, monkeypatch):
    recipe = load_recipe("few_shot")
    config = recipe.Config(**options | {"steps": 6, "checkpoint_every": 2}, output=tmp_path / "run")
    monkeypatch.setattr("sat_peft.training.experiment.compare", None)  # a crash after the training
    with pytest.raises(TypeError):
        recipe.main(config)
    monkeypatch.undo()
    recipe.main(recipe.Config(**options | {"steps": 6}, output=tmp_path / "run", resume=tmp_path / "run"))
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [line["step"] for line in lines if line["method"] == "SAT"] == list(range(1, 7))
    assert results(tmp_path / "run")["methods"]["sat"]


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_process_group_of_one_trains(options, tmp_path, precision):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "1", str(RECIPE)]
    for name, value in (options | {"output": tmp_path / "run"}).items():
        if isinstance(value, bool):
            command += [f"--{name.replace('_', '-')}"]
        else:
            command += [f"--{name.replace('_', '-')}", *map(str, value if isinstance(value, tuple) else (value,))]
    environment = os.environ | {"ACCELERATE_MIXED_PRECISION": precision}
    environment["PYTHONPATH"] = os.pathsep.join([str(RECIPE.parents[1]), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    assert 0 <= results(tmp_path / "run")["methods"]["sat"]["gt_known"] <= 100


def test_refined_maps_are_those_of_the_cpu():
    maps, images = torch.rand(2, 16, 16), torch.randn(2, 3, 224, 224)
    there = refine_along_edges(maps.to(DEVICE), images.to(DEVICE)).cpu()
    torch.testing.assert_close(there, refine_along_edges(maps, images), atol=5e-3, rtol=0)
