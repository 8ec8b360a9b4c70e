"""Measures prediction from JPEG files to annotations against the bare forward pass of the same model.

    python scripts/benchmark_prediction.py --run runs/NAME
    python scripts/benchmark_prediction.py --run runs/NAME --memory 1000 10000

Throughput: both take turns in one process, on the same threads and batches; the forward pass gets its inputs from
memory. Prediction includes finding the files, decoding, scoring, the journal and the JSONL file. The ratios compare
medians, of images a second and of processor time, that of all threads included. On a machine that does other work too,
the processor time with `--threads 1` is the fair one.

Memory: a process of its own for every number of images, by which the resident memory grows while it predicts; a sound
loop grows by the same whatever their number.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

DISTINCT_IMAGES = 200


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--run", type=Path, required=True, help="run folder of a training recipe")
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--image-size", type=int, default=96, help="side of the JPEG files in pixels (96)")
    parser.add_argument("--num-workers", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--threads", type=int, help="of torch; all cores by default")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--memory", type=int, nargs="*", default=[], help="measure memory at these numbers of images")
    parser.add_argument("--measure-memory", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def write_images(folder: Path, count: int, image_size: int) -> None:
    from benchmark.images import write_scenes

    paths = [folder / f"{number % 100:02}" / f"{number}.jpg" for number in range(count)]
    write_scenes(paths, image_size=image_size, distinct=DISTINCT_IMAGES)


def prepare(arguments: argparse.Namespace):
    """(localizer, function(folder of images, output) that predicts)."""
    from accelerate import Accelerator

    from sat_peft import Localizer
    from sat_peft.cpu import keep_freed_memory, set_cpu_threads
    from sat_peft.prediction.inputs import find_images
    from sat_peft.prediction.predict import predict

    accelerator = Accelerator()
    if accelerator.device.type == "cpu":
        keep_freed_memory()
        set_cpu_threads(arguments.threads)
    localizer = Localizer.from_pretrained(arguments.run, device=accelerator.device)

    def run(folder: Path, output: Path) -> None:
        settings = {"batch_size": arguments.batch_size, "num_workers": arguments.num_workers}
        predict(localizer, find_images([folder]), output, accelerator, **settings)

    return localizer, run


def processor_seconds() -> float:
    """Processor time of this process and of those that it started and that have ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def measure_throughput(arguments: argparse.Namespace, work: Path) -> dict[str, list[tuple[float, float]]]:
    """Seconds by the clock and of processor time in every repeat, of the forward pass and of prediction."""
    import torch

    write_images(work / "images", arguments.images, arguments.image_size)
    localizer, run = prepare(arguments)
    inputs = torch.randn(arguments.batch_size, 3, *localizer.data_config.image_size)

    def forward() -> None:
        done = 0
        while done < arguments.images:
            batch = inputs[: arguments.images - done].to(localizer.device)
            with torch.inference_mode():
                # Fetching the result waits for the device.
                localizer.model(batch).maps.cpu()
            done += len(batch)

    def predict_all() -> None:
        shutil.rmtree(work / "output", ignore_errors=True)
        run(work / "images", work / "output")

    ways = {"forward": forward, "prediction": predict_all}
    for way in ways.values():  # the first call allocates and compiles
        way()
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for _ in range(arguments.repeats):
        for name, way in ways.items():
            start, processor = time.perf_counter(), processor_seconds()
            way()
            seconds[name].append((time.perf_counter() - start, processor_seconds() - processor))
    return seconds


def report_throughput(arguments: argparse.Namespace, work: Path) -> None:
    medians = {}
    for way, values in measure_throughput(arguments, work).items():
        clock, processor = zip(*values, strict=True)
        medians[way] = statistics.median(clock), statistics.median(processor)
        fastest, slowest = arguments.images / min(clock), arguments.images / max(clock)
        print(
            f"{way:<11} {arguments.images / medians[way][0]:8.1f} images/s  ({slowest:.0f} to {fastest:.0f}), "
            f"{1000 * medians[way][1] / arguments.images:.2f} ms of processor time an image"
        )
    clock, processor = (first / second for first, second in zip(*medians.values(), strict=True))
    print(f"ratio       {clock:8.2f}, {processor:.2f} of processor time")


def measure_memory(arguments: argparse.Namespace, folder: Path) -> int:
    """Bytes by which this process grows at most while it predicts the images of `folder`."""
    from benchmark.measure import MemoryPeak

    _, run = prepare(arguments)
    with tempfile.TemporaryDirectory() as output, MemoryPeak() as memory:
        run(folder, Path(output))
    return memory.growth


def main() -> None:
    arguments = parse_arguments()
    if arguments.measure_memory is not None:
        print(json.dumps(measure_memory(arguments, arguments.measure_memory)))
        return
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        if not arguments.memory:
            report_throughput(arguments, work)
        for count in arguments.memory:
            folder = work / str(count)
            write_images(folder, count, arguments.image_size)
            command = [sys.executable, __file__, *sys.argv[1:], "--measure-memory", str(folder)]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            print(f"{count:>7} images: memory grows by {json.loads(done.stdout.splitlines()[-1]) / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
