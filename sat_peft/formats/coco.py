"""COCO object detection."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np

from sat_peft.data.box_formats import from_xyxy
from sat_peft.formats.files import text_file_replacement, write_array
from sat_peft.formats.predictions import PredictionSet


def write_coco(path: Path, predictions: PredictionSet) -> None:
    """Writes a COCO data set: `images`, `annotations` with `bbox` [x, y, width, height] in pixels, `categories`.

    Images, annotations and categories are numbered from 1, as in COCO, in the order of the images and of the classes.
    Annotations carry the class probability as `score` besides COCO's own fields, and as `segmentation` the outlines of
    the region, or, where masks were not asked for, of the box: readers that ask for masks get the box, and CVAT draws
    it as a polygon. `file_name` is relative to the root folder of the images.
    """
    info = {
        "description": "Predicted by sat_peft from image labels",
        "protocol": predictions.protocol,
        "threshold": predictions.threshold,
        "threshold_source": predictions.threshold_source,
    }
    categories = [{"id": index, "name": name} for index, name in enumerate(predictions.class_names, 1)]
    with text_file_replacement(path) as file:
        file.write(f'{{"info": {json.dumps(info, ensure_ascii=False)},\n"images": ')
        write_array(file, _images(predictions))
        file.write(',\n"annotations": ')
        write_array(file, _annotations(predictions))
        file.write(',\n"categories": ')
        write_array(file, categories)
        file.write("}\n")


def _images(predictions: PredictionSet) -> Iterable[dict]:
    for number, found in enumerate(predictions.predictions, 1):
        width, height = found.image_size
        yield {"id": number, "file_name": found.image_id, "width": width, "height": height}


def _annotations(predictions: PredictionSet) -> Iterable[dict]:
    annotation = 0
    for number, found in enumerate(predictions.predictions, 1):
        for index, (x, y, width, height) in enumerate(from_xyxy(found.boxes, "xywh").tolist()):
            annotation += 1
            box = [[x, y], [x + width, y], [x + width, y + height], [x, y + height]]
            outlines = found.polygons[index] if found.polygons else [box]
            yield {
                "id": annotation,
                "image_id": number,
                "category_id": found.label_index + 1,
                "bbox": [x, y, width, height],
                "area": sum(cv2.contourArea(np.array(points, np.float32)) for points in outlines),
                "iscrowd": 0,
                "segmentation": [[side for point in points for side in point] for points in outlines],
                "score": found.score,
            }
