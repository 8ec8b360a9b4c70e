"""Writes PartScenes as files in the layout of another data set, to try a reader or a pipeline on.

python scripts/export_scenes.py --format coco --output scenes_coco
accelerate launch recipes/few_shot.py --data coco --data-root scenes_coco
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from sat_peft.options.choices import DifficultyName


@dataclass(frozen=True)
class Config:
    format: str
    """A name of `scene_writers.WRITERS`: folder, imagefolder, coco, voc, yolo, hub, parquet, …"""
    output: Path
    """The new folder."""
    scenes_per_class: int = 10
    """Images of each class in each split."""
    image_size: int = 96
    """Side of the images in pixels."""
    classes: Literal["novel", "base"] = "novel"
    """20 or 64 classes; the embedded backbone was pretrained on the base classes."""
    difficulty: DifficultyName = "standard"
    """How hard the scenes are; `cluttered` are those with smaller objects beside the labelled one."""
    seed: int = 0
    """Names the whole data set."""


def main(config: Config) -> None:
    # The heavy imports wait until the options are read.
    from scene_writers import export_scenes

    export_scenes(
        config.output,
        config.format,
        scenes_per_class=config.scenes_per_class,
        image_size=config.image_size,
        classes=config.classes,
        difficulty=config.difficulty,
        seed=config.seed,
    )
    print(f"Written to {config.output}")


if __name__ == "__main__":
    options = tyro.cli(Config, description=__doc__)
    try:
        main(options)
    except ValueError as error:
        from sat_peft.errors import UsageError

        if not isinstance(error, UsageError):
            raise
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
