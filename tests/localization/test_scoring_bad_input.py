"""Mistakes are named: the argument, the index, the value, the fix."""

import numpy as np
import pytest

from sat_peft.errors import UsageError
from sat_peft.localization import LocalizationAccumulator, get_protocol, pixel_ap, score_maps

MAPS = np.random.default_rng(0).random((3, 14, 14))
BOXES = [[[10, 10, 100, 100]]] * 3
CLASSES = {"logits": np.zeros((3, 4)), "labels": np.array([0, 1, 2])}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"protocol": "stat"}, r"unknown protocol 'stat'\. Did you mean 'sat'"),
        ({"maps": MAPS[:, None]}, r"maps\[0\] has shape \(1, 14, 14\); expected \(h, w\)"),
        ({"maps": [MAPS[0], MAPS[1], np.zeros((0, 4))]}, r"maps\[2\] has shape \(0, 4\)"),
        ({"maps": MAPS.astype(complex)}, r"maps\[0\] has dtype complex128"),
        ({"maps": np.zeros((0, 14, 14)), "boxes": []}, "maps is empty"),
        ({"boxes": BOXES[:2]}, "boxes has 2 entries and maps has 3"),
        ({"boxes": [*BOXES[:2], [[1, 2, 3]]]}, r"boxes\[2\] has shape \(1, 3\); expected \(n, 4\)"),
        ({"boxes": [*BOXES[:2], [1, 2, 30, 40]]}, r"boxes\[2\] has shape \(4,\)"),
        ({"boxes": [BOXES[0], [[1, 2, 30, 40], [50, 1, 40, 60]], BOXES[0]]}, r"boxes\[1\]\[1\] is \[50.0, 1.0, 40.0"),
        ({"boxes": [BOXES[0], [[0, 0, 500, 300]], BOXES[0]]}, r"boxes\[1\]\[0\].*reaches outside.*224 wide and 224"),
        ({"boxes": [[[-9, 0, 50, 50]], *BOXES[:2]]}, r"boxes\[0\]\[0\] is \[-9.0.*transform_boxes of 'sat'"),
        ({"boxes": [[[0, 0, np.nan, 50]], *BOXES[:2]]}, r"boxes\[0\]\[0\] is .*finite"),
        ({"thresholds": [0.1, 1.2]}, r"thresholds\[1\] is 1.2; a threshold lies between 0 and 1"),
        ({"thresholds": [0.1, float("nan")]}, r"thresholds\[1\] is nan"),
        ({"thresholds": [0.3, 0.2]}, r"thresholds\[1\] is 0.2 after 0.3"),
        ({"thresholds": []}, r"thresholds has shape \(0,\)"),
        ({"threshold": "best"}, "unknown threshold 'best'.*oracle"),
        ({"threshold": -0.1}, r"value\[0\] is -0.1"),
        ({"logits": CLASSES["logits"]}, "logits is given and labels is not"),
        ({"labels": CLASSES["labels"]}, "labels is given and logits is not"),
        (CLASSES | {"labels": np.array([0, 4, 1])}, r"labels\[1\] is 4.*0 to 3"),
        (CLASSES | {"labels": np.array([-1, 0, 1])}, r"labels\[0\] is -1"),
        (CLASSES | {"labels": np.array([0.0, 1, 1])}, "labels has shape .* dtype float64"),
        (CLASSES | {"labels": np.array([0, 1])}, "labels has 2 entries"),
        (CLASSES | {"logits": np.zeros((2, 4))}, "logits has 2 entries"),
        (CLASSES | {"logits": np.zeros(3)}, r"logits has shape \(3,\)"),
        ({"masks": np.zeros((3, 100, 224), bool)}, r"masks\[0\] has shape \(100, 224\); expected \(224, 224\)"),
        ({"masks": np.zeros((2, 224, 224), bool)}, "masks has 2 entries"),
        ({"masks": np.zeros((3, 224, 224), bool)}, "masks hold no object pixel"),
        ({"ignore": np.zeros((3, 224, 224), bool)}, "ignore is given and masks is not"),
        ({"protocol": "original"}, "image_sizes is missing; protocol 'original'"),
        ({"protocol": "original", "image_sizes": [(20, 20)]}, "image_sizes has 1 entries"),
        ({"protocol": "original", "image_sizes": [(20, 20), (0, 5), (3, 3)]}, r"image_size is \[0, 5\]"),
        ({"image_ids": ["a", "b", "c"]}, "image_ids has shape .*expected one integer per map"),
        ({"image_ids": [0, 1, -2]}, r"image_ids\[2\] is -2"),
        ({"image_ids": [0, 1]}, "image_ids has 2 entries"),
        ({"bootstrap": -1}, "bootstrap is -1"),
        ({"bootstrap": 10, "confidence": 95}, "confidence is 95"),
    ],
)
def test_mistakes_are_named(changes, message):
    given = {"maps": MAPS, "boxes": BOXES, "protocol": "sat"} | changes
    with pytest.raises(UsageError, match=message):
        score_maps(**given)


def test_a_box_may_end_one_pixel_outside():
    boxes = [[[0, 0, 225, 224]], [[-1, 0, 50, 50]], [[0, 0, 10, 225]]]
    assert score_maps(MAPS, boxes, protocol="wsol", thresholds=[0.5]).num_images == 3


def test_empty_accumulators_have_no_result():
    accumulator = LocalizationAccumulator("sat")
    assert len(accumulator) == 0
    assert accumulator.state() == {}
    with pytest.raises(UsageError, match="maps is empty"):
        accumulator.compute()
    accumulator.update([], [])
    with pytest.raises(UsageError, match="maps is empty"):
        accumulator.compute()


@pytest.mark.parametrize("size", [None, (0, 10), (10,), (10.5, 10)])
def test_image_sizes_of_boxes(size):
    with pytest.raises(UsageError, match="image_size is"):
        get_protocol("sat").transform_boxes([[0, 0, 5, 5]], size)


def test_pixel_ap_checks_too():
    with pytest.raises(UsageError, match=r"masks\[0\] has shape"):
        pixel_ap(MAPS, np.zeros((3, 4, 4)))
    with pytest.raises(UsageError, match="maps is empty"):
        pixel_ap([], [])
    with pytest.raises(UsageError, match="no object pixel"):
        pixel_ap(MAPS, np.zeros((3, 224, 224)))
