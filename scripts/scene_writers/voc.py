"""Pascal VOC's layout: VOCdevkit/VOC2012 with JPEGImages, Annotations and ImageSets/Main."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from xml.etree.ElementTree import Element, ElementTree, SubElement, indent

from sat_peft.data.box_formats import from_xyxy
from scene_writers.exported_scene import ExportedScene

SPLIT_NAMES = {"train": "train", "validation": "val", "test": "test"}


def annotation(scene: ExportedScene, file_name: str) -> Element:
    """The `annotation` element of one image: 1-based, the last pixel included."""
    root = Element("annotation")
    SubElement(root, "filename").text = file_name
    size = SubElement(root, "size")
    width, height = scene.image_size
    for name, value in (("width", width), ("height", height), ("depth", 3)):
        SubElement(size, name).text = str(value)
    found = SubElement(root, "object")
    for name, text in (("name", scene.class_name), ("truncated", "0"), ("difficult", "0")):
        SubElement(found, name).text = text
    box = SubElement(found, "bndbox")
    values = from_xyxy([scene.box], "voc")[0]
    for name, value in zip(("xmin", "ymin", "xmax", "ymax"), values, strict=True):
        SubElement(box, name).text = f"{value:.0f}"
    indent(root)
    return root


def write_voc(root: Path, scenes: Iterable[ExportedScene], class_names: list[str]) -> None:
    """The folder VOCdevkit, with the lists train, val and test of one year."""
    year = root / "VOCdevkit" / "VOC2012"
    for folder in ("Annotations", "ImageSets/Main"):
        (year / folder).mkdir(parents=True)
    for scene in scenes:
        scene.save_image(year / "JPEGImages" / f"{scene.name}.jpg")
        tree = ElementTree(annotation(scene, f"{scene.name}.jpg"))
        tree.write(year / "Annotations" / f"{scene.name}.xml", encoding="utf-8")
        with (year / "ImageSets" / "Main" / f"{SPLIT_NAMES[scene.split]}.txt").open("a", encoding="utf-8") as file:
            file.write(f"{scene.name}\n")
