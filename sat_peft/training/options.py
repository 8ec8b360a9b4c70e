"""The options that all training recipes have. Nothing heavy is imported here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sat_peft.data.options import DataOptions
from sat_peft.options.training import EvaluationOptions, LossOptions, ModelOptions, OptimizationOptions, RunOptions


@dataclass(frozen=True)
class RecipeOptions(RunOptions, EvaluationOptions, OptimizationOptions, LossOptions, ModelOptions, DataOptions):
    """What a recipe's `Config` inherits; it adds `preset`, and how long and on what it trains."""

    config: Path | None = None
    """Take the settings of the run folder or config.json that is named."""
    seed: int = 0
    """Seed of the choice of images, the initialisation, the order and the augmentation."""
