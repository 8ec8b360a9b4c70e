"""Training steps of SAT against plain fine-tuning of the same timm model and, with --reference, the published code.

    python scripts/benchmark_training.py
    python scripts/benchmark_training.py --reference SAT
    python scripts/benchmark_training.py --grow

SAT is a checkout of github.com/wpy1999/SAT, whose model trains on the same weights, images and machine. Regimes take
turns within every round, in rotating order; medians are compared, by the clock and by the time of processors (user and
system, of all threads), which other programs on the machine disturb less. On a CPU all regimes, the reference too, run
with the threads and the allocator settings of the recipes; --leave-allocator keeps the allocator as it is.

Memory is measured for one regime at a time in a process of its own: the most that is resident (CUDA: allocated) above
the level after the imports. It includes weights, gradients, the optimizer's moments, activations and the batch, and
what the libraries allocate when they are first used.

--grow measures how the cost of a step grows with image size, batch, model and classes, and that of loading and
evaluating with the number of images. The forward pass alone is measured by scripts/benchmark_forward.py.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from dataclasses import asdict, fields, replace
from functools import partial
from pathlib import Path

REFERENCE = "reference"
# The first steps of a training allocate what later ones reuse.
MEMORY_STEPS = 3
MEGABYTE = 1e6


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--backbone", default="deit_small_patch16_224", help="timm name; weights are random")
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--num-classes", type=int, default=200)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--num-spatial-blocks", type=int, default=3, help="K (default: 3)")
    parser.add_argument("--steps", type=int, default=7, help="timed training steps of every regime (default: 7)")
    parser.add_argument("--regimes", nargs="+", metavar="NAME", help="default: all; an unknown name lists them")
    parser.add_argument("--reference", type=Path, metavar="DIR", help="checkout of wpy1999/SAT")
    parser.add_argument("--no-memory", action="store_true", help="time alone")
    parser.add_argument("--threads", type=int, help="of torch on a CPU; all cores by default")
    parser.add_argument("--leave-allocator", action="store_true", help="do not set the C library's allocator")
    parser.add_argument("--grow", action="store_true", help="how cost grows, in batches of 4 where another size grows")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of tables")
    parser.add_argument("--measure-memory", metavar="REGIME", help=argparse.SUPPRESS)
    parser.add_argument("--measure-images", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.grow and arguments.reference:
        parser.error("--grow measures SAT alone; leave out --reference")
    return arguments


def prepare(arguments: argparse.Namespace) -> dict:
    """Puts the process into the state of a recipe's. Returns what of it belongs beside the figures."""
    import torch

    from sat_peft.cpu import keep_freed_memory, set_cpu_threads

    if torch.cuda.is_available():
        return {"device": torch.cuda.get_device_name(), "torch": torch.__version__}
    kept = not arguments.leave_allocator and keep_freed_memory()
    threads = set_cpu_threads(arguments.threads)
    return {"device": "cpu", "threads": threads, "keeps_freed_memory": kept, "torch": torch.__version__}


def workload_of(arguments: argparse.Namespace):
    import torch

    from benchmark.regimes import Workload

    given = {field.name: getattr(arguments, field.name) for field in fields(Workload) if hasattr(arguments, field.name)}
    return Workload(**given, device="cuda" if torch.cuda.is_available() else "cpu")


def regimes_of(arguments: argparse.Namespace) -> dict:
    """The regimes that are asked for, by name, with the reference first where it is given."""
    from benchmark.reference import build_reference, find_architecture
    from benchmark.regimes import REGIMES, Regime
    from sat_peft.errors import unknown_choice

    names = list(REGIMES) if arguments.regimes is None else arguments.regimes
    for name in names:
        if name not in REGIMES:
            raise unknown_choice("regime", name, REGIMES)
    chosen = {name: REGIMES[name] for name in names}
    if arguments.reference is None:
        return chosen
    find_architecture(workload_of(arguments), arguments.reference)  # a mistake is told before anything is measured
    reference = Regime("the published code, every parameter", partial(build_reference, folder=arguments.reference))
    return {REFERENCE: reference} | chosen


def synchronize() -> None:
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()


def measure_time(arguments: argparse.Namespace, regimes: dict) -> tuple[dict, dict[str, float]]:
    """Times by regime; and how far the maps of those that compute what the paper does are from the reference's."""
    from benchmark.measure import take_turns
    from benchmark.reference import MAP_TOLERANCE, largest_difference, take_weights
    from benchmark.regimes import PLAIN

    workload = workload_of(arguments)
    contestants = {name: regime.build(workload) for name, regime in regimes.items()}
    differences = {}
    if REFERENCE in contestants:
        reference = contestants[REFERENCE].model
        for name, regime in regimes.items():
            if name not in (REFERENCE, PLAIN):
                take_weights(contestants[name], reference)
            if regime.published_forward:
                differences[name] = largest_difference(contestants[name].model, reference, workload.images)
        wrong = {name: value for name, value in differences.items() if not value <= MAP_TOLERANCE}
        if wrong:
            sys.exit(f"the maps differ from the reference's by more than {MAP_TOLERANCE:g}: {wrong}")
    steps = {name: contestant.step for name, contestant in contestants.items()}
    return take_turns(steps, arguments.steps, synchronize=synchronize), differences


