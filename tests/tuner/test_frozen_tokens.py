"""Frozen tokens in place of images: the same output and gradients, from the last blocks alone."""

import copy
import threading

import pytest
import torch
from peft import get_peft_model
from tiny_backbones import BACKBONES, DEPTH, create, create_plain, images_for

from sat_peft import FrozenTokens, SatConfig, SatLoss, keep_frozen_tokens
from sat_peft.errors import UsageError

LABELS = torch.tensor([0, 1])


def late(vit, **config):
    config = {"num_classes": 3, "num_spatial_blocks": 1, "tune": "full", "token_entry": "late"} | config
    return get_peft_model(vit, SatConfig(**config)).eval()


def gradients(model, inputs):
    model.zero_grad()
    output = model(inputs)
    SatLoss()(output, LABELS).total.backward()
    found = {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}
    return output, found


def calls(model, inputs):
    """Which blocks computed something, each as often as it did."""
    ran = []
    hooks = [
        block.attn.register_forward_hook(lambda module, args, output, index=index: ran.append(index))
        for index, block in enumerate(model.get_base_model().blocks)
    ]
    model(inputs)
    for hook in hooks:
        hook.remove()
    return ran


@pytest.mark.parametrize("name", BACKBONES)
def test_equals_a_pass_from_the_images(name):
    model = late(create(name), drop_path_in_frozen_blocks=False)
    images = images_for(model.get_base_model())
    frozen = model.base_model.frozen_tokens(images)
    whole, expected = gradients(model, images)
    resumed, found = gradients(model, frozen)
    torch.testing.assert_close(resumed.block_maps, whole.block_maps, rtol=0, atol=1e-6)
    torch.testing.assert_close(resumed.logits, whole.logits, rtol=1e-5, atol=1e-5)
    assert found.keys() == expected.keys()
    for key, gradient in found.items():
        torch.testing.assert_close(gradient, expected[key], rtol=1e-4, atol=1e-6)
    assert calls(model, frozen) == [DEPTH - 1]
    assert calls(model, images) == list(range(DEPTH))


@pytest.mark.parametrize(
    ("config", "ran"),
    [
        ({"num_spatial_blocks": 2}, [1, 2]),
        ({"num_spatial_blocks": 1, "num_tuned_blocks": 2}, [1, 2]),
        ({"num_spatial_blocks": 2, "num_tuned_blocks": 1}, [1, 2]),
        ({"num_spatial_blocks": 1, "tune": "none"}, [2]),
    ],
)
def test_starts_before_the_first_block_that_is_spatial_or_tuned(config, ran):
    model = late(create_plain(), **config)
    images = images_for(model.get_base_model())
    frozen = model.base_model.frozen_tokens(images)
    assert calls(model, frozen) == ran
    torch.testing.assert_close(model(frozen).maps, model(images).maps, rtol=0, atol=1e-6)


def test_gradient_checkpointing_recomputes_no_frozen_block():
    model = late(create_plain())
    images = images_for(model.get_base_model())
    frozen = model.base_model.frozen_tokens(images)
    _, expected = gradients(model, frozen)
    model.get_base_model().set_grad_checkpointing(True)
    model.train()
    ran = []
    model.get_base_model().blocks[0].attn.register_forward_hook(lambda *_: ran.append(0))
    _, found = gradients(model, frozen)
    for key, gradient in found.items():
        torch.testing.assert_close(gradient, expected[key], rtol=1e-4, atol=1e-6)
    assert not ran


def test_are_computed_without_stochastic_depth_gradients_or_the_spatial_token():
    model = late(create_plain(drop_path_rate=0.9)).train()
    images = images_for(model.get_base_model())
    first, second = (model.base_model.frozen_tokens(images) for _ in range(2))
    assert torch.equal(first.tokens, second.tokens)
    assert not first.tokens.requires_grad
    assert model.training
    seen = []
    hook = model.get_base_model().blocks[DEPTH - 2].register_forward_hook(lambda m, a, output: seen.append(output))
    with model.disable_adapter():
        model.eval()(images)
    hook.remove()
    assert torch.equal(first.tokens, seen[0])


def test_may_be_kept_in_half_precision_and_another_order():
    model = late(create_plain())
    images = images_for(model.get_base_model(), batch=3)
    tokens, shape = model.base_model.frozen_tokens(images)
    mixed = FrozenTokens(tokens[[2, 0]].half(), shape)
    torch.testing.assert_close(model(mixed).maps, model(images[[2, 0]]).maps, rtol=0, atol=1e-3)


def test_leave_nothing_behind():
    model = late(create_plain())
    images = images_for(model.get_base_model())
    frozen = model.base_model.frozen_tokens(images)
    before = model(images).maps
    model(frozen)
    assert torch.equal(model(images).maps, before)
    assert torch.equal(copy.deepcopy(model)(frozen).maps, model(frozen).maps)


