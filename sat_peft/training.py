"""Shared pieces of the Accelerate loops: optimizer, schedule, endless loader, guard. The loss stays in the recipe."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import nn
from torch.optim.lr_scheduler import LRScheduler
from transformers import get_scheduler

from sat_peft.errors import UsageError, unknown_choice

SCHEDULES = ("cosine", "linear", "constant_with_warmup")
# A cross-entropy beyond this is no longer learning.
_EXPLODED = 1e3


class TrainingDiverged(UsageError):
    """The loss is no longer a usable number."""


def create_optimizer(
    model: nn.Module, *, learning_rate: float, weight_decay: float, skip: tuple[str, ...] = ("sat_token", "pos_embed")
) -> torch.optim.AdamW:
    """AdamW over the trainable parameters, without weight decay on biases, norms and tokens.

    Args:
        model: its parameters with `requires_grad` are optimised.
        learning_rate, weight_decay: of AdamW.
        skip: parts of parameter names that get no weight decay whatever their shape.
    """
    trainable = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    if not trainable:
        raise UsageError("the model has no trainable parameters.")

    def decayed(name: str, parameter: nn.Parameter) -> bool:
        return parameter.ndim > 1 and not any(part in name for part in skip)

    groups = [
        {"params": [p for name, p in trainable if decayed(name, p)], "weight_decay": weight_decay},
        {"params": [p for name, p in trainable if not decayed(name, p)], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([group for group in groups if group["params"]], lr=learning_rate)


def create_scheduler(
    optimizer: torch.optim.Optimizer, name: str, *, steps: int, warmup_steps: int, num_processes: int = 1
) -> LRScheduler:
    """A learning-rate schedule over `steps` optimizer steps.

    Accelerate advances a prepared scheduler once per process and step, hence `num_processes`.
    """
    if name not in SCHEDULES:
        raise unknown_choice("schedule", name, SCHEDULES)
    if steps < 1 or warmup_steps < 0:
        raise UsageError(f"steps must be at least 1 and warmup_steps at least 0, got {steps} and {warmup_steps}.")
    return get_scheduler(name, optimizer, warmup_steps * num_processes, steps * num_processes)


def endless(loader: Iterable[dict]) -> Iterator[dict]:
    """Batches of `loader`, epoch after epoch.

    Raises:
        UsageError: an epoch without a batch, which would go on for ever.
    """
    while True:
        empty = True
        for batch in loader:
            empty = False
            yield batch
        if empty:
            raise UsageError("the training loader has no batches; give it at least one image.")


def check_finite(terms: dict[str, float], step: int, learning_rate: float) -> None:
    """Raises `TrainingDiverged` if a term of the loss is NaN, infinite or beyond all bounds."""
    wrong = {name: value for name, value in terms.items() if not abs(value) < _EXPLODED}
    if wrong:
        shown = ", ".join(f"{name} {value:.3g}" for name, value in terms.items())
        raise TrainingDiverged(
            f"the loss diverged at step {step} ({shown}). Lower --learning-rate (it is {learning_rate:g}) or raise "
            "--warmup-steps; with mixed precision, try --mixed_precision no of accelerate launch."
        )
