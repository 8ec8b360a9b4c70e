"""Where the spatial token meets the other tokens: at the input, late, or isolated in the frozen blocks."""

import inspect
import threading

import pytest
import timm
import torch
from peft import get_peft_model
from timm.layers import AttentionRope, DropPath
from timm.models.eva import EvaBlock, EvaBlockPostNorm
from timm.models.vision_transformer import ResPostBlock
from tiny_backbones import BACKBONES, DEPTH, create, create_plain, images_for

from sat_peft import SatConfig, SatLoss, load_adapter, save_adapter
from sat_peft.errors import UsageError
from sat_peft.tuner.layer import TokenApart

LABELS = torch.tensor([0, 1])


def adapted(vit, token_entry, **config):
    """An adapter whose token, head and copies are the same whatever the entry, and far enough from zero to matter."""
    config = {"num_classes": 3, "num_spatial_blocks": 1, "tune": "full", "token_entry": token_entry} | config
    model = get_peft_model(vit, SatConfig(**config)).eval()
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.1)
    return model


def gradients(model):
    return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.requires_grad}


def block_outputs(model, images):
    """What each block hands on, and what the model returns."""
    found = []
    hooks = [
        block.register_forward_hook(lambda module, args, output: found.append(output))
        for block in model.get_base_model().blocks
    ]
    output = model(images)
    for hook in hooks:
        hook.remove()
    return found, output


