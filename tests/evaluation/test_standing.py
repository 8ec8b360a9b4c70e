"""The sentence that says which method localises best."""

from types import SimpleNamespace

import numpy as np
import pytest

from sat_peft.evaluation.measure import Measured
from sat_peft.evaluation.standing import standing


def measured(title: str, correct: list[bool]) -> Measured:
    result = SimpleNamespace(num_images=len(correct), per_image={"correct": np.array(correct)})
    return Measured(title, {"gt_known": 100 * float(np.mean(correct))}, SimpleNamespace(result=result))


def box(share: float) -> Measured:
    return Measured("centre box", {"gt_known": share}, side=0.7)


SAT = measured("SAT", [True] * 60 + [False] * 40)


def test_the_best_of_the_others_is_named():
    methods = {"sat": SAT, "cam": measured("CAM", [True] * 30 + [False] * 70), "centre_box": box(20.0)}
    assert standing(methods) == "SAT localises best here: 60.0 % GT-known Loc, the next, CAM, 30.0 %."


def test_a_method_that_is_ahead_is_named_with_what_the_images_prove():
    ahead = measured("TokenCut", [True] * 90 + [False] * 10)
    assert standing({"sat": SAT, "tokencut": ahead}) == (
        "Not SAT (60.0 % GT-known Loc) but TokenCut (90.0 %) localises best here."
    )


@pytest.mark.parametrize(
    ("correct", "told"),
    # Right in 64 images, of which 60 or 44 are SAT's: 4 images alone against none, or 20 against 16.
    [([True] * 64 + [False] * 36, False), ([True] * 44 + [False] * 16 + [True] * 20 + [False] * 20, False)],
)
def test_few_images_that_differ_are_no_proof(correct, told):
    sentence = standing({"sat": SAT, "cam": measured("CAM", correct)})
    assert sentence.startswith("Not SAT (60.0 % GT-known Loc) but CAM (64.0 %) localises best here")
    assert ("100 images do not tell the two apart" in sentence) is not told


def test_five_images_more_and_none_less_are_proof():
    sentence = standing({"sat": SAT, "cam": measured("CAM", [True] * 65 + [False] * 35)})
    assert sentence == "Not SAT (60.0 % GT-known Loc) but CAM (65.0 %) localises best here."


@pytest.mark.parametrize(("share", "told"), [(50.0, False), (40.0, True)])
def test_a_box_without_a_map_is_held_against_the_shares(share, told):
    assert ("do not tell" in standing({"sat": SAT, "centre_box": box(share)})) is not told


def test_without_anything_beside_it_or_without_boxes_nothing_is_said():
    assert standing({"sat": SAT}) is None
    unknown = Measured("SAT", {"gt_known": None}, SAT.evaluation)
    assert standing({"sat": unknown, "centre_box": box(20.0)}) is None
    assert standing({"sat": SAT, "centre_box": Measured("centre box", {"gt_known": None})}) is None
