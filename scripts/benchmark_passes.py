"""What it is worth to pass an image through a backbone once: kept tokens and shared passes against passes of their own.

    python scripts/benchmark_passes.py
    python scripts/benchmark_passes.py --backbone sat_peft_vit_nano_patch8_96 --images 200 --rounds 5

Weights are random and images noise, which changes no time. Two jobs, each with and without, in turns:

several passes   a trained model sees the same images three times, as `sat-peft run` does to choose a threshold, to
                 evaluate and to predict: `keep_frozen_tokens`
baselines        all baselines with maps see the same images twice, for a threshold and for a test: `shared_passes`

Ratios compare medians of the processor time, of all threads; outputs are held against each other first.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial

import tyro

from sat_peft.commands.command_line import run


@dataclass(frozen=True)
class Config:
    backbone: str = "vit_small_patch14_dinov2"
    """Any Vision Transformer of timm."""
    image_size: int = 224
    """Side of the images in pixels."""
    images: int = 16
    batch_size: int = 8
    rounds: int = 3
    """Turns that are timed, of which medians are taken."""
    threads: int | None = None
    """Threads; by default all cores."""


def main(config: Config) -> None:
    import timm
    import torch
    from peft import get_peft_model

    from benchmark.measure import take_turns
    from sat_peft import SatConfig, keep_frozen_tokens
    from sat_peft.cpu import prepare_cpu
    from sat_peft.evaluation.registry import baselines, localizers, needed_classifiers, shared_passes

    prepare_cpu(config.threads)
    torch.manual_seed(0)
    build = partial(timm.create_model, config.backbone, img_size=config.image_size)
    batches = torch.randn(config.images, 3, config.image_size, config.image_size).split(config.batch_size)
    labels = torch.zeros(config.batch_size, dtype=torch.long)
    names = [name for name, baseline in baselines().items() if baseline.localizer]
    bare = build()
    trained = {name: baselines()[name].classifier(bare, 10).eval() for name in needed_classifiers(names)}
    vit = build()
    adapter = SatConfig(num_classes=10, num_spatial_blocks=max(1, len(vit.blocks) // 4), token_entry="late")
    model = get_peft_model(vit, adapter).eval()

    def see(methods: list[Callable], times: int, context: Callable[[], AbstractContextManager]) -> list[torch.Tensor]:
        with torch.inference_mode(), context():
            return [
                method(batch, labels[: len(batch)])[1] for method in methods for _ in range(times) for batch in batches
            ]

    def sat(images: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        output = model(images)
        return output.logits, output.maps

    jobs = {
        "several passes": (partial(see, [sat], 3), keep_frozen_tokens),
        "baselines": (
            partial(see, [method for _, method in localizers(names, trained)], 2),
            partial(shared_passes, names),
        ),
    }
    print(f"{config.backbone} at {config.image_size} pixels, {config.images} images, {torch.get_num_threads()} threads")
    for job, (work, context) in jobs.items():
        for ours, theirs in zip(work(context), work(nullcontext), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)
        times = take_turns({"alone": partial(work, nullcontext), "once": partial(work, context)}, config.rounds)
        alone, once = times["alone"].median_processor, times["once"].median_processor
        print(f"{job:15} {alone:8.2f} s by themselves, {once:8.2f} s once: {alone / once:.2f} times as fast")


if __name__ == "__main__":
    run(main, partial(tyro.cli, Config, description=__doc__), interrupted="nothing was written")
