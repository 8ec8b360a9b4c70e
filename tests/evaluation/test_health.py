"""Runs that failed say so, and sound ones do not."""

import dataclasses

import numpy as np
import pytest
import torch

from sat_peft.evaluation.evaluator import EvaluatedImage, Evaluation
from sat_peft.evaluation.health import examine
from sat_peft.localization import score_maps
from sat_peft.tuner.output import border_per_image

SIZE = (40, 30)
TRUE = [10.0, 6.0, 30.0, 24.0]


def evaluation(maps: np.ndarray, *, boxes: bool = True, threshold: float = 0.5) -> Evaluation:
    """The evaluation of maps (N, h, w), whose objects are in the middle."""
    true = [np.array([TRUE] if boxes else []).reshape(-1, 4)] * len(maps)
    result = score_maps(
        maps, true, protocol="original", threshold=threshold, image_sizes=[SIZE] * len(maps), image_ids=range(len(maps))
    )
    borders = border_per_image(torch.from_numpy(maps)).tolist()
    images = [
        EvaluatedImage(index, SIZE, box, 0, 0, 0.5, float(one.mean()), float(one.std()), border)
        for index, (one, box, border) in enumerate(zip(maps, true, borders, strict=True))
    ]
    return Evaluation(result, images)


def middle(count: int = 12, *, low: float = 0.1, high: float = 0.9) -> np.ndarray:
    maps = np.full((count, 15, 20), low, np.float32)
    maps[:, 3:12, 5:15] = high
    return maps


def spread(count: int = 12) -> np.ndarray:
    """Maps that are least in one corner and so above a threshold of 0 almost everywhere."""
    maps = np.full((count, 15, 20), 0.4, np.float32)
    maps[:, 0, 0] = 0.1
    return maps


def some_inverse(share: int, count: int = 40) -> np.ndarray:
    """Maps of the middle, of which the first `share` have the ground instead."""
    maps = middle(count)
    maps[:share] = 1 - maps[:share]
    return maps


def verdict(maps, *, area_target=0.35, figures=None, **options):
    return examine(evaluation(maps, **options), area_target=area_target, figures=figures or {})


def test_a_sound_run_has_no_findings():
    health = verdict(middle(), figures={"sat": {"gt_known": 80.0}, "centre_box": {"gt_known": 60.0}})
    assert health.sound
    assert health.findings == []
    assert "no sign" in health.text()
    assert health.figures["whole_image_boxes"] == 0
    assert health.figures["mean_area"] == pytest.approx(0.34, abs=0.01)


@pytest.mark.parametrize(
    ("maps", "options", "words"),
    [
        (middle(low=0.97, high=0.999), {}, ["98 %", "target is 35 %", "--area-weight"]),
        (middle(low=0.85), {"area_target": 0.9}, ["hardly any ground", "--area-target"]),
        (middle(low=0.345, high=0.355), {}, ["nearly constant", "0.005", "--separation-weight"]),
        (middle(), {"threshold": 0.0, "boxes": False}, []),
        (spread(), {"threshold": 0.0}, ["whole image", "100 %", "--threshold"]),
        (some_inverse(4), {}, ["10 %", "ground", "--border-in-each-image"]),
        (some_inverse(2), {}, []),
        (some_inverse(1, count=5), {}, []),
        (np.full((12, 15, 20), np.nan, np.float32), {}, ["nan"]),
    ],
)
def test_signs_of_failure_are_told_with_their_figures_and_a_way_out(maps, options, words):
    health = verdict(maps, **options)
    assert health.sound is not bool(words)
    for word in words:
        assert word in " ".join(health.findings)
    if words:
        assert "should not be trusted" in health.text()


def test_worse_than_a_box_in_the_middle_is_a_finding():
    figures = {"sat": {"gt_known": 26.2}, "centre_box": {"gt_known": 67.5}}
    health = verdict(middle(), figures=figures)
    assert not health.sound
    assert "26.2" in health.findings[0]
    assert "67.5" in health.findings[0]


def test_boxes_that_are_rightly_the_whole_image_are_none():
    found = evaluation(spread(), threshold=0.0)
    rightly = [dataclasses.replace(image, boxes=np.array([[0.0, 0, *SIZE]])) for image in found.images]
    health = examine(Evaluation(found.result, rightly), area_target=None, figures={})
    assert health.figures["true_whole_image_boxes"] == 100
    assert not any("whole image" in each for each in health.findings)


def test_few_images_say_nothing_of_a_share():
    assert not any("whole image" in each for each in verdict(spread(3), threshold=0.0).findings)
