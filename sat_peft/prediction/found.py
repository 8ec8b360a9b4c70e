"""What a trained model finds in one image."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from sat_peft.errors import UsageError
from sat_peft.localization import localize_masks, localize_polygons, to_score_map

if TYPE_CHECKING:
    import supervision

# Boxes in the image's own pixels; the other protocols score crops or fixed sizes, which is for comparing papers.
PROTOCOL = "original"


@dataclass(frozen=True, eq=False)
class Localization:
    """What was found in one image. Pixels are those of the upright image: its EXIF orientation is applied.

    Args:
        label: name of the class: the predicted one, or the given one.
        label_index: its place among the logits.
        score: softmax probability of the class, in [0, 1].
        box: (4,) float64 xyxy, half open, in pixels of the original image, of the largest component.
        boxes: (n, 4) boxes of all components, largest component first; without `multi`, `box` alone.
        map: (h, w) float32 localisation map in [0, 1], on the grid of patches; refined along the edges of the image, in
            pixels of the model's input.
        image_size: (width, height) of the original image in pixels.
        threshold: threshold of the map, in [0, 1].
        predicted_label: name of the most probable class, which a given `label` may not be.
    """

    label: str
    label_index: int
    score: float
    box: np.ndarray
    boxes: np.ndarray
    map: np.ndarray
    image_size: tuple[int, int]
    threshold: float
    predicted_label: str

    def score_map(self) -> np.ndarray:
        """The map as it was thresholded: (H, W) float32 in [0, 1], in pixels of the original image."""
        return to_score_map(self.map, protocol=PROTOCOL, image_size=self.image_size)

    def masks(self) -> np.ndarray:
        """(n, H, W) bool in pixels of the original image: the region of the foreground that each of `boxes` is around.

        A map without foreground has the whole image, as its box has.
        """
        return np.stack(list(self._regions()))

    def foreground(self) -> np.ndarray:
        """(H, W) bool in pixels of the original image: the regions of all `boxes` together."""
        foreground = np.zeros(self.image_size[::-1], bool)
        for region in self._regions():
            foreground |= region
        return foreground

    def polygons(self) -> list[list[np.ndarray]]:
        """For each of `boxes`, the outlines of its region: arrays (k, 2) of x and y in pixels of the original image.

        See `sat_peft.localization.localize_polygons`.
        """
        return localize_polygons(self.map, count=len(self.boxes), **self._scoring)

    def to_supervision(self, *, masks: bool = False) -> supervision.Detections:
        """The boxes as detections of the library `supervision` (`pip install 'sat_peft[supervision]'`).

        They have the class and its probability, and the name of the class in `data["class_name"]`.

        Args:
            masks: also the regions, as `masks` gives them.
        """
        try:
            import supervision
        except ImportError as error:
            raise UsageError("supervision is not installed. pip install 'sat_peft[supervision]'.") from error
        count = len(self.boxes)
        return supervision.Detections(
            xyxy=self.boxes.astype(np.float32),
            mask=self.masks() if masks else None,
            confidence=np.full(count, self.score, np.float32),
            class_id=np.full(count, self.label_index),
            data={"class_name": np.full(count, self.label)},
        )

    def _regions(self) -> Iterator[np.ndarray]:
        return localize_masks(self.map, count=len(self.boxes), **self._scoring)

    @property
    def _scoring(self) -> dict:
        return {"protocol": PROTOCOL, "threshold": self.threshold, "image_size": self.image_size}
