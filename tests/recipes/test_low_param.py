"""Regimes from little to much, and a budget of trained parameters."""

import json

import pytest

from sat_peft.errors import UsageError
from sat_peft.options.regimes import REGIMES


@pytest.fixture(scope="module")
def recipe(load_recipe):
    return load_recipe("low_param")


@pytest.fixture(scope="module")
def options(tiny) -> dict:
    return tiny | {"steps": 2, "num_spatial_blocks": 2}


def results(folder) -> dict:
    return json.loads((folder / "results.json").read_text(encoding="utf-8"))


def test_one_regime_is_one_run(recipe, options, tmp_path):
    recipe.main(recipe.Config(**options, output=tmp_path / "run"))
    # Token, position embedding, a pointwise head for 3 classes at width 64, LoRA of rank 1 in the linear layers of 2
    # blocks: queries, keys and values, projection, MLP of three times the width.
    assert results(tmp_path / "run")["trainable_parameters"] == 64 + 64 + 3 * 65 + 2 * (256 + 128 + 256 + 256)
    assert set(results(tmp_path / "run")["methods"]) == {"sat"}


def test_several_regimes_leave_runs_a_table_and_a_plot(recipe, options, tmp_path, said):
    config = recipe.Config(**options, regimes=("token_head1x1", "lora1_head1x1"), trials=2, output=tmp_path / "sweep")
    recipe.main(config)
    table = (tmp_path / "sweep/table.md").read_text(encoding="utf-8")
    assert [line.split(" | ")[0] for line in table.splitlines()[2:4]] == ["| token_head1x1", "| lora1_head1x1"]
    assert "Pareto front: token_head1x1" in table
    assert (tmp_path / "sweep/parameters.png").read_bytes().startswith(b"\x89PNG")
    recorded = json.loads((tmp_path / "sweep/lora1_head1x1/seed-1/config.json").read_text(encoding="utf-8"))
    assert (recorded["tune"], recorded["lora_rank"], recorded["seed"]) == ("lora", 1, 1)
    said.clear()
    recipe.main(config)
    assert said.text.count("finished before") == 4


def test_more_parameters_than_the_budget_are_refused(recipe, options, tmp_path):
    with pytest.raises(UsageError, match=r"2,115 parameters would be trained, more than --max-parameters 2,114\."):
        recipe.main(recipe.Config(**options, max_parameters=2114, output=tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_unknown_regime_is_named(recipe, options, tmp_path):
    with pytest.raises(UsageError, match=r"unknown regime 'token_head'\. Did you mean"):
        recipe.main(recipe.Config(**options, regimes=("token_head",), output=tmp_path / "run"))


def test_every_regime_is_an_option_of_the_recipe(recipe):
    for regime in REGIMES.values():
        recipe.Config(**regime)


def test_epochs_take_the_place_of_steps(recipe, options, tmp_path):
    recipe.main(recipe.Config(**options | {"shots": "all", "batch_size": 4}, epochs=2, output=tmp_path / "run"))
    lines = (tmp_path / "run/metrics.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 2 * 3