def assert_same_training(first, second, images):
    """Equal outputs, losses and gradients, to rounding."""
    for model in (first, second):
        model.zero_grad()
        SatLoss()(model(images), LABELS).total.backward()
    torch.testing.assert_close(first(images).block_maps, second(images).block_maps, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(first(images).logits, second(images).logits, rtol=1e-4, atol=1e-5)
    expected = gradients(second)
    for name, gradient in gradients(first).items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-3, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")


def hide_token(vit, blocks):
    """Makes a model with the token at the input hide it from all other tokens in the given blocks, by a mask of N x N.

    The direct transcription of isolation: everything is computed and differentiated.
    """

    def add_mask(module, args, kwargs):
        length = args[0].shape[1]
        mask = torch.zeros(length, length)
        mask[:, vit.num_prefix_tokens] = -torch.inf
        mask[vit.num_prefix_tokens, vit.num_prefix_tokens] = 0
        return args, kwargs | {"attn_mask": mask}

    for block in blocks:
        block.attn.register_forward_pre_hook(add_mask, with_kwargs=True)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_isolated_is_a_token_hidden_from_the_others_in_the_frozen_blocks(backbone):
    isolated = adapted(create(backbone), "isolated")
    masked = adapted(create(backbone), "input")
    images = images_for(isolated.get_base_model())
    assert not torch.allclose(isolated(images).maps, masked(images).maps, atol=1e-5)
    hide_token(masked.get_base_model(), masked.get_base_model().blocks[:-1])
    assert_same_training(isolated, masked, images)


def post_norm_vit():
    return create("vit", block_fn=ResPostBlock, init_values=1.0)


def post_norm_eva():
    return create("eva02", use_post_norm=True)


def grouped_query_eva():
    if "num_kv_heads" not in inspect.signature(AttentionRope).parameters:
        pytest.skip(f"timm {timm.__version__} has no grouped queries")
    return create("dinov3", attn_type="rope", num_kv_heads=1, qkv_fused=False, qk_norm=True)


@pytest.mark.parametrize("make", [post_norm_vit, post_norm_eva, grouped_query_eva])
def test_isolated_in_other_blocks_and_attentions(make):
    isolated, masked = adapted(make(), "isolated"), adapted(make(), "input")
    hide_token(masked.get_base_model(), masked.get_base_model().blocks[:-1])
    assert_same_training(isolated, masked, images_for(make()))


@pytest.mark.parametrize("token_entry", ["late", "isolated"])
@pytest.mark.parametrize("backbone", BACKBONES)
def test_frozen_blocks_are_the_pretrained_ones_and_carry_no_graph(backbone, token_entry):
    vit = create(backbone)
    images = images_for(vit)
    expected = []
    for block in vit.blocks:
        block.register_forward_hook(lambda module, args, output: expected.append(output))
    vit(images)
    model = adapted(create(backbone), token_entry)
    found, output = block_outputs(model, images)
    for index in range(DEPTH - 1):
        assert isinstance(found[index], TokenApart)
        torch.testing.assert_close(found[index].sequence, expected[index], rtol=1e-5, atol=1e-5)
        assert not found[index].sequence.requires_grad
        assert found[index].token.requires_grad
    assert found[-1].requires_grad
    SatLoss()(output, LABELS).total.backward()
    for name, gradient in gradients(model).items():
        assert gradient.abs().max() > 0, name


@pytest.mark.parametrize("backbone", ["vit", "clip", "dinov3"])
def test_late_token_joins_in_the_state_in_which_it_would_enter_at_the_input(backbone):
    late, early = adapted(create(backbone), "late"), adapted(create(backbone), "input")
    vit = late.get_base_model()
    images, place = images_for(vit), vit.num_prefix_tokens
    entering = {}
    for name, block in (("late", vit.blocks[-1]), ("input", early.get_base_model().blocks[0])):
        block.norm1.register_forward_pre_hook(lambda module, args, key=name: entering.update({key: args[0]}))
    late(images)
    early(images)
    assert torch.equal(entering["late"][:, place], entering["input"][:, place])
    with late.disable_adapter():
        late(images)
    frozen = entering["late"]
    late(images)
    others = [i for i in range(frozen.shape[1] + 1) if i != place]
    assert torch.equal(entering["late"][:, others], frozen)


@pytest.mark.parametrize("backbone", ["vit", "clip", "eva02"])
@pytest.mark.parametrize("token_entry", ["late", "isolated"])
def test_entries_coincide_where_no_block_is_frozen(backbone, token_entry):
    everywhere = {"num_spatial_blocks": DEPTH}
    model, reference = (adapted(create(backbone), entry, **everywhere) for entry in (token_entry, "input"))
    images = images_for(model.get_base_model())
    assert torch.equal(model(images).block_maps, reference(images).block_maps)
    assert_same_training(model, reference, images)


@pytest.mark.parametrize("backbone", ["vit", "eva", "dinov3"])
def test_isolated_token_is_read_in_tuned_blocks(backbone):
    config = {"num_spatial_blocks": 1, "num_tuned_blocks": 2}
    isolated, masked = (adapted(create(backbone), entry, **config) for entry in ("isolated", "input"))
    hide_token(masked.get_base_model(), masked.get_base_model().blocks[:1])
    assert_same_training(isolated, masked, images_for(isolated.get_base_model()))


@pytest.mark.parametrize("backbone", ["vit", "eva"])
def test_late_token_waits_for_the_first_spatial_block_although_earlier_ones_are_tuned(backbone):
    model = adapted(create(backbone), "late", num_spatial_blocks=1, num_tuned_blocks=2)
    found, output = block_outputs(model, images_for(model.get_base_model()))
    assert [isinstance(x, TokenApart) for x in found] == [True, True, False]
    assert [x.sequence.requires_grad for x in found[:2]] == [False, True]
    assert torch.equal(found[0].token, found[1].token)
    SatLoss()(output, LABELS).total.backward()
    for name, gradient in gradients(model).items():
        assert gradient.abs().max() > 0, name


@pytest.mark.parametrize("token_entry", ["late", "isolated"])
def test_adapters_with_different_entries_switch(token_entry, tmp_path):
    vit = create("dinov3")
    images = images_for(vit)
    entries = {"a": token_entry, "b": "input", "c": "isolated" if token_entry == "late" else "late"}
    expected, base = {}, vit(images)
    for name, entry in entries.items():
        single = adapted(create("dinov3"), entry)
        save_adapter(single, tmp_path / name)
        expected[name] = single(images)
    model = load_adapter(vit, tmp_path / "a", "a")
    for name in ("b", "c"):
        load_adapter(model, tmp_path / name, name)
    for name in ("a", "b", "c", "b", "a", "c"):
        model.set_adapter(name)
        assert torch.equal(model(images).block_maps, expected[name].block_maps)
        assert torch.equal(model(images).logits, expected[name].logits)
        with model.disable_adapter():
            assert torch.equal(model(images), base)
    assert torch.equal(model.unload()(images), base)


@pytest.mark.parametrize("backbone", ["vit", "dinov3", "eva"])
@pytest.mark.parametrize("token_entry", ["late", "isolated"])
def test_training_mode_differs_by_stochastic_depth_alone(backbone, token_entry):
    model = adapted(create(backbone), token_entry)
    images = images_for(model.get_base_model())
    expected = model(images)
    assert torch.equal(model.train()(images).block_maps, expected.block_maps)
    with torch.inference_mode():
        assert torch.equal(model.eval()(images).logits, expected.logits)


@pytest.mark.parametrize("token_entry", ["late", "isolated"])
def test_stochastic_depth_of_frozen_blocks(token_entry):
    for drop in (True, False):
        vit = create("vit")
        for block in vit.blocks:
            block.drop_path1, block.drop_path2 = DropPath(0.5), DropPath(0.5)
        model = adapted(vit, token_entry, drop_path_in_frozen_blocks=drop).train()
        images = images_for(vit, batch=16)
        first, second = (block_outputs(model, images)[0][DEPTH - 2] for _ in range(2))
        assert torch.equal(first.sequence, second.sequence) != drop
        assert torch.equal(first.token, second.token) == (token_entry == "late" or not drop)


@pytest.mark.parametrize("backbone", ["dinov3", "qk_norm"])
@pytest.mark.parametrize("token_entry", ["late", "isolated"])
def test_autocast(backbone, token_entry):
    model = adapted(create(backbone), token_entry)
    images = images_for(model.get_base_model())
    expected = model(images)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = model(images)
    assert output.maps.dtype == torch.float32
    torch.testing.assert_close(output.maps, expected.maps, atol=0.05, rtol=0)
    SatLoss()(output, LABELS).total.backward()
    assert all(gradient.isfinite().all() for gradient in gradients(model).values())


def test_threads_do_not_mix_their_keys_and_values():
    model = adapted(create_plain(), "isolated")
    vit = model.get_base_model()
    waiting, images = images_for(vit, batch=3), images_for(vit, batch=2, seed=2)
    with torch.no_grad():
        expected = model(waiting), model(images)
    half_way, go_on, found = threading.Event(), threading.Event(), []

    def pause(module, args):
        # Only the first thread, in the first block, between the sequence and the token.
        if len(args[0]) == 3 and not half_way.is_set():
            half_way.set()
            assert go_on.wait(timeout=60)

    def work():
        with torch.no_grad():
            found.append(model(waiting))

    vit.blocks[0].norm2.register_forward_pre_hook(pause)
    thread = threading.Thread(target=work)
    thread.start()
    assert half_way.wait(timeout=60)
    with torch.no_grad():
        found.append(model(images))
    go_on.set()
    thread.join()
    assert len(found) == 2
    for output in found:
        reference = expected[0] if len(output.maps) == 3 else expected[1]
        assert torch.equal(output.block_maps, reference.block_maps)


def test_a_failure_inside_an_isolated_block_leaves_no_trace():
    model = adapted(create_plain(), "isolated")
    images = images_for(model.get_base_model())
    expected = model(images)
    handle = model.get_base_model().blocks[0].norm2.register_forward_pre_hook(lambda module, args: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        model(images)
    handle.remove()
    assert torch.equal(model(images).block_maps, expected.block_maps)


@pytest.mark.parametrize("token_entry", ["late", "isolated"])
def test_a_trained_patch_embedding_gets_its_gradient(token_entry):
    model = adapted(create_plain(), token_entry, modules_to_save=["patch_embed"])
    SatLoss()(model(images_for(model.get_base_model())), LABELS).total.backward()
    weight = model.get_base_model().patch_embed.modules_to_save["default"].proj.weight
    assert weight.grad.abs().max() > 0


@pytest.mark.parametrize("block_class", [EvaBlock, EvaBlockPostNorm])
def test_unknown_blocks_are_refused_by_name(block_class):
    class OwnBlock(block_class):
        pass

    vit = create("eva02", use_post_norm=block_class is EvaBlockPostNorm)
    vit.blocks[1].__class__ = OwnBlock
    with pytest.raises(UsageError, match=r"token_entry='late' needs blocks of .* blocks.1 of this Eva is OwnBlock"):
        adapted(vit, "late")
    assert adapted(vit, "input")(images_for(vit)).logits.shape == (2, 3)
