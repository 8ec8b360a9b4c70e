"""One builder of loaders: order, contents and the checks of boxes."""

import io

import numpy as np
import pytest
import torch
from datasets import Dataset
from PIL import Image

from sat_peft.backbones import DataConfig
from sat_peft.data.features import localization_features, rows_with_boxes
from sat_peft.data.loaders import ImageRows, build_loaders, collate
from sat_peft.errors import UsageError

CONFIG = DataConfig((32, 32), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), "bilinear")


def png(image: np.ndarray) -> dict:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return {"bytes": buffer.getvalue(), "path": None}


def rows(count: int, boxes=None, pixels: np.ndarray | None = None) -> Dataset:
    """Images of 40 x 20 pixels; image i is grey with brightness 10 i unless `pixels` are given, and has label i % 2."""
    return Dataset.from_dict(
        {
            "image_id": [f"image{index}" for index in range(count)],
            "image": [
                png(np.full((20, 40, 3), 10 * index, np.uint8) if pixels is None else pixels) for index in range(count)
            ],
            "label": [index % 2 for index in range(count)],
            "boxes": boxes or [[[0.0, 0.0, 40.0, 20.0]]] * count,
        },
        features=localization_features(["even", "odd"]),
    )


def loaders(splits: dict, **options):
    return build_loaders(splits, CONFIG, protocol="original", **({"batch_size": 4} | options))


def order(loader) -> list[int]:
    return torch.cat([batch["indices"] for batch in loader]).tolist()


def test_batches_hold_images_labels_boxes_sizes_and_row_numbers():
    boxes = [[[0, 0, 10, 10]], [], [[1, 2, 3, 4], [5, 6, 7, 8]]]
    batch = next(iter(loaders({"train": rows(3), "test": rows(3, boxes)}).test))
    assert batch["images"].shape == (3, 3, 32, 32)
    torch.testing.assert_close(batch["images"].mean((1, 2, 3)), torch.tensor([0, 10, 20]) / 255)
    assert batch["labels"].tolist() == [0, 1, 0]
    assert [b.tolist() for b in batch["boxes"]] == boxes
    assert [b.shape for b in batch["boxes"]] == [(1, 4), (0, 4), (2, 4)]
    assert batch["image_sizes"].tolist() == [[40, 20]] * 3
    assert batch["indices"].tolist() == [0, 1, 2]


def test_evaluation_is_in_order_and_complete():
    built = loaders({"train": rows(9), "validation": rows(5), "test": rows(7)}, eval_batch_size=3)
    assert order(built.test) == list(range(7))
    assert order(built.validation) == list(range(5))


def test_missing_validation_is_none():
    assert loaders({"train": rows(2), "test": rows(2)}).validation is None


def test_training_order_is_a_shuffle_that_the_seed_repeats():
    splits = {"train": rows(24), "test": rows(2)}

    def epochs(seed: int) -> list[list[int]]:
        loader = loaders(splits, seed=seed).train
        return [order(loader), order(loader)]

    first, second = epochs(0)
    assert sorted(first) == sorted(second) == list(range(24))
    assert len({tuple(first), tuple(second), tuple(range(24))}) == 3
    assert epochs(0) == [first, second]
    assert epochs(1) != [first, second]


def test_training_images_are_augmented_and_evaluation_images_are_not():
    gradient = np.broadcast_to(np.linspace(0, 255, 40).astype(np.uint8)[None, :, None], (20, 40, 3))
    one = rows(1, pixels=gradient)
    built = loaders({"train": one, "test": one}, cache_train=True)
    torch.manual_seed(0)
    views = [next(iter(built.train))["images"] for _ in range(6)]
    assert any(not torch.equal(view, views[0]) for view in views)
    first, second = (next(iter(built.test))["images"] for _ in range(2))
    assert torch.equal(first, second)


def test_cached_images_are_read_once_and_the_same(tmp_path):
    file = tmp_path / "a.png"
    Image.new("RGB", (40, 20), (1, 2, 3)).save(file)
    features = localization_features(["a", "b"])
    data = {"image_id": ["a"], "image": [str(file)], "label": [0], "boxes": [[]]}
    cached = ImageRows(Dataset.from_dict(data, features=features), lambda image: image, cache_bytes=10**6)
    first = cached[0]["image"]
    file.unlink()
    assert torch.equal(cached[0]["image"], first)
    with pytest.raises(UsageError, match="'a' cannot be read"):
        cached.decode(0)


def test_loader_processes_give_the_same_batches():
    splits = {"train": rows(2), "test": rows(5)}
    alone, helped = (loaders(splits, eval_batch_size=2, num_workers=workers).test for workers in (0, 1))
    for one, other in zip(alone, helped, strict=True):
        assert torch.equal(one["images"], other["images"])
        assert torch.equal(one["indices"], other["indices"])


@pytest.mark.parametrize("box", [[0, 0, 42, 20], [0, 0, 40, 22], [-2, 0, 5, 5]])
def test_box_that_leaves_its_image_is_named(box):
    samples = ImageRows(rows(2, [[[0, 0, 1, 1]], [[0, 0, 2, 2], box]]), lambda image: image)
    assert samples[0]["boxes"].tolist() == [[0, 0, 1, 1]]
    with pytest.raises(UsageError, match=r"'image1': the box .* leaves its image of 40 x 20 pixels.*box format"):
        samples[1]


def test_box_may_end_a_rounding_error_outside():
    samples = ImageRows(rows(1, [[[0.1, 0, 40.00001, 20.5]]]), lambda image: image)
    assert samples[0]["boxes"].shape == (1, 4)


@pytest.mark.parametrize("option", [{"batch_size": 0}, {"eval_batch_size": -2}, {"num_workers": -1}])
def test_number_out_of_range_is_named(option):
    ((name, value),) = option.items()
    with pytest.raises(UsageError, match=rf"^{name} must be at least [01], got {value}"):
        loaders({"train": rows(2), "test": rows(2)}, **option)


def test_unreadable_image_is_named():
    damaged = rows(1).to_dict() | {"image": [{"bytes": b"no image", "path": None}]}
    samples = ImageRows(Dataset.from_dict(damaged, features=localization_features(["a", "b"])), lambda image: image)
    with pytest.raises(UsageError, match="'image0' cannot be read"):
        collate([samples[0]])


def test_rows_with_boxes_leaves_out_the_others():
    kept = rows_with_boxes(rows(3, [[[0, 0, 1, 1]], [], [[0, 0, 2, 2], [0, 0, 3, 3]]]))
    assert kept["image_id"][:] == ["image0", "image2"]
