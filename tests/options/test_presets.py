"""Presets name fields that their recipes have, and the published numbers."""

import importlib.util
import sys
import typing
from pathlib import Path

import pytest

from sat_peft.options.presets import PRESETS

RECIPES = Path(__file__).parents[2] / "recipes"


@pytest.mark.parametrize("recipe", PRESETS)
def test_every_preset_is_a_configuration_of_its_recipe(recipe):
    spec = importlib.util.spec_from_file_location(recipe, RECIPES / f"{recipe}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
        hints = typing.get_type_hints(module.Config)
        for name, preset in PRESETS[recipe].items():
            module.Config(preset=name, **preset)
            assert name in typing.get_args(typing.get_args(hints["preset"])[0])
    finally:
        del sys.modules[spec.name]


def test_the_published_settings():
    cub, ilsvrc = PRESETS["full_data"]["cub"], PRESETS["full_data"]["ilsvrc"]
    assert (cub["learning_rate"], cub["batch_size"], cub["epochs"], cub["area_target"]) == (1e-4, 256, 30, 0.25)
    assert (ilsvrc["learning_rate"], ilsvrc["batch_size"], ilsvrc["epochs"], ilsvrc["area_target"]) == (
        *(1.5e-5, 512, 1, 0.35),
    )
    for preset in (cub, ilsvrc):
        assert (preset["num_spatial_blocks"], preset["drop_path"], preset["weight_decay"]) == (3, 0.1, 0.05)
