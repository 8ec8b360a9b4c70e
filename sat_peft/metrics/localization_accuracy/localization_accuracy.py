"""GT-known, Top-1 and Top-5 localisation accuracy under a named protocol."""

import datasets

from sat_peft.localization import score_maps
from sat_peft.metrics import base

_MAPS_AND_BOXES = {"predictions": base.MAPS, "references": base.BOXES}
_CLASSES = {"logits": datasets.Sequence(datasets.Value("float32")), "labels": datasets.Value("int64")}
_SIZES = {"image_sizes": datasets.Sequence(datasets.Value("int64"))}
_COLUMNS = {
    "default": _MAPS_AND_BOXES,
    "classes": _MAPS_AND_BOXES | _CLASSES,
    "sizes": _MAPS_AND_BOXES | _SIZES,
    "classes_and_sizes": _MAPS_AND_BOXES | _CLASSES | _SIZES,
}


class LocalizationAccuracy(base.MapMetric):
    """Localisation accuracy of weakly supervised object localisation (WSOL): the share of images whose map,
    thresholded, gives a box with IoU >= 0.5 with a true box (GT-known Loc), and with the class right as well (Top-1
    Loc, Top-5 Loc). The protocol, a name such as "sat" or "original", fixes every other detail; numbers of different
    protocols do not compare.
    """

    inputs = """
Args:
    predictions: maps, each (h, w) numbers.
    references: true boxes of each image, each a list of [x0, y0, x1, y1] in the protocol's evaluation pixels.
    logits: class scores of each image (configurations "classes" and "classes_and_sizes").
    labels: class index of each image (configurations "classes" and "classes_and_sizes").
    image_sizes: [width, height] of each image, for protocols that score in the image's own pixels (configurations
        "sizes" and "classes_and_sizes").
    protocol: name of the protocol: "sat", "wsol", "tscam" or "original" (default: "sat").
    threshold: the threshold, or "oracle" for the best of the protocol's thresholds on these maps
        (default: the protocol's).

Returns:
    dict of percentages: "gt_known", "iou30", "iou50", "iou70", "mean_iou"; with logits also "top1_loc", "top5_loc",
    "top1_cls", "top5_cls"; and "threshold", "threshold_source" and "protocol".

Examples:
    >>> metric = LocalizationAccuracy()
    >>> half = [[0, 0, 1, 1]] * 4
    >>> results = metric.compute(
    ...     predictions=[half, half], references=[[[112, 0, 223, 223]], [[0, 0, 50, 50]]], protocol="sat", threshold=0.5
    ... )
    >>> results["gt_known"], results["threshold_source"]
    (50.0, 'fixed: given')
    >>> metric = LocalizationAccuracy(config_name="classes")
    >>> results = metric.compute(
    ...     predictions=[half], references=[[[112, 0, 223, 223]]], logits=[[0.1, 0.9]], labels=[0], protocol="sat"
    ... )
    >>> results["gt_known"], results["top1_loc"], results["top5_loc"]
    (100.0, 0.0, 100.0)
"""
    cited = """
@inproceedings{wu2023spatial,
  title={Spatial-Aware Token for Weakly Supervised Object Localization},
  author={Wu, Pingyu and Zhai, Wei and Cao, Yang and Luo, Jiebo and Zha, Zheng-Jun},
  booktitle={ICCV},
  year={2023}
}
"""
    urls = ("https://arxiv.org/abs/2303.10438",)
    columns = _COLUMNS

    def _compute(
        self, predictions, references, logits=None, labels=None, image_sizes=None, protocol="sat", threshold=None
    ):
        classes = {"logits": logits, "labels": labels}
        result = score_maps(
            predictions, references, protocol=protocol, threshold=threshold, image_sizes=image_sizes, **classes
        )
        figures = ["gt_known", "iou30", "iou50", "iou70", "mean_iou"]
        if logits is not None:
            figures += ["top1_loc", "top5_loc", "top1_cls", "top5_cls"]
        return {
            **{name: result.summary[name] for name in figures},
            "threshold": result.threshold,
            "threshold_source": result.threshold_source,
            "protocol": result.protocol,
        }
