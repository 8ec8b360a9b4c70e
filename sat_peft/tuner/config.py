"""The configuration of a SAT adapter."""

from __future__ import annotations

import copy
from dataclasses import MISSING, dataclass, field, fields
from enum import Enum
from pathlib import Path
from typing import get_args

from peft import LoraConfig, PeftConfig

from sat_peft.errors import UsageError, unknown_choice
from sat_peft.files import is_number
from sat_peft.options.choices import ClassEvidence, HeadName, TokenEntry, TokenInit, TuneMode
from sat_peft.tuner.card import hub_id, write_card


class SatType(str, Enum):  # noqa: UP042, since PEFT splits the text `SatType.SAT`
    """The method's name as PEFT keeps those of its own methods, whose enum is closed."""

    SAT = "SAT"


PEFT_TYPE = SatType.SAT
TUNE_MODES = get_args(TuneMode)
HEADS = get_args(HeadName)
TOKEN_INITS = get_args(TokenInit)
TOKEN_ENTRIES = get_args(TokenEntry)
# Fields of LoraConfig that are about all adapters, or are checked by themselves.
_FOR_EVERY_TUNE = {field.name for field in fields(PeftConfig)} | {"modules_to_save", "bias", "layer_replication"}


@dataclass
class SatConfig(LoraConfig):
    """Configuration of a Spatial-Aware Token adapter ([`SatModel`]) for a frozen timm Vision Transformer.

    Every field of [`~peft.LoraConfig`] keeps its meaning with `tune="lora"`, `use_dora` among them, confined to the
    tuned blocks: `target_modules` chooses among their layers (default: all of their linear layers).

    Args:
        num_classes: Number of image classes C. Required.
        num_spatial_blocks: Number K of last transformer blocks in which the spatial token masks the attention and
            yields a map (paper: 3).
        tune: What learns in the tuned blocks, besides token, position embedding and head. `"none"`: nothing;
            `"bias_norm"`: all biases and the weights of the norms; `"lora"`: low-rank updates; `"full"`: the blocks
            whole (paper). Biases, norms and whole blocks are private copies, so that the backbone stays as it is.
        num_tuned_blocks: Number of last blocks that `tune` reaches; `None`: `num_spatial_blocks`. With all blocks,
            patch embedding, position embedding, prefix tokens and the final norm still stay frozen;
            `modules_to_save=["patch_embed"]` adds the first of these.
        head: `"conv3x3"`: 3x3 convolution (paper); `"conv1x1"`: pointwise; `"separable"`: depthwise 3x3, then 1x1.
        train_head: Whether the head learns. `False`: it keeps the weights that it starts with, and is saved with the
            adapter all the same.
        token_init: How the spatial token starts. `"random"`: truncated normal, like its position embedding (paper);
            `"class_token"`: as the backbone's pretrained class token, which already attends to what tells classes, so
            that few images suffice to turn it into a localiser. Needs a class token.
        token_entry: Where the spatial token meets the other tokens. `"input"`: at the input (paper). `"late"`: before
            the first spatial block, in the state in which it would enter at the input. `"isolated"`: it passes all
            blocks from the input on, but in the frozen blocks before the first spatial or tuned one it only reads the
            other tokens and is not read by them (stochastic depth is drawn for it apart). With `"late"` and
            `"isolated"` the other tokens are those of the pretrained model in the frozen blocks and carry no graph
            there, which saves most of the backward pass. If all blocks are spatial, the three are the same; if all
            are tuned, `"isolated"` is `"input"`.
        calibrated_masks: Whether each spatial block has a scale and a shift of its mask logits, 2 K parameters, which
            [`SatModel.calibrate_masks`] sets from images, so that training starts from maps of a chosen mean and with
            contrast, whatever the backbone. `False`: mask logits as they come (paper); on DINOv2 they start with masks
            near 1, from which few images do not lead away.
        class_readout: Whether the adapter holds a class readout, see [`fit_class_readout`], which sets this. Leave it
            out of configurations of your own: an adapter gets its readout after its training.
        class_evidence: Which patch tokens a class readout reads the evidence for a class from: `"features"`, as the
            first spatial block gets them, or `"tokens"`, the final ones. Set with `class_readout`.
        evidence_gain: How much that evidence counts in the maps, 0 or more; `None` as in adapters that do
            not record it yet. Set with `class_readout`.
        drop_path_in_frozen_blocks: What `model.train()` does to the stochastic depth of the blocks that are neither
            spatial nor tuned. `True` leaves it on, as in the published training; `False` keeps it off, so that they
            are deterministic. Either way the rate is the one the timm model was created with.
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
    tune: TuneMode = field(
        default="lora",
        metadata={
            "help": "What learns in the last `num_tuned_blocks` blocks, besides token, position embedding and head: "
            "'none', 'bias_norm' (biases and norms), 'lora' (low-rank updates) or 'full' (the blocks whole)."
        },
    )
    num_tuned_blocks: int | None = field(
        default=None,
        metadata={"help": "Number of last blocks that `tune` reaches; by default `num_spatial_blocks`."},
    )
    head: HeadName = field(
        default="conv3x3",
        metadata={"help": "'conv3x3' (paper), 'conv1x1' or 'separable' (depthwise 3x3, then pointwise 1x1)."},
    )
    train_head: bool = field(
        default=True,
        metadata={"help": "Whether the head learns; if not, it is saved as it was initialised."},
    )
    token_init: TokenInit = field(
        default="random",
        metadata={
            "help": "How the spatial token starts: 'random' (paper) or 'class_token' (a copy of the pretrained one)."
        },
    )
    token_entry: TokenEntry = field(
        default="input",
        metadata={
            "help": "Where the spatial token meets the other tokens: 'input' (paper), 'late' (before the first spatial "
            "block) or 'isolated' (from the input, but unread by the other tokens in the frozen blocks)."
        },
    )
    calibrated_masks: bool = field(
        default=False,
        metadata={
            "help": "Whether mask logits have a scale and a shift per block, set by `calibrate_masks` (not paper)."
        },
    )
    class_readout: bool = field(
        default=False,
        metadata={"help": "Whether maps and logits are those of a class readout; set by `fit_class_readout`."},
    )
    class_evidence: ClassEvidence = field(
        default="tokens",
        metadata={"help": "Patch tokens that a class readout reads evidence from; set by `fit_class_readout`."},
    )
    evidence_gain: float | None = field(
        default=None,
        metadata={"help": "How much the evidence of a class readout counts; set by `fit_class_readout`."},
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
        self.peft_type = PEFT_TYPE
        if self.layers_to_transform is not None and not self.layers_pattern:
            self.layers_pattern = "blocks"  # where timm's Vision Transformers have them
        _require_positive_integer("num_classes", self.num_classes)
        _require_positive_integer("num_spatial_blocks", self.num_spatial_blocks)
        for name, choices in (
            ("tune", TUNE_MODES),
            ("head", HEADS),
            ("token_init", TOKEN_INITS),
            ("token_entry", TOKEN_ENTRIES),
            ("class_evidence", get_args(ClassEvidence)),
        ):
            if getattr(self, name) not in choices:
                raise unknown_choice(name, getattr(self, name), choices)
        if self.num_tuned_blocks is not None:
            _require_positive_integer("num_tuned_blocks", self.num_tuned_blocks)
        if self.tune == "lora":
            _require_positive_integer("r (the rank of LoRA)", self.r)
            for pattern, rank in (self.rank_pattern or {}).items():
                _require_positive_integer(f"rank_pattern[{pattern!r}]", rank)
        gain = self.evidence_gain
        if gain is not None and not (is_number(gain) and gain >= 0):
            raise UsageError(f"evidence_gain must be a number of 0 or more, or None, not {gain!r}.")
        if self.class_names is not None:
            self.class_names = [str(name) for name in self.class_names]
            if len(self.class_names) != self.num_classes:
                raise UsageError(
                    f"class_names has {len(self.class_names)} names, but num_classes is {self.num_classes}. "
                    "Give one name per class, in the order of the logits."
                )
        self._check_without_effect()
        if self.layer_replication:
            raise UsageError("layer_replication changes the depth of the backbone and cannot be combined with SAT.")
        if self.bias != "none":
            raise UsageError(
                f"bias={self.bias!r} trains base parameters in place, so that unload() could not give the base back. "
                'Use bias="none", and tune="bias_norm" or tune="full" to train biases.'
            )

    def _check_without_effect(self) -> None:
        if self.tune == "none" and self.num_tuned_blocks:
            self._refuse("num_tuned_blocks", 'tune="bias_norm" or tune="lora" or tune="full"')
        # Adapters that were saved with such values are still loaded.
        if self.tune == "lora" or self.inference_mode:
            return
        for each in fields(LoraConfig):
            default = each.default if each.default_factory is MISSING else each.default_factory()
            if each.name not in _FOR_EVERY_TUNE and getattr(self, each.name) not in (default, None, [], (), {}, set()):
                self._refuse(each.name, 'tune="lora"')

    def _refuse(self, name: str, fix: str) -> None:
        raise UsageError(
            f"{name}={getattr(self, name)!r} has no effect with tune={self.tune!r}. Use {fix}, or leave {name} out."
        )

    def save_pretrained(self, save_directory: str | Path, **kwargs) -> None:
        """Writes `adapter_config.json`, which names the base on the hub, and the model card `README.md`.

        PEFT's `save_pretrained` and `push_to_hub` come here last; the form to fill in that they leave for a card gives
        way to one that is filled in. A card that somebody wrote stays.

        Args:
            save_directory: folder, created if need be.
            kwargs: of PEFT, see [`~peft.PeftConfig.save_pretrained`].
        """
        saved = copy.copy(self)
        saved.base_model_name_or_path = hub_id(self.backbone or {}) or self.base_model_name_or_path
        super(SatConfig, saved).save_pretrained(save_directory, **kwargs)
        write_card(Path(save_directory), self.to_dict())

    def to_dict(self) -> dict:
        """The configuration as a dictionary; sets become sorted lists, so that saving twice writes the same bytes."""
        return {key: sorted(value) if isinstance(value, set) else value for key, value in super().to_dict().items()}


def _require_positive_integer(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise UsageError(f"{name} must be a positive integer, not {value!r}.")
