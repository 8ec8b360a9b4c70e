"""Creates timm backbones by name, with clear errors for what cannot work."""

from __future__ import annotations

import difflib
import pickle
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import timm
import torch
from safetensors import SafetensorError, safe_open
from timm.data import resolve_model_data_config
from timm.models import load_state_dict
from torch import nn

from sat_peft.errors import UsageError
from sat_peft.files import FileProblem, read_json_object
from sat_peft.tuner.backbone import check_backbone
from sat_peft.tuner.embedding import patch_embedding

# What `create_backbone` takes for photographs: DINOv2-S with registers.
PHOTO_BACKBONE = "vit_small_patch14_reg4_dinov2"
# Backbones that `recognise_backbone` knows by their weights.
RECOGNISED = (
    *(f"vit_{size}_patch14_{registers}dinov2" for size in ("small", "base", "large") for registers in ("reg4_", "")),
    *(f"vit_{size}_patch16_dinov3" for size in ("small", "base", "large")),
    *(f"{family}_{size}_patch16_224" for size in ("tiny", "small", "base") for family in ("deit", "vit")),
    "sat_peft_vit_nano_patch8_96",
)
_WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
# What torch, timm and safetensors raise for a file that is cut short, of another kind, or holds more than tensors.
_UNREADABLE = (
    *(OSError, EOFError, RuntimeError, LookupError, ValueError, AttributeError, TypeError),
    *(pickle.UnpicklingError, SafetensorError),
)
_LOCAL_WEIGHTS_HINT = (
    "On a machine without the hub, fetch the model elsewhere (for example `huggingface-cli download timm/NAME "
    "--local-dir DIR`) and name that folder or its model.safetensors with --weights. HF_HUB_OFFLINE=1 skips the "
    "retries. To try everything else, --backbone sat_peft_vit_nano_patch8_96 is embedded; it knows no photographs."
)


@dataclass(frozen=True)
class DataConfig:
    """How a backbone wants its images.

    Args:
        image_size: (height, width) in pixels.
        mean, std: per channel, for images in [0, 1].
        interpolation: `bilinear`, `bicubic`, ….
    """

    image_size: tuple[int, int]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: str


def _check_name(name: str) -> None:
    if name.startswith(("hf-hub:", "hf_hub:", "local-dir:")):
        return
    architecture, _, tag = name.partition(".")
    if timm.is_model(architecture):
        tags = timm.list_pretrained(f"{architecture}.*")
        if tag and name not in tags:
            known = ", ".join(tags) if tags else "none: use the name without a tag"
            raise UsageError(f"unknown pretrained tag {tag!r} of backbone {architecture!r}. Known: {known}.")
        return
    close = difflib.get_close_matches(name, timm.list_models(), n=4, cutoff=0.4)
    hint = f" Did you mean {', '.join(close)}?" if close else ""
    raise UsageError(
        f"unknown backbone {name!r}.{hint} Any Vision Transformer of timm works; "
        "`python -c \"import timm; print(timm.list_models('*vit*'))\"` lists them."
    )


def _weights_file(weights: Path) -> Path:
    if weights.is_file():
        return weights
    if not weights.exists():
        raise UsageError(f"weights {str(weights)!r} do not exist; give a .safetensors file or a folder that holds one.")
    for name in _WEIGHT_FILES:
        if (weights / name).is_file():
            return weights / name
    raise UsageError(f"the folder {str(weights)!r} holds none of {', '.join(_WEIGHT_FILES)}.")


