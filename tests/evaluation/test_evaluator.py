"""The evaluator: the figures of direct scoring, in one process and in two, and the centre box by hand."""

import io
import json

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from datasets import Dataset, concatenate_datasets
from PIL import Image
from processes import run_processes

from sat_peft.backbones import DataConfig
from sat_peft.data.features import localization_features
from sat_peft.data.loaders import build_loaders
from sat_peft.errors import UsageError
from sat_peft.evaluation import evaluator
from sat_peft.evaluation.baselines.centre_box import centre_box_accuracy
from sat_peft.evaluation.evaluator import (
    Evaluation,
    evaluate,
    threshold_of_maps,
)
from sat_peft.localization import get_protocol, score_maps

NUM_CLASSES = 7


def spots(count: int, sizes=((64, 48), (40, 56)), boxes: bool = True) -> Dataset:
    """Bright rectangles on dark noise; their boxes are right for two images of three and beside the object else."""
    generator = np.random.default_rng(0)
    rows: dict[str, list] = {"image_id": [], "image": [], "label": [], "boxes": []}
    for index in range(count):
        width, height = sizes[index % len(sizes)]
        pixels = generator.integers(0, 60, (height, width, 3), dtype=np.uint8)
        x0, y0 = generator.integers(0, width // 2), generator.integers(0, height // 2)
        x1, y1 = x0 + width // 3, y0 + height // 3
        pixels[y0:y1, x0:x1] += 150
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG")
        box = [x0, y0, x1, y1] if index % 3 else [0, 0, 8, 8]
        rows["image_id"].append(f"image{index}")
        rows["image"].append({"bytes": buffer.getvalue(), "path": None})
        rows["label"].append(index % NUM_CLASSES)
        rows["boxes"].append([list(map(float, box))] if boxes else [])
    return Dataset.from_dict(rows, features=localization_features([f"class{c}" for c in range(NUM_CLASSES)]))


def brightness(images: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """A method: the map is the brightness, the logits are moments of each image; no figure depends on the batch."""
    maps = torch.nn.functional.avg_pool2d(images.mean(1, keepdim=True), 4)[:, 0]
    frequencies = torch.arange(1, NUM_CLASSES + 1)
    return torch.sin(1000 * maps.mean((1, 2))[:, None] * frequencies), maps


def loader(rows: Dataset, protocol: str = "original", batch_size: int = 3):
    size = 64 if protocol == "original" else 224
    config = DataConfig((size, size), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), "bilinear")
    return build_loaders(
        {"train": rows, "test": rows}, config, protocol=protocol, batch_size=1, eval_batch_size=batch_size
    ).test


@pytest.fixture(scope="module")
def accelerator() -> Accelerator:
    return Accelerator(cpu=True)


@pytest.mark.parametrize("protocol", ["original", "sat", "wsol", "tscam"])
def test_figures_are_those_of_scoring_the_maps_directly(accelerator, protocol):
    rows = spots(11)
    test = loader(rows, protocol)
    evaluation = evaluate(brightness, accelerator.prepare(test), accelerator, protocol=protocol, threshold=0.4)

    samples = [test.dataset[index] for index in range(len(rows))]
    labels = torch.tensor([sample["label"] for sample in samples])
    logits, maps = brightness(torch.stack([sample["image"] for sample in samples]), labels)
    rules, boxes = get_protocol(protocol), []
    for sample in samples:
        scored, valid = rules.transform_boxes(sample["boxes"].numpy(), sample["image_size"])
        boxes.append(scored[valid])
    direct = score_maps(
        maps,
        boxes,
        protocol=protocol,
        threshold=0.4,
        logits=logits,
        labels=labels,
        image_sizes=[sample["image_size"] for sample in samples] if protocol == "original" else None,
    )
    assert evaluation.result.summary == direct.summary
    assert evaluation.result.per_threshold == direct.per_threshold
    np.testing.assert_array_equal(evaluation.result.per_image["box"], direct.per_image["box"])
    assert 0 < direct.summary["gt_known"] < 100
    assert 0 < direct.summary["top5_loc"] < direct.summary["gt_known"]


def test_images_are_described_in_the_order_of_the_data_set(accelerator):
    rows = spots(5)
    images = evaluate(brightness, loader(rows), accelerator, protocol="original").images
    assert [image.index for image in images] == list(range(5))
    assert [image.size for image in images] == [(64, 48), (40, 56)] * 2 + [(64, 48)]
    assert [image.boxes.tolist() for image in images] == rows["boxes"][:]


def test_boxes_of_images_are_in_evaluation_pixels(accelerator):
    rows = spots(1, sizes=((512, 256),))
    rows = rows.map(lambda row: {"boxes": [[0.0, 0.0, 256.0, 128.0]]})
    (image,) = evaluate(brightness, loader(rows, "wsol"), accelerator, protocol="wsol").images
    assert image.size == (224, 224)
    assert image.boxes.tolist() == [[0, 0, 112, 112]]


def test_label_rank_counts_the_classes_before_the_true_one(accelerator):
    def scores(images, labels):
        logits = torch.tensor(
            [
                [9.0, 1, 2, 3, 4, 5, 6],  # label 0 is first
                [9.0, 1, 2, 3, 4, 5, 6],  # label 1 is last
                [1.0, 5, 5, 5, 0, 0, 0],  # label 2 ties with two classes, one of which comes before it
                [float("nan")] * 7,  # nothing can be compared: never right
            ]
        )
        return logits, images.mean(1)

    evaluation = evaluate(scores, loader(spots(4), batch_size=4), accelerator, protocol="original")
    ranks = [image.label_rank for image in evaluation.images]
    assert ranks == [0, 6, 1, 7]
    # The same rule as the method's own classification, or the centre box would have another classifier.
    figures = centre_box_accuracy(evaluation.images, 0.5, "original")
    assert figures["top1_cls"] == evaluation.result.summary["top1_cls"] == 25.0


def test_images_without_boxes_are_counted_apart(accelerator):
    evaluation = evaluate(brightness, loader(spots(3, boxes=False)), accelerator, protocol="original")
    assert evaluation.num_with_boxes == 0
    assert evaluation.result.summary["gt_known"] == 0
    assert evaluation.result.summary["top1_cls"] is not None
    assert evaluate(brightness, loader(spots(3)), accelerator, protocol="original").num_with_boxes == 3


def test_empty_loader_is_refused(accelerator):
    with pytest.raises(UsageError, match="no image"):
        evaluate(brightness, [], accelerator, protocol="original")


def test_threshold_without_boxes_separates_bright_spots_from_the_ground(accelerator):
    without_boxes = loader(spots(11, boxes=False))
    choice = threshold_of_maps(brightness, without_boxes, accelerator, "original")
    assert choice.source.startswith("unsupervised")
    measured = evaluate(brightness, loader(spots(11)), accelerator, protocol="original", threshold=choice)
    assert measured.result.summary["gt_known"] == max(measured.result.per_threshold["gt_known"])


def test_methods_run_in_inference_mode(accelerator):
    modes = []

    def seen(images, labels):
        modes.append(torch.is_inference_mode_enabled())
        return brightness(images, labels)

    evaluate(seen, loader(spots(3), batch_size=2), accelerator, protocol="original")
    assert modes == [True, True]


def test_freed_memory_goes_back_to_the_system_again_and_again(accelerator, monkeypatch):
    """What is kept of every batch lies between what is freed: without this, memory grows with the number of images."""
    released = []
    monkeypatch.setattr(evaluator, "release_freed_memory", lambda: released.append(len(seen)))
    seen = []

    def counted(images, labels):
        seen.append(len(images))
        return brightness(images, labels)

    evaluate(counted, loader(spots(17), batch_size=1), accelerator, protocol="original")
    assert released == [7, 15]


# Two processes

ODD = 7  # two processes with batches of 2 repeat samples to be equally long


def figures(evaluation: Evaluation) -> dict:
    result = evaluation.result
    images = [[i.index, list(i.size), i.boxes.tolist(), i.label_rank] for i in evaluation.images]
    records = {name: values.tolist() for name, values in result.per_image.items()}
    return {"result": result.to_dict(), "records": records, "images": images}


def _evaluate_in_a_process() -> dict:
    accelerator = Accelerator(cpu=True)
    scored = 0

    def counted(images, labels):
        nonlocal scored
        scored += len(images)
        return brightness(images, labels)

    test = accelerator.prepare(loader(spots(ODD), batch_size=2))
    evaluation = evaluate(counted, test, accelerator, protocol="original", threshold="oracle", bootstrap=20)
    accelerator.end_training()
    return {"scored": scored, "figures": json.dumps(figures(evaluation))}


@pytest.mark.slow
def test_two_processes_give_exactly_the_figures_of_one(accelerator):
    alone = evaluate(
        brightness, loader(spots(ODD), batch_size=2), accelerator, protocol="original", threshold="oracle", bootstrap=20
    )
    processes = run_processes(_evaluate_in_a_process)
    assert [process["scored"] for process in processes] == [4, 4]
    for process in processes:
        assert process["figures"] == json.dumps(figures(alone))


def test_maps_of_nan_and_images_without_a_box_are_remarked(accelerator):
    def undefined(images: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits, maps = brightness(images, labels)
        return logits, torch.full_like(maps, float("nan"))

    rows = concatenate_datasets([spots(3), spots(2, boxes=False)])
    with pytest.warns(UserWarning, match="2 of 5 images have no box"):
        evaluate(brightness, accelerator.prepare(loader(rows)), accelerator, protocol="original")
    with pytest.warns(UserWarning, match="3 maps hold NaN or infinity"):
        evaluate(undefined, accelerator.prepare(loader(spots(3))), accelerator, protocol="original")
