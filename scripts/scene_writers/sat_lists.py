"""The lists in the repository of the SAT paper, beside images in the folders that its code reads."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from sat_peft.data.box_formats import from_xyxy
from scene_writers.cub import class_folder, write_lines
from scene_writers.exported_scene import ExportedScene
from scene_writers.ilsvrc import corners, wnid


def _height_width(scene: ExportedScene) -> str:
    width, height = scene.image_size
    return f"{height} {width}"


def write_sat_birds(root: Path, scenes: Iterable[ExportedScene], class_names: list[str]) -> None:
    """As of CUB_200_2011; the list of the dogs' boxes has another name only."""
    lists: dict[str, list[str]] = {"train_list": [], "test_list": [], "test_bounding_box": []}
    for scene in scenes:
        if scene.split == "validation":
            continue
        path = f"{class_folder(scene)}/{scene.name}.jpg"
        scene.save_image(root / scene.split / path)
        lists[f"{scene.split}_list"].append(f"{path};{scene.label}\r")
        if scene.split == "test":
            box = " ".join(f"{value:.1f}" for value in scene.box)
            lists["test_bounding_box"].append(f"{box} {_height_width(scene)}")
    for name, lines in lists.items():
        write_lines(root / f"{name}.txt", lines)


def write_sat_imagenet(root: Path, scenes: Iterable[ExportedScene], class_names: list[str]) -> None:
    """As of ILSVRC, with val in folders."""
    val_list, val_gt = [], []
    for scene in scenes:
        folder = wnid(scene.label)
        if scene.split == "train":
            scene.save_image(root / "train" / folder / f"{folder}_{scene.index}.JPEG")
        elif scene.split == "test":
            name = f"ILSVRC2012_val_{len(val_list) + 1:08d}.JPEG"
            width, height = scene.image_size
            scene.save_image(root / "val" / folder / name)
            val_list.append(f"{folder}/{name};{scene.label}")
            val_gt.append(rf"{folder}\\{name} {width} {height} ; {corners(scene)}")
    write_lines(root / "val_list.txt", val_list)
    write_lines(root / "val_gt.txt", val_gt)


def write_sat_cars(root: Path, scenes: Iterable[ExportedScene], class_names: list[str]) -> None:
    """As of Standford_Car and Fgvc_aircraft_2013b."""
    splits = {"train": 0, "test": 1, "validation": 2}
    lines = []
    for number, scene in enumerate(scenes, 1):
        scene.save_image(root / "images" / f"{number:06d}.jpg")
        box = " ".join(f"{value:.1f}" for value in from_xyxy([scene.box], "voc")[0])
        lines.append(f"{number:06d};{scene.class_name};{splits[scene.split]};{box} {_height_width(scene)}")
    write_lines(root / "classes.txt", class_names)
    write_lines(root / "images_box.txt", lines)
