"""All training images: the best epoch by the validation split, and a killed run that goes on."""

import json
from pathlib import Path

import pytest

from sat_peft.errors import UsageError
from sat_peft.training.loop import Training

WEIGHTS = "adapter/adapter_model.safetensors"


@pytest.fixture(scope="module")
def recipe(load_recipe):
    return load_recipe("full_data")


@pytest.fixture(scope="module")
def options(tiny) -> dict:
    # Stochastic depth draws from the generator whose state a resumed run needs.
    settings = {"epochs": 3, "batch_size": 4, "tune": "none", "drop_path": 0.3, "baselines": ("cam",)}
    return tiny | settings | {"checkpoint_every": 2, "warmup_steps": 0}


@pytest.fixture(scope="module")
def whole(recipe, options, tmp_path_factory) -> Path:
    """The folder of a run that came to its end."""
    folder = tmp_path_factory.mktemp("full_data") / "whole"
    recipe.main(recipe.Config(**options, output=folder))
    return folder


def read(folder: Path, name: str):
    return json.loads((folder / name).read_text(encoding="utf-8"))


def lines(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def test_every_image_of_every_epoch_is_seen(whole):
    # 9 images in batches of 4: three steps an epoch.
    assert [line["step"] for line in lines(whole) if line["method"] == "SAT"] == list(range(1, 10))
    assert read(whole, "results.json")["training_images"] == 9


def test_the_best_epoch_is_chosen_on_the_validation_split(whole):
    best = read(whole, "results.json")["best"]
    assert best == read(whole, "best.json")
    assert best["figure"] == "gt_known"
    assert best["epoch"] in (1, 2, 3)
    assert read(whole, "results.json")["threshold_source"].startswith("validation")


@pytest.mark.parametrize("kill_at", [3, 5, 9])
def test_a_killed_run_that_goes_on_ends_in_the_same_files(whole, recipe, options, tmp_path, monkeypatch, kill_at):
    folder = tmp_path / "killed"
    update = Training.update

    def killed(training, terms):
        update(training, terms)
        if training.name == "SAT" and training.step == kill_at:
            raise KeyboardInterrupt

    monkeypatch.setattr(Training, "update", killed)
    with pytest.raises(KeyboardInterrupt):
        recipe.main(recipe.Config(**options, output=folder))
    assert read(folder, "status.json") == {"status": "interrupted"}
    monkeypatch.undo()
    recipe.main(recipe.Config(**options, output=folder, resume=folder))
    assert read(folder, "status.json") == {"status": "finished"}
    assert (folder / WEIGHTS).read_bytes() == (whole / WEIGHTS).read_bytes()
    assert lines(folder) == lines(whole)
    results = [read(each, "results.json") | {"seconds": 0} for each in (folder, whole)]
    assert results[0] == results[1]


def test_a_finished_run_has_nothing_to_resume(whole, recipe, options):
    with pytest.raises(UsageError, match="is finished"):
        recipe.main(recipe.Config(**options, output=whole, resume=whole))


def test_a_run_starts_from_an_adapter_of_the_same_kind(whole, recipe, options, tmp_path):
    first = recipe.Config(**options | {"epochs": 1, "learning_rate": 1e-12}, init_adapter=whole / "adapter")
    recipe.main(recipe.dataclasses.replace(first, output=tmp_path / "more"))
    figures = [read(folder, "results.json")["methods"]["sat"] for folder in (whole, tmp_path / "more")]
    assert figures[0] == figures[1]
    with pytest.raises(UsageError, match="was trained with head 'conv3x3', the options ask for 'conv1x1'"):
        recipe.main(recipe.dataclasses.replace(first, head="conv1x1", output=tmp_path / "other"))
    assert not (tmp_path / "other").exists()


def test_epochs_must_be_some(recipe, options, tmp_path):
    with pytest.raises(UsageError, match="epochs must be at least 1, got 0"):
        recipe.main(recipe.Config(**options | {"epochs": 0}, output=tmp_path / "none"))
