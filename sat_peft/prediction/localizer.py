"""From images to classes, boxes and maps with a trained adapter, in a few lines of Python.

>>> from sat_peft import Localizer
>>> localizer = Localizer.from_pretrained("runs/NAME")  # or the folder of an adapter
>>> [found] = localizer("photo.jpg")
>>> found.label, found.score, found.box
"""

from __future__ import annotations

import hashlib
import os
import typing
import warnings
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from peft import PeftModel, get_peft_model_state_dict
from PIL import Image
from torchvision.transforms import v2

from sat_peft.backbones import DataConfig, resolve_data_config
from sat_peft.data.decoding import decode_image, image_to_tensor
from sat_peft.data.transforms import evaluation_steps
from sat_peft.errors import UsageError, unknown_choice
from sat_peft.localization import ThresholdChoice, choose_threshold, localize, localize_all
from sat_peft.localization.scoring import check_min_area
from sat_peft.options.choices import TtaName
from sat_peft.prediction.found import PROTOCOL, Localization
from sat_peft.runs.reader import RunReader
from sat_peft.runs.restore import TrainedModel, trained_from_adapter, trained_from_run
from sat_peft.tuner import load_adapter
from sat_peft.tuner.backbone import weight_fingerprint
from sat_peft.tuner.embedding import patch_embedding
from sat_peft.tuner.refine import refine_along_edges

ImageLike = str | os.PathLike | Image.Image | np.ndarray | torch.Tensor


def find_trained(
    run_or_adapter: str | Path, *, backbone: str | None = None, weights: str | Path | None = None
) -> TrainedModel:
    """The trained model of a run folder, or of an adapter folder; see `trained_from_run`."""
    find = trained_from_run if RunReader(run_or_adapter).has("config.json") else trained_from_adapter
    return find(run_or_adapter, backbone=backbone, weights=weights)


