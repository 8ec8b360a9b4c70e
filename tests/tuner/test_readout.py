"""The class readout: maps refined and classes told by discriminants that are fitted, not trained."""

import json

import pytest
import torch
from peft import get_peft_model
from processes import run_processes
from safetensors.torch import load_file, save_file
from tiny_backbones import BACKBONES, create, create_plain, images_for
from torch import distributed

from sat_peft import SatConfig, fit_class_readout, load_adapter, save_adapter
from sat_peft.errors import UsageError
from sat_peft.tuner import readout as readouts
from sat_peft.tuner.readout import contrast, standardised, weigh

LABELS = torch.tensor([0, 1, 2, 0, 1, 2])


def adapted(vit, **changes):
    torch.manual_seed(2)
    return get_peft_model(vit, SatConfig(**({"num_classes": 3, "num_spatial_blocks": 2} | changes))).eval()


@pytest.fixture
def evidence_counts(monkeypatch):
    """Evidence counts, though random images of few kinds do not show that it can be trusted."""
    monkeypatch.setattr(readouts, "_TOLD_APART", -1e9)


def fitted(vit, images, labels=LABELS, **changes):
    model = adapted(vit, **changes)
    fit_class_readout(model, [(images[:2], labels[:2]), (images[2:], labels[2:])])
    return model


