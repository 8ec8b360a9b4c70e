"""The layouts of Stanford Dogs and Stanford Cars, which have no validation split."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from sat_peft.data.box_formats import from_xyxy
from scene_writers.exported_scene import ExportedScene
from scene_writers.ilsvrc import wnid, write_annotation_xml


def _cells(values: list[str], shape: tuple[int, int]) -> np.ndarray:
    cells = np.empty(len(values), object)
    cells[:] = values
    return cells.reshape(shape)


def write_stanford_dogs(root: Path, scenes: Iterable[ExportedScene], class_names: list[str]) -> None:
    """Images, XML annotations without a suffix, and the two .mat lists."""
    from scipy.io import savemat

    files: dict[str, list[str]] = {"train": [], "test": []}
    labels: dict[str, list[int]] = {"train": [], "test": []}
    for scene in scenes:
        if scene.split == "validation":
            continue
        path = f"{wnid(scene.label)}-{scene.class_name}/{scene.name}"
        scene.save_image(root / "Images" / f"{path}.jpg")
        write_annotation_xml(root / "Annotation" / path, scene, scene.class_name)
        files[scene.split].append(f"{path}.jpg")
        labels[scene.split].append(scene.label + 1)
    for split, names in files.items():
        annotations = [name.removesuffix(".jpg") for name in names]
        savemat(
            root / f"{split}_list.mat",
            {
                "file_list": _cells(names, (-1, 1)),
                "annotation_list": _cells(annotations, (-1, 1)),
                "labels": np.array(labels[split], np.uint8).reshape(-1, 1),
            },
        )


def _car_structs(scenes: list[ExportedScene], fields: dict[str, list]) -> np.ndarray:
    """A struct array (1, n) of corners, class and `fields`."""
    corners = [from_xyxy([scene.box], "voc")[0] for scene in scenes]
    names = ("bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2", "class", *fields)
    structs = np.zeros((1, len(scenes)), [(name, object) for name in names])
    for index, (scene, box) in enumerate(zip(scenes, corners, strict=True)):
        extra = (values[index] for values in fields.values())
        structs[0, index] = (*(np.uint16(value) for value in box), np.uint8(scene.label + 1), *extra)
    return structs


def write_stanford_cars(root: Path, scenes: Iterable[ExportedScene], class_names: list[str]) -> None:
    """The development kit, and a folder of images for each split."""
    from scipy.io import savemat

    members = list(scenes)
    (root / "devkit").mkdir()
    savemat(root / "devkit" / "cars_meta.mat", {"class_names": _cells(class_names, (1, -1))})
    for split, file in (("train", "devkit/cars_train_annos.mat"), ("test", "cars_test_annos_withlabels.mat")):
        chosen = [scene for scene in members if scene.split == split]
        names = [f"{number:05d}.jpg" for number in range(1, len(chosen) + 1)]
        for scene, name in zip(chosen, names, strict=True):
            scene.save_image(root / f"cars_{split}" / name)
        savemat(root / file, {"annotations": _car_structs(chosen, {"fname": names})})


def write_stanford_cars_one_file(root: Path, scenes: Iterable[ExportedScene], class_names: list[str]) -> None:
    """cars_annos.mat, and one folder of images."""
    from scipy.io import savemat

    chosen = [scene for scene in scenes if scene.split != "validation"]
    paths = [f"car_ims/{number:06d}.jpg" for number in range(1, len(chosen) + 1)]
    for scene, path in zip(chosen, paths, strict=True):
        scene.save_image(root / path)
    fields = {"relative_im_path": paths, "test": [np.uint8(scene.split == "test") for scene in chosen]}
    variables = {"annotations": _car_structs(chosen, fields), "class_names": _cells(class_names, (1, -1))}
    savemat(root / "cars_annos.mat", variables)
