"""Optimizer groups, schedules, the order of the data, checkpoints and the guard against divergence."""

import itertools
from pathlib import Path
from types import SimpleNamespace

import pytest
import timm
import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, set_seed
from peft import get_peft_model
from torch import nn
from torch.utils.data import DataLoader

from sat_peft import SatConfig
from sat_peft.data.sampler import EpochSampler
from sat_peft.errors import UsageError
from sat_peft.options.training import OptimizationOptions
from sat_peft.runs.folder import RunFolder
from sat_peft.training.loop import (
    SCHEDULES,
    Training,
    TrainingDiverged,
    check_finite,
    create_optimizer,
    create_scheduler,
    epochs_of,
    read_state,
)


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
    model = get_peft_model(vit, SatConfig(num_classes=3, num_spatial_blocks=1, tune=tune))
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


def test_the_fused_optimizer_takes_the_steps_of_torchs_plain_one():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    fused = create_optimizer(net, learning_rate=0.01, weight_decay=0.1)
    assert all(group["fused"] for group in fused.param_groups)
    copies = {parameter: parameter.detach().clone().requires_grad_() for parameter in net.parameters()}
    groups = [group | {"params": [copies[p] for p in group["params"]], "fused": False} for group in fused.param_groups]
    plain = torch.optim.AdamW(groups)
    for _ in range(3):
        for parameter, copy in copies.items():
            parameter.grad = torch.randn_like(parameter)
            copy.grad = parameter.grad.clone()
        fused.step()
        plain.step()
    for parameter, copy in copies.items():
        torch.testing.assert_close(parameter, copy, rtol=1e-5, atol=1e-7)


def test_devices_without_a_fused_kernel_get_torchs_choice():
    optimizer = create_optimizer(nn.Linear(2, 3, device="meta"), learning_rate=0.1, weight_decay=0.0)
    assert not any(group["fused"] for group in optimizer.param_groups)


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


def loader_of(rows: list[float], batch_size: int = 2, seed: int = 0) -> DataLoader:
    """Batches {"x": values plus noise that the view's seed names}."""

    class Rows(torch.utils.data.Dataset):
        def __getitem__(self, view):
            return rows[view.row] + view.seed / 2**62

        def __len__(self):
            return len(rows)

    sampler = EpochSampler(len(rows), seed)

    def collate(values: list[float]) -> dict[str, torch.Tensor]:
        return {"x": torch.tensor(values)}

    return DataLoader(Rows(), batch_size, sampler=sampler, collate_fn=collate, generator=torch.Generator())


@pytest.mark.parametrize("prepared", [False, True])
@pytest.mark.parametrize(("epoch", "skip"), [(0, 0), (0, 2), (1, 1), (0, 3), (2, 3)])
def test_epochs_go_on_wherever_they_start(prepared, epoch, skip):
    def first(**start) -> list:
        loader = loader_of([10.0, 20.0, 30.0, 40.0, 50.0])
        batches = epochs_of(Accelerator(cpu=True).prepare(loader) if prepared else loader, **start)
        return [(epoch, number, batch["x"].tolist()) for epoch, number, batch in itertools.islice(batches, 12)]

    whole = first()
    assert [(epoch, number) for epoch, number, _ in whole] == [(e, n) for e in range(4) for n in (1, 2, 3)]
    position = 3 * epoch + skip
    assert first(epoch=epoch, skip=skip)[: 12 - position] == whole[position:]


def test_an_epoch_without_batches_is_an_error_and_not_a_hang():
    with pytest.raises(UsageError, match="no batches"):
        next(epochs_of(loader_of([])))


class Killed(Exception):
    pass


def train(folder: Path, *, kill_at: int | None = None, accumulate: int = 1) -> dict[str, torch.Tensor]:
    """Trains a net with dropout for 10 steps, with a checkpoint after every third."""
    set_seed(0)
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=accumulate)
    net = nn.Sequential(nn.Linear(1, 8), nn.Dropout(0.3), nn.Linear(8, 1))
    loader = accelerator.prepare(loader_of([0.1 * number for number in range(7)], seed=5))
    resume = (folder / "status.json").exists()
    try:
        with RunFolder(folder, {}, resume=resume) as run:
            options = OptimizationOptions(warmup_steps=2)
            training = Training(accelerator, net, loader, options, run, name="net", steps=10, checkpoint_every=3)
            for batch in training:
                training.update({"total": (training.module(batch["x"][:, None]) - 1).square().mean()})
                if training.step == kill_at:
                    raise Killed
            return training.finish().state_dict()
    except Killed:
        return {}


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("kill_at", [2, 3, 7, 9])
def test_killed_and_resumed_training_ends_in_the_same_weights_bit_for_bit(tmp_path, kill_at, accumulate):
    whole = train(tmp_path / "whole", accumulate=accumulate)
    train(tmp_path / "killed", kill_at=kill_at, accumulate=accumulate)
    assert (tmp_path / "killed/checkpoint").exists() == (kill_at > 3)
    resumed = train(tmp_path / "killed", accumulate=accumulate)
    assert all(torch.equal(resumed[name], value) for name, value in whole.items())
    metrics = [(tmp_path / name / "metrics.jsonl").read_text() for name in ("whole", "killed")]
    assert metrics[0] == metrics[1]
    assert not (tmp_path / "killed/checkpoint").exists()


