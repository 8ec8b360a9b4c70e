"""What the evaluator takes beyond images and boxes: masks, ten crops, maps without scores."""

import numpy as np
import pytest
import torch
from accelerate import Accelerator

from sat_peft.backbones import DataConfig
from sat_peft.data import splits
from sat_peft.data.loaders import build_evaluation_loader
from sat_peft.data.transforms import CENTRE_OF_TEN, evaluation_transform
from sat_peft.errors import UsageError
from sat_peft.evaluation.evaluator import collect_maps, evaluate, mirrored, ten_crop
from sat_peft.localization import get_protocol, score_maps

CONFIG = DataConfig((224, 224), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), "bilinear")


@pytest.fixture(scope="module")
def rows():
    """Twenty scenes of 96 pixels with masks."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(splits.SCENES_PER_CLASS, "test", 1)
        return splits.load_splits("part_scenes", ["test"]).splits["test"]


def pixel_method(images, labels):
    """Maps that are the first colour channel, coarse; logits that prefer class 0."""
    maps = torch.nn.functional.avg_pool2d(images[:, 0], 16)
    return torch.nn.functional.one_hot(torch.zeros_like(labels), 20).float(), maps


@pytest.mark.parametrize("protocol", ["original", "sat", "wsol"])
def test_maps_that_are_the_masks_are_perfect(rows, protocol):
    """An exact map scores 100 under every protocol, its inverse far less."""
    accelerator = Accelerator(cpu=True)
    masks = [np.asarray(mask) > 127 for mask in rows["mask"]]
    if protocol != "original":
        masks = [get_protocol(protocol).transform_mask(mask) for mask in masks]

    def oracle(sign):
        maps = iter(sign * torch.tensor(np.stack(masks), dtype=torch.float32))

        def method(images, labels):
            return torch.zeros(len(labels), 20), torch.stack([next(maps) for _ in labels])

        return method

    loader = build_evaluation_loader(rows, CONFIG, protocol=protocol, batch_size=8, masks=True)
    exact = evaluate(oracle(1), loader, accelerator, protocol=protocol).result.summary["px_ap"]
    inverse = evaluate(oracle(-1), loader, accelerator, protocol=protocol).result.summary["px_ap"]
    assert exact > 99
    assert inverse < 50


def test_masks_are_read_only_when_asked_for(rows):
    batch = next(iter(build_evaluation_loader(rows, CONFIG, protocol="original", batch_size=3, masks=True)))
    assert [mask.shape for mask in batch["masks"]] == [(96, 96)] * 3
    # The box of a scene is the extent of its mask.
    y, x = np.nonzero(batch["masks"][2])
    assert batch["boxes"][2][0].tolist() == [x.min(), y.min(), x.max() + 1, y.max() + 1]
    assert "masks" not in next(iter(build_evaluation_loader(rows, CONFIG, protocol="original", batch_size=3)))


def test_ten_crops_are_corners_centre_and_mirror_images():
    """A picture of its own coordinates tells where a crop comes from."""
    ramp = torch.arange(256, dtype=torch.uint8)
    image = torch.stack([ramp.expand(256, 256), ramp[:, None].expand(256, 256), ramp.expand(256, 256)])
    crops = evaluation_transform(CONFIG, "sat", ten_crop=True)(image)
    assert crops.shape == (10, 3, 224, 224)
    corners = [tuple((crop[:2, 0, 0] * 255).round().int().tolist()) for crop in crops]
    assert corners[:5] == [(0, 0), (32, 0), (0, 32), (32, 32), (16, 16)]
    # The left corner of the mirrored image is the right corner of the image, mirrored.
    torch.testing.assert_close(crops[5:], crops[[1, 0, 3, 2, 4]].flip(-1))
    torch.testing.assert_close(crops[CENTRE_OF_TEN], evaluation_transform(CONFIG, "sat")(image))


def test_ten_crops_of_whole_images_are_refused():
    with pytest.raises(UsageError, match="protocol 'wsol' shows whole images"):
        evaluation_transform(CONFIG, "wsol", ten_crop=True)


def test_ten_crop_averages_softmaxes_and_keeps_the_map_of_the_centre():
    """Nine crops favour class 1 slightly, one favours class 0 beyond all doubt: the mean of logits would be wrong."""

    def method(images, labels):
        value = images[:, 0, 0, 0]
        logits = torch.stack([torch.where(value == 0, 50.0, 0.0), torch.ones_like(value)], 1)
        return logits, images[:, 0] + labels[:, None, None]

    images = torch.arange(20.0).reshape(2, 10, 1, 1, 1).expand(2, 10, 3, 2, 2)
    scores, maps = ten_crop(method)(images, torch.tensor([100, 200]))
    sure, unsure = torch.tensor([50.0, 1.0]).softmax(0), torch.tensor([0.0, 1.0]).softmax(0)
    torch.testing.assert_close(scores, torch.stack([(sure + 9 * unsure) / 10, unsure]))
    assert scores.argmax(1).tolist() == [1, 1]
    assert maps[:, 0, 0].tolist() == [104, 214]


def test_mean_over_mirror_images_is_turned_back():
    """Maps, and all else that has columns, come from both views in the place of the image; logits are their mean."""

    def method(images, labels):
        brightness = images[:, 0]
        # Neither view is symmetric: the columns are weighed from left to right.
        maps = brightness * torch.arange(1.0, 1 + images.shape[-1]) + labels[:, None, None]
        return maps[:, 0], maps, torch.stack([maps, 2 * maps])

    images = torch.rand(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    logits, maps, block_maps = mirrored(method)(images, torch.tensor([10, 20]))
    # Columns 1 to 5 in one view and 5 to 1 in the other: every column is weighed by 3.
    expected = 3 * images[:, 0] + torch.tensor([10.0, 20.0])[:, None, None]
    torch.testing.assert_close(maps, expected)
    torch.testing.assert_close(block_maps, torch.stack([expected, 2 * expected]))
    torch.testing.assert_close(
        logits, (method(images, torch.tensor([10, 20]))[0] + method(images.flip(-1), torch.tensor([10, 20]))[0]) / 2
    )


def test_ten_crop_evaluation_has_the_maps_of_the_single_crop(rows):
    accelerator = Accelerator(cpu=True)
    single = build_evaluation_loader(rows, CONFIG, protocol="sat", batch_size=8)
    ten = build_evaluation_loader(rows, CONFIG, protocol="sat", batch_size=8, ten_crop=True)
    expected = evaluate(pixel_method, single, accelerator, protocol="sat").result
    found = evaluate(ten_crop(pixel_method), ten, accelerator, protocol="sat").result
    assert np.array_equal(found.per_image["iou"], expected.per_image["iou"])
    assert found.summary["top1_cls"] == 5  # one of the twenty scenes is of class 0


def test_collected_maps_score_as_the_evaluation_does(rows):
    accelerator = Accelerator(cpu=True)
    loader = build_evaluation_loader(rows, CONFIG, protocol="original", batch_size=8)
    maps, sizes = collect_maps(pixel_method, loader, accelerator)
    assert sizes == [(96, 96)] * 20
    boxes = [np.asarray(boxes) for boxes in rows["boxes"]]
    expected = evaluate(pixel_method, loader, accelerator, protocol="original").result.per_image["iou"]
    scored = score_maps(maps, boxes, protocol="original", image_sizes=sizes)
    assert np.array_equal(scored.per_image["iou"], expected)
    assert len(set(expected.tolist())) > 5
