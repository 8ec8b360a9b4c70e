"""The published SAT code as a contestant: model and loss of a checkout of github.com/wpy1999/SAT."""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType

import torch
import torch.nn.functional as F
from torch import nn

from benchmark.regimes import AREA_TARGET, DROP_PATH, LEARNING_RATE, WEIGHT_DECAY, Contestant, Workload
from sat_peft.errors import UsageError, unknown_choice
from sat_peft.tuner import load_reference_weights

# timm backbone -> function of Model/SAT.py that makes the same geometry with SAT in it.
ARCHITECTURES = {
    f"{family}_{size}_patch16_224": f"deit_sat_{size}_patch16_224"
    for family in ("deit", "vit")
    for size in ("tiny", "small", "base")
}
# Written into the published model.
IMAGE_SIZE, NUM_SPATIAL_BLOCKS = 224, 3
# Of the maps, which are in (0, 1), on the same weights.
MAP_TOLERANCE = 1e-5


def import_checkout(
    folder: str | Path, module: str, stand_ins: Mapping[str, Mapping[str, object]] | None = None
) -> ModuleType:
    """A module of a checkout, which is run by this.

    Args:
        folder: the checkout.
        module: dotted name below it.
        stand_ins: attributes of modules that it imports and that what is wanted of it does not use.
    """
    for name, attributes in (stand_ins or {}).items():
        sys.modules[name] = ModuleType(name)
        sys.modules[name].__dict__.update(attributes)
    sys.path.insert(0, str(folder))
    try:
        return importlib.import_module(module)
    finally:
        sys.path.remove(str(folder))


def import_model_code(folder: str | Path) -> ModuleType:
    """The checkout's `Model.SAT`.

    Raises:
        UsageError: no checkout, or one that does not run with the packages that are installed.
    """
    if not (Path(folder) / "Model" / "SAT.py").is_file():
        raise UsageError(
            f"{str(folder)!r} is no checkout of the published code: it holds no Model/SAT.py. "
            "Fetch one with: git clone https://github.com/wpy1999/SAT"
        )
    try:
        with warnings.catch_warnings():
            # It imports timm's layers from where they were at its time.
            warnings.simplefilter("ignore", FutureWarning)
            # Imported for its evaluation, which is not used.
            code = import_checkout(folder, "Model.SAT", {"skimage": {"measure": None}})
    except ImportError as error:
        raise UsageError(f"the checkout {str(folder)!r} cannot be imported with these packages: {error}.") from error
    missing = [name for name in sorted(set(ARCHITECTURES.values())) if not hasattr(code, name)]
    if missing:
        raise UsageError(f"Model/SAT.py of {str(folder)!r} has no {', '.join(missing)}: it is another version.")
    return code


def find_architecture(workload: Workload, folder: str | Path) -> Callable[..., nn.Module]:
    """The function of the published code that makes the workload's model.

    Raises:
        UsageError: a workload that the published model cannot do, or a checkout that is not what it should be.
    """
    if workload.backbone not in ARCHITECTURES:
        raise unknown_choice("backbone of the published code", workload.backbone, tuple(ARCHITECTURES))
    for name, needed in (("image_size", IMAGE_SIZE), ("num_spatial_blocks", NUM_SPATIAL_BLOCKS)):
        if getattr(workload, name) != needed:
            raise UsageError(f"the published code has {name} {needed} written in, not {getattr(workload, name)}.")
    return getattr(import_model_code(folder), ARCHITECTURES[workload.backbone])


def build_reference(workload: Workload, folder: str | Path) -> Contestant:
    """The published model with the loss and the optimiser of its train.py: every parameter, AdamW.

    Raises:
        UsageError: see `find_architecture`.
    """
    create = find_architecture(workload, folder)
    torch.manual_seed(0)
    model = create(num_classes=workload.num_classes, drop_rate=0.0, drop_path_rate=DROP_PATH)
    model.to(workload.device).train()

    def loss() -> torch.Tensor:
        logits, areas, normalizations = model(workload.images, phase="train")
        classification = F.cross_entropy(logits, workload.labels)
        return classification + (areas.mean() - AREA_TARGET).abs() + normalizations.mean()

    trained = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    spared = {name for name, parameter in trained if parameter.ndim == 1} | set(model.no_weight_decay())
    groups = [
        {"params": [parameter for name, parameter in trained if name not in spared]},
        {"params": [parameter for name, parameter in trained if name in spared], "weight_decay": 0.0},
    ]
    return Contestant(model, loss, torch.optim.AdamW(groups, lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY))


def take_weights(contestant: Contestant, reference: nn.Module) -> None:
    """Copies the published model's weights into a contestant of SAT.

    Raises:
        UsageError: their names or shapes are not those of the published code.
    """
    load_reference_weights(contestant.model, reference.state_dict())


@torch.inference_mode()
def largest_difference(model: nn.Module, reference: nn.Module, images: torch.Tensor) -> float:
    """The largest difference between the maps of both, in evaluation mode; both go on in training mode."""
    ours = model.eval()(images).maps
    _, theirs = reference.eval()(images, phase="test")
    model.train()
    reference.train()
    return float((ours - theirs).abs().max())
