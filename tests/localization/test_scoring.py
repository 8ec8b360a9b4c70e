"""score_maps and the accumulator: figures, merging, thresholds to report, confidence intervals."""

import dataclasses
import doctest
import importlib
import json

import numpy as np
import pytest
import torch
from localization_golden import load_sat, load_wsol
from sklearn.metrics import average_precision_score

from sat_peft.errors import UsageError
from sat_peft.localization import LocalizationAccumulator, ThresholdChoice, get_protocol, localize, pixel_ap, score_maps
from sat_peft.localization.boxes import best_iou
from sat_peft.localization.results import SUMMARY_FIGURES


@pytest.fixture(scope="module")
def sat():
    return load_sat()


@pytest.fixture(scope="module")
def wsol():
    return load_wsol()


def inputs(golden, rows=slice(None), **more):
    given = {name: golden[name][rows] for name in ("maps", "boxes", *more.pop("names", ()))}
    return given | more


def assert_same(one, other):
    assert one.to_dict() == other.to_dict()
    assert one.per_image.keys() == other.per_image.keys()
    for name, values in one.per_image.items():
        np.testing.assert_array_equal(values, other.per_image[name])


def test_the_summary_agrees_with_the_curve_and_the_images(sat):
    result = score_maps(**inputs(sat, names=("logits", "labels")), protocol="sat", threshold=0.4)
    row = result.per_threshold["threshold"].index(0.4)
    for name in ("gt_known", "top1_loc", "top5_loc", "iou30", "iou50", "iou70"):
        assert result.summary[name] == result.per_threshold[name][row]
    assert result.summary["max_box_acc"] == max(result.per_threshold["iou50"])
    images = result.per_image
    assert result.summary["gt_known"] == pytest.approx(100 * images["correct"].mean())
    assert result.summary["top1_loc"] == pytest.approx(100 * images["top1_correct"].mean())
    assert result.summary["mean_iou"] == pytest.approx(100 * images["iou"].mean())
    assert images["correct"].tolist() == (images["iou"] >= 0.5).tolist()
    for index in (0, 17, 95):
        box = localize(sat["maps"][index], protocol="sat", threshold=0.4)
        assert images["box"][index].tolist() == box.tolist()
        assert images["iou"][index] == best_iou(box[None], sat["boxes"][index], inclusive=True)[0]


@pytest.mark.parametrize("name", ["sat", "wsol", "tscam", "original"])
def test_every_threshold_equals_localize_under_every_protocol(sat, name):
    thresholds = [0.0, 0.1, 0.33, 0.5, 0.8, 0.99]
    sizes = [(100 + 7 * row, 130) for row in range(6)]
    protocol = get_protocol(name)
    boxes = [np.array([[10, 20, 60, 100], [30.0, 5, 99, 120]])] * 6
    result = score_maps(sat["maps"][:6], boxes, protocol=name, thresholds=thresholds, image_sizes=sizes, threshold=0.33)
    for row, threshold in enumerate(thresholds):
        found = [
            localize(raw, protocol=name, threshold=threshold, image_size=size)
            for raw, size in zip(sat["maps"], sizes, strict=False)
        ]
        iou = best_iou(np.array(found), boxes[0], inclusive=protocol.inclusive)
        for figure, level in (("iou30", 0.3), ("iou50", 0.5), ("iou70", 0.7)):
            assert result.per_threshold[figure][row] == pytest.approx(100 * (iou >= level).mean())
    assert result.per_image["iou"].shape == (6,)


def test_figures_that_are_not_defined_are_none(sat):
    result = score_maps(**inputs(sat), protocol="sat")
    assert set(result.summary) == {"threshold", *SUMMARY_FIGURES}
    undefined = {name for name, value in result.summary.items() if value is None}
    assert undefined == {"top1_loc", "top5_loc", "top1_cls", "top5_cls", "max_box_acc_v2", "px_ap"}
    lengths = {len(values) for values in result.per_threshold.values()}
    assert lengths == {18}
    assert result.per_threshold["top1_loc"] == [None] * 18
    assert "top1_correct" not in result.per_image


