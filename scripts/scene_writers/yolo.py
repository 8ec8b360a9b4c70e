"""The layout of YOLO as Ultralytics reads it: data.yaml, images/{train,val,test} and labels/{train,val,test}."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import yaml

from sat_peft.data.box_formats import from_xyxy
from scene_writers.exported_scene import ExportedScene

SPLIT_NAMES = {"train": "train", "validation": "val", "test": "test"}


def write_yolo(root: Path, scenes: Iterable[ExportedScene], class_names: list[str]) -> None:
    """A text file per image: class index, centre x, centre y, width and height as shares of the sides."""
    written = {}
    for scene in scenes:
        name = SPLIT_NAMES[scene.split]
        written[name] = f"images/{name}"
        scene.save_image(root / "images" / name / f"{scene.name}.jpg")
        box = from_xyxy([scene.box], "yolo", scene.image_size)[0]
        line = " ".join([str(scene.label), *(f"{value:.6f}" for value in box)])
        label_file = root / "labels" / name / f"{scene.name}.txt"
        label_file.parent.mkdir(parents=True, exist_ok=True)
        label_file.write_text(line + "\n", encoding="utf-8")
    content = {**written, "names": dict(enumerate(class_names))}
    (root / "data.yaml").write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
