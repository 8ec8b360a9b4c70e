"""The training regimes of the benchmark: what each trains, and that its step trains it."""

import pytest
import torch
from peft import PeftModel

from benchmark.regimes import PLAIN, REGIMES, Workload

WORKLOAD = Workload("test_vit", image_size=32, num_classes=3, batch_size=2, num_spatial_blocks=2)
DEPTH = 6


def trained_blocks(model) -> set[int]:
    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad and "blocks." in name]
    return {int(name.split("blocks.")[1].split(".")[0]) for name in names}


@pytest.mark.parametrize("name", REGIMES)
def test_a_step_changes_what_the_regime_trains_and_nothing_else(name):
    contestant = REGIMES[name].build(WORKLOAD)
    assert contestant.model.training
    before = {key: value.detach().clone() for key, value in contestant.model.named_parameters()}
    for _ in range(2):  # the first update of LoRA leaves one of its factors at zero gradient
        contestant.step()
    optimised = {id(parameter) for group in contestant.optimizer.param_groups for parameter in group["params"]}
    for key, value in contestant.model.named_parameters():
        assert (id(value) in optimised) == value.requires_grad
        # Copies of whole blocks train in place of the blocks, whose own weights are read nowhere.
        assert torch.equal(value, before[key]) != value.requires_grad, key


@pytest.mark.parametrize(
    ("name", "blocks"),
    [
        (PLAIN, set(range(DEPTH))),
        ("everything", set(range(DEPTH))),
        *((f"last_blocks_{entry}", {4, 5}) for entry in ("input", "isolated", "late")),
        *((f"token_{entry}", set()) for entry in ("input", "isolated", "late")),
        ("lora", {4, 5}),
    ],
)
def test_trained_blocks(name, blocks):
    assert trained_blocks(REGIMES[name].build(WORKLOAD).model) == blocks


def test_everything_is_every_parameter_that_the_forward_pass_reads():
    model = REGIMES["everything"].build(WORKLOAD).model
    frozen = [name for name, parameter in model.named_parameters() if not parameter.requires_grad]
    assert frozen
    assert all("blocks." in name for name in frozen)  # what was copied


def test_regimes_start_from_the_same_weights_and_those_of_the_paper_give_its_maps():
    found = {}
    for name, regime in REGIMES.items():
        model = regime.build(WORKLOAD).model.eval()
        if isinstance(model, PeftModel):
            found[name] = model(WORKLOAD.images).maps
    assert [name for name in found if REGIMES[name].published_forward] == [
        *("everything", "last_blocks_input", "token_input", "lora")
    ]
    for name, maps in found.items():
        same = torch.allclose(maps, found["everything"], atol=1e-6)
        assert same == REGIMES[name].published_forward, name


def test_the_batch_is_the_same_for_all():
    again = Workload("test_vit", image_size=32, num_classes=3, batch_size=2)
    assert torch.equal(again.images, WORKLOAD.images)
    assert WORKLOAD.images.shape == (2, 3, 32, 32)
    assert WORKLOAD.labels.tolist() == [0, 1]
