"""Finds what a trained model is built from again: adapter, backbone, classes, data and baselines."""

from __future__ import annotations

import typing
from dataclasses import dataclass, field, replace
from pathlib import Path

from peft.utils import CONFIG_NAME
from torch import nn

from sat_peft.backbones import create_backbone
from sat_peft.data.options import DataOptions, recorded_data_options
from sat_peft.errors import UsageError
from sat_peft.files import FileProblem, check_values, is_file, read_json_object, shown
from sat_peft.options.choices import TtaName
from sat_peft.runs.reader import RunReader


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
        display_names: names of the class folders of the run's data, by folder.
        set_aside: `image_id`s of the splits that were set aside from its training images, by split.
        baselines: files of trained baselines by name.
        tta: test-time augmentation that the run was measured with.
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
    tta: str = "none"

    def create_backbone(self, image_size: tuple[int, int] | None = None) -> nn.Module:
        """The bare backbone for images of `image_size` (height, width), by default of the size of the training."""
        return create_backbone(self.backbone, weights=self.weights, image_size=image_size or self.image_size)


# What is read here of the record that an adapter keeps, and of that of its backbone.
ADAPTER_FIELDS = {"backbone": dict | None, "class_names": list[str] | None, "num_classes": int | None}
BACKBONE_FIELDS = {
    "name": str | None,
    "pretrained_tag": str | None,
    "img_size": list[int] | None,
    "mean": list[float] | None,
    "std": list[float] | None,
    "interpolation": str | None,
}


def read_adapter_config(file: Path) -> dict:
    """What adapter_config.json holds, with the fields above as they should be.

    Raises:
        FileProblem: the file is missing or damaged.
    """
    config = read_json_object(file, "the configuration of an adapter")
    check_values(file, config, ADAPTER_FIELDS)
    record = config.get("backbone") or {}
    check_values(file, record, BACKBONE_FIELDS)
    for name, count in (("img_size", 2), ("mean", 3), ("std", 3)):
        if record.get(name) is not None and len(record[name]) != count:
            raise FileProblem(file, f"{name!r} must be {count} numbers, not {shown(record[name])}.", "Repair the file.")
    return config


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
    if not is_file(file):
        raise UsageError(f"no adapter in {str(adapter)!r}: {CONFIG_NAME} is missing. Name the folder of an adapter.")
    config = read_adapter_config(file)
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
    folder = RunReader(run)
    if not folder.has("config.json"):
        raise UsageError(f"{str(run)!r} is no run folder: config.json is missing. Name one that few_shot.py left.")
    if not folder.has_adapter:
        status = folder.status()
        ended = f" (status: {status})" if status is not None else ""
        raise UsageError(f"the run {str(run)!r} has no adapter{ended}: its training did not end. Run it again.")
    # Runs of earlier versions chose no augmentation.
    config = {"tta": "none"} | folder.config()
    fields = typing.get_type_hints(DataOptions) | {"backbone": str | None, "weights": str | None, "tta": TtaName}
    check_values(folder.folder / "config.json", config, fields)
    # Weights that the run named belong to its backbone and to no other.
    recorded_weights = config.get("weights") if backbone is None else None
    found = trained_from_adapter(
        folder.adapter, backbone=backbone or config.get("backbone"), weights=weights or recorded_weights
    )
    return replace(
        found,
        data=recorded_data_options(config),
        display_names=folder.display_names(),
        set_aside=folder.set_aside(),
        baselines=folder.baselines(),
        tta=config["tta"],
    )
