"""What may be trained on a frozen backbone, from little to much: options of the recipes by the name of the regime."""

from __future__ import annotations

# What recipes/few_shot.py trains without being told.
DEFAULT_REGIME = "lora8_head3x3"

_ONE = {"tune": "lora", "lora_rank": 1, "head": "conv1x1", "learning_rate": 3e-3}
_NONE = {"tune": "none", "lora_targets": (), "learning_rate": 3e-3}

REGIMES: dict[str, dict] = {
    "token_fixed_head": _NONE | {"head": "conv1x1", "train_head": False},
    "token_head1x1": _NONE | {"head": "conv1x1"},
    "token_separable": _NONE | {"head": "separable"},
    "token_head3x3": _NONE | {"head": "conv3x3", "learning_rate": 1e-3},
    "lora1_proj_head1x1": _ONE | {"lora_targets": ("proj",)},
    "lora1_head1x1": _ONE | {"lora_targets": ()},
    "bias_norm_head1x1": _NONE | {"tune": "bias_norm", "head": "conv1x1"},
    "dora1_proj_head1x1": _ONE | {"lora_targets": ("proj",), "use_dora": True},
    "lora8_head1x1": {
        "tune": "lora",
        "lora_rank": 8,
        "lora_targets": (),
        "head": "conv1x1",
        "learning_rate": 1e-3,
    },
    "lora8_head3x3": {
        "tune": "lora",
        "lora_rank": 8,
        "lora_targets": (),
        "head": "conv3x3",
        "learning_rate": 1e-3,
    },
    "full_last3": {
        "tune": "full",
        "num_tuned_blocks": 3,
        "lora_targets": (),
        "head": "conv3x3",
        "learning_rate": 5e-4,
    },
    "full": {"tune": "full", "lora_targets": (), "head": "conv3x3", "learning_rate": 5e-4},
}
