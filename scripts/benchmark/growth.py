"""How the cost of training, loading and evaluating grows with the size of the work."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import timm
import torch
import torch.nn.functional as F
from accelerate import Accelerator

from benchmark.images import write_scenes
from benchmark.measure import MemoryPeak, exponent, take_turns
from benchmark.regimes import REGIMES, Workload
from sat_peft.backbones import DataConfig
from sat_peft.data.loaders import build_evaluation_loader
from sat_peft.data.scenes import NOVEL_CLASSES
from sat_peft.data.sources import load_source
from sat_peft.evaluation.evaluator import evaluate
from sat_peft.files.outputs import write_text_atomic

REGIMES_THAT_GROW = ("everything", "last_blocks_isolated")
# Of the axes on which something else grows.
BATCH_SIZE = 4
IMAGE_COUNTS = (500, 2000, 8000)
DISTINCT_IMAGES = 100
IMAGE_SIDE = 96


@dataclass(frozen=True)
class Axis:
    """One thing that grows: what changes in the workload, with its size, by the label of the point."""

    name: str
    points: dict[str, tuple[dict, float]]


def count_backbone_parameters(name: str) -> int:
    """Parameters of a timm model without its classifier."""
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in timm.create_model(name, num_classes=0).parameters())


def axes(
    image_sizes: Sequence[int] = (224, 320, 448),
    batch_sizes: Sequence[int] = (4, 8, 16),
    backbones: Sequence[str] = ("deit_tiny_patch16_224", "deit_small_patch16_224", "deit_base_patch16_224"),
    class_counts: Sequence[int] = (20, 200, 1000),
) -> list[Axis]:
    """The axes along which a training step grows."""
    return [
        Axis("side of the image", {str(side): ({"image_size": side}, side) for side in image_sizes}),
        Axis("batch", {str(number): ({"batch_size": number}, number) for number in batch_sizes}),
        Axis(
            "parameters",
            {name.split("_")[1]: ({"backbone": name}, count_backbone_parameters(name)) for name in backbones},
        ),
        Axis("classes", {str(number): ({"num_classes": number}, number) for number in class_counts}),
    ]


def measure_axis(
    axis: Axis,
    workload: Workload,
    regimes: Sequence[str],
    rounds: int,
    synchronize: Callable[[], None] = lambda: None,
) -> list[dict]:
    """Median processor seconds of a training step at every point of an axis, and their exponent, by regime.

    All points take turns.

    Args:
        axis: what grows.
        workload: the rest.
        regimes: names of `REGIMES`.
        rounds, synchronize: see `take_turns`.
    """
    steps = {
        (regime, label): REGIMES[regime].build(replace(workload, **changes)).step
        for regime in regimes
        for label, (changes, _) in axis.points.items()
    }
    times = take_turns(steps, rounds, synchronize=synchronize)
    sizes = [size for _, size in axis.points.values()]
    rows = []
    for regime in regimes:
        costs = {label: times[regime, label].median_processor for label in axis.points}
        row = {"axis": axis.name, "regime": regime, "processor_seconds": costs}
        rows.append(row | {"exponent": exponent(sizes, list(costs.values()))})
    return rows


def write_images(folder: Path, count: int) -> None:
    """Writes class folders of a test split with `count` JPEG files and their boxes, and of a training split."""
    for scene_class in NOVEL_CLASSES:  # from whose folders the classes are read
        (folder / "train" / scene_class.name).mkdir(parents=True)
    names = [f"{NOVEL_CLASSES[number % len(NOVEL_CLASSES)].name}/{number}.jpg" for number in range(count)]
    write_scenes([folder / "test" / name for name in names], image_size=IMAGE_SIDE, distinct=DISTINCT_IMAGES)
    box = [IMAGE_SIDE // 4, IMAGE_SIDE // 4, IMAGE_SIDE // 2, IMAGE_SIDE // 2]
    rows = [json.dumps({"file_name": name, "objects": {"bbox": [box]}}) for name in names]
    write_text_atomic(folder / "test" / "metadata.jsonl", "\n".join(rows) + "\n")


def _brightness(images: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """A method that costs next to nothing: what is measured is the evaluation around it."""
    return torch.zeros(len(images), len(NOVEL_CLASSES)), F.adaptive_avg_pool2d(images.mean(1), 12)


def measure_images(count: int) -> dict[str, float]:
    """Processor seconds of loading, and of loading and evaluating, `count` images; bytes by which memory grows.

    Memory counts from after a pass over the first images, which allocates what any number needs.
    """
    accelerator = Accelerator(cpu=True)
    config = DataConfig((IMAGE_SIDE, IMAGE_SIDE), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), "bilinear")
    with tempfile.TemporaryDirectory() as name:
        write_images(Path(name), count)
        rows = load_source("folder", "test", root=name)

        def loader(rows):
            return accelerator.prepare(build_evaluation_loader(rows, config, protocol="original"))

        evaluate(_brightness, loader(rows.select(range(min(count, DISTINCT_IMAGES)))), accelerator, protocol="original")
        seconds = {}
        with MemoryPeak() as memory:
            start = time.process_time()
            for _ in loader(rows):
                pass
            seconds["loader"] = time.process_time() - start
            start = time.process_time()
            evaluate(_brightness, loader(rows), accelerator, protocol="original")
            seconds["loader_and_evaluator"] = time.process_time() - start
    return seconds | {"bytes": memory.growth}


def measure_image_counts(measure: Callable[[int], dict[str, float]], counts: Sequence[int] = IMAGE_COUNTS) -> dict:
    """Costs over the number of images.

    Args:
        measure: `measure_images`, called in a process of its own for every number.
        counts: numbers of images.
    """
    found = {count: measure(count) for count in counts}
    costs = []
    for what in ("loader", "loader_and_evaluator"):
        seconds = {str(count): values[what] for count, values in found.items()}
        row = {"what": what, "processor_seconds": seconds}
        costs.append(row | {"exponent": exponent(counts, list(seconds.values()))})
    grown = {str(count): values["bytes"] for count, values in found.items()}
    slope = float(np.polyfit(counts, list(grown.values()), 1)[0])
    return {"costs": costs, "bytes": grown, "bytes_per_image": slope}
