"""Masks that start where they are told to, on every backbone."""

import pytest
import torch
from peft import get_peft_model
from tiny_backbones import BACKBONES, create, create_plain, images_for

from sat_peft import SatConfig, calibrate_masks, load_adapter, save_adapter
from sat_peft.errors import UsageError
from sat_peft.tuner.layer import MaskCalibration


def calibrated(vit, **changes):
    return get_peft_model(
        vit, SatConfig(**({"num_classes": 3, "num_spatial_blocks": 2, "calibrated_masks": True} | changes))
    )


@pytest.mark.parametrize("name", BACKBONES)
@pytest.mark.parametrize("mean", [0.1, 0.35])
def test_logits_of_every_block_get_the_mean_and_unit_contrast(name, mean):
    vit = create(name)
    model = calibrated(vit, token_entry="late")
    images = images_for(vit, batch=4)
    calibrate_masks(model, images, mean)
    with torch.no_grad():
        logits = model.eval()(images).block_maps.logit().flatten(2)
    torch.testing.assert_close(logits.mean((1, 2)), torch.tensor(mean).logit().expand(2), atol=2e-3, rtol=0)
    torch.testing.assert_close(logits.std(2).mean(1), torch.ones(2), atol=2e-3, rtol=0)


def test_uncalibrated_it_is_the_model_of_the_paper():
    images = images_for(create_plain())
    torch.manual_seed(0)
    plain = get_peft_model(create_plain(), SatConfig(num_classes=3, num_spatial_blocks=2)).eval()
    torch.manual_seed(0)
    fresh = calibrated(create_plain()).eval()
    for expected, found in zip(plain(images).values(), fresh(images).values(), strict=True):
        assert torch.equal(expected, found)


def test_it_is_saved_switched_and_taken_out_with_the_adapter(tmp_path):
    vit, images = create_plain(), images_for(create_plain())
    base = vit(images)
    model = calibrated(vit)
    calibrate_masks(model, images, 0.3)
    expected = model.eval()(images)
    save_adapter(model, tmp_path / "adapter")
    model.add_adapter("other", SatConfig(num_classes=2, num_spatial_blocks=3))
    model.set_adapter("other")
    assert model(images).block_maps.shape[0] == 3
    with pytest.raises(UsageError, match=r"other.*calibrated_masks=True"):
        calibrate_masks(model, images, 0.3)
    with model.disable_adapter():
        assert torch.equal(model(images), base)
    model.set_adapter("default")
    assert torch.equal(model(images).maps, expected.maps)
    model.delete_adapter("other")
    assert torch.equal(model(images).maps, expected.maps)
    bare = model.unload()
    assert torch.equal(bare(images), base)
    assert not any(isinstance(module, MaskCalibration) for module in bare.modules())
    again = load_adapter(create_plain(), tmp_path / "adapter")
    assert torch.equal(again(images).maps, expected.maps)


def test_deleting_its_adapter_takes_it_out():
    model = calibrated(create_plain())
    model.add_adapter("other", SatConfig(num_classes=2))
    model.set_adapter("other")
    model.delete_adapter("default")
    assert not any(isinstance(module, MaskCalibration) for module in model.modules())


def test_scale_and_shift_train_and_the_mode_stays():
    vit = create_plain()
    model = calibrated(vit, tune="none").train()
    images = images_for(vit)
    calibrate_masks(model, images, 0.3)
    assert model.training
    trained = {name: p for name, p in model.named_parameters() if "sat_mask_" in name}
    assert len(trained) == 4
    model(images).maps.sum().backward()
    assert all(parameter.grad is not None and parameter.grad != 0 for parameter in trained.values())


def test_logits_without_contrast_are_only_shifted():
    layer = MaskCalibration("default")
    layer.update_layer("default", device=None, inference_mode=False)
    layer.calibrates_to = 0.2, slice(1, None)
    masks = layer(torch.full((2, 5), 7.0)).sigmoid()
    torch.testing.assert_close(masks, torch.full((2, 5), 0.2))


@pytest.mark.parametrize("mean", [0, 1, -0.1, float("nan")])
def test_a_mean_out_of_range_is_refused(mean):
    vit = create_plain()
    with pytest.raises(UsageError, match="between 0 and 1"):
        calibrate_masks(calibrated(vit), images_for(vit), mean)
