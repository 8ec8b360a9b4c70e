"""COCO's detection layout: annotations/instances_{train,val,test}2017.json beside the images of each split."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from sat_peft.data.formats.coco import annotation
from scene_writers.exported_scene import ExportedScene

SPLIT_NAMES = {"train": "train2017", "validation": "val2017", "test": "test2017"}


def category_id(label: int) -> int:
    """Neither contiguous nor from 0, as COCO's own."""
    return 3 * label + 2


def write_coco(root: Path, scenes: Iterable[ExportedScene], class_names: list[str]) -> None:
    """Boxes are xywh. The numbers of images and annotations are unique over the splits."""
    categories = [{"id": category_id(label), "name": name} for label, name in enumerate(class_names)]
    files: dict[str, dict] = {}
    for number, scene in enumerate(scenes, 1):
        name = SPLIT_NAMES[scene.split]
        content = files.setdefault(name, {"images": [], "annotations": [], "categories": categories})
        width, height = scene.image_size
        file_name = f"{scene.name}.jpg"
        scene.save_image(root / name / file_name)
        content["images"].append({"id": number, "file_name": file_name, "width": width, "height": height})
        area = int(scene.scene.mask.sum())
        content["annotations"].append(annotation(number, number, category_id(scene.label), scene.box, area=area))
    (root / "annotations").mkdir()
    for name, content in files.items():
        (root / "annotations" / f"instances_{name}.json").write_text(json.dumps(content), encoding="utf-8")
