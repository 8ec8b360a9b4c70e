"""Linear layers in oneDNN: the same numbers, in training and inference, where oneDNN is asked and where it is not."""

import copy
import pickle

import pytest
import timm
import torch
from peft import get_peft_model
from torch import nn

from sat_peft import SatConfig, SatLoss
from sat_peft.onednn import OneDnnLinear, use_onednn

pytestmark = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="torch without oneDNN")


def adapted(**config) -> nn.Module:
    torch.manual_seed(0)
    vit = timm.create_model("test_vit", num_classes=0, img_size=64)
    return get_peft_model(vit, SatConfig(num_classes=3, num_spatial_blocks=2, **config))


IMAGES = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
LABELS = torch.tensor([0, 2])


def outputs_and_gradients(model: nn.Module) -> list[torch.Tensor]:
    output = model(IMAGES)
    SatLoss()(output, LABELS).total.backward()
    trained = [parameter.grad for parameter in model.parameters() if parameter.requires_grad]
    return [output.logits, output.maps, *trained]


@pytest.mark.parametrize(
    "config",
    [{"tune": "full"}, {"tune": "none", "token_entry": "isolated"}, {"tune": "lora", "r": 4, "token_entry": "late"}],
)
def test_outputs_and_gradients_agree(config):
    model = adapted(**config)
    expected = outputs_and_gradients(model)
    other = adapted(**config)
    assert use_onednn(other) > 0
    for found, value in zip(outputs_and_gradients(other), expected, strict=True):
        torch.testing.assert_close(found, value, rtol=1e-4, atol=1e-6)


def test_all_large_linear_layers_are_changed_and_small_ones_are_not():
    model = adapted(tune="lora", r=4)
    # Four layers in each of six blocks.
    assert use_onednn(model) == 24
    assert use_onednn(model) == 0
    kinds = {name: type(module) for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    assert {kind for name, kind in kinds.items() if "lora_" in name} == {nn.Linear}
    assert {kind for name, kind in kinds.items() if "lora_" not in name} == {OneDnnLinear}


def is_asked(layer: nn.Linear, *inputs: torch.Tensor) -> bool:
    """Whether a call of the layer changes the memory layout to oneDNN's."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        layer(*inputs)
    return any(event.key == "aten::to_mkldnn" for event in profile.key_averages())


def test_it_is_asked_in_float32_alone():
    layer = nn.Linear(64, 64)
    use_onednn(layer)
    x = torch.randn(2, 3, 64)
    assert is_asked(layer, x)
    with torch.inference_mode():
        assert is_asked(layer, x)
        torch.testing.assert_close(layer(x), nn.Linear.forward(layer, x))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not is_asked(layer, x)
        assert layer(x).dtype == torch.bfloat16
    assert not is_asked(copy.deepcopy(layer).bfloat16(), x.bfloat16())


@pytest.mark.parametrize("frozen", [False, True])
def test_a_frozen_weight_keeps_no_input_for_the_backward_pass(frozen):
    layer = nn.Linear(64, 96).requires_grad_(not frozen)
    use_onednn(layer)
    x = torch.randn(2, 3, 64, requires_grad=True)
    kept, weight = layer(x).grad_fn.saved_tensors
    assert (kept is None) == frozen
    assert weight is layer.weight
    assert layer(x.detach()).requires_grad != frozen


@pytest.mark.parametrize("shape", [(64,), (5, 64), (2, 3, 4, 64), (0, 64)])
def test_inputs_of_any_shape(shape):
    layer = nn.Linear(64, 96)
    x = torch.randn(shape, requires_grad=True)
    expected = torch.autograd.grad(layer(x).square().sum(), [x, layer.weight, layer.bias])
    use_onednn(layer)
    found = torch.autograd.grad(layer(x).square().sum(), [x, layer.weight, layer.bias])
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_compilers_see_a_plain_layer():
    layer = nn.Linear(64, 64)
    use_onednn(layer)
    x = torch.randn(2, 64)
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), layer(x))
    program = torch.export.export(layer, (x,))
    assert "to_mkldnn" not in str(program.graph)
    torch.compiler.reset()


def test_layers_without_bias_and_of_other_classes():
    class OwnLinear(nn.Linear):
        pass

    net = nn.Sequential(nn.Linear(64, 64, bias=False), OwnLinear(64, 64))
    x = torch.randn(5, 64)
    expected = net(x)
    assert use_onednn(net) == 1
    assert type(net[1]) is OwnLinear
    torch.testing.assert_close(net(x), expected)


def test_copies_and_pickles_keep_it():
    layer = nn.Linear(64, 64)
    use_onednn(layer)
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert type(other) is OneDnnLinear
        assert other.state_dict().keys() == {"weight", "bias"}