def test_results_are_ready_for_json(sat):
    result = score_maps(**inputs(sat, names=("logits", "labels")), protocol="sat", bootstrap=5)
    assert json.loads(json.dumps(result.to_dict()))["protocol"] == "sat"
    assert set(result.per_image) == {"image_id", "iou", "box", "correct", "top1_correct", "top5_correct"}
    assert {len(values) for values in result.per_image.values()} == {96}


def test_the_reported_threshold_and_its_source(sat):
    given = inputs(sat)
    default = score_maps(**given, protocol="sat")
    assert (default.threshold, default.threshold_source) == (0.4, "fixed: default of protocol sat")
    only = score_maps(**given, protocol="sat", thresholds=[0.25])
    assert (only.threshold, only.threshold_source) == (0.25, "fixed: given")
    chosen = score_maps(**given, protocol="sat", threshold=ThresholdChoice(0.2, "validation: somewhere"))
    assert (chosen.summary["threshold"], chosen.threshold_source) == (0.2, "validation: somewhere")
    oracle = score_maps(**given, protocol="sat", threshold="oracle")
    assert oracle.threshold == 0.2
    assert "chosen on the test set" in oracle.threshold_source
    assert_same(dataclasses.replace(oracle, threshold_source=""), dataclasses.replace(chosen, threshold_source=""))


def test_a_threshold_off_the_grid_is_reported_and_not_swept(sat):
    result = score_maps(**inputs(sat), protocol="sat", thresholds=[0.1, 0.5], threshold=0.2)
    assert result.per_threshold["threshold"] == [0.1, 0.5]
    assert result.summary["gt_known"] == pytest.approx(62.5)
    assert result.summary["max_box_acc"] == pytest.approx(54.16666667)


def test_batches_and_merging_give_the_same(wsol):
    settings = {"thresholds": np.arange(0, 1, 0.01), "threshold": 0.3}
    names = ("masks", "ignore")
    ids = np.arange(96)
    whole = score_maps(**inputs(wsol, names=names), protocol="wsol", image_ids=ids, **settings)
    one, other = (LocalizationAccumulator("wsol", **settings) for _ in range(2))
    # The second process repeats the first images, as even_batches does to fill its last batch.
    for accumulator, rows in ((one, [*range(40)]), (one, [*range(40, 50)]), (other, [*range(50, 96), 0, 1, 2])):
        given = {name: [wsol[name][row] for row in rows] for name in ("maps", "boxes", *names)}
        accumulator.update(**given, image_ids=rows)
    one.merge(other)
    assert len(one) == 96
    assert_same(one.compute(), whole)
    gathered = LocalizationAccumulator("wsol", **settings)
    gathered.merge(one.state())
    assert_same(gathered.compute(), whole)


def test_images_without_an_id_are_never_repetitions(sat):
    accumulator = LocalizationAccumulator("sat", [0.4])
    for _ in range(2):
        accumulator.update(sat["maps"][:5], sat["boxes"][:5])
    assert len(accumulator) == 10
    assert accumulator.compute().num_images == 10


def test_memory_per_image_is_a_byte_per_distinct_foreground(sat):
    accumulator = LocalizationAccumulator("wsol")
    accumulator.update(sat["maps"][:4], sat["boxes"][:4])
    per_image = sum(values.nbytes for values in accumulator.state().values()) / 4
    assert len(accumulator.thresholds) == 1000
    assert per_image <= 2 * 256 + 64


