"""The layout of FGVC-Aircraft."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from sat_peft.data.box_formats import from_xyxy
from scene_writers.cub import write_lines
from scene_writers.exported_scene import ExportedScene

_SPLITS = {"train": "train", "validation": "val", "test": "test"}


def write_fgvc_aircraft(root: Path, scenes: Iterable[ExportedScene], class_names: list[str]) -> None:
    """Every class is a variant; two variants are a family, and the manufacturer has them all but the first two."""
    levels = {
        "variant": class_names,
        "family": [f"Family {label // 2}" for label in range(len(class_names))],
        "manufacturer": ["First" if label < 2 else "Second" for label in range(len(class_names))],
    }
    boxes: list[str] = []
    lists: dict[str, list[str]] = {}
    for number, scene in enumerate(scenes, 1):
        image = f"{number:07d}"
        scene.save_image(root / "images" / f"{image}.jpg")
        boxes.append(" ".join([image, *(f"{value:.0f}" for value in from_xyxy([scene.box], "voc")[0])]))
        for level, names in levels.items():
            lists.setdefault(f"images_{level}_{_SPLITS[scene.split]}.txt", []).append(f"{image} {names[scene.label]}")
    write_lines(root / "images_box.txt", boxes)
    for name, lines in lists.items():
        write_lines(root / name, lines)
    for level, name in (("variant", "variants"), ("family", "families"), ("manufacturer", "manufacturers")):
        write_lines(root / f"{name}.txt", dict.fromkeys(levels[level]))