def recognise_backbone(weights: str | Path) -> str:
    """The timm name of the backbone that local weights are of.

    A folder that was downloaded from the hub says so in its config.json. Otherwise names and shapes of the tensors are
    compared with those of the families that people localise with; a classifier and the size of the images may differ.

    Args:
        weights: as in `create_backbone`.

    Raises:
        UsageError: no weights there, weights of none of these families, or of several that differ in how images are
            normalised, which no weight tells.
    """
    file = _weights_file(Path(weights))
    config = file.parent / "config.json"
    if Path(weights).is_dir() and config.is_file():
        with suppress(FileProblem):
            architecture = read_json_object(config, "the configuration of a model").get("architecture")
            if isinstance(architecture, str):
                return architecture
    found = _comparable(_tensor_shapes(file))
    fitting = []
    for name in RECOGNISED:
        with torch.device("meta"):
            skeleton = timm.create_model(name, num_classes=0)
        expected = _comparable({key: tuple(tensor.shape) for key, tensor in skeleton.state_dict().items()})
        if expected == found:
            fitting.append(name)
    if len(fitting) == 1:
        return fitting[0]
    fit = f"fit {' and '.join(fitting)}, which normalise images differently" if fitting else "are of none of the known"
    raise UsageError(f"the weights in {str(file)!r} {fit}: name the backbone with --backbone, as timm calls it.")


