"""The rank of a label among the classes, by which Top-1 and Top-5 are counted."""

import numpy as np

from sat_peft.localization.inputs import label_ranks

NAN = float("nan")


def test_equal_logits_go_to_the_lower_class_and_nan_comes_before_the_label():
    logits = [[9.0, 1, 2, 3, 4, 5, 6], [1.0, 5, 5, 5, 0, 0, 0], [1.0, NAN, 0, 0, 0, 0, 0]]
    assert label_ranks(np.array(logits), np.array([0, 2, 0]), 3).tolist() == [0, 1, 1]


def test_logits_of_nan_are_no_hit_among_few_classes():
    assert label_ranks(np.array([[NAN] * 3, [0.0, 1.0, 2.0]]), np.array([0, 0]), 2).tolist() == [5, 2]
