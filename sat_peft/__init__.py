"""Spatial-Aware Token (SAT, ICCV 2023) as a PEFT method for timm Vision Transformers.

Importing the package registers the method "SAT" with PEFT and the embedded backbone with timm. Its names are imported
when they are first used, and the two libraries register when they are imported: an option parser that needs a module
of this package does not wait for torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from sat_peft.lazy_registration import register_after_import
from sat_peft.version import __version__

if TYPE_CHECKING:
    from sat_peft.localization import (
        PROTOCOLS,
        LocalizationAccumulator,
        LocalizationResult,
        choose_threshold,
        get_protocol,
        localize,
        score_maps,
    )
    from sat_peft.losses import SatLoss, SatLossTerms
    from sat_peft.tuner import SatConfig, SatModel, SatOutput, load_adapter, load_reference_weights, save_adapter

_MODULES = {
    "sat_peft.localization": (
        "PROTOCOLS",
        "LocalizationAccumulator",
        "LocalizationResult",
        "choose_threshold",
        "get_protocol",
        "localize",
        "score_maps",
    ),
    "sat_peft.losses": ("SatLoss", "SatLossTerms"),
    "sat_peft.tuner": (
        "SatConfig",
        "SatModel",
        "SatOutput",
        "load_adapter",
        "load_reference_weights",
        "save_adapter",
    ),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [
    "PROTOCOLS",
    "LocalizationAccumulator",
    "LocalizationResult",
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

register_after_import("peft", "sat_peft.tuner")
register_after_import("timm", "sat_peft.nano")


def __getattr__(name: str) -> object:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_MODULE_OF[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
