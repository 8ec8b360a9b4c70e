"""Pascal VOC's layout: VOCdevkit/VOC2012 with JPEGImages, Annotations and ImageSets/Main."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from xml.etree.ElementTree import ElementTree

from sat_peft.data.formats.voc import annotation
from scene_writers.exported_scene import ExportedScene

SPLIT_NAMES = {"train": "train", "validation": "val", "test": "test"}


def write_voc(root: Path, scenes: Iterable[ExportedScene], class_names: list[str]) -> None:
    """The folder VOCdevkit, with the lists train, val and test of one year."""
    year = root / "VOCdevkit" / "VOC2012"
    for folder in ("Annotations", "ImageSets/Main"):
        (year / folder).mkdir(parents=True)
    for scene in scenes:
        scene.save_image(year / "JPEGImages" / f"{scene.name}.jpg")
        objects = [(scene.class_name, scene.box, {})]
        root_element = annotation(f"{scene.name}.jpg", scene.image_size, objects, "PartScenes")
        ElementTree(root_element).write(year / "Annotations" / f"{scene.name}.xml", encoding="utf-8")
        with (year / "ImageSets" / "Main" / f"{SPLIT_NAMES[scene.split]}.txt").open("a", encoding="utf-8") as file:
            file.write(f"{scene.name}\n")
