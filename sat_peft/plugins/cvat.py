"""A trained model as an auto-annotation function of CVAT, whose command line draws its boxes into a task.

    pip install 'sat_peft[cvat]' cvat-cli
    cvat-cli task auto-annotate TASK --function-module sat_peft.plugins.cvat -p run=str:runs/NAME

The labels of the task are matched to the classes of the model by their names; with --allow-unmatched-labels the model
may have more of them than the task.
"""

from __future__ import annotations

import cvat_sdk.auto_annotation as cvat
from cvat_sdk.models import LabeledShapeRequest
from PIL import Image

from sat_peft.errors import UsageError
from sat_peft.prediction.localizer import Localizer


class BoxFunction:
    """A detection function as CVAT's driver calls it: `spec` names the classes, `detect` finds the boxes of an image.

    Args:
        localizer: the trained model.
        multi: a box for every component of the foreground, instead of the largest one alone.
    """

    def __init__(self, localizer: Localizer, *, multi: bool = False):
        self._localizer, self._multi = localizer, multi
        self.spec = cvat.DetectionFunctionSpec(
            labels=[cvat.label_spec(name, index, type="rectangle") for index, name in enumerate(localizer.class_names)]
        )

    def detect(self, context: cvat.DetectionFunctionContext, image: Image.Image) -> list[LabeledShapeRequest]:
        """Rectangles of the most probable class; none where its probability is below the task's `conf_threshold`."""
        [found] = self._localizer(image, multi=self._multi)
        if found.score < (context.conf_threshold or 0):
            return []
        return [cvat.rectangle(found.label_index, box) for box in found.boxes.tolist()]


def create(
    run: str | None = None,
    adapter: str | None = None,
    backbone: str | None = None,
    weights: str | None = None,
    threshold: float | None = None,
    multi: bool = False,
) -> BoxFunction:
    """What CVAT calls with the parameters of its command line, `-p NAME=TYPE:VALUE`.

    Args:
        run: run folder of a training recipe; or
        adapter: adapter folder.
        backbone, weights, threshold: see `Localizer.from_pretrained`.
        multi: see `BoxFunction`.

    Raises:
        UsageError: both or neither of `run` and `adapter`, or what `Localizer.from_pretrained` raises.
    """
    if (run is None) == (adapter is None):
        raise UsageError("name either a run folder (-p run=str:FOLDER) or an adapter folder (-p adapter=str:FOLDER).")
    localizer = Localizer.from_pretrained(
        run or adapter,
        backbone=backbone,
        weights=weights,
        threshold=threshold,
    )
    return BoxFunction(localizer, multi=multi)
