"""The layouts of wsolevaluation: metadata folders with boxes, and OpenImages30k with masks."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from scene_writers.cub import class_folder, write_lines
from scene_writers.exported_scene import ExportedScene

_SPLITS = {"train": "train", "validation": "val", "test": "test"}
_FILES = ("image_ids", "class_labels", "localization", "image_sizes")


class _Metadata:
    """The lists of all splits, collected and then written."""

    def __init__(self) -> None:
        self.lists = {split: {name: [] for name in _FILES} for split in _SPLITS.values()}

    def add(self, scene: ExportedScene, path: str, localization: list[str]) -> None:
        lists = self.lists[_SPLITS[scene.split]]
        lists["image_ids"].append(path)
        lists["class_labels"].append(f"{path},{scene.label}")
        lists["localization"].extend(f"{path},{text}" for text in localization)
        lists["image_sizes"].append(",".join([path, *map(str, scene.image_size)]))

    def write(self, folder: Path) -> None:
        for split, lists in self.lists.items():
            for name, lines in lists.items():
                write_lines(folder / split / f"{name}.txt", lines)
        # Every second image of train, as a list for searching hyper-parameters.
        write_lines(folder / "train" / "image_ids_proxy.txt", self.lists["train"]["image_ids"][::2])


def write_wsol_metadata(root: Path, scenes: Iterable[ExportedScene], class_names: list[str]) -> None:
    """Images by class, as of CUB, and ROOT/metadata with boxes of all splits."""
    metadata = _Metadata()
    for scene in scenes:
        path = f"{class_folder(scene)}/{scene.name}.jpg"
        scene.save_image(root / path)
        metadata.add(scene, path, [",".join(f"{value:.0f}" for value in scene.box)])
    metadata.write(root / "metadata")


def _save_mask(mask: np.ndarray, path: Path) -> None:
    Image.fromarray(mask.astype(np.uint8) * 255).save(path)


def write_openimages30k(root: Path, scenes: Iterable[ExportedScene], class_names: list[str]) -> None:
    """Images by class, and of val and test two masks that cut the object in halves, and an ignore mask: the frame of
    the image. ROOT/metadata has wsolevaluation's lists of the same."""
    metadata = _Metadata()
    for scene in scenes:
        split = _SPLITS[scene.split]
        # OpenImages' own identifiers, in whose order the classes are.
        class_id = f"0bt{scene.label:03d}"
        folder = f"{split}/{class_id}"
        # The names of the images are hexadecimal numbers, without an underscore.
        name = f"{scene.label:04x}{list(_SPLITS).index(scene.split):04x}{scene.index:08x}"
        scene.save_image(root / folder / f"{name}.jpg")
        masks = []
        if split != "train":
            columns = np.arange(scene.image_size[0])
            left = columns < (scene.box[0] + scene.box[2]) / 2
            files = [f"{folder}/{name}_m{class_id}_{index:08x}.png" for index in range(2)]
            for file, half in zip(files, (left, ~left), strict=True):
                _save_mask(scene.scene.mask & half, root / file)
            frame = np.ones_like(scene.scene.mask)
            frame[1:-1, 1:-1] = False
            _save_mask(frame, root / folder / f"{name}_ignore.png")
            masks = [f"{files[0]},{folder}/{name}_ignore.png", f"{files[1]},"]
        metadata.add(scene, f"{folder}/{name}.jpg", masks)
    metadata.write(root / "metadata")
