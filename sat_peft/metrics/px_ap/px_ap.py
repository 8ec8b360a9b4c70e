"""PxAP of wsolevaluation."""

import datasets
import evaluate
import numpy as np

from sat_peft.errors import unknown_choice
from sat_peft.localization import pixel_ap

_DESCRIPTION = """
PxAP: average precision of maps as pixel classifiers, from histograms of the scores of object and background pixels,
pooled over the set. Equal to github.com/clovaai/wsolevaluation on the same maps.
"""

_CITATION = """
@inproceedings{choe2020evaluating,
  title={Evaluating Weakly Supervised Object Localization Methods Right},
  author={Choe, Junsuk and Oh, Seong Joon and Lee, Seungho and Chun, Sanghyuk and Akata, Zeynep and Shim, Hyunjung},
  booktitle={CVPR},
  year={2020}
}
"""

_KWARGS_DESCRIPTION = """
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

_MAPS_AND_MASKS = {
    "predictions": datasets.Sequence(datasets.Sequence(datasets.Value("float32"))),
    "references": datasets.Sequence(datasets.Sequence(datasets.Value("bool"))),
}
# evaluate asks for every input that a configuration lists, so what may be left out is a configuration of its own.
_FEATURES = {"default": _MAPS_AND_MASKS, "ignore": _MAPS_AND_MASKS | {"ignore": _MAPS_AND_MASKS["references"]}}


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class PxAP(evaluate.Metric):
    def _info(self):
        if self.config_name not in _FEATURES:
            raise unknown_choice("configuration", self.config_name, _FEATURES)
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features(_FEATURES[self.config_name]),
            reference_urls=["https://arxiv.org/abs/2001.07437", "https://github.com/clovaai/wsolevaluation"],
        )

    def _compute(self, predictions, references, ignore=None, step=0.001):
        thresholds = np.arange(0, 1, step)
        return {"px_ap": pixel_ap(predictions, references, protocol="wsol", thresholds=thresholds, ignore=ignore)}
