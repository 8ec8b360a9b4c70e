"""Spatial-Aware Token (SAT, ICCV 2023) as a PEFT method for timm Vision Transformers."""

from sat_peft.losses import SatLoss, SatLossTerms
from sat_peft.tuner import SatConfig, SatModel, SatOutput, load_adapter, load_reference_weights, save_adapter
from sat_peft.version import __version__

__all__ = [
    "SatConfig",
    "SatLoss",
    "SatLossTerms",
    "SatModel",
    "SatOutput",
    "__version__",
    "load_adapter",
    "load_reference_weights",
    "save_adapter",
]
