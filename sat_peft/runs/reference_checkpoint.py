"""Checkpoints of the published SAT code as folders that PEFT and the recipes read.

The published runs train every weight, so a folder holds the backbone's weights beside the adapter:

adapter_config.json, adapter_model.safetensors   the adapter: token, position embedding and head
backbone.safetensors                             the backbone that goes with it, under timm's names
reference.json                                   threshold and epoch that the checkpoint records
README.md                                        how to load it
"""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import get_peft_model
from safetensors.torch import save

from sat_peft.backbones import create_backbone
from sat_peft.errors import UsageError
from sat_peft.files.outputs import atomic_replacement, write_json_atomic, write_text_atomic
from sat_peft.tuner import SatConfig, load_reference_weights, save_adapter
from sat_peft.tuner.reference import POSITION_KEY, TOKEN_KEY, read_checkpoint, state_dict_of

BACKBONE_FILE, RECORD_FILE, CARD_FILE = "backbone.safetensors", "reference.json", "README.md"
# The published model masks the attention of the blocks from this index on, whatever its depth.
FIRST_SPATIAL_BLOCK = 9
THRESHOLD_SOURCE = "oracle: chosen on the test set by the released code"


@dataclass(frozen=True)
class ReferenceCheckpoint:
    """A checkpoint of the published code.

    Args:
        weights: parameters under the published names, without `module.`.
        threshold: threshold of the maps, the best on the *test set* over the candidates of the published evaluation;
            None where the training had not evaluated yet, which the published code writes as 0.
        epoch: number of finished epochs; None if unknown.
    """

    weights: Mapping[str, torch.Tensor]
    threshold: float | None
    epoch: int | None

    @property
    def num_classes(self) -> int:
        """Number of classes C, the outputs of the head."""
        return len(self.weights["head.bias"])

    @property
    def depth(self) -> int:
        """Number of transformer blocks."""
        return len({key.split(".")[1] for key in self.weights if key.startswith("blocks.")})


def read_reference_checkpoint(path: str | Path) -> ReferenceCheckpoint:
    """Reads a released `.pth.tar`: `{"model": {"module.…": tensor}, "best_thr", "epoch"}`. No code in it is run.

    Raises:
        UsageError: a file that cannot be read, needs code to be unpickled, or is no SAT checkpoint.
    """
    checkpoint = read_checkpoint(path)
    weights = state_dict_of(checkpoint)
    missing = [key for key in (TOKEN_KEY, POSITION_KEY, "head.weight", "head.bias") if key not in weights]
    if missing:
        raise UsageError(f"{path} is no SAT checkpoint: it holds no {', '.join(missing)}.")
    if weights["head.weight"].ndim != 4 or weights["head.bias"].ndim != 1:
        raise UsageError(
            f"{path} has a head of shape {tuple(weights['head.weight'].shape)}, where SAT has a 3x3 convolution "
            "(classes, width, 3, 3)."
        )
    threshold, epoch = checkpoint.get("best_thr", 0), checkpoint.get("epoch")
    if not isinstance(threshold, (int, float)) or not 0 <= threshold < 1:
        raise UsageError(f"{path} has best_thr={threshold!r}, which is no threshold between 0 and 1.")
    if not isinstance(epoch, (int, type(None))):
        raise UsageError(f"{path} has epoch={epoch!r}, which is no number of epochs.")
    return ReferenceCheckpoint(weights, threshold or None, epoch)


def convert_reference_checkpoint(
    path: str | Path, backbone: str, output: str | Path, *, num_spatial_blocks: int | None = None
) -> tuple[Path, ReferenceCheckpoint]:
    """Turns a released checkpoint into a folder with an adapter and the backbone's weights; see the module.

    `PeftModel.from_pretrained(create_backbone(backbone, weights=folder / "backbone.safetensors"), folder)` gives the
    published model, to rounding.

    Args:
        path: the checkpoint.
        backbone: timm name of the backbone that it was trained from.
        output: folder to write, new or empty; it appears whole or not at all.
        num_spatial_blocks: K; by default the blocks from the tenth on, as in the published code.

    Returns:
        The folder, and what was read.

    Raises:
        UsageError: a file that is no SAT checkpoint, a backbone that it does not fit, or a folder with files in it.
    """
    target = Path(output).resolve()
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UsageError(f"the output {str(output)!r} exists and is no empty folder. Name another with --output.")
    checkpoint = read_reference_checkpoint(path)
    if num_spatial_blocks is None:
        if checkpoint.depth <= FIRST_SPATIAL_BLOCK:
            raise UsageError(
                f"{path} has {checkpoint.depth} blocks, and the published code masks those from the tenth on. Say how "
                "many of the last are masked with --num-spatial-blocks."
            )
        num_spatial_blocks = checkpoint.depth - FIRST_SPATIAL_BLOCK

    vit = create_backbone(backbone, pretrained=False)
    # All that was trained besides token and head is in the backbone's file.
    config = SatConfig(num_classes=checkpoint.num_classes, num_spatial_blocks=num_spatial_blocks, tune="none")
    model = get_peft_model(vit, config)
    try:
        load_reference_weights(model, checkpoint.weights)
    except UsageError as error:
        raise UsageError(f"cannot convert {path} for {backbone}: {error}") from error
    # timm writes down its default tag, whose weights these are not.
    model.peft_config["default"].backbone["pretrained_tag"] = None

    staging = target.with_name(f".{target.name}.converting-{uuid.uuid4().hex[:8]}")
    try:
        save_adapter(model, staging)
        weights = {name: tensor.contiguous() for name, tensor in model.unload().state_dict().items()}
        with atomic_replacement(staging / BACKBONE_FILE) as file:
            file.write_bytes(save(weights, metadata={"format": "pt"}))
        record = {
            "backbone": backbone,
            "num_classes": checkpoint.num_classes,
            "num_spatial_blocks": num_spatial_blocks,
            "epoch": checkpoint.epoch,
            "threshold": checkpoint.threshold,
            "threshold_source": None if checkpoint.threshold is None else THRESHOLD_SOURCE,
        }
        write_json_atomic(staging / RECORD_FILE, record)
        write_text_atomic(staging / CARD_FILE, _model_card(record))
        if target.exists():
            target.rmdir()
        staging.rename(target)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return target, checkpoint


def _model_card(record: Mapping) -> str:
    threshold = "none recorded"
    if record["threshold"] is not None:
        threshold = f"{record['threshold']:g} ({record['threshold_source']})"
    return f"""---
library_name: peft
tags:
- timm
- spatial-aware-token
- weakly-supervised-object-localization
---

# Published SAT checkpoint for {record["backbone"]}

A checkpoint of the code published with Spatial-Aware Token (SAT, ICCV 2023, https://arxiv.org/abs/2303.10438),
converted by sat_peft. All weights were trained: the adapter belongs to `{BACKBONE_FILE}` in this folder, not to timm's
pretrained weights.

- classes: {record["num_classes"]}, spatial blocks: {record["num_spatial_blocks"]}, epoch: {record["epoch"]}
- threshold of the maps: {threshold}

```python
from peft import PeftModel
from sat_peft.backbones import create_backbone

backbone = create_backbone("{record["backbone"]}", weights="path/to/this/folder/{BACKBONE_FILE}")
model = PeftModel.from_pretrained(backbone, "path/to/this/folder").eval()
output = model(images)  # output.logits (B, C), output.maps (B, h, w) in (0, 1)
```
"""
