"""Options that the training recipes share. A recipe's own configuration inherits from these, so that a flag means the
same everywhere. Nothing heavy is imported here: `--help` and a mistyped option answer at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal

from sat_peft.errors import UsageError
from sat_peft.options.choices import (
    AugmentationName,
    BaselineName,
    HeadName,
    ProtocolName,
    ScheduleName,
    TokenEntry,
    TokenInit,
    TtaName,
    TuneMode,
)

# Of the run and not of the experiment: an earlier run's are not taken over, and may differ where a run is resumed.
RUN_FIELDS = ("output", "overwrite", "resume", "config", "threads", "num_workers", "track", "checkpoint_every")


@dataclass(frozen=True)
class ModelOptions:
    """The backbone, and what is trained on it."""

    backbone: str | None = None
    """Any Vision Transformer of timm, for example deit_small_patch16_224; by default what the --weights are of, else
    DINOv2-S with registers."""
    weights: Path | None = None
    """Local weights of the backbone (a .safetensors file, or a folder with one), instead of a download."""
    image_size: int | None = None
    """Side of the images in pixels; the backbone's own by default."""
    num_spatial_blocks: int | None = None
    """K: the last blocks in which the spatial token masks the attention; by default a quarter of them, as in the paper
    (3 of 12)."""
    tune: TuneMode = "lora"
    """Trained besides the token and the head, in the last blocks: nothing, biases and norms, LoRA, or all of them."""
    num_tuned_blocks: int | None = None
    """The last blocks that --tune reaches; K by default."""
    head: HeadName = "conv3x3"
    """The classification head (the paper's is conv3x3)."""
    token_init: TokenInit | None = None
    """The spatial token starts at random (the paper) or as a copy of the class token; by default as the class token
    where the backbone has one."""
    train_head: bool = True
    """Train the head; else it stays as it starts, at random."""
    calibrated_masks: bool = False
    """Scale and shift the mask logits of every spatial block, so that the maps start at the area target and with
    contrast on whatever backbone (not in the paper)."""
    class_readout: bool = False
    """After the training, fit linear discriminants of the classes on the patch tokens of the training images: few
    images then classify better, and maps leave out what is of another class, as far as held-out training images show
    that it is not the object (not in the paper)."""
    token_entry: TokenEntry = "isolated"
    """Where the spatial token meets the other tokens: `input` (the paper); `isolated`, from the input on without being
    read in the frozen blocks, as accurate in half the time and memory; `late`, before the first spatial block, which a
    feature cache needs. The latter two need no gradients in frozen blocks."""
    lora_rank: int = 8
    """Rank of LoRA, for --tune lora."""
    lora_targets: tuple[str, ...] = ()
    """Linear layers that LoRA reaches, by the end of their names (qkv, proj, fc1, fc2); all of them by default."""
    use_dora: bool = False
    """DoRA instead of LoRA: the magnitude of the weights is trained apart from their direction."""
    init_adapter: Path | None = None
    """Start from the weights of this adapter folder, trained on the same backbone and number of classes."""


@dataclass(frozen=True)
class LossOptions:
    """The loss: classification + batch area + normalization + separation + border."""

    area_target: float = 0.25
    """Mean share of the image that the maps are drawn to (the paper: .25 on CUB, .35 on ILSVRC)."""
    classification_weight: float = 1.0
    """Weight of the cross-entropy."""
    area_weight: float = 1.0
    """Weight of the batch area loss; 0 leaves it out."""
    normalization_weight: float = 1.0
    """Weight of the normalization loss, which draws maps to 0 and 1; 0 leaves it out."""
    separation_weight: float = 0.0
    """Weight of the separation of object and ground in the features, which uniform maps do not have (not in the
    paper); 0 leaves it out."""
    border_weight: float = 0.0
    """Weight of what the maps have along the border of the image beyond 0.8 of their mean, which tells object from
    ground where there are few images (not in the paper); 0 leaves it out."""
    border_in_each_image: bool = False
    """Count the border in every image by itself, where objects lie inside; else in the mean over the batch, in which
    some may reach it."""


@dataclass(frozen=True)
class OptimizationOptions:
    """How it is trained."""

    batch_size: int = 20
    """Training images per process and step."""
    gradient_accumulation_steps: int = 1
    """Batches per optimizer step. The area of the loss is that of each batch, over all processes."""
    learning_rate: float = 1e-3
    """Learning rate of AdamW."""
    schedule: ScheduleName = "cosine"
    """Course of the learning rate after the warm-up."""
    warmup_steps: int = 10
    """Steps in which the learning rate rises."""
    weight_decay: float = 0.05
    """Weight decay of AdamW; biases, norms and tokens have none."""
    drop_path: float = 0.0
    """Largest rate of stochastic depth, in all blocks (the paper: .1)."""
    augmentation: AugmentationName = "shift"
    """`shift`: small reflected shifts and flips; `crop`: random crops from 8/7 of the size and flips (the paper)."""
    feature_cache: Path | None = None
    """Folder of a feature cache: the frozen blocks see every view of a training image once, and training runs the last
    blocks alone. Needs --token-entry late, and fewer spatial and tuned blocks than the backbone has."""
    feature_views: int = 8
    """Augmented views of each image in the feature cache, which epochs take in turn."""
    feature_dtype: Literal["float16", "float32"] = "float16"
    """Precision of the numbers in the feature cache."""
    feature_cache_limit: float = 50.0
    """GB that all caches in its folder may take; those that were not used for longest are removed."""
    gradient_checkpointing: bool = False
    """Compute the activations of the blocks again in the backward pass: less memory, more time."""
    compile: bool = False
    """Compile the model with torch.compile; worth it on a GPU and in long trainings."""


@dataclass(frozen=True)
class EvaluationOptions:
    """How it is measured."""

    protocol: ProtocolName = "original"
    """Evaluation protocol of the tables; `sat-peft evaluate` measures a run under others too."""
    baselines: tuple[BaselineName, ...] = ("cam", "centre_box")
    """Measured beside SAT, on the same backbone, images and steps. Those that train nothing (rollout, class_attention,
    tokencut) take their classes from CAM; the centre box needs a validation split with boxes."""
    threshold: float | None = None
    """Threshold of the maps; by default the best on the validation split if it has boxes, else what the maps of the
    validation or training images suggest without any."""
    tta: TtaName = "none"
    """Test-time augmentation of all methods: `flip` takes the mean over an image and its mirror image, in twice the
    time; `edges` refines maps along the edges of the image; `flip-edges` does both. Predictions of the run take it
    too."""
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
    """Run folder of a run that did not come to its end: go on from its last checkpoint, with its configuration. `auto`
    goes on with what --output holds, and starts where it holds nothing."""
    track: tuple[Literal["tensorboard", "wandb", "trackio"], ...] = ()
    """Trackers of Accelerate that are told the metrics too; metrics.jsonl has them always."""

    def folder(self, recipe: str) -> Path:
        """The run folder; a new one below runs/ where none is named."""
        return self.output or Path("runs", f"{recipe}-{datetime.now():%Y%m%d-%H%M%S}")

    def __post_init__(self):
        if self.checkpoint_every < 0:
            raise UsageError(f"checkpoint_every must be 0 or more, got {self.checkpoint_every}.")
