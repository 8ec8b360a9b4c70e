"""Recipes under Accelerate's configurations: two processes, bfloat16, gradient checkpointing and accumulation."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.utils import DistributedType
from flags import as_flags
from safetensors.torch import load_file

from sat_peft.errors import UsageError
from sat_peft.training.building import create_accelerator
from sat_peft.tuner import block

ROOT = Path(__file__).parents[2]
CONFIGS = {path.stem: path for path in (ROOT / "recipes" / "accelerate").glob("*.yaml")}


@pytest.fixture(scope="module")
def options(tiny) -> dict:
    # All six images of the two shots are one step.
    settings = {"steps": 3, "shots": (2,), "batch_size": 6, "eval_batch_size": 2, "num_spatial_blocks": 2}
    method = {"tune": "full", "token_entry": "isolated", "learning_rate": 5e-4, "warmup_steps": 0}
    return tiny | settings | method | {"baselines": ("cam",), "threads": 1}


@pytest.fixture(scope="module")
def recipe(load_recipe):
    return load_recipe("few_shot")


def launch(config: str, options: dict) -> str:
    """The output of a launched run."""
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(CONFIGS[config])]
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    # As on a machine without a GPU.
    environment = os.environ | {"PYTHONPATH": paths, "ACCELERATE_USE_CPU": "true"}
    command = [*launcher, str(ROOT / "recipes" / "few_shot.py"), *as_flags(options)]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=400, check=False)
    assert run.returncode == 0, run.stderr
    return run.stdout


def read(folder: Path, name: str):
    return json.loads((folder / name).read_text(encoding="utf-8"))


def metrics(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def assert_close_metrics(found: list[dict], expected: list[dict], tolerance: float) -> None:
    assert [(line["method"], line["step"]) for line in found] == [(line["method"], line["step"]) for line in expected]
    for line, other in zip(found, expected, strict=True):
        for name, value in line.items():
            assert name in ("method", "step") or value == pytest.approx(other[name], abs=tolerance), (line, other)


@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_accelerate_reads_the_configuration(name):
    config = load_config_from_file(str(CONFIGS[name]))
    assert config.num_machines == 1
    fsdp = yaml.safe_load(CONFIGS[name].read_text()).get("fsdp_config", {})
    assert bool(fsdp) == (config.distributed_type == DistributedType.FSDP)
    wrapped = [each for each in fsdp.get("fsdp_transformer_layer_cls_to_wrap", "").split(",") if each]
    assert all(hasattr(block, each) for each in wrapped)


def test_the_configurations_that_the_documentation_names():
    text = (ROOT / "recipes" / "accelerate" / "README.md").read_text(encoding="utf-8")
    assert CONFIGS
    assert all(f"`{path.name}`" in text for path in CONFIGS.values())


@pytest.mark.slow
def test_two_processes_train_evaluate_and_write_as_one(options, recipe, tmp_path):
    """Each has half of the batch. Nine test images in batches of two: the last ones are filled up."""
    recipe.main(recipe.Config(**options, output=tmp_path / "one"))
    output = launch("cpu_2_processes", options | {"batch_size": 3, "output": tmp_path / "two"})
    one, two = tmp_path / "one", tmp_path / "two"
    assert sorted(path.name for path in one.iterdir()) == sorted(path.name for path in two.iterdir())
    assert read(one, "image_ids.json") == read(two, "image_ids.json")
    # The main process alone logs, and the loss is that of the global batch.
    assert_close_metrics(metrics(two), metrics(one), tolerance=1e-4)
    assert output.count("Run folder") == 1
    figures = [read(folder, "results.json") for folder in (one, two)]
    assert figures[0]["methods"] == figures[1]["methods"]
    assert figures[1]["test_images"] == 9
    weights = [load_file(folder / "adapter" / "adapter_model.safetensors") for folder in (one, two)]
    assert weights[0].keys() == weights[1].keys()
    differences = [(weights[0][name] - weights[1][name]).abs().mean() for name in weights[0]]
    assert max(differences) < 1e-5


@pytest.mark.slow
def test_bfloat16_with_checkpointing_and_accumulation_trains_as_float32_without(options, recipe, tmp_path):
    options = options | {"batch_size": 3, "gradient_accumulation_steps": 2, "baselines": ("cam",)}
    recipe.main(recipe.Config(**options, output=tmp_path / "float32"))
    launch("bf16", options | {"gradient_checkpointing": True, "output": tmp_path / "bfloat16"})
    found, expected = metrics(tmp_path / "bfloat16"), metrics(tmp_path / "float32")
    assert_close_metrics(found, expected, tolerance=0.02)
    assert found != expected
    weights = load_file(tmp_path / "bfloat16" / "adapter" / "adapter_model.safetensors")
    assert {str(value.dtype) for value in weights.values()} == {"torch.float32"}


def accelerator_of(device: str = "cpu", distributed_type=DistributedType.NO, mixed_precision: str = "no"):
    """A class whose instances stand for what Accelerate makes on another machine."""
    plugin = SimpleNamespace(deepspeed_config={"train_micro_batch_size_per_gpu": "auto"})
    made = SimpleNamespace(
        device=torch.device(device),
        distributed_type=distributed_type,
        mixed_precision=mixed_precision,
        deepspeed_plugin=plugin,
    )
    return made, lambda **options: made


def test_float16_on_a_cpu_is_refused(options, recipe, tmp_path, monkeypatch):
    monkeypatch.setattr("sat_peft.training.building.Accelerator", accelerator_of(mixed_precision="fp16")[1])
    with pytest.raises(UsageError, match="fp16 mixed precision needs a GPU"):
        recipe.main(recipe.Config(**options, output=tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_deepspeed_is_told_the_batch_size_of_a_process(options, recipe, tmp_path, monkeypatch):
    made, create = accelerator_of("cuda", DistributedType.DEEPSPEED)
    monkeypatch.setattr("sat_peft.training.building.Accelerator", create)
    config = recipe.Config(**options)
    assert create_accelerator(config, config, tmp_path) is made
    assert made.deepspeed_plugin.deepspeed_config == {"train_micro_batch_size_per_gpu": 6}
