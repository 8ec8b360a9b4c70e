"""Class folders, and `datasets`' imagefolder, which adds boxes in metadata.jsonl."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from sat_peft.data.formats.folder import metadata_row
from scene_writers.exported_scene import ExportedScene


def write_folder(root: Path, scenes: Iterable[ExportedScene], class_names: list[str]) -> None:
    """SPLIT/CLASS/*.jpg, without boxes."""
    for scene in scenes:
        scene.save_image(root / scene.split / scene.class_name / f"{scene.name}.jpg")


def write_imagefolder(root: Path, scenes: Iterable[ExportedScene], class_names: list[str]) -> None:
    """SPLIT/CLASS/*.jpg with SPLIT/metadata.jsonl: `objects.bbox` as COCO's xywh, `objects.categories`."""
    for scene in scenes:
        file_name = f"{scene.class_name}/{scene.name}.jpg"
        scene.save_image(root / scene.split / file_name)
        with (root / scene.split / "metadata.jsonl").open("a", encoding="utf-8") as file:
            file.write(metadata_row(file_name, [scene.box], [scene.label]))