def test_merging_other_settings_is_refused(sat):
    accumulator = LocalizationAccumulator("sat")
    for other in (LocalizationAccumulator("tscam"), LocalizationAccumulator("sat", [0.1, 0.2])):
        with pytest.raises(UsageError, match="merging needs the same protocol 'sat'"):
            accumulator.merge(other)
    foreign = LocalizationAccumulator("sat", [0.1, 0.2])
    foreign.update(sat["maps"][:2], sat["boxes"][:2])
    with pytest.raises(UsageError, match=r"other\['single'\] has shape \(2, 3\); expected \(N, 18\)"):
        accumulator.merge(foreign.state())
    accumulator.update(sat["maps"][:2], sat["boxes"][:2])
    with pytest.raises(UsageError, match="top1, top5"):
        accumulator.update(sat["maps"][:2], sat["boxes"][:2], logits=sat["logits"][:2], labels=sat["labels"][:2])
    accumulator.merge({})
    assert len(accumulator) == 2


def test_tensors_and_arrays_score_alike(sat):
    given = inputs(sat, slice(0, 8), names=("logits", "labels"))
    arrays = score_maps(**given, protocol="sat")
    tensors = {name: torch.as_tensor(given[name]) for name in ("maps", "logits", "labels")}
    tensors["boxes"] = [torch.as_tensor(boxes) for boxes in given["boxes"]]
    tensors["maps"].requires_grad_(True)
    assert_same(score_maps(**tensors, protocol="sat"), arrays)
    listed = given | {"maps": list(given["maps"]), "boxes": [boxes.tolist() for boxes in given["boxes"]]}
    assert_same(score_maps(**listed, protocol="sat"), arrays)
    half = score_maps(**(given | {"maps": tensors["maps"].detach().to(torch.bfloat16)}), protocol="sat")
    assert half.num_images == 8


def test_maps_of_different_shapes_in_one_set():
    maps = [np.eye(4), np.eye(7)[:, :5]]
    result = score_maps(maps, [[[0, 0, 30, 20]], [[0, 0, 8, 60]]], protocol="original", image_sizes=[(30, 20), (8, 60)])
    assert result.num_images == 2
    assert result.per_image["box"][1].tolist()[2] <= 8


def test_an_image_without_a_valid_box_is_wrong_and_counted():
    raw = np.zeros((14, 14))
    raw[2:12, 2:12] = 1
    box = localize(raw, protocol="sat", threshold=0.4)
    result = score_maps([raw, raw], [[box], []], protocol="sat")
    assert result.summary["gt_known"] == 50
    assert result.per_image["iou"].tolist() == [1, 0]


def test_of_several_boxes_the_best_counts():
    raw = np.zeros((14, 14))
    raw[2:12, 2:12] = 1
    box = localize(raw, protocol="sat", threshold=0.4)
    result = score_maps([raw], [[[0, 0, 9, 9], box, [200, 200, 223, 223]]], protocol="sat")
    assert result.per_image["iou"].tolist() == [1]


def test_multi_contour_takes_any_contour_and_holes_too():
    y, x = np.mgrid[:28, :28]
    radius = np.hypot(y - 13.5, x - 13.5)
    ring = np.exp(-((radius - 9) ** 2))
    hole = [[46, 46, 178, 178]]
    result = score_maps([ring], [hole], protocol="wsol", thresholds=[0.5])
    assert result.summary["iou70"] == 0
    assert result.per_threshold["multi_iou70"] == [100.0]
    assert result.summary["max_box_acc_v2"] == 100


def test_top_k_with_few_classes_ties_and_nan():
    raw = np.ones((4, 14, 14)) * np.linspace(0, 1, 14)
    logits = np.array([[1, 2, 3], [2, 2, 1], [2, 2, 1], [np.nan, 1, 1]], float)
    labels = np.array([0, 0, 1, 0])
    result = score_maps(raw, [[[0, 0, 223, 223]]] * 4, protocol="sat", logits=logits, labels=labels)
    # Fewer than five classes: all of them are the top five; the lower of tied classes is first; NaN is never right.
    assert result.summary["top1_cls"] == 25
    assert result.summary["top5_cls"] == 75