def logits_and_maps(
    model: PeftModel, images: torch.Tensor, labels: torch.Tensor | None = None, *, tta: str = "none"
) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits (B, C) and maps (B, h, w) of images (B, 3, H, W) as the model wants them.

    Args:
        model: with a SAT adapter, in evaluation mode.
        images: normalised.
        labels: (B,) classes whose maps are wanted; by default the most probable ones.
        tta: test-time augmentation: `none`, `flip` for the mean over each image and its mirror image, `edges` for maps
            (B, H, W) that are refined along the edges of the image, `flip-edges` for both.
    """
    steps = tta.split("-")
    views = [model(images), model(images.flip(-1))] if "flip" in steps else [model(images)]
    logits = sum(view.logits for view in views) / len(views)
    labels = logits.argmax(-1) if labels is None else labels
    maps = [view.maps_of(labels) for view in views]
    found = maps[0] if len(maps) == 1 else (maps[0] + maps[1].flip(-1)) / 2
    return logits, refine_along_edges(found, images) if "edges" in steps else found


class Localizer:
    """A trained model with all that it needs to tell from an image what is in it and where.

    Args:
        model: a PEFT model whose active adapter is a SAT adapter. It is moved to `device` and set to evaluation mode.
        threshold: threshold of the maps, in [0, 1]; by default that of the protocol `original`.
        device: device of the model, by default an accelerator where there is one.
        tta: test-time augmentation: `none`, `flip` for the mean over each image and its mirror image, in twice the
            time, `edges` for maps that are refined along the edges of the image, `flip-edges` for both.

    Raises:
        UsageError: a threshold outside of [0, 1], or another `tta`.

    An adapter that records no class names is warned about; its classes are called `class 0`, `class 1`, ….
    """

    def __init__(
        self,
        model: PeftModel,
        *,
        threshold: float | ThresholdChoice | None = None,
        device: str | torch.device | None = None,
        tta: str = "none",
    ):
        if tta not in typing.get_args(TtaName):
            raise unknown_choice("test-time augmentation", tta, typing.get_args(TtaName))
        config = model.active_peft_config
        self.tta = tta
        if device is None:
            device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else "cpu"
        self.device = torch.device(device)
        self.model = model.to(self.device).eval()
        # Of a backbone in half or double precision; its adapter may have another.
        self.dtype = next(patch_embedding(model.get_base_model()).parameters()).dtype
        self.threshold = _threshold(threshold, choose_threshold("fixed", protocol=PROTOCOL))
        self.data_config = _trained_data_config(model, config.backbone or {})
        self.resize, self.normalize = evaluation_steps(self.data_config, PROTOCOL)
        self.transform = v2.Compose([self.resize, self.normalize])
        self.num_classes = config.num_classes
        self.class_names = config.class_names
        if self.class_names is None:
            self.class_names = [f"class {index}" for index in range(self.num_classes)]
            warnings.warn(
                f"the adapter records no class names: its {self.num_classes} classes are called 'class 0', "
                "'class 1', …, in the order of its logits.",
                UserWarning,
                stacklevel=2,
            )

    @classmethod
    def from_pretrained(
        cls,
        run_or_adapter: str | Path,
        *,
        backbone: str | None = None,
        weights: str | Path | None = None,
        threshold: float | None = None,
        device: str | torch.device | None = None,
        tta: str | None = None,
    ) -> Localizer:
        """Rebuilds a trained model from a run folder or an adapter folder, whose record names the backbone.

        Args:
            run_or_adapter: folder of a run, or of an adapter.
            backbone: name of the backbone, instead of the recorded one.
            weights: local weights of the backbone, instead of timm's own.
            threshold: of the maps, in [0, 1]; by default the one that the run chose, else the protocol's.
            device: see the class.
            tta: see the class; by default that of the run, `none` for an adapter.

        Raises:
            UsageError: no trained model there, a backbone that cannot be created or is another one.
        """
        trained = find_trained(run_or_adapter, backbone=backbone, weights=weights)
        choice = _threshold(threshold, RunReader(run_or_adapter).threshold(PROTOCOL))
        model = load_adapter(trained.create_backbone(), trained.adapter)
        return cls(model, threshold=choice, device=device, tta=tta or trained.tta)

    def __call__(
        self,
        images: ImageLike | Iterable[ImageLike],
        labels: Iterable[int | str] | None = None,
        *,
        threshold: float | None = None,
        multi: bool = False,
        min_area: float = 0.01,
        batch_size: int = 64,
    ) -> list[Localization]:
        """Localises the objects of some images; `stream` is the same for more images than a list should hold.

        Args:
            images: one image or several: paths, PIL images, arrays (H, W, 3) uint8, tensors (3, H, W) uint8 or
                float in [0, 1]. A batch as one array (N, H, W, 3) or tensor (N, 3, H, W) is fine.
            labels: the class of every image, by index or name, where it is known; `label` and `score` are then of that
                class, and so are maps where the adapter has a class readout. By default the classes are predicted.
            threshold: of the maps, instead of the localizer's own.
            multi: fill `boxes` with all components of the foreground.
            min_area: smallest component that `multi` keeps, as a share of the image.
            batch_size: images per forward pass.

        Raises:
            UsageError: an image that cannot be read or has another form, an unknown label, a number out of range.
        """
        settings = {"threshold": threshold, "multi": multi, "min_area": min_area, "batch_size": batch_size}
        return list(self.stream(images, labels, **settings))

    def stream(
        self,
        images: ImageLike | Iterable[ImageLike],
        labels: Iterable[int | str] | None = None,
        *,
        threshold: float | None = None,
        multi: bool = False,
        min_area: float = 0.01,
        batch_size: int = 64,
    ) -> Iterator[Localization]:
        """As calling the localizer, but lazily: `images` may be an endless iterator, of which one batch is held."""
        if batch_size < 1:
            raise UsageError(f"batch_size must be at least 1, got {batch_size}.")
        if _is_one_image(images):
            images, labels = [images], None if labels is None else [labels] if isinstance(labels, int | str) else labels
        numbered = enumerate(images)
        labels = None if labels is None else iter(labels)
        while batch := list(islice(numbered, batch_size)):
            known = None if labels is None else list(islice(labels, len(batch)))
            if known is not None and len(known) < len(batch):
                raise UsageError(f"there are more images than labels: image {batch[len(known)][0]} has none.")
            inputs, sizes = [], []
            for number, image in batch:
                # One at a time in full size.
                decoded = _decode(image, number)
                sizes.append((decoded.shape[2], decoded.shape[1]))
                inputs.append(self.transform(decoded))
            yield from self.localize_inputs(
                torch.stack(inputs),
                sizes,
                known,
                threshold=threshold,
                multi=multi,
                min_area=min_area,
            )
        if labels is not None and next(labels, None) is not None:
            raise UsageError("there are more labels than images.")

    def localize_inputs(
        self,
        inputs: torch.Tensor,
        image_sizes: Sequence[tuple[int, int]],
        labels: Sequence[int | str] | None = None,
        *,
        threshold: float | None = None,
        multi: bool = False,
        min_area: float = 0.01,
    ) -> list[Localization]:
        """Localises a batch that a loader has prepared.

        Args:
            inputs: (B, 3, h, w) images after `transform`, or stacked after `resize` and then through `normalize`.
            image_sizes: (width, height) of every original image.
            labels, threshold, multi, min_area: as in `__call__`.
        """
        value = _threshold(threshold, self.threshold).value
        check_min_area(min_area)
        indices = None if labels is None else [self.class_index(label) for label in labels]
        with torch.inference_mode():
            known = None if indices is None else torch.tensor(indices)
            logits, maps = logits_and_maps(self.model, inputs.to(self.device, self.dtype), known, tta=self.tta)
        probabilities, maps = logits.float().softmax(-1).cpu(), maps.float().cpu().numpy()
        predicted = probabilities.argmax(-1).tolist()
        found = []
        for raw, size, index, best, row in zip(
            maps, image_sizes, predicted if indices is None else indices, predicted, probabilities, strict=True
        ):
            scoring = {"protocol": PROTOCOL, "threshold": value, "image_size": size}
            boxes = localize_all(raw, min_area=min_area, **scoring) if multi else localize(raw, **scoring)[None]
            found.append(
                Localization(
                    label=self.class_names[index],
                    label_index=index,
                    score=row[index].item(),
                    box=boxes[0],
                    boxes=boxes,
                    map=raw,
                    image_size=tuple(size),
                    threshold=value,
                    predicted_label=self.class_names[best],
                )
            )
        return found

    def class_index(self, label: int | str) -> int:
        """The index of a class, given by name or index. Raises `UsageError` for a class that the model lacks."""
        if isinstance(label, str):
            if label not in self.class_names:
                raise unknown_choice("class", label, self.class_names)
            return self.class_names.index(label)
        if not 0 <= label < self.num_classes:
            raise UsageError(f"label {label} is no class of the model, which has 0 to {self.num_classes - 1}.")
        return int(label)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the weights of adapter and backbone, in hexadecimal digits: two models never share it."""
        digest = hashlib.sha256(weight_fingerprint(self.model.get_base_model()).encode())
        weights = get_peft_model_state_dict(self.model, adapter_name=self.model.active_adapter)
        for name, tensor in sorted(weights.items()):
            digest.update(name.encode())
            digest.update(tensor.detach().float().cpu().numpy().tobytes())
        return digest.hexdigest()

    @property
    def version(self) -> str:
        """A short name of the model for annotation tools, which keep the predictions of two models apart by it."""
        return f"sat_peft {self.fingerprint[:8]}"


