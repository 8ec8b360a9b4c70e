"""Shared pieces of the Accelerate loops: optimizer, schedule, steps, checkpoints. The loss stays in the recipe."""

from __future__ import annotations

import copy
import io
import logging
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import get_args

import torch
from accelerate import Accelerator, skip_first_batches
from accelerate.utils import DistributedType, gather_object, tqdm
from torch import nn
from torch.distributed.tensor import DTensor
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader
from transformers import get_scheduler

from sat_peft.data.sampler import EpochSampler
from sat_peft.errors import UsageError, unknown_choice
from sat_peft.files import FileProblem, check_values, path_problem
from sat_peft.files.outputs import atomic_replacement
from sat_peft.options.choices import ScheduleName
from sat_peft.options.training import OptimizationOptions
from sat_peft.runs.folder import RunFolder
from sat_peft.runs.termination import Terminated, is_terminating, termination_waits

logger = logging.getLogger(__name__)

# Devices on which torch has AdamW in one kernel: four times faster than its default on a CPU.
_FUSED_ADAMW = ("cpu", "cuda", "mps", "xpu")
SCHEDULES = get_args(ScheduleName)
# A cross-entropy beyond this is no longer learning.
_EXPLODED = 1e3
_ANEW = "Start the run anew, with --overwrite instead of --resume."


class TrainingDiverged(UsageError):
    """The loss is no longer a usable number."""


def create_optimizer(
    model: nn.Module, *, learning_rate: float, weight_decay: float, skip: tuple[str, ...] = ("sat_token", "pos_embed")
) -> torch.optim.AdamW:
    """AdamW over the trainable parameters, without weight decay on biases, norms and tokens.

    Args:
        model: its parameters with `requires_grad` are optimised.
        learning_rate, weight_decay: of AdamW.
        skip: parts of parameter names that get no weight decay whatever their shape.
    """
    trainable = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    if not trainable:
        raise UsageError("the model has no trainable parameters.")

    def decayed(name: str, parameter: nn.Parameter) -> bool:
        return parameter.ndim > 1 and not any(part in name for part in skip)

    groups = [
        {"params": [p for name, p in trainable if decayed(name, p)], "weight_decay": weight_decay},
        {"params": [p for name, p in trainable if not decayed(name, p)], "weight_decay": 0.0},
    ]
    fused = all(parameter.device.type in _FUSED_ADAMW for _, parameter in trainable) or None
    return torch.optim.AdamW([group for group in groups if group["params"]], lr=learning_rate, fused=fused)


def create_scheduler(
    optimizer: torch.optim.Optimizer, name: str, *, steps: int, warmup_steps: int, num_processes: int = 1
) -> LRScheduler:
    """A learning-rate schedule over `steps` optimizer steps.

    Accelerate advances a prepared scheduler once per process and step, hence `num_processes`.
    """
    if name not in SCHEDULES:
        raise unknown_choice("schedule", name, SCHEDULES)
    if steps < 1 or warmup_steps < 0:
        raise UsageError(f"steps must be at least 1 and warmup_steps at least 0, got {steps} and {warmup_steps}.")
    return get_scheduler(name, optimizer, warmup_steps * num_processes, steps * num_processes)


def epochs_of(loader: DataLoader, *, epoch: int = 0, skip: int = 0) -> Iterator[tuple[int, int, dict]]:
    """(epoch, batch number in it from 1, batch) of a training loader, epoch after epoch without end.

    Args:
        loader: loader of `build_loaders`, prepared by Accelerate or not.
        epoch: to start in.
        skip: batches of that epoch that are passed over, without being loaded.

    Raises:
        UsageError: an epoch without a batch, which would go on for ever.
    """
    while True:
        if 0 < len(loader) <= skip:
            # Of an epoch that is over, some versions of Accelerate give None as a batch.
            epoch, skip = epoch + 1, 0
        current = skip_first_batches(loader, skip) if skip else loader
        # Accelerate's loaders count their own epochs and hand them on, where they find the sampler.
        current.iteration = epoch
        _sampler(current).set_epoch(epoch)
        number = skip
        for number, batch in enumerate(current, skip + 1):
            yield epoch, number, batch
        if number == 0:
            raise UsageError("the training loader has no batches; give it at least one image.")
        epoch, skip = epoch + 1, 0


def _sampler(loader: DataLoader) -> EpochSampler:
    """The sampler inside whatever Accelerate wrapped around it."""
    wrapped = loader.batch_sampler
    while not isinstance(wrapped, EpochSampler):
        wrapped = wrapped.batch_sampler if hasattr(wrapped, "batch_sampler") else wrapped.sampler
    return wrapped


