"""The layout of ILSVRC 2012, whose validation set is the test split: a flat val, with its boxes in every form."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from xml.etree.ElementTree import Element, ElementTree, SubElement, indent

import numpy as np

from scene_writers.cub import write_lines
from scene_writers.exported_scene import ExportedScene


def wnid(label: int) -> str:
    """An identifier in the form of WordNet's."""
    return f"n{10_000 + label:08d}"


def corners(scene: ExportedScene) -> str:
    """The box as ImageNet's are read: `x0 y0 x1 y1`, whole numbers."""
    return " ".join(f"{value:.0f}" for value in scene.box)


def write_annotation_xml(path: Path, scene: ExportedScene, class_name: str) -> None:
    """An XML file with the elements that ImageNet's have; folders are made."""
    root = Element("annotation")
    SubElement(root, "filename").text = path.stem
    size = SubElement(root, "size")
    width, height = scene.image_size
    for name, value in (("width", width), ("height", height), ("depth", 3)):
        SubElement(size, name).text = str(value)
    found = SubElement(root, "object")
    SubElement(found, "name").text = class_name
    box = SubElement(found, "bndbox")
    for name, text in zip(("xmin", "ymin", "xmax", "ymax"), corners(scene).split(), strict=True):
        SubElement(box, name).text = text
    indent(root)
    path.parent.mkdir(parents=True, exist_ok=True)
    ElementTree(root).write(path, encoding="utf-8")


def _write_development_kit(folder: Path, labels: list[int], class_names: list[str]) -> None:
    """The classes of the validation images as numbers, in an order that is not that of the identifiers."""
    from scipy.io import savemat

    order = list(range(len(class_names)))[::-1]
    synsets = np.zeros((len(order), 1), [("ILSVRC2012_ID", object), ("WNID", object), ("words", object)])
    for number, label in enumerate(order, 1):
        synsets[number - 1, 0] = (np.uint16(number), wnid(label), class_names[label])
    folder.mkdir(parents=True)
    savemat(folder / "meta.mat", {"synsets": synsets})
    write_lines(folder / "ILSVRC2012_validation_ground_truth.txt", (str(order.index(label) + 1) for label in labels))


def write_ilsvrc(root: Path, scenes: Iterable[ExportedScene], class_names: list[str]) -> None:
    """train by class, val flat, boxes of val as XML, as Kaggle's csv and as val_gt.txt, and the development kit."""
    csv, val_gt, labels = ["ImageId,PredictionString"], [], []
    for scene in scenes:
        class_id = wnid(scene.label)
        if scene.split == "train":
            scene.save_image(root / "train" / class_id / f"{class_id}_{scene.index}.JPEG")
        elif scene.split == "test":
            labels.append(scene.label)
            name = f"ILSVRC2012_val_{len(labels):08d}"
            width, height = scene.image_size
            scene.save_image(root / "val" / f"{name}.JPEG")
            write_annotation_xml(root / "Annotations" / "CLS-LOC" / "val" / f"{name}.xml", scene, class_id)
            csv.append(f"{name},{class_id} {corners(scene)} ")
            val_gt.append(rf"{class_id}\\{name}.JPEG {width} {height} ; {corners(scene)}")
    write_lines(root / "LOC_val_solution.csv", csv)
    write_lines(root / "val_gt.txt", val_gt)
    mapping = (f"{wnid(label)} {name}, another name" for label, name in enumerate(class_names))
    write_lines(root / "LOC_synset_mapping.txt", mapping)
    _write_development_kit(root / "ILSVRC2012_devkit_t12" / "data", labels, class_names)