def _threshold(given: float | ThresholdChoice | None, default: ThresholdChoice) -> ThresholdChoice:
    if given is None:
        return default
    return given if isinstance(given, ThresholdChoice) else choose_threshold("fixed", value=given)


def _trained_data_config(model: PeftModel, record: dict) -> DataConfig:
    """How the model wants its images: as the adapter records it, else as its backbone has it."""
    config = resolve_data_config(model.get_base_model())
    mean, std, interpolation = record.get("mean"), record.get("std"), record.get("interpolation")
    return DataConfig(
        config.image_size,
        tuple(mean or config.mean),
        tuple(std or config.std),
        interpolation or config.interpolation,
    )


def _is_one_image(images) -> bool:
    if isinstance(images, np.ndarray | torch.Tensor):
        return images.ndim != 4
    return isinstance(images, str | os.PathLike | Image.Image)


def _decode(image: ImageLike, number: int) -> torch.Tensor:
    """An image of any accepted kind as (3, H, W) uint8, or float in [0, 1]."""
    if isinstance(image, str | os.PathLike):
        return decode_image({"path": os.fspath(image)}, str(image))
    if isinstance(image, Image.Image):
        try:
            return image_to_tensor(image)
        except (OSError, ValueError) as error:
            raise UsageError(f"image {number} cannot be read: {error}.") from error
    if isinstance(image, np.ndarray):
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
            raise UsageError(
                f"image {number} is an array {image.shape} of {image.dtype}; give (height, width, 3) of uint8, RGB."
            )
        return torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)
    if isinstance(image, torch.Tensor):
        _check_tensor(image, number)
        return image.cpu()
    raise UsageError(f"image {number} is a {type(image).__name__}; give a path, a PIL image, an array or a tensor.")


def _check_tensor(image: torch.Tensor, number: int) -> None:
    form = f"image {number} is a tensor {tuple(image.shape)} of {image.dtype}"
    if image.ndim != 3 or image.shape[0] != 3 or not image.numel():
        raise UsageError(f"{form}; give (3, height, width), RGB.")
    if image.dtype == torch.uint8:
        return
    if not image.is_floating_point():
        raise UsageError(f"{form}; give uint8, or floats in [0, 1].")
    low, high = image.min().item(), image.max().item()
    if not (low >= 0 and high <= 1):
        raise UsageError(
            f"{form} with values from {low:.3g} to {high:.3g}; floats must be in [0, 1]. Give the image as it was "
            "before normalisation: the localizer normalises it as the backbone wants."
        )
