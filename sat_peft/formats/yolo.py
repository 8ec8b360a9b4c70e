"""YOLO: one text file for every image, and the names of the classes."""

from __future__ import annotations

import json
from pathlib import Path, PurePosixPath

from sat_peft.data.box_formats import from_xyxy
from sat_peft.formats.files import folder_replacement
from sat_peft.formats.predictions import PredictionSet


def write_yolo(path: Path, predictions: PredictionSet) -> None:
    """Writes a folder with labels/CLASS/1.txt for the image CLASS/1.jpg, `classes.txt` and `data.yaml`.

    A line is `class x y width height`: the class from 0, centre and size of the box as shares of the image's sides.
    The format has no place for scores. Trainers look for the images in a folder `images` beside `labels`: copy or link
    the root folder of the images there.
    """
    names = predictions.class_names
    with folder_replacement(path) as folder:
        (folder / "classes.txt").write_text("".join(f"{name}\n" for name in names), encoding="utf-8")
        # A string in JSON is a string in YAML, whatever characters it holds.
        listed = "".join(f"  {index}: {json.dumps(name, ensure_ascii=False)}\n" for index, name in enumerate(names))
        (folder / "data.yaml").write_text(f"train: images\nval: images\nnames:\n{listed}", encoding="utf-8")
        for found in predictions.predictions:
            file = folder / "labels" / PurePosixPath(found.image_id).with_suffix(".txt")
            file.parent.mkdir(parents=True, exist_ok=True)
            boxes = from_xyxy(found.boxes, "yolo", found.image_size).tolist()
            # Nine digits name a hundredth of a pixel in an image of any size that can be opened.
            lines = [" ".join([str(found.label_index), *(f"{value:.9g}" for value in box)]) for box in boxes]
            file.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
