"""Run folders as recipes leave them, with a method and images that are made by hand."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from datasets import Dataset
from PIL import Image

from sat_peft.backbones import DataConfig
from sat_peft.data.features import localization_features
from sat_peft.data.loaders import build_evaluation_loader
from sat_peft.evaluation.evaluator import Evaluation, evaluate
from sat_peft.evaluation.figures import MAIN_FIGURES
from sat_peft.evaluation.measure import Measured
from sat_peft.report.records import MapPictures, measurement, write_gallery
from sat_peft.runs.folder import RunFolder

HOSTILE = "<script>window.hacked = 1</script>"
CLASSES = ("cat", HOSTILE, 'dog" onload="window.hacked = 1')
SIZE = (60, 40)
CONFIG = {"backbone": "vit", "data": "part_scenes", "shots": [1], "seed": 0, "tune": "lora", "weights": None}


def rows(count: int, *, boxes: bool = True) -> Dataset:
    """Images of `SIZE` (width, height), image i of red level i; the true box is the left (i + 1) / count of it."""
    width, height = SIZE
    true = [[[0.0, 0.0, width * (index + 1) / count, float(height)]] if boxes else [] for index in range(count)]
    encoded = []
    for index in range(count):
        buffer = io.BytesIO()
        Image.new("RGB", SIZE, (index, 0, 0)).save(buffer, "PNG")
        encoded.append({"bytes": buffer.getvalue(), "path": None})
    columns = {
        "image_id": [f"test/{CLASSES[index % 3]}/{index}.png" for index in range(count)],
        "image": encoded,
        "label": [index % 3 for index in range(count)],
        "boxes": true,
    }
    return Dataset.from_dict(columns, features=localization_features(list(CLASSES)))


def left_half(images: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Finds the left half; says class 0 with probability 0.8; has two block maps, of which the second is empty."""
    maps = torch.zeros(len(images), 4, 6)
    maps[:, :, :3] = 0.5
    logits = torch.tensor([0.8, 0.1, 0.1]).log().expand(len(images), 3)
    return logits, maps, torch.stack([2 * maps, torch.zeros_like(maps)])


def loader(count: int, *, boxes: bool = True, protocol: str = "original", batch_size: int = 4):
    size = 64 if protocol == "original" else 224
    config = DataConfig((size, size), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), "bilinear")
    return build_evaluation_loader(rows(count, boxes=boxes), config, protocol=protocol, batch_size=batch_size)


def evaluated(test_loader, *, protocol: str = "original", threshold=0.5, method=left_half, see=None) -> Evaluation:
    settings = {"protocol": protocol, "threshold": threshold, "bootstrap": 20, "see": see}
    return evaluate(method, test_loader, Accelerator(cpu=True), **settings)


def write_run(folder: Path, count: int = 12, *, boxes: bool = True, threshold=0.5, **options) -> Path:
    """A finished run on `count` test images; `options` are those of `write_gallery`."""
    test_loader = loader(count, boxes=boxes)
    pictures = MapPictures()
    evaluation = evaluated(test_loader, threshold=threshold, see=pictures)
    with RunFolder(folder, CONFIG | {"output": str(folder)}) as run:
        components = {"spatial token": 64, "head": 1936}
        run.write_json("parameters.json", {"components": components, "trainable": 2000, "total": 1_002_000})
        for method in ("SAT", "CAM"):
            for step in range(1, 6):
                run.log(method=method, step=step, learning_rate=1e-3, total=3 / step, classification=2 / step)
        write_gallery(folder, pictures, test_loader, evaluation, Accelerator(cpu=True), protocol="original", **options)
        centre_box = {"centre_box": Measured("centre box", dict.fromkeys(MAIN_FIGURES, 12.5))} if boxes else {}
        methods = {"sat": Measured.of("SAT", evaluation)} | centre_box
        figures = {name: each.figures for name, each in methods.items()}
        told = {"standing": "SAT localises best here.", "methods": figures}
        run.write_json("results.json", {"protocol": "original", **told, "seconds": 61.2})
        run.write_json("measurement.json", measurement(methods, num_classes=3, bootstrap=20))
    return folder


def write_large_gallery(folder: Path, count: int, pictures: int) -> None:
    """A gallery of `count` records, of which the first `pictures` have the largest pictures there are: noise."""
    generator = np.random.default_rng(0)
    gallery = folder / "gallery"
    gallery.mkdir(parents=True)
    lines = []
    for index in range(count):
        name = None
        if index < pictures:
            name = f"{index:06}"
            noise = generator.integers(0, 256, (160, 160, 3), dtype=np.uint8)
            Image.fromarray(noise).save(gallery / f"{name}.jpg", quality=70)
            Image.fromarray(generator.integers(0, 256, (14, 14 * 4), dtype=np.uint8)).save(gallery / f"{name}.png")
        iou = index / count
        record = {
            "image_id": f"test/n{index % 1000:08}/ILSVRC2012_val_{index:08}.JPEG",
            "label": f"class {index % 1000}",
            "predicted": f"class {index % 999}",
            "score": 0.123456789,
            "iou": iou,
            "box": [1, 2, 300, 200],
            "correct": iou >= 0.5,
            "top1_correct": False,
            "top5_correct": False,
            "method": "SAT",
            "label_rank": 3,
            "true_boxes": [[10.5, 20.25, 250.125, 190.5], [0.0, 0.0, 20.0, 20.0]],
            "size": [500, 375],
            "picture": name,
            "map_ranges": [[0.0, 1.0]] * 4 if name else None,
        }
        lines.append(json.dumps(record) + "\n")
    (gallery / "records.jsonl").write_text("".join(lines))
    about = {
        "title": "SAT",
        "protocol": "original",
        "threshold": 0.3,
        "threshold_source": "fixed: given",
        "measured": True,
        "num_images": count,
        "pictured": {"lowest IoU": pictures},
    }
    (gallery / "gallery.json").write_text(json.dumps(about))
