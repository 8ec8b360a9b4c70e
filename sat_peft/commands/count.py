"""Counts what SAT trains and stores on a timm Vision Transformer, without its weights.

    sat-peft count --backbone deit_small_patch16_224 --num-classes 1000 --tune full
    sat-peft count --backbone vit_small_patch14_dinov2 --num-classes 1000 --tune none \\
        --head conv1x1 --at-most 450_000

The model is built on the meta device: nothing is downloaded, and a large backbone costs no memory. `total` is the model
as it is deployed; `loaded` is PEFT's own total, which counts the frozen originals of tuned blocks as well.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass

from sat_peft.options.choices import HeadName, TuneMode

INTERRUPTED = "nothing was counted"


@dataclass(frozen=True)
class Config:
    backbone: str
    """Any Vision Transformer of timm, for example deit_small_patch16_224."""
    num_classes: int
    """Number of image classes."""
    num_spatial_blocks: int = 3
    """K: the last blocks in which the spatial token masks the attention."""
    tune: TuneMode = "lora"
    """Trained besides the token and the head, in the last blocks: nothing, biases and norms, LoRA, or all of them."""
    num_tuned_blocks: int | None = None
    """The last blocks that --tune reaches; K by default."""
    head: HeadName = "conv3x3"
    """The classification head (the paper's is conv3x3)."""
    lora_rank: int = 8
    """Rank of LoRA, for --tune lora."""
    lora_targets: tuple[str, ...] = ()
    """Linear layers that LoRA reaches, by the end of their names (qkv, proj, fc1, fc2); all of them by default."""
    use_dora: bool = False
    """DoRA instead of LoRA."""
    train_head: bool = True
    """Train the head; else it stays as it starts."""
    image_size: int | None = None
    """Side of the images in pixels, which the backbone's position embedding grows with; its own by default."""
    at_most: int | None = None
    """Exit with status 1 if more parameters than this are trainable."""
    json: bool = False
    """Print one JSON object instead of the table."""


def count(config: Config) -> dict:
    """The settings and everything that is counted, ready for JSON; sizes in bytes."""
    # The heavy imports wait until the options are read, so that --help and a mistyped option answer at once.
    import torch
    from peft import get_peft_model

    from sat_peft import SatConfig
    from sat_peft.backbones import create_backbone, resolve_data_config
    from sat_peft.tuner.parameters import adapter_file_bytes, count_parameters

    sat = SatConfig(
        num_classes=config.num_classes,
        num_spatial_blocks=config.num_spatial_blocks,
        tune=config.tune,
        num_tuned_blocks=config.num_tuned_blocks,
        head=config.head,
        train_head=config.train_head,
        **({"r": config.lora_rank} if config.tune == "lora" else {}),
        target_modules=list(config.lora_targets) or None,
        use_dora=config.use_dora,
    )
    with torch.device("meta"):
        vit = create_backbone(config.backbone, pretrained=False, image_size=config.image_size)
        model = get_peft_model(vit, sat)
    parameters = count_parameters(model)
    components = {}
    for name, frozen in parameters.frozen.items():
        trainable = parameters.components.get(name, 0)
        components[name] = {"trainable": trainable, "frozen": frozen, "total": trainable + frozen}
    return {
        "backbone": config.backbone,
        "image_size": list(resolve_data_config(vit).image_size),
        "num_classes": config.num_classes,
        "num_spatial_blocks": config.num_spatial_blocks,
        "tune": config.tune,
        "head": config.head,
        "lora_rank": config.lora_rank if config.tune == "lora" else None,
        "total": parameters.total,
        "trainable": parameters.trainable,
        "share": parameters.share,
        "loaded": parameters.loaded,
        "adapter_bytes": adapter_file_bytes(model),
        "optimizer_bytes": parameters.optimizer_bytes,
        "components": components,
    }


def table(counted: dict) -> str:
    """What was counted, for the terminal: a line per component, the adapter's last, then the sums."""
    from sat_peft.report.tables import text_table

    sums = {"trainable": counted["trainable"], "frozen": counted["total"] - counted["trainable"]}
    rows = counted["components"] | {"deployed model": sums | {"total": counted["total"]}}
    rank = f" of rank {counted['lora_rank']}" if counted["lora_rank"] else ""
    lines = [
        f"{counted['backbone']}, images of {' x '.join(map(str, counted['image_size']))}, "
        f"{counted['num_classes']} classes, head {counted['head']}, K = {counted['num_spatial_blocks']}, "
        f"tune {counted['tune']}{rank}",
        "",
        text_table(
            [[name, *(f"{number:,}" for number in numbers.values())] for name, numbers in rows.items()],
            ["", "trainable", "frozen", "total"],
        ),
        "",
        f"trainable share    {counted['share']:.2f} %",
        f"loaded             {counted['loaded']:,} (PEFT's total)",
        f"adapter on disk    {counted['adapter_bytes'] / 1e6:.2f} MB",
        f"optimiser memory   {counted['optimizer_bytes'] / 1e6:.2f} MB (AdamW in float32: gradients and two moments)",
    ]
    return "\n".join(lines)


def main(config: Config) -> int:
    """Prints the count; returns the exit status."""
    counted = count(config)
    print(json.dumps(counted) if config.json else table(counted))
    if config.at_most is None or counted["trainable"] <= config.at_most:
        return 0
    print(f"\n{counted['trainable']:,} trainable parameters are more than {config.at_most:,}.", file=sys.stderr)
    return 1
