"""Exports a trained model for use without this package: image in, class logits and map out.

    sat-peft export --run runs/NAME --format onnx --output model.onnx
    sat-peft export --adapter DIR --format torch-export --output model.pt2

Input `images`: (B, 3, H, W) float32, resized and normalised as the stored metadata say; outputs `logits` (B, C) and
`maps` (B, h, w) in (0, 1). The batch is dynamic, the image size is that of the training. ONNX needs the extra `export`
(`pip install 'sat_peft[export]'`).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sat_peft.errors import UsageError

INTERRUPTED = "no file was written"


@dataclass(frozen=True)
class Config:
    format: Literal["onnx", "torch-export"]
    """`onnx` (.onnx), or `torch-export` (.pt2)."""
    output: Path
    """File to write."""
    run: Path | None = None
    """Run folder of a training recipe."""
    adapter: Path | None = None
    """Adapter folder, instead of a run."""
    backbone: str | None = None
    """Name of the backbone; by default the one that the run or the adapter records."""
    weights: Path | None = None
    """Local weights of the backbone (a .safetensors file, or a folder with one), instead of a download."""
    threshold: float | None = None
    """Threshold that is stored; by default the one that the run chose, else the protocol's."""


def main(config: Config) -> None:
    # The heavy imports wait until the options are read, so that --help and a mistyped option answer at once.
    from sat_peft import Localizer
    from sat_peft.prediction.export import TOLERANCE, export_onnx, export_program

    if (config.run is None) == (config.adapter is None):
        raise UsageError("name either a run folder with --run or an adapter folder with --adapter.")
    localizer = Localizer.from_pretrained(
        config.run or config.adapter,
        backbone=config.backbone,
        weights=config.weights,
        threshold=config.threshold,
        device="cpu",
    )
    export = {"onnx": export_onnx, "torch-export": export_program}[config.format]
    path = export(localizer, config.output)
    print(f"{path}  ({path.stat().st_size / 1e6:.1f} MB; agrees with the model to {TOLERANCE:g})")
