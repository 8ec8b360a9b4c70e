"""Spatial-Aware Token as a PEFT tuner; importing this package makes "SAT" known to PEFT."""

from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_PREFIX_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING

from sat_peft.tuner.calibration import calibrate_masks
from sat_peft.tuner.checkpoint import load_adapter, save_adapter
from sat_peft.tuner.config import PEFT_TYPE, SatConfig
from sat_peft.tuner.frozen import FrozenTokens
from sat_peft.tuner.kept import keep_frozen_tokens
from sat_peft.tuner.model import SatModel
from sat_peft.tuner.output import SatOutput
from sat_peft.tuner.readout import fit_class_readout
from sat_peft.tuner.reference import load_reference_weights

__all__ = [
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
]


def _register() -> None:
    # `peft.utils.register_peft_method` accepts members of its own enum only; the mapping dicts are what PEFT reads.
    known = PEFT_TYPE_TO_TUNER_MAPPING.setdefault(PEFT_TYPE, SatModel)
    if known is not SatModel:
        raise ImportError(f"PEFT already knows another method named {PEFT_TYPE!r}: {known.__module__}.{known.__name__}")
    PEFT_TYPE_TO_CONFIG_MAPPING[PEFT_TYPE] = SatConfig
    PEFT_TYPE_TO_PREFIX_MAPPING[PEFT_TYPE] = "sat_"


_register()