def two_kinds_of_patches(wrong: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Tokens (1, 20, 8) of an object of 8 patches, which they are, and a map with some of them wrong."""
    generator = torch.Generator().manual_seed(0)
    truth = (torch.arange(20) < 8).float()
    directions = torch.randn(2, 8, generator=generator)
    tokens = directions[truth.long()] + 0.1 * torch.randn(20, 8, generator=generator)
    found = truth.clone()
    found[:wrong] = 0
    return tokens[None], truth, (0.1 + 0.8 * found)[None]


@pytest.mark.parametrize("wrong", [0, 1, 3])
def test_patches_that_the_map_got_wrong_change_sides(wrong):
    tokens, truth, maps = two_kinds_of_patches(wrong)
    assert torch.equal((contrast(tokens, maps) > 0.5)[0].float(), truth)


@pytest.mark.parametrize("noise", [0, 1e-3])
def test_a_uniform_map_does_not_become_an_object(noise):
    tokens, _, _ = two_kinds_of_patches(0)
    maps = 0.35 + noise * torch.randn(1, 20, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(contrast(tokens, maps), maps, atol=0.02, rtol=0)


def test_evidence_leaves_out_what_does_not_speak_for_the_class_and_keeps_the_rest():
    foreground = torch.tensor([[0.9] * 6 + [0.1] * 6])
    evidence = torch.tensor([[5.0] * 4 + [-5.0] * 2 + [0.0] * 6])
    relative = standardised(evidence[:, None], foreground).squeeze(1)
    found = weigh(foreground, 2 * relative)
    assert torch.equal(found[0, :4], foreground[0, :4])
    assert (found[0, 4:6] < 0.2).all()
    assert (found <= foreground).all()
    assert torch.equal(weigh(foreground, torch.zeros(1, 12)), foreground)


@pytest.mark.parametrize(("scale", "shift"), [(1, 0), (100, -3)])
def test_evidence_is_relative_to_the_foreground_of_its_image(scale, shift):
    generator = torch.Generator().manual_seed(0)
    foreground = torch.rand(2, 30, generator=generator)
    evidence = scale * torch.randn(2, 3, 30, generator=generator) + shift
    found, weights = standardised(evidence, foreground), foreground[:, None] / foreground.sum(1)[:, None, None]
    torch.testing.assert_close((found * weights).sum(2), torch.zeros(2, 3), atol=1e-5, rtol=0)
    torch.testing.assert_close((found.square() * weights).sum(2), torch.ones(2, 3), atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", BACKBONES)
def test_it_decides_classes_and_maps_in_evaluation_alone(name, evidence_counts):
    vit = create(name)
    images = images_for(vit, batch=6)
    model = adapted(vit)
    plain = model(images)
    fit_class_readout(model, [(images, LABELS)])
    found = model(images)
    # Discriminants of as many numbers as images classify those that they were fitted on.
    assert torch.equal(found.logits.argmax(1), LABELS)
    assert torch.equal(found.block_maps, plain.block_maps)
    assert not torch.equal(found.maps, plain.maps)
    assert torch.equal(found.maps, found.maps_of(LABELS))
    assert not torch.equal(found.maps, found.maps_of((LABELS + 1) % 3))
    assert ((found.maps >= 0) & (found.maps <= 1)).all()
    model.train()
    trained = model(images)
    assert trained.evidence is None
    assert trained.maps_of(LABELS) is trained.maps


def test_it_is_saved_and_loaded_and_never_trained(tmp_path):
    images = images_for(create_plain(), batch=6)
    model = fitted(create_plain(), images)
    expected = model(images)
    save_adapter(model, tmp_path / "adapter")
    loaded = load_adapter(create_plain(), tmp_path / "adapter")
    for one, other in zip(expected.values(), loaded(images).values(), strict=True):
        assert torch.equal(one, other)
    again = load_adapter(create_plain(), tmp_path / "adapter", is_trainable=True)
    again.set_adapter("default")
    trained = [name for name, parameter in again.named_parameters() if parameter.requires_grad]
    assert trained
    assert not any("readout" in name for name in trained)
    base = create_plain()(images)
    with loaded.disable_adapter():
        assert torch.equal(loaded(images), base)
    assert torch.equal(loaded.unload()(images), base)


def test_evidence_is_read_where_the_spatial_blocks_begin_and_leaves_out_what_classes_share(evidence_counts):
    images = images_for(create_plain(), batch=6)
    model = fitted(create_plain(), images)
    readout, config = model.get_base_model().norm.readout, model.peft_config["default"]
    assert config.class_evidence == "features"
    torch.testing.assert_close(readout.evidence_weight.mean(0), torch.zeros(16), atol=1e-4, rtol=0)
    output = model(images)
    features = torch.nn.functional.layer_norm(output.features.flatten(1, 2), (16,))
    expected = standardised(readout.evidence_weight @ features.mT, output.foreground)
    assert config.evidence_gain == 5
    torch.testing.assert_close(output.evidence, 5 * expected)


def test_adapters_of_before_read_evidence_from_the_final_tokens(tmp_path):
    images = images_for(create_plain(), batch=6)
    folder = save_adapter(fitted(create_plain(), images), tmp_path / "adapter")
    weights = load_file(folder / "adapter_model.safetensors")
    config = json.loads((folder / "adapter_config.json").read_text())
    [name] = [name for name in weights if name.endswith("evidence_weight")]
    del weights[name], config["class_evidence"], config["evidence_gain"]
    save_file(weights, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps(config))
    model = load_adapter(create_plain(), folder)
    output, weight = model(images), model.get_base_model().norm.readout.weight
    evidence = 1.5 * standardised(weight @ output.tokens.flatten(1, 2).mT, output.foreground)
    assert torch.equal(output.evidence, evidence)


def test_adapters_of_before_that_record_no_gain_have_that_of_before(tmp_path):
    images = images_for(create_plain(), batch=6)
    folder = save_adapter(fitted(create_plain(), images), tmp_path / "adapter")
    config = json.loads((folder / "adapter_config.json").read_text())
    del config["evidence_gain"]
    (folder / "adapter_config.json").write_text(json.dumps(config))
    model = load_adapter(create_plain(), folder)
    output, readout = model(images), model.get_base_model().norm.readout
    features = torch.nn.functional.layer_norm(output.features.flatten(1, 2), (16,))
    expected = standardised(readout.evidence_weight @ features.mT, output.foreground)
    torch.testing.assert_close(output.evidence, 3 * expected)


def patches_of_images(images: int, distance: float, seed: int = 0):
    """Tokens (B, 30, 8), foreground and labels of images of three classes, whose objects lie `distance` apart."""
    generator = torch.Generator().manual_seed(seed)
    centres = distance * torch.eye(8)[:3]
    labels = torch.arange(images) % 3
    foreground = torch.where(torch.arange(30) < 10, 0.9, 0.1).expand(images, 30)
    tokens = torch.randn(images, 30, 8, generator=generator)
    tokens[:, :10] += centres[labels][:, None]
    return tokens, foreground, labels


def told_apart(tokens, foreground, labels) -> float:
    moments, images = readouts._Moments(3, 8), readouts._ObjectsAndGrounds()
    for each in (moments, images):
        each.add(tokens, foreground, labels)
    return images.told_apart(moments, torch.device("cpu"))


def test_evidence_that_is_held_out_is_that_of_discriminants_without_the_image():
    tokens, foreground, labels = patches_of_images(9, distance=2.0)
    everything, expected = readouts._Moments(3, 8), []
    everything.add(tokens, foreground, labels)
    for image in range(9):
        others = torch.arange(9) != image
        without = readouts._Moments(3, 8)
        without.add(tokens[others], foreground[others], labels[others])
        # Means of the other images; mean and covariance of all patches are those of all images.
        without.total, without.patches, without.second = everything.total, everything.patches, everything.second
        weight, _ = without.discriminants()
        evidence = tokens[image].double() @ (weight[labels[image]] - weight.mean(0))
        weights = foreground[image].double()
        expected.append((evidence * weights).sum() / weights.sum())
        expected[-1] -= (evidence * (1 - weights)).sum() / (1 - weights).sum()
    found = told_apart(tokens, foreground, labels)
    assert found == pytest.approx(float(sum(expected) / 9), rel=1e-5)
    assert found > 0.5


def test_evidence_counts_as_far_as_it_tells_object_from_ground():
    alike = told_apart(*patches_of_images(60, distance=0.3))
    apart = told_apart(*patches_of_images(60, distance=3.0))
    assert abs(alike) < 0.3
    assert apart > 1.2
    # The only image of a class says nothing of another.
    assert told_apart(*patches_of_images(3, distance=3.0)) == 0


def test_evidence_of_a_model_that_diverged_does_not_count():
    tokens, foreground, labels = patches_of_images(9, distance=2.0)
    assert told_apart(tokens * float("nan"), foreground, labels) == 0


def test_with_one_image_a_class_maps_are_those_of_the_foreground():
    images = images_for(create_plain(), batch=3)
    model = fitted(create_plain(), images, labels=torch.arange(3))
    assert model.peft_config["default"].evidence_gain == 0
    output = model(images)
    assert torch.equal(output.maps.flatten(1), output.foreground)


def test_fitting_again_forgets_the_first_fit():
    images = images_for(create_plain(), batch=6)
    once = fitted(create_plain(), images)
    twice = fitted(create_plain(), images, labels=LABELS.flip(0))
    fit_class_readout(twice, [(images[:4], LABELS[:4]), (images[4:], LABELS[4:])])
    assert torch.equal(once(images).logits, twice(images).logits)


def test_every_adapter_has_its_own():
    images = images_for(create_plain(), batch=6)
    model = fitted(create_plain(), images)
    expected = model(images).maps
    model.add_adapter("other", SatConfig(num_classes=2, num_spatial_blocks=1))
    model.set_adapter("other")
    assert model(images).evidence is None
    model.set_adapter("default")
    assert torch.equal(model(images).maps, expected)


def test_a_class_without_images_is_never_told():
    images = images_for(create_plain(), batch=6)
    model = fitted(create_plain(), images, labels=LABELS % 2)
    assert (model(images).logits.softmax(1)[:, 2] == 0).all()


def test_no_images_at_all_are_refused():
    with pytest.raises(UsageError, match="no"):
        fit_class_readout(adapted(create_plain()), [])


# With this for the limit, random images, in which nothing is told apart, have a gain in the middle of its range.
_MIDDLE = -0.5


def _fit_a_share() -> list:
    distributed.init_process_group("gloo")
    rank, processes = distributed.get_rank(), distributed.get_world_size()
    images = images_for(create_plain(), batch=6)
    model = adapted(create_plain())
    share = slice(rank, None, processes)
    readouts._TOLD_APART = _MIDDLE
    fit_class_readout(model, [(images[share], LABELS[share])])
    distributed.destroy_process_group()
    return [model(images).logits.tolist(), model.peft_config["default"].evidence_gain]


def test_processes_with_a_share_each_come_to_the_same(monkeypatch):
    monkeypatch.setattr(readouts, "_TOLD_APART", _MIDDLE)
    images = images_for(create_plain(), batch=6)
    model = fitted(create_plain(), images)
    found = run_processes(_fit_a_share)
    assert found[0] == found[1]
    logits, gain = found[0]
    torch.testing.assert_close(torch.tensor(logits), model(images).logits, rtol=1e-4, atol=1e-4)
    assert 2 < gain < 3
    assert gain == pytest.approx(model.peft_config["default"].evidence_gain, abs=1e-4)
