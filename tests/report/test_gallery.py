"""Which images are shown: the best, the middle and the worst of the evaluation, with the boxes that were scored."""

import io

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from datasets import Dataset
from PIL import Image

from sat_peft.backbones import DataConfig
from sat_peft.data.features import localization_features
from sat_peft.data.loaders import build_loaders
from sat_peft.evaluation.evaluator import evaluate
from sat_peft.report import gallery

CPU = torch.device("cpu")


def left_half(images: torch.Tensor, labels: torch.Tensor):
    """A method that always finds the left half."""
    maps = torch.zeros(len(images), 8, 8)
    maps[:, :, :4] = 1
    return torch.zeros(len(images), 2), maps


def load(true_widths: list[int | None]):
    """Loader of images of 64 x 64 pixels; the true box is the left `true_widths[i]` columns."""
    rows = Dataset.from_dict(
        {
            "image_id": [str(index) for index in range(len(true_widths))],
            "image": [{"bytes": _png(index), "path": None} for index in range(len(true_widths))],
            "label": [index % 2 for index in range(len(true_widths))],
            "boxes": [[] if width is None else [[0.0, 0.0, float(width), 64.0]] for width in true_widths],
        },
        features=localization_features(["cat", "dog"]),
    )
    config = DataConfig((64, 64), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), "bilinear")
    return build_loaders({"train": rows, "test": rows}, config, protocol="original", batch_size=1).test


def _png(level: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64), (level, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def shown(monkeypatch) -> dict:
    """The rows that would be drawn."""
    rows: dict = {}
    monkeypatch.setattr(gallery, "draw_examples", lambda path, groups: rows.update(groups))
    return rows


def draw(true_widths, columns: int) -> None:
    loader = load(true_widths)
    evaluation = evaluate(left_half, loader, Accelerator(cpu=True), protocol="original", threshold=0.5)
    gallery.draw_best_and_worst("unused.png", left_half, loader.dataset, evaluation, CPU, columns=columns)


def test_best_median_and_worst_are_shown_with_their_iou(shown):
    # The left 32 columns against these: IoU 0.5, 1, 0.67, 0.53, 0.25 and 0.75.
    draw([16, 32, 48, 60, 8, 24], columns=2)
    numbers = {heading: [int(e.image[0, 0, 0]) for e in examples] for heading, examples in shown.items()}
    assert numbers == {"Highest IoU": [1, 5], "Around the median": [2, 3], "Lowest IoU": [4, 0]}
    best = shown["Highest IoU"][0]
    assert best.title == "dog\nIoU 1.00"
    assert best.true.tolist() == [[0, 0, 32, 64]]
    assert best.scores.shape == (64, 64)
    assert best.predicted.tolist() == [0, 0, 32, 64]


def test_without_boxes_the_first_images_are_shown_in_order(shown):
    draw([None] * 5, columns=2)
    examples = [example for group in shown.values() for example in group]
    assert [int(example.image[0, 0, 0]) for example in examples] == [0, 1, 2, 3]
    assert [example.title for example in examples] == ["cat", "dog", "cat", "dog"]
    assert all(len(example.true) == 0 for example in examples)
    assert next(iter(shown)) == "Examples (no true boxes)"


def test_a_single_image_can_be_shown(shown):
    draw([32], columns=5)
    assert all(len(examples) == 1 for examples in shown.values())
    np.testing.assert_array_equal(shown["Highest IoU"][0].image, np.zeros((64, 64, 3)))
