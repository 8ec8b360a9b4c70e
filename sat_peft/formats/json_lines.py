"""One JSON object a line: the package's own form, and the metadata.jsonl of a `datasets` image folder."""

from __future__ import annotations

import json
from pathlib import Path

from sat_peft.data.box_formats import from_xyxy
from sat_peft.formats.files import text_file_replacement
from sat_peft.formats.predictions import PredictionSet


def write_json_lines(path: Path, predictions: PredictionSet) -> None:
    """Writes a line for every image: `image_id`, `width`, `height`, `label`, `label_index`, `score`, `box` (of the
    largest component), `boxes`, `given_label` and `predicted_label` (null where not known), `protocol`, `threshold`.
    Boxes are [x0, y0, x1, y1], half open, 0-based, in pixels. `score` is the probability of `label`, which is the given
    class where predictions were made for it, else the predicted one.
    """
    with text_file_replacement(path) as file:
        for found in predictions.predictions:
            width, height = found.image_size
            row = {
                "image_id": found.image_id,
                "width": width,
                "height": height,
                "label": found.label,
                "label_index": found.label_index,
                "score": found.score,
                "box": found.boxes[0],
                "boxes": found.boxes,
                "given_label": predictions.given_labels.get(found.image_id),
                "predicted_label": predictions.predicted_label(found),
                "protocol": predictions.protocol,
                "threshold": predictions.threshold,
            }
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def write_imagefolder(path: Path, predictions: PredictionSet) -> None:
    """Writes the metadata.jsonl that `load_dataset("imagefolder")` reads once it lies in the root folder of the images.

    Columns: `label`, the given class, where it is known of any image; `predicted_label`; `score`, the probability of
    the class that the boxes carry; and `objects` with `bbox` ([x, y, width, height] in pixels, as in COCO) and
    `categories`. Classes are names: `dataset.class_encode_column("label")` makes a `ClassLabel` of them.
    """
    with text_file_replacement(path) as file:
        for found in predictions.predictions:
            boxes = from_xyxy(found.boxes, "xywh").tolist()
            given = {"label": predictions.given_labels.get(found.image_id)} if predictions.given_labels else {}
            row = {
                "file_name": found.image_id,
                **given,
                "predicted_label": predictions.predicted_label(found),
                "score": found.score,
                "objects": {"bbox": boxes, "categories": [found.label] * len(boxes)},
            }
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
