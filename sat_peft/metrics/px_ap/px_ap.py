"""PxAP of wsolevaluation."""

import numpy as np

from sat_peft.localization import pixel_ap
from sat_peft.metrics import base

_MAPS_AND_MASKS = {"predictions": base.MAPS, "references": base.MASKS}
_COLUMNS = {"default": _MAPS_AND_MASKS, "ignore": _MAPS_AND_MASKS | {"ignore": base.MASKS}}


class PxAP(base.MapMetric):
    """PxAP: average precision of maps as pixel classifiers, from histograms of the scores of object and background
    pixels, pooled over the set. Equal to github.com/clovaai/wsolevaluation on the same maps.
    """

    inputs = """
Args:
    predictions: maps, each (h, w) numbers.
    references: masks of each image resized to 224x224 (nearest), each (224, 224) of 0 and 1: the union of all objects.
    ignore: masks like `references` of pixels that count neither way where they are not object (configuration "ignore").
    step: width of the bins of scores (default: 0.001).

Returns:
    dict with the percentage "px_ap".

Examples:
    >>> metric = PxAP()
    >>> half = [[0, 0, 1, 1]] * 4
    >>> mask = [[0] * 112 + [1] * 112] * 224
    >>> metric.compute(predictions=[half], references=[mask])
    {'px_ap': 100.0}
"""
    cited = base.CHOE_2020
    urls = base.WSOLEVALUATION
    columns = _COLUMNS

    def _compute(self, predictions, references, ignore=None, step=0.001):
        thresholds = np.arange(0, 1, step)
        return {"px_ap": pixel_ap(predictions, references, protocol="wsol", thresholds=thresholds, ignore=ignore)}
