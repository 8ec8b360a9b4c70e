"""The package's own form of predictions: one JSON object a line."""

from __future__ import annotations

import json
from pathlib import Path

from sat_peft.data.writing import PredictionSet, Writer
from sat_peft.data.writing.files import text_file_replacement


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


WRITER = Writer("jsonl", "predictions.jsonl", write_json_lines)
