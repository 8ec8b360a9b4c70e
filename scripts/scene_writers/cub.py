"""The layout of CUB-200-2011, which has no validation split."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from sat_peft.data.box_formats import from_xyxy
from scene_writers.exported_scene import ExportedScene


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """A text file of these lines; folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def class_folder(scene: ExportedScene) -> str:
    """001.Name"""
    return f"{scene.label + 1:03d}.{scene.class_name}"


def write_cub(root: Path, scenes: Iterable[ExportedScene], class_names: list[str]) -> None:
    """Images, the five lists that are joined by number, and the segmentations beside the images."""
    names = ("images", "image_class_labels", "train_test_split", "bounding_boxes")
    lists: dict[str, list[str]] = {name: [] for name in names}
    members = (scene for scene in scenes if scene.split != "validation")
    for number, scene in enumerate(members, 1):
        path = f"{class_folder(scene)}/{scene.name}"
        scene.save_image(root / "images" / f"{path}.jpg")
        scene.save_mask(root / "segmentations" / f"{path}.png")
        box = " ".join(f"{value:.1f}" for value in from_xyxy([scene.box], "xywh")[0])
        values = (f"{path}.jpg", scene.label + 1, int(scene.split == "train"), box)
        for name, value in zip(names, values, strict=True):
            lists[name].append(f"{number} {value}")
    for name, lines in lists.items():
        write_lines(root / f"{name}.txt", lines)
    classes = (f"{number} {number:03d}.{name}" for number, name in enumerate(class_names, 1))
    write_lines(root / "classes.txt", classes)
