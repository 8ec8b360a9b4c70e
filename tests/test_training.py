"""Optimizer groups, schedules, the endless loader and the guard against divergence."""

import pytest
import timm
import torch
from peft import get_peft_model
from torch import nn

from sat_peft import SatConfig
from sat_peft.errors import UsageError
from sat_peft.training import SCHEDULES, TrainingDiverged, check_finite, create_optimizer, create_scheduler, endless


def names_by_decay(model: nn.Module, weight_decay: float) -> dict[float, set[str]]:
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    optimizer = create_optimizer(model, learning_rate=0.1, weight_decay=weight_decay)
    return {group["weight_decay"]: {names[id(p)] for p in group["params"]} for group in optimizer.param_groups}


def test_weight_decay_spares_biases_norms_and_frozen_parameters_are_left_out():
    model = nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3), nn.Conv2d(3, 4, 3))
    model[2].bias.requires_grad_(False)
    assert names_by_decay(model, 0.05) == {0.05: {"0.weight", "2.weight"}, 0.0: {"0.bias", "1.weight", "1.bias"}}


@pytest.mark.parametrize("tune", ["none", "lora", "full"])
def test_groups_of_a_sat_model(tune):
    vit = timm.create_model("test_vit", num_classes=0, img_size=32)
    model = get_peft_model(vit, SatConfig(num_classes=3, num_spatial_blocks=1, tune=tune, r=2))
    groups = names_by_decay(model, 0.05)
    decayed, spared = groups[0.05], groups[0.0]
    trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert decayed | spared == trainable
    assert not decayed & spared
    assert sum("sat_token" in name or "sat_pos_embed" in name for name in spared) == 2
    assert any("sat_head" in name for name in decayed)
    assert {"none": 0, "lora": 8, "full": 4}[tune] == sum("blocks.5." in name for name in decayed)
    assert not any(name.endswith("bias") or "norm" in name.split(".sat_full")[0][-6:] for name in decayed)


def test_optimizer_takes_the_given_rates():
    (group,) = create_optimizer(nn.Linear(2, 3, bias=False), learning_rate=0.3, weight_decay=0.2).param_groups
    assert (group["lr"], group["weight_decay"]) == (0.3, 0.2)


def test_model_without_trainable_parameters_is_refused():
    with pytest.raises(UsageError, match="no trainable parameters"):
        create_optimizer(nn.Linear(2, 3).requires_grad_(False), learning_rate=0.1, weight_decay=0.0)


def rates(name: str, *, steps: int, warmup_steps: int, num_processes: int = 1) -> list[float]:
    """The learning rate of every optimizer step, as Accelerate advances a prepared schedule."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = create_scheduler(optimizer, name, steps=steps, warmup_steps=warmup_steps, num_processes=num_processes)
    seen = []
    for _ in range(steps):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        for _ in range(num_processes):
            scheduler.step()
    return seen


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("linear", [0, 0.5, 1, 0.75, 0.5, 0.25]),
        ("cosine", [0, 0.5, 1, 0.5 + 0.5**1.5, 0.5, 0.5 - 0.5**1.5]),
        ("constant_with_warmup", [0, 0.5, 1, 1, 1, 1]),
    ],
)
@pytest.mark.parametrize("num_processes", [1, 2])
def test_schedules_by_hand_whatever_the_number_of_processes(name, expected, num_processes):
    assert rates(name, steps=6, warmup_steps=2, num_processes=num_processes) == pytest.approx(expected)


def test_unknown_schedule_is_named_with_the_choices():
    with pytest.raises(UsageError, match=f"'cosin'.*'cosine'.*{', '.join(SCHEDULES)}"):
        rates("cosin", steps=1, warmup_steps=0)


@pytest.mark.parametrize(("steps", "warmup_steps"), [(0, 0), (3, -1)])
def test_number_of_steps_out_of_range_is_refused(steps, warmup_steps):
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    with pytest.raises(UsageError, match=rf"steps must be at least 1 .* got {steps} and {warmup_steps}"):
        create_scheduler(optimizer, "cosine", steps=steps, warmup_steps=warmup_steps)


def test_endless_goes_on_with_a_new_epoch():
    class Epochs:
        number = 0

        def __iter__(self):
            self.number += 1
            return iter([(self.number, 0), (self.number, 1)])

    batches = endless(Epochs())
    assert [next(batches) for _ in range(5)] == [(1, 0), (1, 1), (2, 0), (2, 1), (3, 0)]


def test_endless_over_nothing_is_an_error_and_not_a_hang():
    with pytest.raises(UsageError, match="no batches"):
        next(endless([]))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 1e4, -1e4])
def test_diverged_loss_names_step_terms_and_ways_out(value):
    with pytest.raises(TrainingDiverged, match=r"step 7 \(total .*, classification 0\.5\).*it is 0\.01.*warmup"):
        check_finite({"total": value, "classification": 0.5}, 7, 0.01)


def test_usable_loss_passes():
    check_finite({"total": 7.6, "area": 0.0, "normalization": -1.0}, 1, 0.01)
