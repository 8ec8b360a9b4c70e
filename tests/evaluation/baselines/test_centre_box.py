"""The centre box, by hand."""

import numpy as np
import pytest

from sat_peft.errors import UsageError
from sat_peft.evaluation.baselines.centre_box import CENTRE_BOX_SIDES, centre_box_accuracy, choose_centre_side
from sat_peft.evaluation.evaluator import EvaluatedImage


def image(box: list[float] | None, rank: int = 0) -> EvaluatedImage:
    return EvaluatedImage(
        0, (100, 50), np.array([box] if box else [], float).reshape(-1, 4), rank, 0, 0.5, 0.3, 0.4, 0.2
    )


def test_centre_box_by_hand():
    # Side 0.5 in 100 x 50 pixels: [25, 12.5, 75, 37.5], 1250 pixels.
    half_inside = image([25, 12.5, 50, 37.5], rank=0)  # IoU 625 / 1250 = 0.5: right
    too_small = image([25, 12.5, 49, 37.5], rank=0)  # IoU 600 / 1250 = 0.48: wrong
    whole = image([0, 0, 100, 50], rank=3)  # IoU 1250 / 5000 = 0.25: wrong
    equal = image([25, 12.5, 75, 37.5], rank=4)  # IoU 1: right
    figures = centre_box_accuracy([half_inside, too_small, whole, equal], 0.5, "original")
    assert figures == {"gt_known": 50.0, "top1_loc": 25.0, "top5_loc": 50.0, "top1_cls": 50.0}


def test_centre_box_follows_the_iou_of_the_protocol():
    # Side 0.2: [40, 20, 60, 30]. Plain: 100 / 200 = 0.5; with the +1 of SAT: (11 * 11) / (21 * 11) = 0.524.
    images = [image([40, 20, 50, 30])]
    assert centre_box_accuracy(images, 0.2, "original")["gt_known"] == 100
    # Plain: 99 / 200 < 0.5; with the +1: (10.9 * 11) / (21 * 11) = 0.519.
    images = [image([40, 20, 49.9, 30])]
    assert centre_box_accuracy(images, 0.2, "original")["gt_known"] == 0
    assert centre_box_accuracy(images, 0.2, "sat")["gt_known"] == 100


def test_any_of_the_true_boxes_counts_and_no_box_is_wrong():
    two = EvaluatedImage(0, (100, 50), np.array([[0, 0, 5, 5], [25, 12.5, 75, 37.5]]), 0, 0, 0.5, 0.3, 0.4, 0.2)
    assert centre_box_accuracy([two, image(None)], 0.5, "original")["gt_known"] == 50


def test_chosen_side_is_the_one_that_is_right_most_often():
    def centred(side: float) -> EvaluatedImage:
        return image([50 * (1 - side), 25 * (1 - side), 50 * (1 + side), 25 * (1 + side)])

    assert choose_centre_side([centred(1.0)] * 3 + [centred(0.3)], "original") == 0.75  # the least with IoU >= 0.5
    assert choose_centre_side([centred(0.3)] * 3 + [centred(1.0)], "original") == 0.25
    assert (CENTRE_BOX_SIDES[0], CENTRE_BOX_SIDES[-1]) == (0.2, 1.0)


@pytest.mark.parametrize("images", [[], [image(None)]])
def test_side_is_not_chosen_without_boxes(images):
    with pytest.raises(UsageError, match=r"no image has a true box.*validation split"):
        choose_centre_side(images, "original")
