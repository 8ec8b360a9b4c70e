"""What an evaluation protocol consists of: every step from map and annotation to accuracy is a function of its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import cv2
import numpy as np

from sat_peft.errors import UsageError
from sat_peft.localization.boxes import as_boxes
from sat_peft.localization.regions import Region
from sat_peft.localization.score_map import Absolute, FractionOfMax


@dataclass(frozen=True)
class ImageTransform:
    """What happens to an image before the backbone sees it, as data for whoever builds a loader.

    Args:
        resize: (height, width) that the image is resized to, aspect not kept; None is the backbone's input size.
        crop: (height, width) of the centre crop that follows, or None.
        interpolation: torchvision's name of the interpolation.
    """

    resize: tuple[int, int] | None
    crop: tuple[int, int] | None = None
    interpolation: str = "bilinear"

    @property
    def crop_slices(self) -> tuple[slice, slice]:
        """Rows and columns of the resized image that the crop keeps."""
        (height, width), (crop_height, crop_width) = self.resize, self.crop or self.resize
        top, left = (height - crop_height) // 2, (width - crop_width) // 2
        return slice(top, top + crop_height), slice(left, left + crop_width)


@dataclass(frozen=True)
class Protocol:
    """One way to get from maps and annotated boxes to localisation accuracy. Get one with `get_protocol`.

    Image sizes are (width, height) in pixels. Evaluation pixels are those of the cropped or resized image, or the
    image's own where `own_pixels` is set.

    Args:
        name: the name that every result and report carries.
        source: where the protocol comes from.
        image: the image transform that the scoring takes for granted.
        place_boxes: boxes (n, 4) float64 in the original pixels, the image's (width, height) and `image` -> boxes in
            evaluation pixels.
        normalize: raw map (h, w) float32 and (width, height) -> score map (height, width) float32 in [0, 1]; resizing
            and normalisation, in the protocol's order.
        foreground: score map and thresholds to foregrounds.
        region: which region of a foreground makes the box.
        to_boxes: first and last columns and rows (..., 4) [x0, y0, x1, y1] and (width, height) -> boxes (..., 4).
        empty_box: (width, height) -> the box of an empty foreground.
        inclusive: both corners of a box are its pixels; otherwise boxes are half open.
        multi_contour: MaxBoxAccV2 is defined: the best of all contours, holes included, counts.
        strict_class_iou: Top-1 and Top-5 Loc ask for IoU > 0.5; GT-known Loc always asks for >= 0.5.
        own_pixels: boxes are compared in each image's own pixels; image sizes are then needed to score.
        default_threshold: used where the caller names none.
        dataset_thresholds: (data set, threshold) pairs: the fixed thresholds that the source uses.
        default_thresholds: the thresholds that are swept where the caller names none.
    """

    name: str
    source: str
    image: ImageTransform
    place_boxes: Callable[[np.ndarray, tuple[int, int], ImageTransform], np.ndarray]
    normalize: Callable[[np.ndarray, tuple[int, int]], np.ndarray]
    foreground: Absolute | FractionOfMax
    region: Region
    to_boxes: Callable[[np.ndarray, tuple[int, int]], np.ndarray]
    empty_box: Callable[[tuple[int, int]], tuple[int, int, int, int]]
    inclusive: bool
    default_threshold: float
    default_thresholds: tuple[float, ...] = field(repr=False)
    dataset_thresholds: tuple[tuple[str, float], ...] = ()
    own_pixels: bool = False
    multi_contour: bool = False
    strict_class_iou: bool = False

    def __post_init__(self):
        if not self.own_pixels and self.image.resize is None:
            raise UsageError(
                f"protocol {self.name!r} has image.resize=None, so its evaluation pixels are unknown. "
                "Give (height, width), or set own_pixels=True to score in each image's own pixels."
            )

    def evaluation_size(self, image_size=None) -> tuple[int, int]:
        """(width, height) of the evaluation pixels of an image of `image_size` (width, height).

        Raises:
            UsageError: the protocol scores in the image's own pixels and `image_size` is missing or not positive.
        """
        if self.own_pixels:
            return _checked_size(image_size, self.name)
        height, width = self.image.crop or self.image.resize
        return width, height

    def transform_boxes(self, boxes, image_size) -> tuple[np.ndarray, np.ndarray]:
        """Annotated boxes in evaluation pixels, by the protocol's own arithmetic.

        Args:
            boxes: (n, 4) float xyxy, half open, 0-based, in the original image's pixels.
            image_size: (width, height) of the original image.

        Returns:
            boxes (n, 4) float64 xyxy in evaluation pixels, and valid (n,) bool: False where nothing of the box is left
            (a crop can destroy a box). Score with `boxes[valid]`; an image without a valid box counts as wrong.
        """
        boxes = as_boxes(boxes, "boxes")
        width, height = _checked_size(image_size, self.name)
        scored = self.place_boxes(boxes, (width, height), self.image)
        return scored, self.valid_boxes(scored)

    def transform_mask(self, mask, image_size=None) -> np.ndarray:
        """A foreground or ignore mask (H, W) bool in evaluation pixels: nearest resize, then the centre crop."""
        mask = np.asarray(mask)
        if mask.ndim != 2:
            raise UsageError(f"mask has shape {mask.shape}; expected (H, W).")
        size = self.evaluation_size(image_size) if self.own_pixels else self.image.resize[::-1]
        mask = cv2.resize((mask > 0).astype(np.uint8), size, interpolation=cv2.INTER_NEAREST).astype(bool)
        return mask if self.image.crop is None else mask[self.image.crop_slices]

    def score_map(self, raw: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """The map (height, width) float32 in [0, 1] that thresholds are applied to.

        Args:
            raw: (h, w) float32.
            size: (width, height) of the evaluation pixels.

        A constant map is all zeros. Where the protocol normalises after resizing, that means constant after resizing:
        cubic interpolation turns some constants into rounding noise, which is stretched to [0, 1], by wsolevaluation
        too. A map that is not finite everywhere (NaN, infinity) is all zeros, as in wsolevaluation, and so is one
        whose values span more than float32 can subtract.
        """
        if not np.isfinite(raw).all():
            return np.zeros(size[::-1], np.float32)
        with np.errstate(over="ignore", invalid="ignore"):
            scores = self.normalize(raw, size)
        return scores if np.isfinite(scores).all() else np.zeros(size[::-1], np.float32)

    def valid_boxes(self, boxes: np.ndarray) -> np.ndarray:
        """(n,) bool: which boxes (n, 4) in evaluation pixels cover a pixel under the protocol's IoU convention."""
        extent = boxes[:, 2:] - boxes[:, :2] + self.inclusive
        return (extent > 0).all(axis=1)


def _checked_size(image_size, name: str) -> tuple[int, int]:
    values = () if image_size is None else tuple(image_size)
    if len(values) != 2 or not all(value > 0 and int(value) == value for value in values):
        raise UsageError(
            f"image_size is {image_size!r}; protocol {name!r} needs (width, height) of the image in pixels, both "
            "positive integers."
        )
    return int(values[0]), int(values[1])
