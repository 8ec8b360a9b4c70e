"""The function for CVAT, in CVAT's own driver; only the server, with its pictures and labels, is not there."""

import logging
import types
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_run import CLASSES, write_run

from sat_peft import Localizer
from sat_peft.errors import UsageError

pytest.importorskip("cvat_sdk", reason="CVAT's functions need cvat-sdk, of the extra `test`")

from cvat_sdk import models
from cvat_sdk.auto_annotation import annotate_task, driver

from sat_peft.plugins import cvat


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    return write_run(tmp_path_factory.mktemp("cvat"))


@pytest.fixture
def image() -> Image.Image:
    generator = np.random.default_rng(0)
    return Image.fromarray(generator.integers(0, 255, (60, 90, 3), dtype=np.uint8))


def annotated(monkeypatch, function, image, labels: list[str], **options) -> list[dict]:
    """The shapes that CVAT's driver would upload for a task of two frames with these labels."""
    frames = [
        types.SimpleNamespace(
            frame_index=index, frame_name=f"{index}.png", media=types.SimpleNamespace(load_image=lambda: image)
        )
        for index in (0, 1)
    ]
    task = types.SimpleNamespace(
        labels=[
            models.Label(id=100 + place, name=name, type="rectangle", attributes=[], sublabels=[])
            for place, name in enumerate(labels)
        ],
        samples=frames,
    )
    monkeypatch.setattr(driver, "TaskDataset", lambda client, task_id, load_annotations: task)
    uploaded = []
    api = types.SimpleNamespace(
        partial_update_annotations=lambda action, task_id, patched_labeled_data_request: uploaded.extend(
            shape.to_dict() for shape in patched_labeled_data_request.shapes
        )
    )
    client = types.SimpleNamespace(logger=logging.getLogger(), tasks=types.SimpleNamespace(api=api))
    annotate_task(client, 1, function, **options)
    return uploaded


@pytest.mark.parametrize("multi", [False, True])
def test_driver_uploads_the_boxes_of_the_localizer(run, image, monkeypatch, multi):
    labels = list(reversed(CLASSES))  # the task has them in an order of its own
    shapes = annotated(monkeypatch, cvat.create(run=str(run), multi=multi), image, labels)
    [expected] = Localizer.from_pretrained(run)(image, multi=multi)
    for frame in (0, 1):
        found = [shape for shape in shapes if shape["frame"] == frame]
        assert [shape["points"] for shape in found] == expected.boxes.tolist()
        assert {(shape["type"], shape["label_id"]) for shape in found} == {
            ("rectangle", 100 + labels.index(expected.label))
        }


def test_confidence_and_labels_of_the_task_are_heeded(run, image, monkeypatch):
    function = cvat.create(
        adapter=str(run / "adapter"), backbone="test_vit", weights=str(run.parent / "model.safetensors")
    )
    [expected] = Localizer.from_pretrained(run)(image)
    low, high = expected.score - 0.01, min(1.0, expected.score + 0.01)
    assert len(annotated(monkeypatch, function, image, CLASSES, conf_threshold=low)) == 2
    assert annotated(monkeypatch, function, image, CLASSES, conf_threshold=high) == []
    others = [name for name in CLASSES if name != expected.label]
    assert annotated(monkeypatch, function, image, others, allow_unmatched_labels=True) == []


@pytest.mark.parametrize("given", [{}, {"run": "one", "adapter": "two"}])
def test_model_is_named_once(given):
    with pytest.raises(UsageError, match="run=str:FOLDER"):
        cvat.create(**given)