def _tensor_shapes(file: Path) -> dict[str, tuple[int, ...]]:
    """The shapes of all tensors in a file; of safetensors the header alone is read."""
    with suppress(OSError, SafetensorError), safe_open(file, "pt") as tensors:
        return {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118
    return {name: tuple(tensor.shape) for name, tensor in _read_weights(file).items()}


def _comparable(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """Shapes by name, without the classifier; of position embeddings the width alone."""
    return {
        name: shape[-1:] if name == "pos_embed" else shape
        for name, shape in shapes.items()
        if not name.startswith(("head.", "head_dist.", "fc."))
    }


def _check_image_size(model: nn.Module, name: str, image_size: tuple[int, int]) -> None:
    patch_size = getattr(patch_embedding(model), "patch_size", None)
    if patch_size is None or not hasattr(model, "blocks"):
        raise UsageError(
            f"backbone {name!r} ({type(model).__name__}) has no sequence of patch tokens; SAT needs a plain Vision "
            "Transformer such as deit_small_patch16_224, vit_small_patch14_dinov2 or vit_base_patch16_dinov3."
        )
    for side, size, patch in zip(("height", "width"), image_size, patch_size, strict=True):
        if size < 1 or size % patch:
            below = max(size // patch, 0) * patch
            near = f"{below} and {below + patch}" if below else f"{patch} and {2 * patch}"
            raise UsageError(
                f"image {side} {size} is not a multiple of the patch size {patch} of {name}; "
                f"the nearest sizes that are: {near}."
            )


def create_backbone(
    name: str,
    *,
    pretrained: bool = True,
    weights: str | Path | None = None,
    image_size: int | tuple[int, int] | None = None,
    drop_path_rate: float = 0.0,
) -> nn.Module:
    """Creates a timm backbone without a classifier.

    Args:
        name: any name that `timm.create_model` takes.
        pretrained: load timm's pretrained weights.
        weights: a local file (.safetensors, or a .pth/.bin that `torch.load(weights_only=True)` reads) or a folder
            that holds model.safetensors; taken instead of a download.
        image_size: side, or (height, width), in pixels; the default is the backbone's own. Position embeddings are
            resized.
        drop_path_rate: largest rate of stochastic depth.

    Raises:
        UsageError: an unknown name (close ones are suggested), weights that cannot be fetched or do not fit, a
            backbone without patch tokens, a size that the patch size does not divide.
    """
    _check_name(name)
    if not 0 <= drop_path_rate < 1:
        raise UsageError(f"drop_path_rate must be at least 0 and less than 1, got {drop_path_rate}.")
    size = (image_size, image_size) if isinstance(image_size, int) else image_size
    # The skeleton tells the patch size before anything is downloaded; on the meta device it costs no memory.
    with torch.device("meta"), _unreachable_hub(name):
        skeleton = timm.create_model(name, num_classes=0)
    _check_image_size(skeleton, name, size or resolve_model_data_config(skeleton)["input_size"][1:])
    check_backbone(skeleton)
    model = _create(name, pretrained, weights, size, drop_path_rate)
    if size is not None and not hasattr(patch_embedding(model), "img_size"):
        # NaFlexVit takes images of any size, and remembers none; adapters record it with the backbone.
        patch_embedding(model).img_size = size
    return model


def _create(
    name: str, pretrained: bool, weights: str | Path | None, size: tuple[int, int] | None, drop_path_rate: float
) -> nn.Module:
    arguments: dict = {"num_classes": 0}
    if size is not None:
        arguments["img_size"] = size
    if drop_path_rate:
        arguments["drop_path_rate"] = drop_path_rate
    if weights is not None:
        file = _weights_file(Path(weights))
        model = timm.create_model(name, **arguments)
        _load_local_weights(model, name, file)
        return model
    try:
        with _unreachable_hub(name):
            return timm.create_model(name, pretrained=pretrained, **arguments)
    except RuntimeError as error:
        if "No pretrained weights exist" not in str(error):
            raise
        raise UsageError(f"timm knows no pretrained weights of {name!r}. {_LOCAL_WEIGHTS_HINT}") from error


@contextmanager
def _unreachable_hub(name: str) -> Iterator[None]:
    """Turns the errors of a download, or of files that are not there, into a `UsageError` with the way out."""
    try:
        yield
    except OSError as error:
        raise UsageError(f"{name!r} could not be fetched: {_first_line(error)} {_LOCAL_WEIGHTS_HINT}") from error


def _shape_report(error: Exception) -> str:
    """What torch says about the first tensor that does not fit; it comes below a headline."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[min(1, len(lines) - 1)].strip()


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0] or type(error).__name__


def _read_weights(file: Path) -> dict[str, torch.Tensor]:
    try:
        return load_state_dict(str(file), device="cpu", weights_only=True)
    except _UNREADABLE as error:
        # torch's own advice here is to unpickle whatever the file holds, which is what must not be done.
        raise UsageError(
            f"the weights in {str(file)!r} cannot be read: the file is damaged, or no file of tensors alone "
            f"({type(error).__name__}). Give a .safetensors file, or a .pth/.bin file that holds nothing but tensors."
        ) from error


def _load_local_weights(model: nn.Module, name: str, file: Path) -> None:
    """Loads `file` in place; every parameter must be in it, and nothing but a classifier may be left over.

    timm's own loading is lenient once the classifier is dropped: a file of another model would leave the random
    initialisation in place with no more than a logged line.
    """
    state_dict = _read_weights(file)
    # Every timm family keeps the renaming and resizing of its published checkpoints beside its classes.
    filter_fn = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    try:
        fitted = filter_fn(state_dict, model) if filter_fn else state_dict
        result = model.load_state_dict(fitted, strict=False)
    except (RuntimeError, KeyError, ValueError, AttributeError, TypeError) as error:
        raise UsageError(f"the weights in {str(file)!r} are not those of {name!r}: {_shape_report(error)}") from error
    left_over = [key for key in result.unexpected_keys if not key.startswith(("head", "fc", "norm.", "fc_norm."))]
    if result.missing_keys or left_over:
        raise UsageError(
            f"the weights in {str(file)!r} are not those of {name!r}: {len(result.missing_keys)} keys missing "
            f"(first: {result.missing_keys[:3]}), {len(left_over)} left over (first: {left_over[:3]})."
        )


def choose_backbone(name: str | None, weights: str | Path | None) -> str:
    """The backbone that is named, else the one that the weights are of, else the one for photographs."""
    if name is not None:
        return name
    return PHOTO_BACKBONE if weights is None else recognise_backbone(weights)


def resolve_data_config(model: nn.Module, image_size: int | tuple[int, int] | None = None) -> DataConfig:
    """The image size, mean, standard deviation and interpolation of a timm model, read from its own record."""
    config = resolve_model_data_config(model)
    size = (image_size, image_size) if isinstance(image_size, int) else image_size
    if size is None:
        # A model created at another size than its pretraining's knows so in its patch embedding alone.
        size = getattr(patch_embedding(model), "img_size", None) or config["input_size"][1:]
    return DataConfig(tuple(size), tuple(config["mean"]), tuple(config["std"]), config["interpolation"])
