"""What a writer gets: a rendered scene, and how its files are saved."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from sat_peft.data.scenes.render import Scene


@dataclass(frozen=True)
class ExportedScene:
    """A scene with its place in the data set.

    Args:
        split: `train`, `validation` or `test`.
        label: index of the class.
        class_name: of the label.
        index: number among the scenes of its class and split, from 0.
        scene: image, mask and box.
    """

    split: str
    label: int
    class_name: str
    index: int
    scene: Scene

    @property
    def name(self) -> str:
        """A file name without suffix that no other scene has, in any split."""
        return f"{self.class_name}_{self.split}_{self.index:05d}"

    @property
    def box(self) -> list[float]:
        """xyxy, half open, absolute pixels; whole numbers."""
        return self.scene.box.tolist()

    @property
    def image_size(self) -> tuple[int, int]:
        """(width, height) in pixels."""
        height, width = self.scene.mask.shape
        return width, height

    def save_image(self, path: Path) -> None:
        """Saves the image in the format of the suffix, JPEG at quality 95; folders are made."""
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(self.scene.image).save(path, quality=95)

    def save_mask(self, path: Path) -> None:
        """Saves the mask as a greyscale image, 255 on the object; folders are made."""
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(self.scene.mask.astype(np.uint8) * 255).save(path)