def test_dropout_matters_in_that_test(tmp_path):
    """Else the state of the generator would not be tested."""
    whole = train(tmp_path / "whole")
    torch.manual_seed(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sat_peft.training.loop._set_random_state", lambda state: None)
        train(tmp_path / "killed", kill_at=7)
        other = train(tmp_path / "killed")
    assert any(not torch.equal(other[name], value) for name, value in whole.items())


def test_checkpoint_holds_what_is_trained_and_not_the_frozen_backbone(tmp_path):
    net = nn.Sequential(nn.Linear(1000, 1).requires_grad_(False), nn.Linear(1, 1))
    run = RunFolder(tmp_path, {})
    schedule = {"steps": 1, "checkpoint_every": 1}
    loader, options = loader_of([1.0]), OptimizationOptions()
    training = Training(Accelerator(cpu=True), net, loader, options, run, name="net", **schedule)
    for batch in training:
        training.update({"total": training.module(batch["x"][:, None].expand(-1, 1000)).sum()})
    state = torch.load(tmp_path / "checkpoint/net.pt", weights_only=True)
    assert {name: value.numel() for name, value in state["parameters"].items()} == {"1.weight": 1, "1.bias": 1}


@pytest.mark.parametrize("kind", [DistributedType.FSDP, DistributedType.DEEPSPEED])
def test_checkpoints_of_a_sharded_training_are_refused(tmp_path, kind):
    accelerator, run = SimpleNamespace(distributed_type=kind), RunFolder(tmp_path, {})
    with pytest.raises(UsageError, match="Launch it with --checkpoint-every 0"):
        Training(accelerator, nn.Linear(1, 1), None, OptimizationOptions(), run, name="n", steps=1, checkpoint_every=1)


def test_damaged_checkpoint_is_named(tmp_path):
    train(tmp_path / "run", kill_at=7)
    file = tmp_path / "run/checkpoint/net.pt"
    file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(UsageError, match=r"net\.pt: the checkpoint is damaged .* Start the run anew"):
        train(tmp_path / "run")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 1e4, -1e4])
def test_diverged_loss_names_step_terms_and_ways_out(value):
    with pytest.raises(TrainingDiverged, match=r"step 7 \(total .*, classification 0\.5\).*it is 0\.01.*warmup"):
        check_finite({"total": value, "classification": 0.5}, 7, 0.01)


def test_usable_loss_passes():
    check_finite({"total": 7.6, "area": 0.0, "normalization": -1.0}, 1, 0.01)


def test_checkpoint_with_flipped_bytes_is_never_taken(tmp_path):
    """torch compares no checksums, and would go on from other weights."""
    state = {"step": 1, "epoch": 0, "batch": 1, "parameters": {"a": torch.randn(2000)}}
    state |= {"optimizer": {}, "scheduler": {}, "generators": [{"cpu": torch.get_rng_state()}]}
    torch.save(state, tmp_path / "sound.pt")
    sound = (tmp_path / "sound.pt").read_bytes()
    assert torch.equal(read_state(tmp_path / "sound.pt")["parameters"]["a"], state["parameters"]["a"])
    place = sound.index(state["parameters"]["a"].numpy().tobytes()[:64])
    for offset in (0, 4001, 7999):
        damaged = bytearray(sound)
        damaged[place + offset] ^= 0x40
        (tmp_path / "damaged.pt").write_bytes(damaged)
        torch.load(tmp_path / "damaged.pt", weights_only=True)  # takes it
        with pytest.raises(UsageError, match=r"damaged\.pt: the checkpoint is damaged .*checksum"):
            read_state(tmp_path / "damaged.pt")
    for content in (b"", b"text", sound[:500]):
        (tmp_path / "damaged.pt").write_bytes(content)
        with pytest.raises(UsageError, match="the checkpoint is damaged"):
            read_state(tmp_path / "damaged.pt")
    torch.save([1], tmp_path / "list.pt")
    with pytest.raises(UsageError, match="'step' must be int, not None"):
        read_state(tmp_path / "list.pt")