def check_finite(terms: dict[str, float], step: int, learning_rate: float) -> None:
    """Raises `TrainingDiverged` if a term of the loss is NaN, infinite or beyond all bounds."""
    wrong = {name: value for name, value in terms.items() if not abs(value) < _EXPLODED}
    if wrong:
        shown = ", ".join(f"{name} {value:.3g}" for name, value in terms.items())
        raise TrainingDiverged(
            f"the loss diverged at step {step} ({shown}). Lower --learning-rate (it is {learning_rate:g}) or raise "
            "--warmup-steps; with mixed precision, try --mixed_precision no of accelerate launch."
        )


@torch.no_grad()
def copy_whole(sharded: nn.Module, whole: nn.Module) -> None:
    """Copies the parameters of a module that FSDP2 shards into one of the same architecture, in every process.

    Every process must call it.
    """
    for own, target in zip(sharded.parameters(), whole.parameters(), strict=True):
        target.copy_(own.full_tensor() if isinstance(own, DTensor) else own)


class Training:
    """One training: optimizer, schedule, metrics and checkpoints. The loop and its loss stay in the recipe:

        training = Training(accelerator, model, loader, options, run, name="SAT", steps=150)
        for batch in training:
            loss = criterion(training.module(batch["images"]), batch["labels"])
            training.update(loss._asdict())
        model = training.finish()

    A training whose run is resumed goes on after its last checkpoint, on a CPU bit for bit as if it had not been
    killed. The trained parameters, the optimizer, the schedule, the place in the data and the state of every process's
    generator are in it, the frozen backbone is not.

    Args:
        accelerator: `Accelerator` of the run.
        module: what is trainable in it is trained.
        loader: prepared training loader; batches need not be of its whole epochs.
        options: options of the optimizer.
        run: gets the metrics, and the checkpoints in its folder `checkpoint`.
        name: name of the training, in the metrics.
        steps: optimizer steps.
        learning_rate: instead of that of the options.
        checkpoint_every: steps between checkpoints; 0 for none.

    Attributes:
        module: the prepared module, to call in the loop.
        step: optimizer steps that were taken.

    Raises:
        UsageError: nothing to train, numbers out of range, or checkpoints of a sharded training.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        module: nn.Module,
        loader: DataLoader,
        options: OptimizationOptions,
        run: RunFolder,
        *,
        name: str,
        steps: int,
        learning_rate: float | None = None,
        checkpoint_every: int = 0,
    ):
        if checkpoint_every and accelerator.distributed_type in (DistributedType.FSDP, DistributedType.DEEPSPEED):
            raise UsageError(
                "a training whose optimizer is sharded over the processes (FSDP, DeepSpeed) writes no checkpoints to "
                "resume from. Launch it with --checkpoint-every 0."
            )
        self.accelerator, self.loader, self.run, self.name, self.steps = accelerator, loader, run, name, steps
        self.checkpoint_every = checkpoint_every
        self.learning_rate = options.learning_rate if learning_rate is None else learning_rate
        self.step, self._epoch, self._batch = 0, 0, 0
        self._terminating = False
        self._terms: list[dict[str, torch.Tensor]] = []
        # What FSDP shards can be neither saved nor evaluated by one process; what it was before can.
        is_sharded = accelerator.distributed_type == DistributedType.FSDP
        self._whole = copy.deepcopy(module).to(accelerator.device) if is_sharded else None
        optimizer = create_optimizer(module, learning_rate=self.learning_rate, weight_decay=options.weight_decay)
        scheduler = create_scheduler(
            optimizer,
            options.schedule,
            steps=steps,
            warmup_steps=options.warmup_steps,
            num_processes=accelerator.num_processes,
        )
        self.module, self.optimizer, self.scheduler = accelerator.prepare(module, optimizer, scheduler)
        self._file = run.path / "checkpoint" / f"{name}.pt"
        if self._file.exists():
            self._restore()
            logger.info(f"{name}: goes on after step {self.step} of {steps}")
        run.forget_metrics(name, after=self.step)

    def __iter__(self) -> Iterator[dict]:
        """Batches until all steps are taken; every one wants one `update`."""
        self.module.train()
        batches = epochs_of(self.loader, epoch=self._epoch, skip=self._batch)
        with (
            termination_waits(),
            tqdm(initial=self.step, total=self.steps, desc=f"training {self.name}") as self._bar,
        ):
            while self.step < self.steps:
                self._epoch, self._batch, batch = next(batches)
                with self.accelerator.accumulate(self.module):
                    yield batch
                # After the loop's own work of this step, so that a resumed run has it behind it too.
                if not self.accelerator.sync_gradients:
                    continue
                terminating = self._terminating or (self.accelerator.num_processes == 1 and is_terminating())
                due = self.step % max(1, self.checkpoint_every) == 0 or self.step == self.steps or terminating
                if self.checkpoint_every and due:
                    self._save()
                if terminating:
                    raise Terminated
        self.module.eval()

    def update(self, terms: Mapping[str, torch.Tensor]) -> None:
        """One backward pass of the loss `terms["total"]`, and an optimizer step where enough batches are accumulated.

        Raises:
            TrainingDiverged: a term is NaN, infinite or beyond all bounds.
        """
        self.accelerator.backward(terms["total"])
        self._terms.append({name: value.detach() for name, value in terms.items()})
        if not self.accelerator.sync_gradients:
            return
        self.accelerator.clip_grad_norm_(self.module.parameters(), 1.0)
        self.optimizer.step()
        learning_rate = self.scheduler.get_last_lr()[0]
        self.scheduler.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        means = [torch.stack([each[name] for each in self._terms]).mean() for name in terms]
        # SIGTERM reaches each of several processes in another step, and only together they can save.
        means = torch.stack([*means, torch.full_like(means[0], is_terminating())])
        # A loss that knows the images of its process alone differs: all processes log, and judge, the mean.
        *values, terminating = self.accelerator.reduce(means, "mean").tolist()
        self._terminating = terminating > 0
        values = dict(zip(terms, values, strict=True))
        self._terms = []
        check_finite(values, self.step, self.learning_rate)
        self.run.log(method=self.name, step=self.step, learning_rate=learning_rate, **values)
        self.accelerator.log({f"{self.name}/{name}": value for name, value in values.items()}, step=self.step)
        self._bar.update()
        self._bar.set_postfix(loss=f"{values['total']:.3f}")

    def _save(self) -> None:
        """Writes a checkpoint, atomically. Every process takes part, the main one writes."""
        generators = gather_object([_random_state()])
        if not self.accelerator.is_main_process:
            return
        self._file.parent.mkdir(exist_ok=True)
        state = {
            "step": self.step,
            "epoch": self._epoch,
            "batch": self._batch,
            "parameters": {name: value.detach() for name, value in self._trainable()},
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "generators": generators,
        }
        # torch writes a file by parts, and tells of a full disk by no error of the system.
        buffer = io.BytesIO()
        torch.save(state, buffer)
        with atomic_replacement(self._file) as file:
            file.write_bytes(buffer.getbuffer())

    def _restore(self) -> None:
        state = read_state(self._file)
        parameters, generators = dict(self._trainable()), state["generators"]
        if parameters.keys() != state["parameters"].keys() or len(generators) != self.accelerator.num_processes:
            raise UsageError(
                f"the checkpoint {self._file} is of {len(generators)} processes and {len(state['parameters'])} trained "
                f"tensors, the run has {self.accelerator.num_processes} and {len(parameters)}. Resume it as it was "
                "launched, or start anew."
            )
        try:
            with torch.no_grad():
                for name, value in state["parameters"].items():
                    parameters[name].copy_(value)
            self.optimizer.load_state_dict(state["optimizer"])
            self.scheduler.load_state_dict(state["scheduler"])
        except (RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise FileProblem(self._file, f"the checkpoint is of another training ({error}).", _ANEW) from error
        self.step, self._epoch, self._batch = state["step"], state["epoch"], state["batch"]
        _set_random_state(generators[self.accelerator.process_index])

    def _trainable(self) -> Iterator[tuple[str, nn.Parameter]]:
        return ((name, value) for name, value in self.unwrapped().named_parameters() if value.requires_grad)

    @contextmanager
    def evaluation(self) -> Iterator[nn.Module]:
        """The module in evaluation mode and out of Accelerate's wrapping, for a look in the middle of training."""
        yield self.finish()
        self.module.train()

    def finish(self) -> nn.Module:
        """The trained module in evaluation mode, out of Accelerate's wrapping. Every process has it whole."""
        self.module.eval()
        if self._whole is not None:
            copy_whole(self.module, self._whole)
            return self._whole.eval()
        return self.unwrapped()

    def unwrapped(self) -> nn.Module:
        """The module out of Accelerate's and the compiler's wrapping."""
        return self.accelerator.unwrap_model(self.module, keep_torch_compile=False)


def read_state(file: Path) -> dict:
    """What `Training._save` wrote.

    Raises:
        FileProblem: the file is damaged, in whatever place: torch compares no checksums.
    """
    problem = path_problem(file)
    if problem is not None:
        raise problem
    try:
        with zipfile.ZipFile(file) as archive:
            damaged = archive.testzip()
        if damaged is not None:
            raise ValueError(f"the checksum of {damaged} is another")
        state = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # torch's reader raises whatever it trips over
        raise FileProblem(file, f"the checkpoint is damaged ({type(error).__name__}: {error}).", _ANEW) from error
    fields = {"step": int, "epoch": int, "batch": int, "parameters": dict, "optimizer": dict, "scheduler": dict}
    found = state if isinstance(state, dict) else {}
    check_values(file, {name: found.get(name) for name in (*fields, "generators")}, fields | {"generators": list})
    return state


def _random_state() -> dict[str, torch.Tensor]:
    """The state of torch's generators, which stochastic depth and dropout draw from."""
    state = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def _set_random_state(state: dict[str, torch.Tensor]) -> None:
    torch.set_rng_state(state["cpu"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
