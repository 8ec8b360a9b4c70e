"""PartScenes, generated: nothing has to be downloaded."""

from __future__ import annotations

from datasets import Dataset

from sat_peft.data.scenes import part_scenes
from sat_peft.data.sources.records import Problems
from sat_peft.data.sources.registry import Source

# Scenes of every class. Training draws its shots from the first; more shots take a larger pool.
SCENES_PER_CLASS = {"train": 50, "validation": 5, "test": 30}


def _read(
    root: None,
    split: str,
    problems: Problems,
    *,
    scenes_per_class: int | None = None,
    classes: str = "novel",
    image_size: int = 96,
    difficulty: str = "standard",
    scene_seed: int = 0,
) -> Dataset:
    return part_scenes(
        split,
        scenes_per_class=SCENES_PER_CLASS[split] if scenes_per_class is None else scenes_per_class,
        classes=classes,
        image_size=image_size,
        difficulty=difficulty,
        seed=scene_seed,
    )


SOURCE = Source("part_scenes", "generated scenes with boxes and masks", "Nothing is read.", _read, needs_root=False)