def test_tscam_asks_for_more_than_half_where_the_class_counts():
    # Foreground [0, 0, 224, 224) against a box of exactly half of the area, counted with +1.
    raw = np.zeros((14, 14))
    truth = [[0, 0, 0, 0.0]]
    result = score_maps([raw], [truth], protocol="tscam", logits=[[1.0, 0]], labels=[0], threshold=0.1)
    assert result.per_image["box"].tolist() == [[0, 0, 1, 1]]
    assert result.per_image["iou"].tolist() == [0.25]
    truth = [[0, 0, 0, 1.0]]
    result = score_maps([raw], [truth], protocol="tscam", logits=[[1.0, 0]], labels=[0], threshold=0.1)
    assert result.per_image["iou"].tolist() == [0.5]
    assert (result.summary["gt_known"], result.summary["top1_loc"]) == (100, 0)


def test_bootstrap_is_seeded_and_as_wide_as_the_binomial(sat):
    given = inputs(sat, names=("logits", "labels"))
    result = score_maps(**given, protocol="sat", bootstrap=600, seed=3)
    again = score_maps(**given, protocol="sat", bootstrap=600, seed=3)
    other = score_maps(**given, protocol="sat", bootstrap=600, seed=4)
    assert result.confidence_intervals == again.confidence_intervals != other.confidence_intervals
    assert set(result.confidence_intervals) == {name for name in SUMMARY_FIGURES if result.summary[name] is not None}
    for name, (low, high) in result.confidence_intervals.items():
        assert low <= result.summary[name] <= high
    low, high = result.confidence_intervals["gt_known"]
    share = result.summary["gt_known"] / 100
    expected = 100 * 2 * 1.96 * np.sqrt(share * (1 - share) / 96)
    assert high - low == pytest.approx(expected, rel=0.15)
    narrow = score_maps(**given, protocol="sat", bootstrap=600, seed=3, confidence=0.5).confidence_intervals["gt_known"]
    assert low < narrow[0] < narrow[1] < high
    assert score_maps(**given, protocol="sat").confidence_intervals == {}


def test_px_ap_has_an_interval_and_equals_the_function(wsol):
    given = inputs(wsol, slice(0, 12), names=("masks", "ignore"))
    thresholds = np.arange(0, 1, 0.01)
    result = score_maps(**given, protocol="wsol", thresholds=thresholds, bootstrap=40)
    low, high = result.confidence_intervals["px_ap"]
    assert low < result.summary["px_ap"] < high
    given.pop("boxes")
    assert pixel_ap(**given, thresholds=thresholds) == pytest.approx(result.summary["px_ap"], abs=1e-12)


def test_px_ap_equals_scikit_learn_with_one_bin_per_score():
    generator = np.random.default_rng(0)
    # Scores on a grid of sixteenths keep bins and scores in step.
    raw = generator.integers(0, 17, (1, 224, 224)).astype(np.float32)
    masks = generator.random(raw.shape) * 16 < raw
    found = pixel_ap(raw, masks, protocol="tscam", thresholds=np.arange(0, 1, 1 / 16))
    assert found == pytest.approx(100 * average_precision_score(masks.ravel(), raw.ravel()), abs=1e-9)


@pytest.mark.parametrize("wanted", [[0.1, 0.2, 0.3], np.linspace(0, 0.99, 200)])
def test_many_and_few_thresholds_agree(sat, wanted):
    given = inputs(sat, slice(0, 10))
    swept = score_maps(**given, protocol="sat", thresholds=wanted).per_threshold["gt_known"]
    single = [score_maps(**given, protocol="sat", thresholds=[value]).summary["gt_known"] for value in wanted]
    assert swept == single


@pytest.mark.parametrize("module", ["accumulator", "scoring"])
def test_the_examples_of_the_docstrings_are_true(module):
    results = doctest.testmod(importlib.import_module(f"sat_peft.localization.{module}"))
    assert results.attempted > 0
    assert results.failed == 0
