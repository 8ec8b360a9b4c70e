"""Trains with a recipe in this process, without a launcher: after a mistake the last line tells it.

    sat-peft train few_shot --data PHOTOS --shots 5
    sat-peft train full_data --preset cub --data-root CUB_200_2011

On several GPUs it is `accelerate launch -m sat_peft train …`, or the recipe itself. `sat-peft recipe` copies one.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module
from types import ModuleType

from sat_peft.commands import command_line
from sat_peft.commands.recipe import RECIPES
from sat_peft.errors import unknown_choice
from sat_peft.options.presets import PRESETS

INTERRUPTED = command_line.RESUMABLE


def _recipe(name: str) -> ModuleType:
    return import_module(f"sat_peft.recipes.{name}")


def overview() -> str:
    """What `sat-peft train --help` tells: every recipe and the first line of its description."""
    listed = [f"  {name:<12}{_recipe(name).__doc__.splitlines()[0]}" for name in RECIPES]
    usage = "usage: sat-peft train RECIPE [OPTIONS]"
    more = "`sat-peft train RECIPE --help` lists the options of a recipe."
    return "\n".join([usage, "", __doc__, *listed, "", more])


def parse(arguments: Sequence[str]) -> Callable[[], None]:
    """The training that `arguments` ask for: the name of a recipe and its options.

    Raises:
        UsageError: an unknown recipe, and what `sat_peft.commands.command_line.parse` raises.
        SystemExit: after --help.
    """
    name, *options = arguments or ["--help"]
    if name in ("-h", "--help"):
        print(overview())
        sys.exit(0)
    if name not in RECIPES:
        raise unknown_choice("recipe", name, RECIPES)
    recipe = _recipe(name)
    description = {"description": recipe.__doc__, "prog": f"sat-peft train {name}"}
    return partial(recipe.main, command_line.parse(recipe.Config, PRESETS[name], arguments=options, **description))


def main(training: Callable[[], None]) -> None:
    training()
