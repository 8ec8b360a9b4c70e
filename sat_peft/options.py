"""Options that the training recipes share. A recipe's own configuration inherits from these, so that a flag means the
same everywhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal

from accelerate import Accelerator
from accelerate.utils import imports as trackers_available
from peft import PeftModel, get_peft_model
from torch import nn

from sat_peft.backbones import create_backbone
from sat_peft.cpu import keep_freed_memory, set_cpu_threads
from sat_peft.data.splits import check_class_names
from sat_peft.errors import UsageError
from sat_peft.losses import SatLoss
from sat_peft.tuner import SatConfig, load_adapter


@dataclass(frozen=True)
class ModelOptions:
    """The backbone, and what is trained on it."""

    backbone: str = "sat_peft_vit_nano_patch8_96"
    """Any Vision Transformer of timm, for example deit_small_patch16_224 or vit_small_patch14_dinov2."""
    weights: Path | None = None
    """Local weights of the backbone (a .safetensors file, or a folder with one), instead of a download."""
    image_size: int | None = None
    """Side of the images in pixels; the backbone's own by default."""
    num_spatial_blocks: int = 6
    """K: the last blocks in which the spatial token masks the attention (the paper has 3 of 12; here all 6 of the nano
    ViT, whose late blocks see little but the part that tells the class)."""
    tune: Literal["none", "lora", "full"] = "lora"
    """Trained besides the token and the head: nothing, LoRA in the last K blocks, or the last K blocks whole."""
    head: Literal["conv3x3", "conv1x1", "separable"] = "conv3x3"
    """The classification head (the paper's is conv3x3)."""
    token_init: Literal["random", "class_token"] | None = None
    """The spatial token starts at random (the paper) or as a copy of the class token; by default as the class token
    where the backbone has one."""
    lora_rank: int = 8
    """Rank of LoRA, for --tune lora."""
    init_adapter: Path | None = None
    """Start from the weights of this adapter folder, trained on the same backbone and number of classes."""

    def create_model(self, class_names: list[str], optimization: OptimizationOptions) -> PeftModel:
        """The backbone with its adapter.

        Args:
            class_names: of the head.
            optimization: stochastic depth and gradient checkpointing of the backbone.

        Raises:
            UsageError: a backbone or weights that cannot be had, an option that does not fit the backbone, or an
                `init_adapter` of another configuration.
        """
        backbone = create_backbone(
            self.backbone, weights=self.weights, image_size=self.image_size, drop_path_rate=optimization.drop_path
        )
        backbone.set_grad_checkpointing(optimization.gradient_checkpointing)
        config = self.sat_config(backbone, class_names)
        if self.init_adapter is None:
            return get_peft_model(backbone, config)
        model = load_adapter(backbone, self.init_adapter, is_trainable=True)
        _check_same(config, model.peft_config["default"], self.init_adapter)
        return model

    def sat_config(self, backbone: nn.Module, class_names: list[str]) -> SatConfig:
        """The adapter's configuration on `backbone`, a head for `class_names` included."""
        default_init = "random" if getattr(backbone, "cls_token", None) is None else "class_token"
        return SatConfig(
            num_classes=len(class_names),
            num_spatial_blocks=self.num_spatial_blocks,
            tune=self.tune,
            head=self.head,
            token_init=self.token_init or default_init,
            r=self.lora_rank,
            lora_alpha=self.lora_rank,
            class_names=class_names,
        )


def _check_same(wanted: SatConfig, found: SatConfig, folder: Path) -> None:
    """Refuses an adapter to start from that is not what the options ask for."""
    check_class_names(found.class_names, found.num_classes, wanted.class_names)
    for name in ("num_spatial_blocks", "tune", "head", *(("r",) if wanted.tune == "lora" else ())):
        if getattr(wanted, name) != getattr(found, name):
            raise UsageError(
                f"the adapter {folder} was trained with {name} {getattr(found, name)!r}, the options ask for "
                f"{getattr(wanted, name)!r}. Give the adapter's, or start without --init-adapter."
            )


