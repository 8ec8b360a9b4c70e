"""Where thresholds come from."""

import numpy as np
import pytest
from localization_golden import load_sat

from sat_peft.errors import UsageError
from sat_peft.localization import best_threshold, choose_threshold, score_maps
from sat_peft.localization.thresholds import unsupervised_threshold


@pytest.fixture(scope="module")
def scores():
    golden = load_sat()
    return score_maps(golden["maps"], golden["boxes"], protocol="sat", logits=golden["logits"], labels=golden["labels"])


def test_best_threshold(scores):
    assert best_threshold(scores.per_threshold) == (0.2, 62.5)
    assert best_threshold(scores.per_threshold, metric="top1_loc")[0] == 0.35
    # The sum that SAT's code maximises.
    assert best_threshold(scores.per_threshold, metric="gt_known+top1_loc")[0] == 0.25
    assert best_threshold({"threshold": [0.1, 0.2, 0.3], "gt_known": [1.0, 5.0, 5.0]}) == (0.2, 5.0)
    with pytest.raises(UsageError, match=r"unknown metric 'gtknown'.*'gt_known'"):
        best_threshold(scores.per_threshold, metric="gtknown")
    with pytest.raises(UsageError, match="unknown metric 'multi_iou50'"):
        best_threshold(scores.per_threshold, metric="multi_iou50")


def test_fixed():
    assert choose_threshold(value=0.25).source == "fixed: given"
    assert choose_threshold("fixed", protocol="tscam").value == 0.1
    choice = choose_threshold("fixed", protocol="sat", dataset="ilsvrc")
    assert (choice.value, choice.source) == (0.3, "fixed: protocol sat on ilsvrc")
    with pytest.raises(UsageError, match="unknown dataset of protocol 'sat' 'cars'"):
        choose_threshold("fixed", protocol="sat", dataset="cars")
    with pytest.raises(UsageError, match="lacks value"):
        choose_threshold()
    with pytest.raises(UsageError, match=r"value\[0\] is 40"):
        choose_threshold(value=40)


def test_validation_and_oracle_say_which_images_they_saw(scores):
    validation = choose_threshold("validation", scores=scores)
    assert validation.value == 0.3
    assert validation.source == "validation: best iou30+iou50+iou70 on images that are not the test set"
    curve = np.sum([scores.per_threshold[name] for name in ("iou30", "iou50", "iou70")], axis=0)
    assert scores.per_threshold["threshold"][curve.argmax()] == 0.3
    assert choose_threshold("validation", scores=scores, metric="gt_known").value == 0.2
    assert choose_threshold("oracle", scores=scores).value == 0.2
    oracle = choose_threshold("oracle", scores=scores, metric="gt_known+top1_loc")
    assert oracle.value == 0.25
    assert oracle.source == "oracle: best gt_known+top1_loc, chosen on the test set itself"


def test_unsupervised_finds_the_gap_between_object_and_background():
    generator = np.random.default_rng(0)
    maps = 0.1 * generator.random((5, 14, 14))
    for raw, at in zip(maps, range(5), strict=True):
        raw[at : at + 6, 2:9] += 0.8
    for protocol, sizes in (("sat", None), ("wsol", None), ("original", [(90, 60)] * 5)):
        choice = choose_threshold("unsupervised", maps=maps, protocol=protocol, image_sizes=sizes)
        assert 0.25 < choice.value < 0.75
        assert "no boxes" in choice.source
    with pytest.raises(UsageError, match="maps is empty"):
        unsupervised_threshold([], "sat")


def test_unsupervised_equals_exhaustive_search():
    maps = np.random.default_rng(2).random((3, 14, 14)) ** 2
    values = np.concatenate([_quantised(raw) for raw in maps])

    def between(threshold):
        low, high = values[values < threshold], values[values >= threshold]
        return len(low) * len(high) * (low.mean() - high.mean()) ** 2

    best = max(range(1, 256), key=lambda bin_: between(bin_) if 0 < (values < bin_).sum() < len(values) else -1)
    assert unsupervised_threshold(maps, "wsol").value == pytest.approx(best / 256)


def _quantised(raw):
    from sat_peft.localization import to_score_map

    return (to_score_map(raw, protocol="wsol") * 255).astype(np.uint8).ravel().astype(float)


def test_constant_maps_still_have_an_unsupervised_threshold():
    assert 0 <= unsupervised_threshold(np.zeros((2, 5, 5)), "wsol").value <= 1


def test_unknown_sources_and_settings(scores):
    with pytest.raises(UsageError, match=r"unknown source 'validated'.*'validation'"):
        choose_threshold("validated")
    with pytest.raises(UsageError, match=r"source 'validation': .*'scores'; it takes scores, metric"):
        choose_threshold("validation", maps=[])
    with pytest.raises(UsageError, match="it takes maps, protocol, image_sizes"):
        choose_threshold("unsupervised", scores=scores)
