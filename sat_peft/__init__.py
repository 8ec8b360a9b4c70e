"""Spatial-Aware Token (SAT, ICCV 2023) as a PEFT method for timm Vision Transformers.

Importing the package registers the method "SAT" with PEFT and the embedded backbone with timm.
"""

import sat_peft.nano  # noqa: F401  (registers the embedded backbone with timm)
from sat_peft.localization import (
    PROTOCOLS,
    LocalizationAccumulator,
    LocalizationResult,
    choose_threshold,
    get_protocol,
    localize,
    score_maps,
)
from sat_peft.localizer import Localization, Localizer
from sat_peft.losses import SatLoss, SatLossTerms
from sat_peft.tuner import SatConfig, SatModel, SatOutput, load_adapter, load_reference_weights, save_adapter
from sat_peft.version import __version__

__all__ = [
    "PROTOCOLS",
    "Localization",
    "LocalizationAccumulator",
    "LocalizationResult",
    "Localizer",
    "SatConfig",
    "SatLoss",
    "SatLossTerms",
    "SatModel",
    "SatOutput",
    "__version__",
    "choose_threshold",
    "get_protocol",
    "load_adapter",
    "load_reference_weights",
    "localize",
    "save_adapter",
    "score_maps",
]