def measure_memory(arguments: argparse.Namespace) -> int:
    """Bytes that a training under one regime takes above the level after imports, in this process."""
    import torch

    from benchmark.measure import MemoryPeak

    prepare(arguments)
    regime = regimes_of(arguments)[arguments.measure_memory]
    with MemoryPeak() as memory:
        contestant = regime.build(workload_of(arguments))
        for _ in range(MEMORY_STEPS):
            contestant.step()
    return torch.cuda.max_memory_allocated() if torch.cuda.is_available() else memory.growth


def measure_elsewhere(*options: str) -> object:
    """What this script finds in a process of its own, with further options."""
    command = [sys.executable, __file__, *sys.argv[1:], *options]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def compare(arguments: argparse.Namespace) -> dict:
    """Images a second, processor time and memory by regime, with ratios to the reference or to plain fine-tuning."""
    settings = prepare(arguments) | asdict(workload_of(arguments)) | {"steps": arguments.steps}
    regimes = regimes_of(arguments)
    memory = {}
    if not arguments.no_memory:
        memory = {name: measure_elsewhere("--measure-memory", name) for name in regimes}
    times, differences = measure_time(arguments, regimes)
    baseline = next(iter(regimes))
    rows = {}
    for name, regime in regimes.items():
        row = {
            "trains": regime.title,
            "images_per_second": arguments.batch_size / times[name].median_clock,
            "speed_ratio": times[baseline].median_clock / times[name].median_clock,
            "processor_seconds": times[name].median_processor,
            "processor_ratio": times[baseline].median_processor / times[name].median_processor,
        }
        if memory:
            row |= {"megabytes": memory[name] / MEGABYTE, "memory_ratio": memory[name] / memory[baseline]}
        if name in differences:
            row["largest_map_difference"] = differences[name]
        rows[name] = row
    return {"settings": settings, "baseline": baseline, "regimes": rows}


def print_comparison(found: dict) -> None:
    settings = found["settings"]
    print(", ".join(f"{name} {value}" for name, value in settings.items()))
    print(f"ratios to {found['baseline']!r}: times as fast by the clock, in processor time; share of its memory\n")
    print(f"{'regime':<22}{'images/s':>9}{'ratio':>7}{'processor s':>13}{'ratio':>7}{'MB':>8}{'ratio':>7}")
    for name, row in found["regimes"].items():
        line = f"{name:<22}{row['images_per_second']:>9.2f}{row['speed_ratio']:>7.2f}"
        line += f"{row['processor_seconds']:>13.2f}{row['processor_ratio']:>7.2f}"
        if "megabytes" in row:
            line += f"{row['megabytes']:>8.0f}{row['memory_ratio']:>7.2f}"
        print(f"{line}   {row['trains']}")
    for name, row in found["regimes"].items():
        if "largest_map_difference" in row:
            print(
                f"largest difference of a map from the reference's on its weights, {name}: "
                f"{row['largest_map_difference']:.1e}"
            )


def grow(arguments: argparse.Namespace) -> dict:
    """Cost over size on every axis, with the exponent."""
    from benchmark.growth import BATCH_SIZE, REGIMES_THAT_GROW, axes, measure_axis, measure_image_counts

    workload = replace(workload_of(arguments), batch_size=BATCH_SIZE)
    settings = prepare(arguments) | asdict(workload) | {"steps": arguments.steps}
    rows = []
    for axis in axes():
        rows += measure_axis(axis, workload, REGIMES_THAT_GROW, arguments.steps, synchronize)
    images = measure_image_counts(lambda count: measure_elsewhere("--measure-images", str(count)))
    return {"settings": settings, "training": rows, "images": images}


def print_growth(found: dict) -> None:
    print(", ".join(f"{name} {value}" for name, value in found["settings"].items()))
    print("processor seconds of a training step, and p of cost ~ size ** p\n")
    for row in found["training"]:
        points = "  ".join(f"{point}: {cost:.2f}" for point, cost in row["processor_seconds"].items())
        print(f"{row['axis']:<24}{row['regime']:<24}p = {row['exponent']:.2f}   {points}")
    images = found["images"]
    print("\nnumber of images: processor seconds, and growth of resident memory in MB")
    for row in images["costs"]:
        points = "  ".join(f"{point}: {cost:.2f}" for point, cost in row["processor_seconds"].items())
        print(f"{row['what']:<48}p = {row['exponent']:.2f}   {points}")
    points = "  ".join(f"{point}: {value / MEGABYTE:.0f}" for point, value in images["bytes"].items())
    print(f"{'memory in MB':<48}{images['bytes_per_image']:.0f} bytes per image   {points}")


def main() -> None:
    arguments = parse_arguments()
    from sat_peft.errors import UsageError

    try:
        if arguments.measure_memory is not None:
            print(json.dumps(measure_memory(arguments)))
            return
        if arguments.measure_images is not None:
            from benchmark.growth import measure_images

            prepare(arguments)
            print(json.dumps(measure_images(arguments.measure_images)))
            return
        found, show = (grow(arguments), print_growth) if arguments.grow else (compare(arguments), print_comparison)
    except UsageError as error:
        sys.exit(f"error: {error}")
    if arguments.json:
        print(json.dumps(found))
    else:
        show(found)


if __name__ == "__main__":
    main()
