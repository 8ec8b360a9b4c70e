"""What a data set of the Hub looks like on disk: saved with `save_to_disk`, or Parquet files."""

from __future__ import annotations

import io
from collections.abc import Iterable
from itertools import groupby
from pathlib import Path

from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, Sequence, Value
from PIL import Image as PilImage

from sat_peft.data.box_formats import from_xyxy
from scene_writers.exported_scene import ExportedScene

_BOX = Sequence(Value("float32"), length=4)


def _png(scene: ExportedScene) -> dict:
    buffer = io.BytesIO()
    PilImage.fromarray(scene.scene.image).save(buffer, "png")
    return {"bytes": buffer.getvalue(), "path": f"{scene.name}.png"}


def write_saved_to_disk(root: Path, scenes: Iterable[ExportedScene], class_names: list[str]) -> None:
    """A `DatasetDict` with the columns image, label and objects, whose `bbox` is COCO's xywh."""
    features = Features({"image": Image(), "label": ClassLabel(names=class_names), "objects": {"bbox": Sequence(_BOX)}})
    splits = {}
    for split, members in groupby(scenes, lambda scene: scene.split):
        rows = [
            {
                "image": _png(scene),
                "label": scene.label,
                "objects": {"bbox": from_xyxy([scene.box], "xywh").tolist()},
            }
            for scene in members
        ]
        splits[split] = Dataset.from_list(rows, features=features)
    DatasetDict(splits).save_to_disk(root)


def write_parquet(root: Path, scenes: Iterable[ExportedScene], class_names: list[str]) -> None:
    """data/SPLIT-00000-of-00001.parquet with the columns image, label (text) and bbox (one box, xyxy)."""
    features = Features({"image": Image(), "label": Value("string"), "bbox": _BOX})
    (root / "data").mkdir()
    for split, members in groupby(scenes, lambda scene: scene.split):
        rows = [{"image": _png(scene), "label": scene.class_name, "bbox": scene.box} for scene in members]
        file = root / "data" / f"{split}-00000-of-00001.parquet"
        Dataset.from_list(rows, features=features).to_parquet(file)
