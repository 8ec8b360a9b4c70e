"""Measures what SAT adds to the forward pass of a backbone, as a ratio to plain timm in the same process.

    python scripts/benchmark_forward.py
    python scripts/benchmark_forward.py --backbone deit_small_patch16_224 --num-classes 200

Models take turns within every repeat, in rotating order, so that changes in the machine's speed meet all of them alike.
Ratios compare medians; the plain model has a classifier for as many classes.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time

NANO = "nano"
TUNE_MODES = ("none", "full", "lora")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--backbone", default=NANO, help=f"timm name, or {NANO!r}: depth 6, width 128, patch 8, 96x96 (default)"
    )
    parser.add_argument("--num-classes", type=int, default=20)
    parser.add_argument("--num-spatial-blocks", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    return parser.parse_args()


def create_backbone(name: str, num_classes: int):
    import timm
    from timm.models.vision_transformer import VisionTransformer

    if name == NANO:
        return VisionTransformer(
            img_size=96, patch_size=8, embed_dim=128, depth=6, num_heads=4, num_classes=num_classes
        )
    return timm.create_model(name, pretrained=False, num_classes=num_classes)


def measure(arguments: argparse.Namespace) -> dict[str, list[float]]:
    """Seconds of every repeat by model: `plain`, and one per tune mode."""
    import torch
    from peft import get_peft_model

    from sat_peft import SatConfig

    torch.manual_seed(0)
    plain = create_backbone(arguments.backbone, arguments.num_classes).eval()
    models = {"plain": plain}
    for tune in TUNE_MODES:
        config = SatConfig(
            num_classes=arguments.num_classes, num_spatial_blocks=arguments.num_spatial_blocks, tune=tune
        )
        models[tune] = get_peft_model(create_backbone(arguments.backbone, arguments.num_classes), config).eval()
    images = torch.randn(arguments.batch_size, 3, *plain.patch_embed.img_size)

    seconds = {name: [] for name in models}
    with torch.inference_mode():
        for repeat in range(-2, arguments.repeats):  # two rounds to warm up
            names = list(models)
            shift = repeat % len(names)  # every model takes every place equally often
            for name in names[shift:] + names[:shift]:
                start = time.perf_counter()
                models[name](images)
                if repeat >= 0:
                    seconds[name].append(time.perf_counter() - start)
    return seconds


def main() -> None:
    arguments = parse_arguments()
    import torch

    seconds = measure(arguments)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    ratios = {name: median / medians["plain"] for name, median in medians.items()}
    if arguments.json:
        settings = {key: value for key, value in vars(arguments).items() if key != "json"}
        settings["threads"] = torch.get_num_threads()
        print(json.dumps({"settings": settings, "median_seconds": medians, "ratio": ratios}))
        return
    print(
        f"{arguments.backbone}, batch {arguments.batch_size}, {arguments.num_classes} classes, "
        f"K={arguments.num_spatial_blocks}, {torch.get_num_threads()} threads, {arguments.repeats} repeats"
    )
    print(f"{'model':<12}{'median ms':>12}{'ratio':>8}")
    for name in ("plain", "none", "full"):
        label = name if name == "plain" else f"tune={name}"
        print(f"{label:<12}{1000 * medians[name]:>12.1f}{ratios[name]:>8.3f}")
    print("apart, since low-rank updates add matrix products of their own:")
    print(f"{'tune=lora':<12}{1000 * medians['lora']:>12.1f}{ratios['lora']:>8.3f}")


if __name__ == "__main__":
    main()
