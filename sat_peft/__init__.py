"""Spatial-Aware Token (SAT, ICCV 2023) as a PEFT method for timm Vision Transformers.

With the package imported, timm knows the embedded backbone and PEFT the method "SAT". What needs torch is imported when
it is first used, so that command lines answer at once.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from wrapt import when_imported

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
    from sat_peft.prediction.found import Localization
    from sat_peft.prediction.localizer import Localizer
    from sat_peft.training.losses import SatLoss, SatLossTerms
    from sat_peft.tuner import (
        FrozenTokens,
        SatConfig,
        SatModel,
        SatOutput,
        calibrate_masks,
        fit_class_readout,
        keep_frozen_tokens,
        load_adapter,
        load_reference_weights,
        save_adapter,
    )

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
    "sat_peft.prediction.localizer": ("Localization", "Localizer"),
    "sat_peft.training.losses": ("SatLoss", "SatLossTerms"),
    "sat_peft.tuner": (
        "FrozenTokens",
        "SatConfig",
        "SatModel",
        "SatOutput",
        "calibrate_masks",
        "fit_class_readout",
        "keep_frozen_tokens",
        "load_adapter",
        "load_reference_weights",
        "save_adapter",
    ),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [
    "PROTOCOLS",
    "FrozenTokens",
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
    "calibrate_masks",
    "choose_threshold",
    "fit_class_readout",
    "get_protocol",
    "keep_frozen_tokens",
    "load_adapter",
    "load_reference_weights",
    "localize",
    "save_adapter",
    "score_maps",
]


def __getattr__(name: str) -> object:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_MODULE_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


# Whoever can name the backbone or read an adapter has imported timm or PEFT, before or after this package.
@when_imported("timm")
def _register_backbone(timm: object) -> None:
    import_module("sat_peft.nano")


@when_imported("peft")
def _register_method(peft: object) -> None:
    import_module("sat_peft.tuner")
