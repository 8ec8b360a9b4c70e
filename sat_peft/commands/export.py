"""Exports a trained model for use without this package: image in, class logits and map out.

    sat-peft export --run runs/NAME --format onnx --output model.onnx
    sat-peft export --adapter DIR --format torch-export --output model.pt2

Input `images`: (B, 3, H, W) float32, resized and normalised as the stored metadata say; outputs `logits` (B, C) and
`maps` in (0, 1), (B, h, w) on the grid of patches, or (B, H, W) in pixels where the run refines them along edges. The
batch is dynamic, the image size is that of the training. ONNX needs the extra `export`
(`pip install 'sat_peft[export]'`).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sat_peft.commands.command_line import localizer_of
from sat_peft.options.choices import TtaName
from sat_peft.options.trained import TrainedOptions

INTERRUPTED = "no file was written"


@dataclass(frozen=True, kw_only=True)
class Config(TrainedOptions):
    format: Literal["onnx", "torch-export"]
    """`onnx` (.onnx), or `torch-export` (.pt2)."""
    output: Path
    """File to write."""
    threshold: float | None = None
    """Threshold that is stored; by default the one that the run chose, else the protocol's."""
    tta: TtaName | None = None
    """Test-time augmentation that the exported model has inside: `flip` takes the mean over an image and its mirror
    image, `edges` refines maps along the edges of the image; by default that of the run, `none` for an adapter."""


def main(config: Config) -> None:
    # The heavy imports wait until the options are read, so that --help and a mistyped option answer at once.
    from sat_peft.prediction.export import TOLERANCE, export_onnx, export_program

    localizer = localizer_of(config, device="cpu")
    export = {"onnx": export_onnx, "torch-export": export_program}[config.format]
    path = export(localizer, config.output)
    print(f"{path}  ({path.stat().st_size / 1e6:.1f} MB; agrees with the model to {TOLERANCE:g})")
