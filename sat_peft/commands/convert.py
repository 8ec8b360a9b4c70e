"""Turns a released checkpoint of the SAT code (.pth.tar) into an adapter and the weights of its backbone.

    sat-peft convert best_gt.pth.tar --backbone deit_small_patch16_224 --output DIR

DIR then holds an adapter that `PeftModel.from_pretrained` reads and backbone.safetensors, since the released runs train
every weight. Class count and number of spatial blocks are read off the weights; no code in the file is run.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro

INTERRUPTED = "no adapter was written"


@dataclass(frozen=True)
class Config:
    path: tyro.conf.Positional[Path]
    """The released checkpoint."""
    output: Path
    """Folder to write, new or empty."""
    backbone: str = "deit_small_patch16_224"
    """timm name of the backbone that it was trained from."""
    num_spatial_blocks: int | None = None
    """K; by default the blocks from the tenth on, as in the released code (3 of 12)."""


def main(config: Config) -> None:
    # The heavy imports wait until the options are read, so that --help and a mistyped option answer at once.
    from sat_peft.runs.reference_checkpoint import BACKBONE_FILE, convert_reference_checkpoint

    folder, checkpoint = convert_reference_checkpoint(
        config.path, config.backbone, config.output, num_spatial_blocks=config.num_spatial_blocks
    )
    print(f"Written to {config.output}: {', '.join(sorted(file.name for file in folder.iterdir()))}")
    print(f"{checkpoint.num_classes} classes, epoch {checkpoint.epoch}. Evaluate it:")
    print(
        f"  sat-peft evaluate --adapter {config.output} --weights {config.output / BACKBONE_FILE} "
        "--protocols sat --data DATA --output RESULTS"
    )
    if checkpoint.threshold is None:
        print("The checkpoint records no threshold.")
        return
    print(
        f"The checkpoint's own threshold is {checkpoint.threshold:g}. The released code chose it on the test set: with "
        f"--threshold {checkpoint.threshold:g} the results are those of an oracle, and are to be reported as such.\n"
        "Without it, the threshold comes from the validation split, or is the protocol's fixed one."
    )
