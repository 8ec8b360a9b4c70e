"""Copies a training recipe out of the installed package: a file to read, change and launch.

    sat-peft recipe few_shot DIR
    accelerate launch DIR/few_shot.py --data PHOTOS --shots 5

`few_shot` trains on a few images per class, `full_data` on whole data sets, `low_param` over numbers of trained
parameters.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import tyro

from sat_peft.errors import UsageError, unknown_choice

INTERRUPTED = "no file was replaced"
RECIPES = ("few_shot", "full_data", "low_param")


@dataclass(frozen=True)
class Config:
    name: tyro.conf.Positional[str]
    """The recipe: few_shot, full_data or low_param."""
    folder: tyro.conf.Positional[Path]
    """Folder for the copy; made where it is missing."""


def main(config: Config) -> None:
    from sat_peft.files.outputs import write_text_atomic

    if config.name not in RECIPES:
        raise unknown_choice("recipe", config.name, RECIPES)
    copy = config.folder / f"{config.name}.py"
    for place in (config.folder, *config.folder.parents):
        if place.exists() and not place.is_dir():
            raise UsageError(f"{str(place)!r} is a file; name a folder for the recipe.")
    if copy.exists():
        raise UsageError(f"{str(copy)!r} is there already and is not replaced. Name another folder, or move it away.")
    config.folder.mkdir(parents=True, exist_ok=True)
    recipe = Path(find_spec(f"sat_peft.recipes.{config.name}").origin)
    write_text_atomic(copy, recipe.read_text(encoding="utf-8"))
    print(f"Written to {copy}\n\nThe copy is yours to change. Launch it with:\n  accelerate launch {copy}")
