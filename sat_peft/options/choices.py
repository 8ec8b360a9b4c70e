"""What can be asked for by name, once: options of the command line and fields of `SatConfig` are annotated with these.

What does the work is not imported here, so that --help and a mistyped option answer at once. A module of the folders of
baselines and protocols is a choice by itself; a test holds the other names against what carries them out.
"""

import pkgutil
from pathlib import Path
from typing import Literal

_PACKAGE = Path(__file__).parents[1]


def _names(folder: str) -> tuple[str, ...]:
    return tuple(module.name for module in pkgutil.iter_modules([str(_PACKAGE / folder)]))


BASELINE_NAMES = _names("evaluation/baselines")
BaselineName = Literal[BASELINE_NAMES]
# Test-time augmentation, its steps with a dash between them, and what the maps and classes of an image then are.
TTA_IN_WORDS = {
    "none": "",
    "flip": "mean over each image and its mirror image",
    "edges": "maps refined along the edges of the image",
    "flip-edges": "mean over each image and its mirror image, maps refined along the edges",
}
TtaName = Literal[tuple(TTA_IN_WORDS)]
ProtocolName = Literal[_names("localization/protocols")]

TuneMode = Literal["none", "bias_norm", "lora", "full"]
HeadName = Literal["conv3x3", "conv1x1", "separable"]
TokenInit = Literal["random", "class_token"]
TokenEntry = Literal["input", "late", "isolated"]
ClassEvidence = Literal["tokens", "features"]

ScheduleName = Literal["cosine", "linear", "constant_with_warmup"]
AugmentationName = Literal["shift", "crop", "none"]

DifficultyName = Literal["easy", "standard", "cluttered", "hard"]
ThresholdSource = Literal["fixed", "validation", "unsupervised", "oracle"]
FormatName = Literal["jsonl", "coco", "voc", "yolo", "label_studio", "imagefolder"]
