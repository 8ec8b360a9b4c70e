"""The modules of the evaluate library: equal to the functions below them, loadable by path, in several processes."""

import doctest
import importlib
import os
import subprocess
import sys
from pathlib import Path

import evaluate
import numpy as np
import pytest

import sat_peft.metrics as metrics
from sat_peft.errors import UsageError
from sat_peft.localization import score_maps

FOLDER = Path(metrics.__file__).parent
MODULES = ("localization_accuracy", "max_box_acc", "px_ap")


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """Arrow files of the metrics go to the test's folder; nothing is asked of the hub."""
    monkeypatch.setattr(evaluate.config, "HF_METRICS_CACHE", str(tmp_path / "metrics"))
    monkeypatch.setattr(evaluate.config, "HF_EVALUATE_OFFLINE", True)


def example(count=6, seed=0):
    generator = np.random.default_rng(seed)
    maps = generator.random((count, 7, 7)).astype(np.float32)
    boxes = [[[10.0, 20.0, 150.0, 160.0 + row]] for row in range(count)]
    return maps, boxes


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of_the_docstring_are_true(name):
    module = importlib.import_module(f"sat_peft.metrics.{name}.{name}")
    (metric,) = (value for value in vars(module).values() if isinstance(value, type))
    example_test = doctest.DocTestParser().get_doctest(metric.inputs, vars(module).copy(), name, None, None)
    results = doctest.DocTestRunner().run(example_test)
    assert results.attempted > 0
    assert results.failed == 0


@pytest.mark.parametrize("name", MODULES)
def test_a_module_loads_by_path_and_has_a_card(name):
    metric = evaluate.load(str(FOLDER / name))
    assert metric.citation.strip().startswith("@inproceedings")
    card = (FOLDER / name / "README.md").read_text(encoding="utf-8")
    for heading in ("Metric description", "How to use", "Inputs", "Output values", "Limitations", "Citation"):
        assert f"## {heading}" in card
    assert f"# {type(metric).__name__}" in card


def test_localization_accuracy_equals_score_maps_with_and_without_classes():
    maps, boxes = example()
    logits, labels = np.eye(6, dtype=np.float32), np.array([0, 1, 2, 0, 0, 0])
    expected = score_maps(maps, boxes, protocol="sat", threshold=0.4, logits=logits, labels=labels).summary
    metric = metrics.LocalizationAccuracy()
    plain = metric.compute(predictions=maps, references=boxes, protocol="sat", threshold=0.4)
    assert plain["gt_known"] == expected["gt_known"]
    assert "top1_loc" not in plain
    classed = metrics.LocalizationAccuracy(config_name="classes").compute(
        predictions=maps, references=boxes, logits=logits, labels=labels, protocol="sat", threshold=0.4
    )
    assert classed["top1_cls"] == 50.0
    for name in ("gt_known", "mean_iou", "top1_loc", "top5_loc", "top1_cls", "top5_cls"):
        assert classed[name] == expected[name]


def test_localization_accuracy_in_the_images_own_pixels():
    maps, _ = example(2)
    sizes = [[40, 30], [20, 50]]
    boxes = [[[0, 0, 40, 30]], [[0, 0, 20, 50]]]
    result = metrics.LocalizationAccuracy(config_name="sizes").compute(
        predictions=maps, references=boxes, image_sizes=sizes, protocol="original", threshold=0.1
    )
    expected = score_maps(maps, boxes, protocol="original", threshold=0.1, image_sizes=sizes).summary
    assert result["mean_iou"] == expected["mean_iou"] > 0


def test_batches_add_up():
    maps, boxes = example()
    metric = metrics.MaxBoxAcc()
    for start in (0, 2, 4):
        metric.add_batch(predictions=maps[start : start + 2], references=boxes[start : start + 2])
    whole = score_maps(maps, boxes, protocol="wsol", thresholds=np.arange(0, 1, 0.01)).summary
    result = metric.compute(step=0.01)
    assert result["max_box_acc"] == whole["max_box_acc"]
    assert result["max_box_acc_v2"] == whole["max_box_acc_v2"]


def test_px_ap_equals_score_maps_with_and_without_ignored_pixels():
    maps, boxes = example(3)
    masks = np.random.default_rng(1).random((3, 224, 224)) > 0.6
    ignore = np.random.default_rng(2).random((3, 224, 224)) > 0.9
    for left_out in (None, ignore):
        metric = metrics.PxAP(config_name="default" if left_out is None else "ignore")
        given = {} if left_out is None else {"ignore": left_out}
        result = metric.compute(predictions=maps, references=masks, step=0.01, **given)
        expected = score_maps(
            maps, boxes, protocol="wsol", thresholds=np.arange(0, 1, 0.01), masks=masks, ignore=left_out
        )
        assert result["px_ap"] == pytest.approx(expected.summary["px_ap"], abs=1e-12)


WORKER = """
import sys
import numpy as np
import evaluate
rank, folder, cache = int(sys.argv[1]), sys.argv[2], sys.argv[3]
metric = evaluate.load(folder, num_process=2, process_id=rank, experiment_id="two", cache_dir=cache)
maps = np.load(cache + "/maps.npy")
boxes = [[[10.0, 20.0, 150.0, 160.0 + row]] for row in range(len(maps))]
metric.add_batch(predictions=maps[rank::2], references=boxes[rank::2])
result = metric.compute(protocol="sat", threshold=0.4)
if rank == 0:
    print("RESULT", result["gt_known"], result["mean_iou"])
else:
    assert result is None
"""


def test_an_unknown_configuration_is_named():
    with pytest.raises(UsageError, match=r"'clases'.*classes"):
        metrics.LocalizationAccuracy(config_name="clases")


@pytest.mark.slow
def test_two_processes_share_a_cache_folder(tmp_path):
    maps, boxes = example()
    np.save(tmp_path / "maps.npy", maps)
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(FOLDER.parent.parent), os.environ.get("PYTHONPATH", "")]),
        "HF_EVALUATE_OFFLINE": "1",
    }
    command = [sys.executable, "-c", WORKER]
    arguments = [str(FOLDER / "localization_accuracy"), str(tmp_path)]
    processes = [
        subprocess.Popen([*command, str(rank), *arguments], env=environment, stdout=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    outputs = [process.communicate(timeout=100)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    printed = [line.split()[1:] for line in outputs[0].splitlines() if line.startswith("RESULT")]
    expected = score_maps(maps, boxes, protocol="sat", threshold=0.4).summary
    assert [float(value) for value in printed[0]] == pytest.approx([expected["gt_known"], expected["mean_iou"]])
