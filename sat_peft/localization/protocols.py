"""The named evaluation protocols: frozen settings, so that numbers which do not compare never share a name.

A protocol is data. Every step is named by a string that one of the tables of this folder maps to a small function:
`MAP_RULES` and `FOREGROUND_RULES` (`score_map.py`), `BOX_RULES` and `IOU_RULES` (`boxes.py`), `EMPTY_BOXES` and
`EXTENT_RULES` (`regions.py`). A new protocol is one more entry of `PROTOCOLS`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np

from sat_peft.errors import UsageError, unknown_choice
from sat_peft.localization.boxes import BOX_RULES, IOU_RULES, as_boxes
from sat_peft.localization.regions import EMPTY_BOXES, EXTENT_RULES, REGION_RULES
from sat_peft.localization.score_map import FOREGROUND_RULES, MAP_RULES, resize_and_crop_mask


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


@dataclass(frozen=True)
class Protocol:
    """One way to get from maps and annotated boxes to localisation accuracy. Get one with `get_protocol`.

    Image sizes are (width, height) in pixels. Evaluation pixels are those of the cropped or resized image, or the
    image's own where `own_pixels` is set.

    Args:
        name: the name that every result and report carries.
        source: where the protocol comes from.
        image: the image transform that the scoring takes for granted.
        own_pixels: boxes are compared in each image's own pixels; image sizes are then needed to score.
        box_rule: annotation to evaluation pixels, a key of `BOX_RULES`.
        map_rule: raw map to score map (resizing, normalisation and their order), a key of `MAP_RULES`.
        foreground_rule: score map and threshold to foreground, a key of `FOREGROUND_RULES`.
        region_rule: which region of the foreground makes the box, a key of `REGION_RULES`.
        extent_rule: pixel extents to box corners, a key of `EXTENT_RULES`.
        empty_box: the box of an empty foreground, a key of `EMPTY_BOXES`.
        iou_rule: pixel convention of the IoU, a key of `IOU_RULES`.
        multi_contour: MaxBoxAccV2 is defined: the best of all contours, holes included, counts.
        strict_class_iou: Top-1 and Top-5 Loc ask for IoU > 0.5; GT-known Loc always asks for >= 0.5.
        default_threshold: used where the caller names none.
        dataset_thresholds: (data set, threshold) pairs: the fixed thresholds that the source uses.
        default_thresholds: the thresholds that are swept where the caller names none.
    """

    name: str
    source: str
    image: ImageTransform
    box_rule: str
    map_rule: str
    foreground_rule: str
    region_rule: str
    extent_rule: str
    empty_box: str
    iou_rule: str
    default_threshold: float
    default_thresholds: tuple[float, ...] = field(repr=False)
    dataset_thresholds: tuple[tuple[str, float], ...] = ()
    own_pixels: bool = False
    multi_contour: bool = False
    strict_class_iou: bool = False

    def __post_init__(self):
        tables = {
            "box_rule": BOX_RULES,
            "map_rule": MAP_RULES,
            "foreground_rule": FOREGROUND_RULES,
            "region_rule": REGION_RULES,
            "extent_rule": EXTENT_RULES,
            "empty_box": EMPTY_BOXES,
            "iou_rule": IOU_RULES,
        }
        for attribute, table in tables.items():
            if getattr(self, attribute) not in table:
                raise unknown_choice(attribute, getattr(self, attribute), table)
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
        scored = BOX_RULES[self.box_rule](boxes, (width, height), self.image)
        return scored, self.valid_boxes(scored)

    def transform_mask(self, mask, image_size=None) -> np.ndarray:
        """A foreground or ignore mask (H, W) bool in evaluation pixels: nearest resize, then the centre crop."""
        mask = np.asarray(mask)
        if mask.ndim != 2:
            raise UsageError(f"mask has shape {mask.shape}; expected (H, W).")
        return resize_and_crop_mask(mask, self.image, self.evaluation_size(image_size) if self.own_pixels else None)

    def valid_boxes(self, boxes: np.ndarray) -> np.ndarray:
        """(n,) bool: which boxes (n, 4) in evaluation pixels cover a pixel under the protocol's IoU convention."""
        extent = boxes[:, 2:] - boxes[:, :2] + IOU_RULES[self.iou_rule]
        return (extent > 0).all(axis=1)