@dataclass(frozen=True)
class LossOptions:
    """The loss: classification + batch area + normalization."""

    area_target: float = 0.15
    """Mean share of the image that the maps are drawn to (the paper: .25 on CUB, .35 on ILSVRC)."""
    area_weight: float = 1.0
    """Weight of the batch area loss; 0 leaves it out."""
    normalization_weight: float = 1.0
    """Weight of the normalization loss; 0 leaves it out."""

    def criterion(self) -> SatLoss:
        """The loss with these options."""
        return SatLoss(self.area_target, area_weight=self.area_weight, normalization_weight=self.normalization_weight)


@dataclass(frozen=True)
class OptimizationOptions:
    """How it is trained."""

    batch_size: int = 20
    """Training images per process and step."""
    gradient_accumulation_steps: int = 1
    """Batches per optimizer step. The area of the loss is that of each batch, over all processes."""
    learning_rate: float = 1e-3
    """Of AdamW."""
    schedule: Literal["cosine", "linear", "constant_with_warmup"] = "cosine"
    """Of the learning rate, after the warm-up."""
    warmup_steps: int = 10
    """Steps in which the learning rate rises."""
    weight_decay: float = 0.05
    """Of AdamW; biases, norms and tokens have none."""
    drop_path: float = 0.0
    """Largest rate of stochastic depth, in all blocks (the paper: .1)."""
    augmentation: Literal["shift", "crop", "none"] = "shift"
    """`shift`: small reflected shifts and flips; `crop`: random crops from 8/7 of the size and flips (the paper)."""
    gradient_checkpointing: bool = False
    """Compute the activations of the blocks again in the backward pass: less memory, more time."""
    compile: bool = False
    """Compile the model with torch.compile; worth it on a GPU and in long trainings."""


@dataclass(frozen=True)
class EvaluationOptions:
    """How it is measured."""

    protocol: Literal["original", "sat", "wsol", "tscam"] = "original"
    """Evaluation protocol of the tables; recipes/evaluate.py measures a run under others too."""
    baselines: tuple[Literal["cam", "tscam", "rollout", "centre_box"], ...] = ("cam", "centre_box")
    """Measured beside SAT, on the same backbone, images and steps. Attention rollout takes its classes from CAM; the
    centre box needs a validation split with boxes."""
    threshold: float | None = None
    """Threshold of the maps; by default the best on the validation split if it has boxes, else the protocol's."""
    eval_batch_size: int = 64
    """Images per process and evaluation step."""


@dataclass(frozen=True)
class RunOptions:
    """The run: where it is written, what it starts from, and what it runs on."""

    num_workers: int = 0
    """Loader processes."""
    threads: int | None = None
    """Threads per process on a CPU; by default all cores, shared among the processes."""
    output: Path | None = None
    """Run folder; by default a new one below runs/."""
    overwrite: bool = False
    """Replace a run in the output folder."""
    checkpoint_every: int = 100
    """Optimizer steps between checkpoints, from which a run that was killed goes on; 0 for none."""
    resume: Path | None = None
    """Run folder of a run that did not come to its end: go on from its last checkpoint, with its configuration."""
    track: tuple[Literal["tensorboard", "wandb", "trackio"], ...] = ()
    """Trackers of Accelerate that are told the metrics too; metrics.jsonl has them always."""

    def folder(self, recipe: str) -> Path:
        """The run folder; a new one below runs/ where none is named."""
        return self.output or Path("runs", f"{recipe}-{datetime.now():%Y%m%d-%H%M%S}")

    def __post_init__(self):
        if self.checkpoint_every < 0:
            raise UsageError(f"checkpoint_every must be 0 or more, got {self.checkpoint_every}.")


def create_accelerator(optimization: OptimizationOptions, run: RunOptions, folder: Path) -> Accelerator:
    """Accelerate as the options ask for it, and on a CPU the threads and memory that make it fast.

    Raises:
        UsageError: a tracker that is not installed.
    """
    for name in run.track:
        if not getattr(trackers_available, f"is_{name}_available")():
            raise UsageError(f"the tracker {name!r} is not installed: pip install {name}.")
    accelerator = Accelerator(
        gradient_accumulation_steps=optimization.gradient_accumulation_steps,
        dynamo_backend="inductor" if optimization.compile else None,
        log_with=list(run.track) or None,
        project_dir=str(folder) if run.track else None,
    )
    if accelerator.device.type == "cpu":
        keep_freed_memory()
        set_cpu_threads(run.threads)
    return accelerator
