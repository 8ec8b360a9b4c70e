"""One object in every convention: columns 10 to 29 and rows 20 to 59 of an image of 100 x 200 pixels."""

import numpy as np
import pytest

from sat_peft.data.box_formats import BOX_FORMATS, from_xyxy, to_xyxy
from sat_peft.errors import UsageError

SIZE = (100, 200)
SAME_OBJECT = {
    "xyxy": [10, 20, 30, 60],
    "xywh": [10, 20, 20, 40],
    "voc": [11, 21, 30, 60],
    "inclusive": [10, 20, 29, 59],
    "yolo": [0.2, 0.2, 0.2, 0.2],
    "relative": [0.1, 0.1, 0.3, 0.3],
}


def test_every_format_is_among_the_cases():
    assert set(SAME_OBJECT) == set(BOX_FORMATS)


@pytest.mark.parametrize("box_format", BOX_FORMATS)
def test_the_same_object_has_the_same_box(box_format):
    np.testing.assert_allclose(to_xyxy([SAME_OBJECT[box_format]], box_format, SIZE), [SAME_OBJECT["xyxy"]])


@pytest.mark.parametrize("box_format", BOX_FORMATS)
def test_from_xyxy_is_the_inverse(box_format):
    np.testing.assert_allclose(from_xyxy([SAME_OBJECT["xyxy"]], box_format, SIZE), [SAME_OBJECT[box_format]])


@pytest.mark.parametrize("box_format", BOX_FORMATS)
def test_no_boxes_are_an_empty_array(box_format):
    assert to_xyxy([], box_format, SIZE).shape == (0, 4)
    assert from_xyxy([], box_format, SIZE).shape == (0, 4)


def test_the_given_boxes_stay_as_they_are():
    boxes = np.array([SAME_OBJECT["xywh"]], float)
    to_xyxy(boxes, "xywh")
    np.testing.assert_array_equal(boxes, [SAME_OBJECT["xywh"]])


def test_bad_input_is_named():
    with pytest.raises(UsageError, match=r"unknown box format 'xyhw'.*xywh"):
        to_xyxy([[0, 0, 1, 1]], "xyhw")
    with pytest.raises(UsageError, match="'yolo' need the size"):
        to_xyxy([[0.5, 0.5, 1, 1]], "yolo")
    with pytest.raises(UsageError, match=r"\(n, 4\)"):
        to_xyxy([1, 2, 3, 4], "xyxy")
