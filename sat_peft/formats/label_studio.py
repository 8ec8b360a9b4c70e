"""Label Studio: tasks with pre-annotations, which a person accepts or corrects."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote
from xml.etree import ElementTree

import numpy as np

from sat_peft.data.box_formats import from_xyxy
from sat_peft.formats.files import folder_replacement, text_file_replacement, write_array
from sat_peft.formats.predictions import Prediction, PredictionSet

# Of the control and the object in the labeling interface, which the results name.
_CONTROL, _OBJECT = "label", "image"


def write_label_studio(path: Path, predictions: PredictionSet) -> None:
    """Writes a folder with `tasks.json`, for a project's *Import*, and `labels.xml`, for its *Labeling Interface*.

    Every image is a task whose `data.image` is the image's path behind `image_root_url`. Its boxes are a prediction of
    `rectanglelabels`, in percent of the image's sides, with the class probability as score and the `model_version`.
    """
    with folder_replacement(path) as folder:
        with text_file_replacement(folder / "tasks.json") as file:
            write_array(file, _tasks(predictions))
            file.write("\n")
        view = ElementTree.Element("View")
        ElementTree.SubElement(view, "Image", name=_OBJECT, value="$image")
        labels = ElementTree.SubElement(view, "RectangleLabels", name=_CONTROL, toName=_OBJECT)
        for name in predictions.class_names:
            ElementTree.SubElement(labels, "Label", value=name)
        ElementTree.indent(view)
        ElementTree.ElementTree(view).write(folder / "labels.xml", encoding="utf-8")


def _tasks(predictions: PredictionSet) -> Iterator[dict]:
    root = predictions.image_root_url
    root += "" if root.endswith(("/", "=")) or not root else "/"
    for found in predictions.predictions:
        yield {
            "data": {"image": root + quote(found.image_id)},
            "predictions": [
                {"model_version": predictions.model_version, "score": found.score, "result": list(_regions(found))}
            ],
        }


def _regions(found: Prediction) -> Iterator[dict]:
    width, height = found.image_size
    percent = 100 * from_xyxy(found.boxes, "xywh") / np.array([width, height, width, height])
    for number, sides in enumerate(percent.tolist()):
        box = dict(zip(("x", "y", "width", "height"), sides, strict=True))
        yield {
            "id": str(number),
            "type": "rectanglelabels",
            "from_name": _CONTROL,
            "to_name": _OBJECT,
            "original_width": width,
            "original_height": height,
            "image_rotation": 0,
            "value": {**box, "rotation": 0, "rectanglelabels": [found.label]},
            "score": found.score,
        }
