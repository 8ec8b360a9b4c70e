"""Label Studio: tasks with pre-annotations, which a person accepts or corrects."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote
from xml.etree import ElementTree

import numpy as np

from sat_peft.data.box_formats import from_xyxy
from sat_peft.data.writing import Prediction, PredictionSet, Writer
from sat_peft.data.writing.files import folder_replacement, text_file_replacement, write_array

# Of the controls and the object in the labeling interface, which the results name.
_CONTROL, _OUTLINES, _OBJECT = "label", "outline", "image"


@dataclass(frozen=True)
class Control:
    """What a labeling interface draws regions with.

    Args:
        kind: type of its regions: `rectanglelabels`, `polygonlabels`, `brushlabels`.
        name: of the control.
        object_name: of the image that it is drawn on.
    """

    kind: str
    name: str
    object_name: str


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
    if found.polygons:
        control = Control("polygonlabels", _OUTLINES, _OBJECT)
        values = polygon_values(found.image_size, [points for region in found.polygons for points in region])
    else:
        control = Control("rectanglelabels", _CONTROL, _OBJECT)
        values = rectangle_values(found.image_size, found.boxes)
    return regions(control, found.image_size, found.label, found.score, values)


def rectangle_values(image_size: tuple[int, int], boxes: Sequence) -> list[dict]:
    """Boxes (n, 4) xyxy in pixels of an image of `image_size` (width, height), as Label Studio has them: in percent."""
    width, height = image_size
    percent = 100 * from_xyxy(boxes, "xywh") / np.array([width, height, width, height])
    sides = ("x", "y", "width", "height", "rotation")
    return [dict(zip(sides, (*box, 0), strict=True)) for box in percent.tolist()]


def polygon_values(image_size: tuple[int, int], outlines: Sequence) -> list[dict]:
    """Outlines, each of points (k, 2) x and y in pixels of an image of `image_size`, in percent."""
    return [{"points": (100 * np.asarray(points) / image_size).tolist()} for points in outlines]


def regions(
    control: Control, image_size: tuple[int, int], label: str, score: float, values: Iterable[dict]
) -> Iterator[dict]:
    """The `result` of a prediction: one region for each of `values`.

    Args:
        control: what the regions belong to.
        image_size: (width, height) in pixels of the upright image.
        label: class of all regions.
        score: its probability.
        values: what the kind of control has of a region, without its label.
    """
    width, height = image_size
    for number, value in enumerate(values):
        yield {
            "id": str(number),
            "type": control.kind,
            "from_name": control.name,
            "to_name": control.object_name,
            "original_width": width,
            "original_height": height,
            "image_rotation": 0,
            "value": value | {control.kind: [label]},
            "score": score,
        }


WRITER = Writer("label_studio", "label_studio", write_label_studio)
