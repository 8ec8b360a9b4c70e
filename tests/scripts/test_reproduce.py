"""The cells of the results page are runs of the recipe as a command line would start them."""

import dataclasses
import json
import runpy
from pathlib import Path

import pytest
from tiny_folder import write_folder
from tiny_run import write_weights

from reproduction.miniature import MINIATURE
from reproduction.photographs import EXPERIMENTS
from sat_peft.commands.command_line import parse
from sat_peft.data.splits import load_splits
from sat_peft.errors import UsageError
from sat_peft.options.presets import PRESETS
from sat_peft.training.experiment import settled

SCRIPT = runpy.run_path(str(Path(__file__).parents[2] / "scripts" / "reproduce.py"))
Config, main = SCRIPT["Config"], SCRIPT["main"]


def cells(experiments) -> dict[str, dict]:
    return {name: options for experiment in experiments.values() for name, options in experiment.cells.items()}


SCENES, PHOTOGRAPHS = cells(MINIATURE.experiments), cells(EXPERIMENTS)


@pytest.fixture(scope="module")
def recipe():
    return SCRIPT["load_recipe"]()


def command(recipe, *arguments):
    """The options of a command line. The name of the preset is recorded, but earlier folders of the page have none."""
    parsed = parse(recipe.Config, PRESETS["few_shot"], description="", arguments=[*arguments, "--seed", "3"])
    return settled(dataclasses.replace(parsed, preset=None))


@pytest.mark.parametrize("name", SCENES)
def test_a_cell_is_the_default_command_but_for_its_own_options(recipe, name):
    cell = SCRIPT["cell_config"](recipe, Config(threads=2), SCENES[name], seed=3)
    assert cell == dataclasses.replace(command(recipe, "--threads", "2"), **SCENES[name])
    assert cell.backbone == "sat_peft_vit_nano_patch8_96"


@pytest.mark.parametrize("name", SCENES)
def test_a_cell_of_scenes_with_clutter_is_the_command_for_them_but_for_its_own_options(recipe, name):
    cell = SCRIPT["cell_config"](recipe, Config(difficulty="cluttered"), SCENES[name], seed=3)
    assert cell == dataclasses.replace(command(recipe, "--difficulty", "cluttered"), **SCENES[name])
    assert cell.tta == "flip"


@pytest.mark.parametrize("name", PHOTOGRAPHS)
def test_a_cell_of_photographs_is_the_command_for_own_data_but_for_its_own_options(recipe, name, tmp_path):
    weights = write_weights(tmp_path)
    config = Config(data=str(tmp_path), backbone="test_vit", weights=weights, test_fraction=0.3)
    cell = SCRIPT["cell_config"](recipe, config, PHOTOGRAPHS[name], seed=3)
    options = ("--data", str(tmp_path), "--backbone", "test_vit", "--weights", str(weights), "--test-fraction", "0.3")
    assert cell == dataclasses.replace(command(recipe, *options), **PHOTOGRAPHS[name])
    assert cell.class_readout == (name not in ("no-readout", "paper-loss"))


def test_every_cell_of_photographs_has_a_title():
    for experiment in EXPERIMENTS.values():
        assert len(experiment.cells) == len(experiment.titles)


def test_photographs_become_a_page_that_another_launch_goes_on_with(tmp_path, capsys, monkeypatch):
    quick = PRESETS["few_shot"]["photos"] | {"steps": 2, "image_size": 64}
    monkeypatch.setitem(PRESETS["few_shot"], "photos", quick)
    images, output = write_folder(tmp_path / "birds"), tmp_path / "page"
    config = Config(
        data=str(images),
        backbone="test_vit",
        weights=write_weights(tmp_path),
        output=output,
        experiments=("methods",),
        seeds=1,
        threads=2,
    )
    main(config)
    assert "Left out, since a class has 3 training images: shots-5, shots-10." in capsys.readouterr().out
    page = (output / "results.md").read_text(encoding="utf-8")
    results = json.loads((output / "shots-1/seed-0/results.json").read_text())["methods"]
    assert set(results) == {"sat", "cam", "tscam", "rollout", "class_attention", "tokencut", "centre_box"}
    assert page.startswith("# SAT on birds\n\nPreset `photos` on the frozen `test_vit`, 9 test images")
    assert "## On which ruler?" in page
    assert "1 image per class: SAT classifies" in page
    assert str(tmp_path) not in page

    written = (output / "shots-1/seed-0/results.json").stat().st_mtime_ns
    main(config)
    assert (output / "shots-1/seed-0/results.json").stat().st_mtime_ns == written
    assert (output / "results.md").read_text(encoding="utf-8") == page


def test_what_cannot_be_measured_is_refused_before_data_are_read(tmp_path):
    with pytest.raises(UsageError, match=r"unknown experiment 'blocks'.*parts"):
        main(Config(data="nowhere", experiments=("blocks",)))
    with pytest.raises(UsageError, match=r"unknown cell 'shots-2'.*shots-10"):
        main(Config(data="nowhere", cells=("shots-2",)))
    with pytest.raises(UsageError, match="go with --data"):
        main(Config(weights=tmp_path / "weights.pth"))


def test_no_cell_is_begun_that_would_not_end_in_time():
    budget = SCRIPT["Budget"](minutes=1)  # Less than the first guess.
    begun = []
    assert not budget.spend(lambda: begun.append("a"))
    budget = SCRIPT["Budget"](minutes=3)
    assert budget.spend(lambda: begun.append("b"))
    assert begun == ["b"]


def test_a_class_with_few_images_leaves_out_what_it_cannot_give(tmp_path, capsys):
    data = load_splits(str(write_folder(tmp_path / "birds")))
    left = SCRIPT["within_shots"]({"a": {}, "b": {"shots": (3,)}, "c": {"shots": (4,)}, "d": {"shots": ("all",)}}, data)
    assert set(left) == {"a", "b", "d"}
    assert "Left out, since a class has 3 training images: c." in capsys.readouterr().out
