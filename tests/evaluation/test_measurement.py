"""The one measurement: each method before the next, thresholds from elsewhere, boxes without maps last."""

import numpy as np
import pytest
from accelerate import Accelerator
from test_evaluator import brightness, loader, spots

from sat_peft.errors import UsageError
from sat_peft.evaluation.evaluator import evaluate, ten_crop
from sat_peft.evaluation.measure import Measured, MeasuredLoaders, measure, threshold_source
from sat_peft.localization import choose_threshold


@pytest.fixture(scope="module")
def accelerator() -> Accelerator:
    return Accelerator(cpu=True)


@pytest.fixture(scope="module")
def loaders() -> MeasuredLoaders:
    return MeasuredLoaders(loader(spots(7)), held_out=loader(spots(11)), unlabelled=loader(spots(5, boxes=False)))


def darkness(images, labels):
    logits, maps = brightness(images, labels)
    return logits, -maps


def test_methods_are_measured_one_before_the_next_with_their_own_thresholds(accelerator, loaders):
    calls = []

    def methods():
        for name, method in (("sat", brightness), ("other", darkness)):
            calls.append(f"{name} asked")
            yield name, lambda *batch, name=name, method=method: calls.append(name) or method(*batch)

    measured = measure(methods(), loaders, accelerator, protocol="original", bootstrap=0)
    assert calls.index("other asked") > max(i for i, call in enumerate(calls) if call == "sat")
    assert [each.title for each in measured.values()] == ["SAT", "other"]
    for name, method in (("sat", brightness), ("other", darkness)):
        held_out = evaluate(method, loaders.held_out, accelerator, protocol="original")
        chosen = choose_threshold("validation", scores=held_out.result)
        expected = evaluate(method, loaders.test, accelerator, protocol="original", threshold=chosen)
        assert measured[name].evaluation.result.threshold == chosen.value
        assert measured[name].figures["gt_known"] == expected.result.summary["gt_known"]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"threshold": 0.35}, "fixed: given"),
        ({"source": "fixed"}, "fixed: default of protocol original"),
        ({"source": "unsupervised"}, "unsupervised"),
        ({"source": "oracle"}, "oracle"),
        ({}, "validation"),
    ],
)
def test_thresholds_come_from_where_they_are_asked_from(accelerator, loaders, settings, words):
    measured = measure([("sat", brightness)], loaders, accelerator, protocol="original", bootstrap=0, **settings)
    assert measured["sat"].evaluation.result.threshold_source.startswith(words)


def test_without_held_out_boxes_thresholds_are_of_the_maps_and_validation_is_refused(accelerator, loaders):
    bare = MeasuredLoaders(loaders.test, unlabelled=loaders.unlabelled)
    measured = measure([("sat", brightness)], bare, accelerator, protocol="original", priors=["centre_box"])
    assert list(measured) == ["sat"]
    assert measured["sat"].entry()["threshold_source"].startswith("unsupervised")
    assert threshold_source(None, threshold=None, held_out=None, otherwise="fixed") == "fixed"
    with pytest.raises(UsageError, match=r"validation split with boxes.*`unsupervised`"):
        measure([("sat", brightness)], bare, accelerator, protocol="original", source="validation")


def test_centre_box_is_last_and_has_the_classes_of_sat(accelerator, loaders):
    names = {"priors": ("cam", "centre_box"), "bootstrap": 0, "threshold": 0.5}
    methods = [("sat", brightness), ("cam", darkness)]
    measured = measure(methods, loaders, accelerator, protocol="original", **names)
    assert list(measured) == ["sat", "cam", "centre_box"]
    centre = measured["centre_box"]
    assert centre.title == f"centre box, side {centre.side:g}, classes of SAT"
    assert centre.figures["top1_cls"] == measured["sat"].figures["top1_cls"]
    assert centre.entry()["threshold"] is None


def test_images_without_boxes_have_figures_of_classification_alone(accelerator, loaders):
    bare = MeasuredLoaders(loaders.unlabelled, held_out=loaders.held_out)
    measured = measure([("sat", brightness)], bare, accelerator, protocol="original", priors=["centre_box"])
    assert list(measured) == ["sat"]
    assert {name for name, value in measured["sat"].figures.items() if value is not None} == {"top1_cls"}
    entry = measured["sat"].entry()
    assert entry["summary"].keys() == {"top1_cls", "top5_cls"}
    assert entry["confidence_intervals"].keys() <= {"top1_cls", "top5_cls"}


def test_augmented_methods_choose_their_threshold_without_the_views(accelerator, loaders):
    """Held-out images are of single views; the test images alone have those of the augmentation."""

    class Crops:
        dataset = loaders.test.dataset

        def __iter__(self):
            for batch in loaders.test:
                yield batch | {"images": batch["images"][:, None].expand(-1, 10, -1, -1, -1)}

    crops = MeasuredLoaders(Crops(), held_out=loaders.held_out)
    settings = {"protocol": "original", "bootstrap": 0}
    one = measure([("sat", brightness)], loaders, accelerator, **settings)["sat"]
    ten = measure([("sat", brightness)], crops, accelerator, augment=ten_crop, **settings)["sat"]
    assert ten.entry() == one.entry()


def test_entry_leaves_the_figures_of_the_evaluation_as_they_are(accelerator, loaders):
    evaluation = evaluate(brightness, loaders.test, accelerator, protocol="original", threshold=0.5)
    before = dict(evaluation.result.summary)
    assert "max_box_acc" not in Measured.of("SAT", evaluation).entry()["summary"]
    assert evaluation.result.summary == before
    assert np.isfinite(before["max_box_acc"])
