"""The configuration of a SAT adapter."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from peft.tuners.lora import LoraConfig

from sat_peft.errors import UsageError, unknown_choice

PEFT_TYPE = "SAT"
TUNE_MODES = ("none", "lora", "full")
HEADS = ("conv3x3", "conv1x1", "separable")
TOKEN_INITS = ("random", "class_token")


@dataclass
class SatConfig(LoraConfig):
    """Configuration of a Spatial-Aware Token adapter ([`SatModel`]) for a frozen timm Vision Transformer.

    Every field of [`~peft.LoraConfig`] keeps its meaning with `tune="lora"`, confined to the last `num_spatial_blocks`
    blocks: `target_modules` chooses among their layers (default: all of their linear layers).

    Args:
        num_classes: Number of image classes C. Required.
        num_spatial_blocks: Number K of last transformer blocks in which the spatial token masks the attention and
            yields a map (paper: 3).
        tune: What learns besides token, position embedding and head. `"none"`: nothing; `"lora"`: low-rank updates in
            the last K blocks; `"full"`: the last K blocks whole, as private copies of their parameters (paper).
        head: `"conv3x3"`: 3x3 convolution (paper); `"conv1x1"`: pointwise; `"separable"`: depthwise 3x3, then 1x1.
        token_init: How the spatial token starts. `"random"`: truncated normal, like its position embedding (paper);
            `"class_token"`: as the backbone's pretrained class token, which already attends to what tells classes, so
            that few images suffice to turn it into a localiser. Needs a class token.
        drop_path_in_frozen_blocks: What `model.train()` does to the stochastic depth of the blocks before the last K.
            `True` leaves it on, as in the published training; `False` keeps it off, so that they are deterministic.
            Either way the rate is the one the timm model was created with.
        class_names: Names of the classes in the order of the logits.
        backbone: Filled on injection: timm name, geometry, preprocessing and weight fingerprint of the base model.
            Compared with the base model when the adapter is loaded.

    Raises:
        UsageError: for a value outside the valid choices.
    """

    num_classes: int | None = field(default=None, metadata={"help": "Number of image classes. Required."})
    num_spatial_blocks: int = field(
        default=3,
        metadata={"help": "Number of last blocks in which the spatial token masks the attention and yields a map."},
    )
    tune: Literal["none", "lora", "full"] = field(
        default="lora",
        metadata={
            "help": "What learns besides token, position embedding and head: 'none', 'lora' (low-rank updates in the "
            "last `num_spatial_blocks` blocks) or 'full' (those blocks whole)."
        },
    )
    head: Literal["conv3x3", "conv1x1", "separable"] = field(
        default="conv3x3",
        metadata={"help": "'conv3x3' (paper), 'conv1x1' or 'separable' (depthwise 3x3, then pointwise 1x1)."},
    )
    token_init: Literal["random", "class_token"] = field(
        default="random",
        metadata={
            "help": "How the spatial token starts: 'random' (paper) or 'class_token' (a copy of the pretrained one)."
        },
    )
    drop_path_in_frozen_blocks: bool = field(
        default=True,
        metadata={"help": "Whether `model.train()` switches on stochastic depth in the frozen blocks as well (paper)."},
    )
    class_names: list[str] | None = field(
        default=None, metadata={"help": "Names of the classes, in the order of the logits."}
    )
    backbone: dict | None = field(
        default=None,
        metadata={"help": "Identity of the base model, filled on injection and checked on load. Leave empty."},
    )

    def __post_init__(self):
        super().__post_init__()
        # A plain string: `PeftType` is a closed enum, while the mapping dicts of PEFT look methods up by any key.
        self.peft_type = PEFT_TYPE
        _require_positive_integer("num_classes", self.num_classes)
        _require_positive_integer("num_spatial_blocks", self.num_spatial_blocks)
        if self.tune not in TUNE_MODES:
            raise unknown_choice("tune", self.tune, TUNE_MODES)
        if self.head not in HEADS:
            raise unknown_choice("head", self.head, HEADS)
        if self.token_init not in TOKEN_INITS:
            raise unknown_choice("token_init", self.token_init, TOKEN_INITS)
        if self.class_names is not None:
            self.class_names = [str(name) for name in self.class_names]
            if len(self.class_names) != self.num_classes:
                raise UsageError(
                    f"class_names has {len(self.class_names)} names, but num_classes is {self.num_classes}. "
                    "Give one name per class, in the order of the logits."
                )
        if self.tune != "lora" and self.target_modules:
            raise UsageError(
                f"target_modules={self.target_modules!r} has no effect with tune={self.tune!r}. "
                'Use tune="lora", or leave target_modules out.'
            )
        if self.bias != "none":
            raise UsageError(
                f"bias={self.bias!r} trains base parameters in place, so that unload() could not give the base back. "
                'Use bias="none", or tune="full".'
            )
        if self.layer_replication:
            raise UsageError("layer_replication changes the depth of the backbone and cannot be combined with SAT.")

    def to_dict(self) -> dict:
        """The configuration as a dictionary; sets become sorted lists, so that saving twice writes the same bytes."""
        return {key: sorted(value) if isinstance(value, set) else value for key, value in super().to_dict().items()}


def _require_positive_integer(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise UsageError(f"{name} must be a positive integer, not {value!r}.")
