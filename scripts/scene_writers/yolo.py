"""The layout of YOLO as Ultralytics reads it: data.yaml, images/{train,val,test} and labels/{train,val,test}."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from sat_peft.data.formats.yolo import description, label_line
from scene_writers.exported_scene import ExportedScene

SPLIT_NAMES = {"train": "train", "validation": "val", "test": "test"}


def write_yolo(root: Path, scenes: Iterable[ExportedScene], class_names: list[str]) -> None:
    """A text file per image: class index, centre x, centre y, width and height as shares of the sides."""
    written = {}
    for scene in scenes:
        name = SPLIT_NAMES[scene.split]
        written[name] = f"images/{name}"
        scene.save_image(root / "images" / name / f"{scene.name}.jpg")
        label_file = root / "labels" / name / f"{scene.name}.txt"
        label_file.parent.mkdir(parents=True, exist_ok=True)
        line = label_line(scene.label, scene.box, scene.image_size)
        label_file.write_text(f"{line}\n", encoding="utf-8")
    (root / "data.yaml").write_text(description(written, class_names), encoding="utf-8")
