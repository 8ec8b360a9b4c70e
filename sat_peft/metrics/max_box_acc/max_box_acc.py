"""MaxBoxAcc and MaxBoxAccV2 of wsolevaluation."""

import numpy as np

from sat_peft.localization import best_threshold, score_maps
from sat_peft.metrics import base

_COLUMNS = {"default": {"predictions": base.MAPS, "references": base.BOXES}}


class MaxBoxAcc(base.MapMetric):
    """MaxBoxAcc: localisation accuracy at IoU 0.5 of the largest contour's box, at the threshold that is best for the
    whole set. MaxBoxAccV2: any contour may match, and the accuracies at IoU 0.3, 0.5 and 0.7, each at its own best
    threshold, are averaged. Both choose their thresholds on the set that they score. Equal to
    github.com/clovaai/wsolevaluation on the same maps.
    """

    inputs = """
Args:
    predictions: maps, each (h, w) numbers.
    references: true boxes of each image, each a list of [x0, y0, x1, y1] in pixels of the image resized to 224x224.
    step: distance of the thresholds 0, step, 2 step, ... below 1 (default: 0.001).

Returns:
    dict of percentages "max_box_acc" and "max_box_acc_v2", and "threshold", the best one of MaxBoxAcc.

Examples:
    >>> metric = MaxBoxAcc()
    >>> half = [[0, 0, 1, 1]] * 4
    >>> results = metric.compute(predictions=[half, half], references=[[[112, 0, 223, 223]], [[0, 0, 50, 50]]])
    >>> results["max_box_acc"], results["max_box_acc_v2"]
    (50.0, 50.0)
"""
    cited = base.CHOE_2020
    urls = base.WSOLEVALUATION
    columns = _COLUMNS

    def _compute(self, predictions, references, step=0.001):
        result = score_maps(predictions, references, protocol="wsol", thresholds=np.arange(0, 1, step))
        figures = {name: result.summary[name] for name in ("max_box_acc", "max_box_acc_v2")}
        return figures | {"threshold": best_threshold(result.per_threshold, metric="iou50")[0]}