def test_belong_to_the_thread_that_gives_them():
    model = late(create_plain())
    images = images_for(model.get_base_model())
    frozen = model.base_model.frozen_tokens(images)
    other, found = images_for(model.get_base_model(), seed=9), {}

    def work(name, inputs):
        with torch.no_grad():
            found[name] = [model(inputs).maps for _ in range(20)]

    with torch.no_grad():
        expected = {"frozen": model(images).maps, "images": model(other).maps}
    threads = [threading.Thread(target=work, args=pair) for pair in (("frozen", frozen), ("images", other))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for name, maps in found.items():
        for each in maps:
            torch.testing.assert_close(each, expected[name], rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "config", [{"token_entry": "input"}, {"token_entry": "isolated"}, {"num_spatial_blocks": DEPTH}]
)
def test_refuses_adapters_that_leave_no_block_frozen(config):
    model = late(create_plain(), **config)
    images = images_for(model.get_base_model())
    with pytest.raises(UsageError, match="token_entry='late'"):
        model.base_model.frozen_tokens(images)
    tokens = torch.zeros(2, 17, 16)
    with pytest.raises(UsageError, match="frozen tokens"):
        model(FrozenTokens(tokens, (3, 32, 32)))


def test_refuses_frozen_tokens_while_the_adapter_is_disabled():
    model = late(create_plain())
    frozen = model.base_model.frozen_tokens(images_for(model.get_base_model()))
    with model.disable_adapter(), pytest.raises(UsageError, match="active adapter"):
        model(frozen)


def test_refuses_tokens_of_another_shape():
    model = late(create_plain())
    tokens, shape = model.base_model.frozen_tokens(images_for(model.get_base_model()))
    with pytest.raises(UsageError, match=r"\(2, 16, 16\).*\(B, 17, 16\)"):
        model(FrozenTokens(tokens[:, 1:], shape))


@pytest.mark.slow
def test_can_be_compiled():
    model = late(create_plain())
    images = images_for(model.get_base_model())
    frozen = model.base_model.frozen_tokens(images)
    compiled = torch.compile(model)
    torch.testing.assert_close(compiled(frozen).maps, model(images).maps, rtol=0, atol=1e-5)
    torch.testing.assert_close(compiled(images).maps, model(images).maps, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", BACKBONES)
def test_kept_tokens_are_computed_once(name):
    model = late(create(name))
    images = images_for(model.get_base_model(), batch=3)
    with torch.inference_mode():
        expected = model(images)
        with keep_frozen_tokens():
            assert calls(model, images[:2]) == list(range(DEPTH))
            assert calls(model, images[[1, 0]]) == [DEPTH - 1]
            found = model(images[[2, 0, 1]])  # one that is new among others
            assert calls(model, images) == [DEPTH - 1]
        assert calls(model, images) == list(range(DEPTH))
    torch.testing.assert_close(found.block_maps, expected.block_maps[:, [2, 0, 1]], rtol=0, atol=1e-6)
    torch.testing.assert_close(found.logits, expected.logits[[2, 0, 1]], rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_kept_tokens_are_of_a_backbone_and_its_blocks():
    vit = create_plain()
    model, same = late(copy.deepcopy(vit)), late(copy.deepcopy(vit))
    changed_vit = copy.deepcopy(vit)
    changed_vit.blocks[0].mlp.fc1.bias[0] += 1
    other, more_spatial = late(changed_vit), late(copy.deepcopy(vit), num_spatial_blocks=2)
    images = images_for(vit)
    with keep_frozen_tokens():
        model(images)
        assert calls(same, images) == [DEPTH - 1]
        assert calls(other, images) == calls(more_spatial, images) == list(range(DEPTH))
        changed = images.clone()
        changed[0, 0, 0, 0] += 1
        assert calls(model, changed) == list(range(DEPTH))
        with torch.autocast("cpu", torch.bfloat16):
            assert calls(model, images) == list(range(DEPTH))
        assert len(calls(model, images)) == 1
        assert torch.equal(model.base_model.frozen_tokens(images).tokens, same.base_model.frozen_tokens(images).tokens)


def test_kept_tokens_take_no_part_in_training():
    model = late(create_plain(drop_path_rate=0.9))
    images = images_for(model.get_base_model())
    with keep_frozen_tokens():
        with torch.no_grad():
            model(images)
        assert calls(model, images) == list(range(DEPTH))  # gradients are wanted
        with torch.no_grad():
            assert calls(model.train(), images) == list(range(DEPTH))  # stochastic depth
            assert calls(model.eval(), images) == [DEPTH - 1]


@torch.no_grad()
def test_kept_tokens_take_no_more_memory_than_they_may():
    model = late(create_plain())
    images = images_for(model.get_base_model(), batch=3)
    of_one = model.base_model.frozen_tokens(images[:1]).tokens.nbytes
    with keep_frozen_tokens(2 * of_one):
        model(images[:2])
        model(images[2:])
        assert calls(model, images[:2]) == [DEPTH - 1]
        assert calls(model, images[2:]) == list(range(DEPTH))
        with keep_frozen_tokens(0):
            assert calls(model, images[:2]) == list(range(DEPTH))
        assert calls(model, images[:2]) == [DEPTH - 1]


@torch.no_grad()
def test_other_adapters_compute_as_always_where_tokens_are_kept():
    model = late(create_plain(), token_entry="isolated")
    images = images_for(model.get_base_model())
    expected = model(images).maps
    with keep_frozen_tokens():
        for _ in range(2):
            assert torch.equal(model(images).maps, expected)
            assert set(calls(model, images)) == set(range(DEPTH))
            with model.disable_adapter():
                assert calls(model, images) == list(range(DEPTH))
