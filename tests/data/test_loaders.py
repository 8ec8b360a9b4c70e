"""One builder of loaders: order, contents and the checks of boxes."""

import io
import pickle

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from datasets import Dataset
from datasets import Image as ImageFeature
from PIL import Image

from sat_peft.backbones import DataConfig
from sat_peft.commands.command_line import run
from sat_peft.data.features import localization_features, rows_with_boxes
from sat_peft.data.loaders import ImageRows, build_evaluation_loader, build_loaders, collate
from sat_peft.data.transforms import evaluation_transform, training_steps, training_transform
from sat_peft.errors import UsageError
from sat_peft.evaluation.evaluator import evaluate

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
        found = []
        for epoch in range(2):
            loader.sampler.set_epoch(epoch)
            found.append(order(loader))
        return found

    first, second = epochs(0)
    assert sorted(first) == sorted(second) == list(range(24))
    assert len({tuple(first), tuple(second), tuple(range(24))}) == 3
    assert epochs(0) == [first, second]
    assert epochs(1) != [first, second]


def test_training_images_are_augmented_and_evaluation_images_are_not():
    gradient = np.broadcast_to(np.linspace(0, 255, 40).astype(np.uint8)[None, :, None], (20, 40, 3))
    one = rows(1, pixels=gradient)
    built = loaders({"train": one, "test": one}, cache_train=True)
    views = []
    for epoch in range(6):
        built.train.sampler.set_epoch(epoch)
        views.append(next(iter(built.train))["images"])
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


def damaged_rows() -> Dataset:
    damaged = rows(1).to_dict() | {"image": [{"bytes": b"no image", "path": None}]}
    return Dataset.from_dict(damaged, features=localization_features(["a", "b"]))


def test_unreadable_image_is_named():
    with pytest.raises(UsageError, match="'image0' cannot be read"):
        collate([ImageRows(damaged_rows(), lambda image: image)[0]])


def test_unreadable_image_is_told_in_a_line_even_from_a_loader_process(capsys):
    loader = build_evaluation_loader(damaged_rows(), CONFIG, protocol="original", num_workers=1)
    with pytest.raises(SystemExit) as end:
        run(lambda _: list(loader), lambda: None, interrupted="nothing is lost")
    assert end.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("\nerror: the image 'image0' cannot be read (it is empty, damaged")
    assert said.endswith("remove it from the data.\n")
    assert said.count("\n") == 2


def test_rows_with_boxes_leaves_out_the_others():
    kept = rows_with_boxes(rows(3, [[[0, 0, 1, 1]], [], [[0, 0, 2, 2], [0, 0, 3, 3]]]))
    assert kept["image_id"][:] == ["image0", "image2"]


def mask_png(*columns: tuple[int, int]) -> dict:
    """A mask of 40 x 20 pixels that is light in these columns."""
    mask = np.zeros((20, 40), np.uint8)
    for first, end in columns:
        mask[:, first:end] = 255
    return png(mask)


def masked_rows(masks: list, ignore: list, **columns) -> Dataset:
    """`rows` with lists of masks; `columns` take the place of others."""
    plain = rows(len(masks)).cast_column("image", ImageFeature(decode=False)).to_dict()
    features = localization_features(["even", "odd"], with_mask=True, several_masks=True)
    return Dataset.from_dict(plain | {"mask": masks, "ignore": ignore} | columns, features=features)


def test_masks_are_united_and_pixels_to_ignore_are_kept_apart():
    made = masked_rows([[mask_png((0, 5)), mask_png((3, 8))], []], [[mask_png((20, 30))], []])
    batch = next(iter(build_evaluation_loader(made, CONFIG, protocol="original", masks=True)))
    assert batch["masks"][0].any(0).nonzero()[0].tolist() == list(range(8))
    assert batch["ignore"][0].any(0).nonzero()[0].tolist() == list(range(20, 30))
    # Nothing is known of an image without masks, so none of its pixels counts.
    assert not batch["masks"][1].any()
    assert batch["ignore"][1].all()


def test_pixels_to_ignore_do_not_count_in_the_evaluation():
    """The map is wrong exactly where pixels are ignored, and in an image without masks."""
    found = torch.zeros(2, 20, 40)
    found[0, :, :8] = 1
    found[0, :, 20:30] = 1
    found[1, :, 5:9] = 1
    logits = torch.zeros(2, 2)
    for ignore, perfect in (([mask_png((20, 30))], True), ([], False)):
        made = masked_rows([[mask_png((0, 8))], []], [ignore, []])
        loader = build_evaluation_loader(made, CONFIG, protocol="original", masks=True)
        evaluation = evaluate(
            lambda images, labels: (logits, found), loader, Accelerator(cpu=True), protocol="original"
        )
        assert (evaluation.result.summary["px_ap"] == 100) is perfect


def test_mask_of_another_size_than_its_image_is_named():
    made = masked_rows([[png(np.zeros((40, 20), np.uint8))]], [[]])
    with pytest.raises(UsageError, match=r"a mask of 'image0' has 20 x 40 pixels, its image 40 x 20"):
        ImageRows(made, lambda image: image, masks=True)[0]


def views(workers: int, seed: int) -> list[torch.Tensor]:
    """Two epochs of two batches of one and the same picture."""
    gradient = np.broadcast_to(np.linspace(0, 255, 40).astype(np.uint8)[None, :, None], (20, 40, 3))
    loader = loaders({"train": rows(8, pixels=gradient), "test": rows(2)}, num_workers=workers, seed=seed).train
    found = []
    for epoch in range(2):
        loader.sampler.set_epoch(epoch)
        found += [batch["images"] for batch in loader]
    return found


def test_augmentation_is_that_of_the_seed_however_many_processes_load():
    alone, helped, other = views(0, 0), views(2, 0), views(2, 1)
    assert all(torch.equal(a, b) for a, b in zip(alone, helped, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(alone, other, strict=True))
    # All images are the same, so equal batches would mean equal draws: of two processes, and of two epochs.
    assert not any(torch.equal(alone[a], alone[b]) for a in range(4) for b in range(a))


def test_cache_is_bounded_and_does_not_change_what_is_read():
    made = rows(6)
    resize, augment = training_steps(CONFIG, "none")
    image_bytes = 3 * 32 * 32
    samples = ImageRows(made, augment, resize=resize, cache_bytes=3 * (image_bytes + 16) + 1)
    plain = ImageRows(made, training_transform(CONFIG, "none"))
    for _ in range(2):
        for index in range(6):
            assert torch.equal(samples[index]["image"], plain[index]["image"])
    assert sorted(samples._cache) == [0, 1, 2]


def test_rows_are_handed_to_loader_processes_however_they_are_started():
    samples = ImageRows(rows(2), evaluation_transform(CONFIG, "original"), masks=True)
    assert torch.equal(pickle.loads(pickle.dumps(samples))[1]["image"], samples[1]["image"])
