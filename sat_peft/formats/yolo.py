"""YOLO: one text file for every image, and the names of the classes."""

from __future__ import annotations

import json
from pathlib import Path

from sat_peft.data.box_formats import from_xyxy
from sat_peft.formats.files import folder_replacement, link_images
from sat_peft.formats.names import annotation_path
from sat_peft.formats.predictions import PredictionSet


def write_yolo(path: Path, predictions: PredictionSet) -> None:
    """Writes a folder with labels/1.txt for the image CLASS/1.jpg, or labels/CLASS/1.txt where it is not to be flat,
    `classes.txt`, `data.yaml`, and links to the images in `images`, where trainers look for them.

    A line is `class x y width height`: the class from 0, centre and size of the box as shares of the image's sides.
    The format has no place for scores.
    """
    names = predictions.class_names
    with folder_replacement(path) as folder:
        (folder / "classes.txt").write_text("".join(f"{name}\n" for name in names), encoding="utf-8")
        # A string in JSON is a string in YAML, whatever characters it holds.
        listed = "".join(f"  {index}: {json.dumps(name, ensure_ascii=False)}\n" for index, name in enumerate(names))
        (folder / "data.yaml").write_text(f"train: images\nval: images\nnames:\n{listed}", encoding="utf-8")
        link_images(folder / "images", predictions)
        for found in predictions.predictions:
            file = folder / "labels" / annotation_path(found.image_id, ".txt", flat=predictions.flat)
            file.parent.mkdir(parents=True, exist_ok=True)
            boxes = from_xyxy(found.boxes, "yolo", found.image_size).tolist()
            # Nine digits name a hundredth of a pixel in an image of any size that can be opened.
            lines = [" ".join([str(found.label_index), *(f"{value:.9g}" for value in box)]) for box in boxes]
            file.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
