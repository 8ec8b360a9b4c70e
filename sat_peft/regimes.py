"""What may be trained on a frozen backbone, from little to much: fields of `ModelOptions` by the name of the regime."""

from __future__ import annotations

# What recipes/few_shot.py trains without being told.
DEFAULT_REGIME = "lora8_head3x3"
REGIMES: dict[str, dict] = {
    "token_head1x1": {"tune": "none", "head": "conv1x1"},
    "token_separable": {"tune": "none", "head": "separable"},
    "token_head3x3": {"tune": "none", "head": "conv3x3"},
    "lora1_head1x1": {"tune": "lora", "lora_rank": 1, "head": "conv1x1"},
    "lora8_head1x1": {"tune": "lora", "lora_rank": 8, "head": "conv1x1"},
    "lora8_head3x3": {"tune": "lora", "lora_rank": 8, "head": "conv3x3"},
    "full": {"tune": "full", "head": "conv3x3"},
}