def _checked_size(image_size, name: str) -> tuple[int, int]:
    values = () if image_size is None else tuple(image_size)
    if len(values) != 2 or not all(value > 0 and int(value) == value for value in values):
        raise UsageError(
            f"image_size is {image_size!r}; protocol {name!r} needs (width, height) of the image in pixels, both "
            "positive integers."
        )
    return int(values[0]), int(values[1])


def _grid(start: float, stop: float, step: float) -> tuple[float, ...]:
    return tuple(float(value) for value in np.arange(start, stop, step))


_PROTOCOLS = (
    Protocol(
        name="sat",
        source="Spatial-Aware Token for Weakly Supervised Object Localization (ICCV 2023), public code",
        image=ImageTransform(resize=(256, 256), crop=(224, 224)),
        box_rule="scale_crop_clamp_truncate",
        map_rule="minmax_epsilon_then_bilinear",
        foreground_rule="absolute",
        region_rule="largest_component",
        extent_rule="half_open",
        empty_box="whole_image",
        iou_rule="plus_one",
        default_threshold=0.4,
        dataset_thresholds=(("cub", 0.4), ("ilsvrc", 0.3)),
        default_thresholds=tuple(round(0.05 * step, 2) for step in range(1, 19)),
    ),
    Protocol(
        name="wsol",
        source="Evaluating Weakly Supervised Object Localization Methods Right (CVPR 2020), clovaai/wsolevaluation",
        image=ImageTransform(resize=(224, 224)),
        box_rule="scale_truncate",
        map_rule="cubic_then_minmax",
        foreground_rule="fraction_of_max",
        region_rule="largest_contour",
        extent_rule="half_open_inside",
        empty_box="origin",
        iou_rule="plus_one",
        multi_contour=True,
        default_threshold=0.2,
        default_thresholds=_grid(0, 1, 0.001),
    ),
    Protocol(
        name="tscam",
        source="TS-CAM: Token Semantic Coupled Attention Map (ICCV 2021), public code",
        image=ImageTransform(resize=(224, 224)),
        box_rule="scale_crop_clamp_truncate",
        map_rule="bilinear_then_minmax",
        foreground_rule="fraction_of_max_single_precision",
        region_rule="largest_contour",
        extent_rule="half_open",
        empty_box="first_pixel",
        iou_rule="plus_one",
        strict_class_iou=True,
        default_threshold=0.1,
        dataset_thresholds=(("cub", 0.1), ("ilsvrc", 0.12)),
        default_thresholds=tuple(round(0.01 * step, 2) for step in range(1, 100)),
    ),
    Protocol(
        name="original",
        source="sat_peft: the image's own pixels and the plain IoU",
        image=ImageTransform(resize=None),
        own_pixels=True,
        box_rule="unchanged",
        map_rule="bilinear_then_minmax",
        foreground_rule="absolute",
        region_rule="largest_component",
        extent_rule="half_open",
        empty_box="whole_image",
        iou_rule="plain",
        # What validation boxes choose for most of the trainings that scripts/reproduce.py compares.
        default_threshold=0.2,
        default_thresholds=tuple(round(0.05 * step, 2) for step in range(1, 19)),
    ),
)

PROTOCOLS: Mapping[str, Protocol] = MappingProxyType({protocol.name: protocol for protocol in _PROTOCOLS})


def get_protocol(protocol: str | Protocol) -> Protocol:
    """The protocol of that name; a `Protocol` passes through. Raises `UsageError` with the valid names."""
    if isinstance(protocol, Protocol):
        return protocol
    if protocol not in PROTOCOLS:
        raise unknown_choice("protocol", protocol, PROTOCOLS)
    return PROTOCOLS[protocol]
