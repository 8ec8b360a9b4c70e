"""Pretrains the nano ViT on the base classes of PartScenes, from image labels alone.

    python scripts/pretrain_nano.py --output runs/nano

Writes `OUTPUT/sat_peft_vit_nano_patch8_96.safetensors` (float16) and `OUTPUT/MODEL_CARD.md`; copy both into
`sat_peft/nano/` to ship them. A killed run continues from its last checkpoint in OUTPUT.
"""

from __future__ import annotations

import json
import math
import platform
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import tyro


@dataclass(frozen=True)
class Config:
    """Pretraining of the nano ViT."""

    output: Path
    """Folder of the checkpoint, the weights and the model card."""
    images: int = 128_000
    """Training images seen, augmented views of the pool."""
    scenes_per_class: int = 320
    """Scenes in the pool, for each of the 64 base classes."""
    test_scenes_per_class: int = 20
    """Unseen scenes for the accuracy in the model card, for each class."""
    batch_size: int = 32
    learning_rate: float = 7e-4
    weight_decay: float = 0.05
    warmup_share: float = 0.05
    """Share of the steps with a rising learning rate; a cosine to zero follows."""
    drop_path: float = 0.0
    shift: int = 12
    """Largest shift of a view, in pixels, reflected at the edges."""
    seed: int = 0
    threads: int | None = None
    checkpoint_every: int = 500
    """Steps between checkpoints."""


def render_pool(split: str, scenes_per_class: int, seed: int):
    """((N, 96, 96, 3) uint8 images, (N,) labels) of the base classes."""
    import numpy as np
    import torch

    from sat_peft.data.scenes import BASE_CLASSES, scene_seed
    from sat_peft.data.scenes.render import render_scene

    images = np.empty((len(BASE_CLASSES) * scenes_per_class, 96, 96, 3), np.uint8)
    for row in range(len(images)):
        number, index = divmod(row, scenes_per_class)
        images[row] = render_scene(BASE_CLASSES[number], scene_seed(split, index, seed)).image
    labels = torch.arange(len(BASE_CLASSES)).repeat_interleave(scenes_per_class)
    return torch.from_numpy(images), labels


def normalise(images):
    """(B, H, W, 3) uint8 to the model's (B, 3, H, W) float input."""
    import torch

    from sat_peft.nano import NANO_BACKBONE, default_cfgs

    config = default_cfgs[NANO_BACKBONE].default
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (config.mean, config.std))
    return (images.permute(0, 3, 1, 2).float() / 255 - mean) / std


def augment(images, shift: int, generator):
    """Random flips and reflect-padded shifts, one draw per image."""
    import torch
    import torch.nn.functional as F

    side = images.shape[-1]
    padded = F.pad(images, (shift,) * 4, mode="reflect")
    offsets = torch.randint(0, 2 * shift + 1, (len(images), 2), generator=generator).tolist()
    flips = (torch.rand(len(images), generator=generator) < 0.5).tolist()
    views = [image[:, y : y + side, x : x + side] for image, (y, x) in zip(padded, offsets, strict=True)]
    return torch.stack([view.flip(-1) if flip else view for view, flip in zip(views, flips, strict=True)])


def learning_rate_factor(step: int, steps: int, warmup_share: float) -> float:
    warmup = max(1, round(steps * warmup_share))
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def top1(model, images, labels) -> float:
    """Percentage of right labels."""
    import torch

    model.eval()
    with torch.inference_mode():
        hits = sum(
            (model(normalise(images[i : i + 128])).argmax(1) == labels[i : i + 128]).sum().item()
            for i in range(0, len(images), 128)
        )
    return 100 * hits / len(images)


