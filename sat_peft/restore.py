"""Finds what a trained model is built from again: adapter, backbone, classes, data and baselines."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

from peft.utils import CONFIG_NAME
from torch import nn

from sat_peft.backbones import create_backbone
from sat_peft.data.options import DataOptions, recorded_data_options
from sat_peft.errors import UsageError
from sat_peft.shared_paths import with_recorded_paths


@dataclass(frozen=True)
class TrainedModel:
    """Where the parts of a trained model are; `create_backbone` and `sat_peft.load_adapter` build it again.

    Args:
        adapter: the adapter's folder.
        backbone: name that timm knows.
        weights: local weights of the backbone, or None for timm's own.
        image_size: (height, width) in pixels that it was trained at; None is the backbone's own.
        class_names: in the order of the logits; None where the adapter does not tell.
        num_classes: number of classes C.
        data: what the run was trained on; None without a run folder.
        display_names: of the class folders of the run's data, by folder.
        set_aside: `image_id`s of the splits that were set aside from its training images, by split.
        baselines: files of trained baselines by name.
    """

    adapter: Path
    backbone: str
    weights: Path | None
    image_size: tuple[int, int] | None
    class_names: list[str] | None
    num_classes: int
    data: DataOptions | None = None
    display_names: dict[str, str] = field(default_factory=dict)
    set_aside: dict[str, list[str]] = field(default_factory=dict)
    baselines: dict[str, Path] = field(default_factory=dict)

    def create_backbone(self, image_size: tuple[int, int] | None = None) -> nn.Module:
        """The bare backbone for images of `image_size` (height, width), by default of the size of the training."""
        return create_backbone(self.backbone, weights=self.weights, image_size=image_size or self.image_size)


def _read_json(path: Path, what: str) -> dict:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is damaged: {error}.") from error
    if not isinstance(values, dict):
        raise UsageError(f"{path} is not the configuration of {what}.")
    return values


def trained_from_adapter(
    adapter: str | Path, *, backbone: str | None = None, weights: str | Path | None = None
) -> TrainedModel:
    """The parts of the model of an adapter folder, which records the backbone that it was trained on.

    Args:
        adapter: folder written by `save_adapter`.
        backbone: name of the backbone, instead of the recorded one.
        weights: local weights of the backbone, instead of timm's own.

    Raises:
        UsageError: no adapter there, or an adapter that records no backbone while none is named.
    """
    adapter = Path(adapter)
    file = adapter / CONFIG_NAME
    if not file.is_file():
        raise UsageError(f"no adapter in {str(adapter)!r}: {CONFIG_NAME} is missing. Name the folder of an adapter.")
    config = _read_json(file, "an adapter")
    record = config.get("backbone") or {}
    name, tag = record.get("name"), record.get("pretrained_tag")
    if name is None and backbone is None:
        raise UsageError(f"{file} does not record the backbone that the adapter was trained on; give --backbone.")
    size = record.get("img_size")
    return TrainedModel(
        adapter=adapter,
        backbone=backbone or (f"{name}.{tag}" if tag else name),
        weights=Path(weights) if weights else None,
        image_size=tuple(size) if size else None,
        class_names=config.get("class_names"),
        num_classes=config.get("num_classes"),
    )


def trained_from_run(
    run: str | Path, *, backbone: str | None = None, weights: str | Path | None = None
) -> TrainedModel:
    """The parts of the model of a run folder; `backbone` and `weights` replace those of its configuration.

    Raises:
        UsageError: no run folder, or one without an adapter, since the training did not come to its end.
    """
    run = Path(run)
    if not (run / "config.json").is_file():
        raise UsageError(f"{str(run)!r} is no run folder: config.json is missing. Name one that few_shot.py left.")
    if not (run / "adapter" / CONFIG_NAME).is_file():
        status = run / "status.json"
        ended = f" (status: {_read_json(status, 'a run').get('status')})" if status.is_file() else ""
        raise UsageError(f"the run {str(run)!r} has no adapter{ended}: its training did not end. Run it again.")
    config = with_recorded_paths(_read_json(run / "config.json", "a run"), run / "config.json")
    # Weights that the run named belong to its backbone and to no other.
    recorded_weights = config.get("weights") if backbone is None else None
    found = trained_from_adapter(
        run / "adapter", backbone=backbone or config.get("backbone"), weights=weights or recorded_weights
    )
    files = {file.stem: file for file in sorted((run / "baselines").glob("*.safetensors"))}
    shares, shown = run / "set_aside.json", run / "classes.json"
    return TrainedModel(
        **vars(found)
        | {
            "data": recorded_data_options(config),
            "display_names": _read_json(shown, "a run") if shown.is_file() else {},
            "set_aside": _read_json(shares, "a run") if shares.is_file() else {},
            "baselines": files,
        }
    )
