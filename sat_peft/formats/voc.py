"""Pascal VOC: one XML file for every image."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from xml.etree import ElementTree

import numpy as np

from sat_peft.data.box_formats import from_xyxy
from sat_peft.formats.files import folder_replacement, link_images
from sat_peft.formats.names import annotation_path
from sat_peft.formats.predictions import Prediction, PredictionSet


def write_voc(path: Path, predictions: PredictionSet) -> None:
    """Writes a folder with 1.xml for the image CLASS/1.jpg, or CLASS/1.xml where it is not to be flat, `labelmap.txt`
    with the classes, and links to the images in `images`.

    Boxes are whole pixels, 1-based, the last pixel included. The class probability stands in `confidence`, which VOC's
    results have and its annotations do not; readers pass it over. There is no labelmap.txt where the name of a class
    holds a colon or begins with `#`, which it cannot say.
    """
    with folder_replacement(path) as folder:
        names = predictions.class_names
        if not any(":" in name or name.startswith("#") for name in names):
            lines = ["# label:color_rgb:parts:actions", *(f"{name}:::" for name in names)]
            (folder / "labelmap.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
        link_images(folder / "images", predictions)
        for found in predictions.predictions:
            file = folder / annotation_path(found.image_id, ".xml", flat=predictions.flat)
            file.parent.mkdir(parents=True, exist_ok=True)
            annotation = _annotation(found)
            ElementTree.indent(annotation)
            ElementTree.ElementTree(annotation).write(file, encoding="utf-8", xml_declaration=True)


def _annotation(found: Prediction) -> ElementTree.Element:
    image = PurePosixPath(found.image_id)
    width, height = found.image_size
    root = ElementTree.Element("annotation")
    _add(root, folder="" if image.parent == PurePosixPath(".") else image.parent, filename=image.name)
    _add(ElementTree.SubElement(root, "source"), database="predicted by sat_peft")
    # Whatever the file holds, it was read as RGB.
    _add(ElementTree.SubElement(root, "size"), width=width, height=height, depth=3)
    _add(root, segmented=0)
    for box in np.rint(from_xyxy(found.boxes, "voc")).astype(int).tolist():
        item = ElementTree.SubElement(root, "object")
        _add(item, name=found.label, pose="Unspecified", truncated=0, difficult=0, confidence=f"{found.score:.6f}")
        _add(ElementTree.SubElement(item, "bndbox"), **dict(zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)))
    return root


def _add(parent: ElementTree.Element, **texts: object) -> None:
    for tag, text in texts.items():
        ElementTree.SubElement(parent, tag).text = str(text)
