"""Run folders of earlier commits load, predict what they predicted, and are read by everything that reads a run."""

import json
from pathlib import Path

import numpy as np
import pytest

from sat_peft import Localizer
from sat_peft.commands.command_line import read_config
from sat_peft.recipes import few_shot, low_param
from sat_peft.runs.reader import RunReader
from sat_peft.runs.restore import trained_from_run

RUNS = Path(__file__).parents[1] / "golden" / "runs"


@pytest.mark.parametrize("name", ["low_param", "few_shot"])
def test_what_was_predicted_is_predicted(name):
    localizer, expected = Localizer.from_pretrained(RUNS / name, device="cpu"), np.load(RUNS / name / "expected.npz")
    images = expected["images"]
    found, known = localizer(images), localizer(images, [3] * len(images))
    assert [each.label for each in found] == expected["labels"].tolist()
    np.testing.assert_allclose([each.score for each in found], expected["scores"], atol=1e-4)
    np.testing.assert_allclose(np.stack([each.map for each in found]), expected["maps"], atol=1e-4)
    np.testing.assert_allclose(np.stack([each.map for each in known]), expected["known_maps"], atol=1e-4)
    np.testing.assert_allclose(np.stack([each.box for each in found]), expected["boxes"], atol=1)


@pytest.mark.parametrize(("name", "recipe"), [("low_param", low_param), ("few_shot", few_shot)])
def test_records_are_read(name, recipe):
    run = RunReader(RUNS / name)
    config = read_config(RUNS / name, recipe.Config)
    assert (config["data"], config["steps"], run.status()) == ("part_scenes", 12, "finished")
    recipe.Config(**config)
    results = json.loads((RUNS / name / "results.json").read_text())
    assert run.results()["methods"] == results["methods"]
    choice = run.threshold("original")
    assert (choice.value, choice.source) == (results["threshold"], results["threshold_source"])


def test_a_baseline_of_a_run_is_found():
    trained = trained_from_run(RUNS / "few_shot")
    assert [file.name for file in trained.baselines.values()] == ["cam.safetensors"]
    assert trained.tta == "flip"
