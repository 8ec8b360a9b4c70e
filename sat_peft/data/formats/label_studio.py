"""Label Studio: tasks with pre-annotations, which a person accepts or corrects."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote
from xml.etree import ElementTree

import numpy as np

from sat_peft.data.box_formats import from_xyxy
from sat_peft.data.writing import Prediction, PredictionSet, Writer
from sat_peft.data.writing.files import folder_replacement, text_file_replacement, write_array

# Of the controls and the object in the labeling interface, which the results name.
_CONTROL, _OUTLINES, _OBJECT = "label", "outline", "image"


def write_label_studio(path: Path, predictions: PredictionSet) -> None:
    """Writes a folder with `tasks.json`, for a project's *Import*, and `labels.xml`, for its *Labeling Interface*.

    Every image is a task whose `data.image` is the image's path behind `image_root_url`. Its boxes are a prediction of
    `rectanglelabels`, in percent of the image's sides, with the class probability as score and the `model_version`.
    Where masks were asked for, their outlines take the place of the boxes, as `polygonlabels`.
    """
    with folder_replacement(path) as folder:
        with text_file_replacement(folder / "tasks.json") as file:
            write_array(file, _tasks(predictions))
            file.write("\n")
        view = ElementTree.Element("View")
        ElementTree.SubElement(view, "Image", name=_OBJECT, value="$image")
        drawn = any(found.polygons for found in predictions.predictions)
        tag, control = ("PolygonLabels", _OUTLINES) if drawn else ("RectangleLabels", _CONTROL)
        labels = ElementTree.SubElement(view, tag, name=control, toName=_OBJECT)
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
    if found.polygons:
        kind, control = "polygonlabels", _OUTLINES
        outlines = [points for region in found.polygons for points in region]
        values = [{"points": (100 * np.array(points) / (width, height)).tolist()} for points in outlines]
    else:
        kind, control = "rectanglelabels", _CONTROL
        percent = 100 * from_xyxy(found.boxes, "xywh") / np.array([width, height, width, height])
        sides = ("x", "y", "width", "height", "rotation")
        values = [dict(zip(sides, (*box, 0), strict=True)) for box in percent.tolist()]
    for number, value in enumerate(values):
        yield {
            "id": str(number),
            "type": kind,
            "from_name": control,
            "to_name": _OBJECT,
            "original_width": width,
            "original_height": height,
            "image_rotation": 0,
            "value": value | {kind: [found.label]},
            "score": found.score,
        }


WRITER = Writer("label_studio", "label_studio", write_label_studio)
