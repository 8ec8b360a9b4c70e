"""The cells of the results page are runs of the recipe as a command line would start them."""

import dataclasses
import runpy
from pathlib import Path

import pytest

from miniature import EXPERIMENTS
from sat_peft.commands.command_line import parse
from sat_peft.options.presets import PRESETS

SCRIPT = runpy.run_path(str(Path(__file__).parents[2] / "scripts" / "reproduce.py"))
CELLS = {name: options for experiment in EXPERIMENTS.values() for name, options in experiment.cells.items()}


@pytest.fixture(scope="module")
def recipe():
    return SCRIPT["load_recipe"]()


@pytest.mark.parametrize("name", CELLS)
def test_a_cell_is_the_default_command_but_for_its_own_options(recipe, name):
    cell = SCRIPT["cell_config"](recipe, CELLS[name], seed=3, threads=2)
    command = parse(recipe.Config, PRESETS["few_shot"], description="", arguments=["--seed", "3", "--threads", "2"])
    # The name of the preset is what the command line records; the page's folders of earlier versions have none.
    expected = dataclasses.replace(command, preset=None, **CELLS[name])
    assert cell == expected
    assert cell.backbone == "sat_peft_vit_nano_patch8_96"
