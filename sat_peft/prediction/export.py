"""Exports a trained model for use without this package: image in, class logits and map out.

Input `images`: (B, 3, H, W) float32, resized and normalised as the stored metadata say; outputs `logits` (B, C) and
`maps` in (0, 1), (B, h, w) on the grid of patches, or (B, H, W) in pixels where the run refines them along edges. The
batch is dynamic, the image size is that of the training. ONNX needs the extra `export`
(`pip install 'sat_peft[export]'`).
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from sat_peft.errors import UsageError
from sat_peft.files.outputs import atomic_replacement
from sat_peft.prediction.found import PROTOCOL
from sat_peft.prediction.localizer import Localizer, logits_and_maps

# torch.export of older ones fixes the number of images.
OLDEST_TORCH = "2.8"
# Largest difference from the model itself that an exported model may have.
TOLERANCE = 1e-4


class _LogitsAndMaps(torch.nn.Module):
    """A copy of the model on the CPU, in float32, with its test-time augmentation and a plain tuple as output."""

    def __init__(self, localizer: Localizer):
        super().__init__()
        self.tta = localizer.tta
        self.model = copy.deepcopy(localizer.model).cpu().float().eval()

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return logits_and_maps(self.model, images, tta=self.tta)


def export_program(localizer: Localizer, path: str | Path) -> Path:
    """Writes a `torch.export` program; `torch.export.load(path).module()(images)` gives (logits, maps).

    The metadata of the model stand as JSON in the program's extra file `metadata.json`.

    Args:
        localizer: the trained model with its class names, preprocessing and threshold.
        path: the file, which ends in .pt2. It is written whole or not at all.

    Raises:
        UsageError: another suffix, a torch older than `OLDEST_TORCH`, or a program that does not agree with the model
            to `TOLERANCE`.
    """
    path = _checked_path(path, ".pt2")
    model = _LogitsAndMaps(localizer)
    program = _program(model, localizer)
    with atomic_replacement(path) as temporary:
        # torch insists on its suffix.
        written = temporary.with_suffix(".pt2")
        try:
            torch.export.save(program, written, extra_files={"metadata.json": json.dumps(metadata(localizer))})
            loaded = torch.export.load(written).module()
            _check_agreement(model, localizer, lambda images: [output.numpy() for output in loaded(images)])
            written.rename(temporary)
        finally:
            written.unlink(missing_ok=True)
    return path


def export_onnx(localizer: Localizer, path: str | Path) -> Path:
    """Writes an ONNX model with input `images` and outputs `logits` and `maps`, the weights inside.

    The metadata of the model stand in `metadata_props`, each value as JSON.

    Args:
        localizer: the trained model with its class names, preprocessing and threshold.
        path: the file, which ends in .onnx. It is written whole or not at all.

    Raises:
        UsageError: a package of the extra `export` is missing, another suffix, a torch older than `OLDEST_TORCH`, a
            model of more than 2 GB, or ONNX Runtime does not agree with the model to `TOLERANCE`.
    """
    path = _checked_path(path, ".onnx")
    try:
        import onnx
        import onnxruntime
        import onnxscript  # noqa: F401  (torch's exporter needs it)
    except ModuleNotFoundError as error:
        raise UsageError(
            f"the package {error.name!r} is missing; `pip install 'sat_peft[export]'` installs what ONNX needs."
        ) from error

    model = _LogitsAndMaps(localizer)
    names = {"input_names": ["images"], "output_names": ["logits", "maps"]}
    exported = torch.onnx.export(_program(model, localizer), dynamo=True, verbose=False, **names).model_proto
    if exported.ByteSize() >= onnx.checker.MAXIMUM_PROTOBUF:
        raise UsageError("the model is larger than 2 GB, which one ONNX file cannot hold; take --format torch-export.")
    _name_batch(exported.graph)
    onnx.helper.set_model_props(exported, {name: json.dumps(value) for name, value in metadata(localizer).items()})
    onnx.checker.check_model(exported)
    with atomic_replacement(path) as temporary:
        onnx.save(exported, temporary)
        session = onnxruntime.InferenceSession(str(temporary), providers=["CPUExecutionProvider"])
        _check_agreement(model, localizer, lambda images: session.run(["logits", "maps"], {"images": images.numpy()}))
    return path


def metadata(localizer: Localizer) -> dict:
    """What must be known to use the exported model: class names, preprocessing, how a box is read off the map."""
    data = localizer.data_config
    return {
        "class_names": localizer.class_names,
        "image_size": list(data.image_size),
        "mean": list(data.mean),
        "std": list(data.std),
        "interpolation": data.interpolation,
        "protocol": PROTOCOL,
        "threshold": localizer.threshold.value,
        "threshold_source": localizer.threshold.source,
        "tta": localizer.tta,
    }


def _checked_path(path: str | Path, suffix: str) -> Path:
    path = Path(path)
    if path.suffix != suffix:
        raise UsageError(f"the output {str(path)!r} must end in {suffix}.")
    if path.is_dir():
        raise UsageError(f"the output {str(path)!r} is a folder; name a file.")
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _program(model: _LogitsAndMaps, localizer: Localizer) -> torch.export.ExportedProgram:
    if torch.__version__ < OLDEST_TORCH:
        raise UsageError(
            f"torch {torch.__version__} exports no such model for batches of any size. Export it with torch "
            f"{OLDEST_TORCH} or newer; nothing was written."
        )
    dynamic = {"images": {0: torch.export.Dim("batch", min=1)}}
    with torch.no_grad():
        return torch.export.export(model, (_examples(localizer, 2),), dynamic_shapes=dynamic, strict=False)


def _name_batch(graph) -> None:
    """Calls the dynamic dimension `batch`, which torch's exporter names after a symbol of its own."""
    symbol = graph.input[0].type.tensor_type.shape.dim[0].dim_param
    for value in (*graph.input, *graph.output, *graph.value_info):
        for dimension in value.type.tensor_type.shape.dim:
            if dimension.dim_param == symbol:
                dimension.dim_param = "batch"


def _examples(localizer: Localizer, count: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(count)
    return torch.randn(count, 3, *localizer.data_config.image_size, generator=generator)


def _check_agreement(model: _LogitsAndMaps, localizer: Localizer, run: Callable) -> None:
    """Raises `UsageError` unless `run` gives what the model gives, for batches of several sizes."""
    for count in (1, 3):
        images = _examples(localizer, count)
        with torch.inference_mode():
            expected = model(images)
        for name, one, other in zip(("logits", "maps"), expected, run(images), strict=True):
            difference = float(np.abs(one.numpy() - other).max())
            if not difference <= TOLERANCE:
                raise UsageError(
                    f"the exported model does not agree with the original: its {name} differ by {difference:.2g}, "
                    f"more than {TOLERANCE:g}. Nothing was written."
                )