def write_model_card(path: Path, config: Config, accuracy: float, seconds: float, steps: int) -> None:
    import timm
    import torch

    settings = {name: value for name, value in asdict(config).items() if name not in ("output", "threads")}
    lines = [
        "---\nlicense: apache-2.0\nlibrary_name: timm\ntags: [image-classification, timm]\n---",
        "# sat_peft_vit_nano_patch8_96",
        "",
        "A ViT of depth 6, width 128, 4 heads, patch 8, 96 x 96 pixels, 1.24M parameters, stored as float16.",
        "Pretrained with image labels only on the 64 base classes of PartScenes (generated images). It is a test bench",
        "for weakly supervised localisation that runs anywhere, not a model of photographs.",
        "",
        f"- Top-1 on {64 * config.test_scenes_per_class} unseen base scenes, after the cast: {accuracy:.2f} %",
        f"- Steps: {steps}; time: {seconds / 60:.1f} minutes, {platform.machine()}, {torch.get_num_threads()} threads",
        f"- torch {torch.__version__.split('+')[0]}, timm {timm.__version__}",
        f"- Settings: `{json.dumps(settings)}`",
        "- Made by: `python scripts/pretrain_nano.py --output DIR`",
        "",
    ]
    path.write_text("\n".join(lines), encoding="utf-8")


def main() -> None:
    config = tyro.cli(Config, description=__doc__)

    import timm
    import torch
    import torch.nn.functional as F
    from safetensors.torch import save_file

    import sat_peft  # noqa: F401  (registers the backbone)
    from sat_peft.cpu import keep_freed_memory, set_cpu_threads
    from sat_peft.nano import NANO_BACKBONE, WEIGHTS_FILE

    keep_freed_memory()
    set_cpu_threads(config.threads)
    config.output.mkdir(parents=True, exist_ok=True)
    checkpoint_file = config.output / "checkpoint.pt"
    torch.manual_seed(config.seed)
    generator = torch.Generator().manual_seed(config.seed)

    model = timm.create_model(NANO_BACKBONE, drop_path_rate=config.drop_path)
    decay = [p for p in model.parameters() if p.ndim > 1]
    no_decay = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": decay}, {"params": no_decay, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=config.learning_rate, weight_decay=config.weight_decay)
    steps = config.images // config.batch_size
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: learning_rate_factor(step, steps, config.warmup_share)
    )
    first, spent = 0, 0.0
    if checkpoint_file.exists():
        state = torch.load(checkpoint_file, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        scheduler.load_state_dict(state["scheduler"])
        generator.set_state(state["generator"])
        first, spent = state["step"], state["seconds"]
        print(f"continuing at step {first} of {steps}")

    print(f"rendering {64 * config.scenes_per_class} training scenes")
    images, labels = render_pool("train", config.scenes_per_class, config.seed)
    start, running = time.perf_counter() - spent, None
    for step in range(first, steps):
        model.train()
        rows = torch.randint(0, len(images), (config.batch_size,), generator=generator)
        logits = model(augment(normalise(images[rows]), config.shift, generator))
        loss = F.cross_entropy(logits, labels[rows])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
        running = loss.item() if running is None else 0.98 * running + 0.02 * loss.item()
        if (step + 1) % 100 == 0:
            print(f"step {step + 1}/{steps}  loss {running:.3f}  {time.perf_counter() - start:.0f} s", flush=True)
        if (step + 1) % config.checkpoint_every == 0:
            state = {
                "model": model.state_dict(),
                "optimizer": optimizer.state_dict(),
                "scheduler": scheduler.state_dict(),
                "generator": generator.get_state(),
                "step": step + 1,
                "seconds": time.perf_counter() - start,
            }
            torch.save(state, checkpoint_file.with_suffix(".tmp"))
            checkpoint_file.with_suffix(".tmp").replace(checkpoint_file)
    seconds = time.perf_counter() - start

    weights = {name: value.half().contiguous() for name, value in model.state_dict().items()}
    save_file(weights, config.output / WEIGHTS_FILE.name, metadata={"format": "pt"})
    model.load_state_dict(weights)
    test_images, test_labels = render_pool("test", config.test_scenes_per_class, config.seed)
    accuracy = top1(model, test_images, test_labels)
    write_model_card(config.output / "MODEL_CARD.md", config, accuracy, seconds, steps)
    print(f"top-1 on {len(test_images)} unseen base scenes: {accuracy:.2f} %")


if __name__ == "__main__":
    main()
