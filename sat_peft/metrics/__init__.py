"""Localisation metrics as modules of the `evaluate` library, thin over `sat_peft.localization`.

Import the classes from here, or load a module by the path of its folder: `evaluate.load(".../metrics/max_box_acc")`.
"""

from sat_peft.metrics.localization_accuracy.localization_accuracy import LocalizationAccuracy
from sat_peft.metrics.max_box_acc.max_box_acc import MaxBoxAcc
from sat_peft.metrics.px_ap.px_ap import PxAP

__all__ = ["LocalizationAccuracy", "MaxBoxAcc", "PxAP"]
