"""PartScenes as files in the layouts of other data sets, so that every reader has the same truth to read.

A writer is a function `write(root, scenes, class_names)`: it gets every scene of every split once, in the order of
splits, classes and indices, and writes below the new folder `root`. Box conventions are those of
`sat_peft.data.box_formats`. A new format is a writer and its line in `WRITERS`.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from sat_peft.data.scenes.catalogue import CLASS_SETS, DIFFICULTIES
from sat_peft.data.scenes.dataset import SPLITS, scene_seed
from sat_peft.data.scenes.render import render_scene
from sat_peft.errors import UsageError, unknown_choice
from scene_writers.coco import write_coco
from scene_writers.exported_scene import ExportedScene
from scene_writers.folder import write_folder, write_imagefolder
from scene_writers.hub import write_parquet, write_saved_to_disk
from scene_writers.research import RESEARCH_WRITERS
from scene_writers.voc import write_voc
from scene_writers.yolo import write_yolo

WRITERS: dict[str, Callable] = {
    "folder": write_folder,
    "imagefolder": write_imagefolder,
    "coco": write_coco,
    "voc": write_voc,
    "yolo": write_yolo,
    "hub": write_saved_to_disk,
    "parquet": write_parquet,
    **RESEARCH_WRITERS,
}


def export_scenes(
    output: str | Path,
    format_name: str,
    *,
    scenes_per_class: int = 10,
    image_size: int = 96,
    classes: str = "novel",
    num_classes: int | None = None,
    splits: tuple[str, ...] = SPLITS,
    difficulty: str = "standard",
    seed: int = 0,
) -> None:
    """Writes PartScenes in the layout of a format; an error leaves nothing behind.

    Args:
        output: a folder that does not exist yet.
        format_name: a name of `WRITERS`.
        scenes_per_class: images of each class in each split.
        image_size: side of the images in pixels.
        classes: `base` or `novel`.
        num_classes: take the first classes only.
        splits: those that are written.
        difficulty: a name of `DIFFICULTIES`.
        seed: names the whole data set, as in `part_scenes`.

    Raises:
        UsageError: an unknown name, a number out of range, or an output that exists.
    """
    output = Path(output)
    if format_name not in WRITERS:
        raise unknown_choice("format", format_name, WRITERS)
    if classes not in CLASS_SETS:
        raise unknown_choice("set of classes", classes, CLASS_SETS)
    if difficulty not in DIFFICULTIES:
        raise unknown_choice("difficulty", difficulty, DIFFICULTIES)
    scene_classes = CLASS_SETS[classes][:num_classes]
    for name, number, least in (("scenes_per_class", scenes_per_class, 1), ("num_classes", len(scene_classes), 2)):
        if number < least:
            raise UsageError(f"{name} must be at least {least}, got {number}.")
    if output.exists():
        raise UsageError(f"the output {str(output)!r} exists already. Name another folder, or remove it.")

    def scenes() -> Iterator[ExportedScene]:
        for split in splits:
            for label, scene_class in enumerate(scene_classes):
                for index in range(scenes_per_class):
                    named = scene_seed(split, index, seed)
                    scene = render_scene(scene_class, named, image_size=image_size, difficulty=difficulty)
                    yield ExportedScene(split, label, scene_class.name, index, scene)

    temporary = output.with_name(f".{output.name}.{os.getpid()}.tmp")
    try:
        temporary.mkdir(parents=True)
        WRITERS[format_name](temporary, scenes(), [scene_class.name for scene_class in scene_classes])
        temporary.rename(output)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
