"""Recipes with a feature cache: the same training from the last blocks alone."""

import json

import pytest
from peft import PeftConfig

from sat_peft.errors import UsageError


def metrics(folder):
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    steps = list(map(json.loads, lines))
    return {method: [each["total"] for each in steps if each["method"] == method] for method in ("SAT", "CAM")}


@pytest.fixture
def options(tiny, tmp_path) -> dict:
    late = {"num_spatial_blocks": 2, "tune": "none", "token_entry": "late", "augmentation": "none"}
    return tiny | late | {"steps": 4, "learning_rate": 5e-4, "baselines": ("cam",)}


def run(load_recipe, recipe, options, output, **changes):
    module = load_recipe(recipe)
    module.main(module.Config(**(options | changes | {"output": output})))
    return metrics(output)


@pytest.mark.parametrize(
    ("recipe", "amount"),
    [("few_shot", {"shots": (2,)}), ("low_param", {"lora_targets": ()}), ("full_data", {"epochs": 1})],
)
def test_trains_as_without_it(load_recipe, options, tmp_path, recipe, amount):
    if recipe == "full_data":
        options = {name: value for name, value in options.items() if name != "steps"}
    cache = {"feature_cache": tmp_path / "cache", "feature_dtype": "float32"}
    expected = run(load_recipe, recipe, options | amount, tmp_path / "without")
    found = run(load_recipe, recipe, options | amount | cache, tmp_path / "with")
    assert len(expected["SAT"]) > 0
    assert found["SAT"] == pytest.approx(expected["SAT"], rel=1e-3)
    # Nothing else has changed: the baseline sees the same images, and starts with the same weights.
    assert found["CAM"] == expected["CAM"]
    # What it was trained with is written down: there was no stochastic depth in these blocks.
    assert PeftConfig.from_pretrained(tmp_path / "with" / "adapter").drop_path_in_frozen_blocks is False
    assert len(list((tmp_path / "cache").glob("*.npy"))) == 1


def test_has_as_many_views_as_asked_for(load_recipe, options, tmp_path, said):
    changes = {"augmentation": "shift", "feature_cache": tmp_path / "cache", "feature_views": 3, "shots": (2,)}
    run(load_recipe, "few_shot", options, tmp_path / "run", **changes)
    assert "x 3 views" in said.text


@pytest.mark.parametrize("change", [{"token_entry": "input"}, {"token_entry": "isolated"}, {"num_spatial_blocks": 6}])
def test_is_refused_where_no_block_stays_frozen(load_recipe, options, tmp_path, change):
    with pytest.raises(UsageError, match="--token-entry late"):
        run(load_recipe, "few_shot", options, tmp_path / "run", feature_cache=tmp_path / "cache", **change)
    assert not (tmp_path / "cache").exists()
    assert not (tmp_path / "run").exists()
