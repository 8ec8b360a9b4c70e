"""Evaluation: a method and a loader in, localisation accuracy under a named protocol out."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection
from dataclasses import dataclass

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch.utils.data import DataLoader

from sat_peft.cpu import release_freed_memory
from sat_peft.data.transforms import CENTRE_OF_TEN
from sat_peft.localization import (
    LocalizationAccumulator,
    LocalizationResult,
    Protocol,
    ThresholdChoice,
    choose_threshold,
    get_protocol,
)
from sat_peft.localization.inputs import label_ranks
from sat_peft.tuner.output import border_per_image
from sat_peft.tuner.refine import refine_along_edges

# A method takes images (B, 3, H, W) and their labels (B,), and returns logits (B, C) and maps (B, h, w). A method whose
# maps depend on the class returns those of the given labels: GT-known Loc asks for them by definition, and Top-k Loc
# counts an image only where the label is among the k predicted classes, so the label's map is the predicted class's.
# It may return the maps of its blocks (K, B, h, w) as a third value, as a `SatOutput` has them, for who sees them.
Method = Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, ...]]

# Batches; more often costs time, less often memory.
_RELEASED_EVERY = 8


@dataclass(frozen=True)
class EvaluatedImage:
    """What the evaluation knows of one image apart from its map.

    Args:
        index: row of the data set.
        size: (width, height) of the evaluation pixels.
        boxes: (n, 4) float xyxy true boxes in evaluation pixels.
        label_rank: how many classes score higher than the true one; 0 where the classification is right.
        predicted, score: class with the highest score, and its softmax probability; 0 of a model that diverged.
        map_mean, map_deviation: mean and standard deviation of the map, before any normalisation.
        map_border: mean of the map over the outermost patches.
    """

    index: int
    size: tuple[int, int]
    boxes: np.ndarray
    label_rank: int
    predicted: int
    score: float
    map_mean: float
    map_deviation: float
    map_border: float


@dataclass(frozen=True)
class Evaluation:
    """`result`: the figures; `images`: one entry for every image, in the order of the data set."""

    result: LocalizationResult
    images: list[EvaluatedImage]

    @property
    def num_with_boxes(self) -> int:
        """Images that have a true box, on which localisation is measured."""
        return sum(len(image.boxes) > 0 for image in self.images)


def evaluate(
    method: Method,
    loader: DataLoader,
    accelerator: Accelerator,
    *,
    protocol: str | Protocol,
    threshold: ThresholdChoice | float | str | None = None,
    bootstrap: int = 0,
    see: Callable[..., None] | None = None,
) -> Evaluation:
    """Runs `method` over a prepared evaluation loader and scores its maps.

    Every process scores its own share; the results are merged exactly, samples that the sharding repeats count once,
    and every process returns the same evaluation.

    Args:
        method: see `Method`.
        loader: loader of `build_evaluation_loader` or `build_loaders`, prepared by `accelerator`. Where its batches
            have masks, PxAP is measured.
        accelerator: `Accelerator` of the run.
        protocol: name or `Protocol`; the one that the loader was built for.
        threshold: see `LocalizationAccumulator`.
        bootstrap: resamples for confidence intervals; 0 computes none.
        see: called with the rows of every batch, (B, h, w) maps on the CPU, and what else the method returned. In every
            process it sees that process's share.

    Raises:
        UsageError: the loader is empty.
    """
    protocol = get_protocol(protocol)
    accumulator = LocalizationAccumulator(protocol, threshold=threshold)
    images: list[EvaluatedImage] = []
    undefined = 0
    with torch.inference_mode():
        for number, batch in enumerate(loader, 1):
            if number % _RELEASED_EVERY == 0:
                release_freed_memory()
            logits, maps, *more = method(batch["images"], batch["labels"])[:3]
            logits, maps = logits.float().cpu(), maps.float().cpu()
            undefined += int((~maps.isfinite()).flatten(1).any(1).sum())
            labels, sizes = batch["labels"].cpu(), [tuple(size) for size in batch["image_sizes"].tolist()]
            boxes = [_valid_boxes(protocol, raw, size) for raw, size in zip(batch["boxes"], sizes, strict=True)]
            indices = batch["indices"].tolist()
            accumulator.update(
                maps,
                boxes,
                logits=logits,
                labels=labels,
                masks=_masks(protocol, batch.get("masks"), sizes),
                ignore=_masks(protocol, batch.get("ignore"), sizes),
                image_sizes=sizes if protocol.own_pixels else None,
                image_ids=indices,
            )
            if see:
                see(indices, maps, *more)
            # A diverged model has no probability that JSON could hold.
            scores, predicted = logits.softmax(-1).nan_to_num().max(-1)
            of_maps = (maps.mean((1, 2)), maps.flatten(1).std(1, correction=0), border_per_image(maps))
            facts = (label_ranks(logits, labels, len(labels)), predicted, scores, *of_maps)
            images += [
                EvaluatedImage(index, protocol.evaluation_size(size), *known)
                for index, size, *known in zip(
                    indices, sizes, boxes, *(values.tolist() for values in facts), strict=True
                )
            ]
    if accelerator.num_processes > 1:
        gathered = gather_object([(accumulator.state(), images)])
        states = [state for state, _ in gathered if state]
        images = [image for _, share in gathered for image in share]
        accumulator = LocalizationAccumulator(protocol, threshold=threshold)
        if states:
            # In the order of the data set, on which the bootstrap and the records depend.
            order = np.concatenate([state["image_id"] for state in states]).argsort(kind="stable")
            accumulator.merge({name: np.concatenate([state[name] for state in states])[order] for name in states[0]})
    ordered = {image.index: image for image in sorted(images, key=lambda image: image.index)}
    if accelerator.is_main_process:
        _remark(ordered.values(), undefined)
    return Evaluation(accumulator.compute(bootstrap=bootstrap), list(ordered.values()))


def _remark(images: Collection[EvaluatedImage], undefined: int) -> None:
    """Says what counts as a miss without being one of the method's."""
    if undefined:
        warnings.warn(f"{undefined} maps hold NaN or infinity, and count as wrong.", UserWarning, stacklevel=3)
    without = sum(len(image.boxes) == 0 for image in images)
    if 0 < without < len(images):
        text = f"{without} of {len(images)} images have no box, and count as wrong: evaluate those that have one."
        warnings.warn(text, UserWarning, stacklevel=3)


def _valid_boxes(protocol: Protocol, boxes: torch.Tensor, image_size: tuple[int, int]) -> np.ndarray:
    scored, valid = protocol.transform_boxes(boxes.cpu().numpy(), image_size)
    return scored[valid]


def _masks(protocol: Protocol, masks: list[np.ndarray] | None, sizes: list[tuple[int, int]]) -> list[np.ndarray] | None:
    if masks is None:
        return None
    return [protocol.transform_mask(mask, size) for mask, size in zip(masks, sizes, strict=True)]


def ten_crop(method: Method) -> Method:
    """`method` with ten-crop classification, as SAT's code does it on CUB.

    The wrapped method takes images (B, 10, 3, H, W) of a loader with `ten_crop`, and returns the mean (B, C) of the ten
    softmaxes as class scores, with the maps of the centre crop.
    """

    def localize(images: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        crops = images.shape[1]
        logits, maps = method(images.flatten(0, 1), labels.repeat_interleave(crops))[:2]
        probabilities = logits.float().softmax(-1).unflatten(0, (-1, crops)).mean(1)
        return probabilities, maps.unflatten(0, (-1, crops))[:, CENTRE_OF_TEN]

    return localize


def mirrored(method: Method) -> Method:
    """`method` with test-time augmentation: the mean of logits and maps over each image and its mirror image."""

    def localize(images: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, ...]:
        plain, mirror = method(images, labels), method(images.flip(-1), labels)
        maps = [(seen + turned.flip(-1)) / 2 for seen, turned in zip(plain[1:], mirror[1:], strict=True)]
        return (plain[0] + mirror[0]) / 2, *maps

    return localize


def refined(method: Method) -> Method:
    """`method` with maps that are refined along the edges of the images, in pixels of the model's input."""

    def localize(images: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, ...]:
        logits, maps, *others = method(images, labels)
        return logits, refine_along_edges(maps, images), *others

    return localize


def collect_maps(
    method: Method, loader: DataLoader, accelerator: Accelerator
) -> tuple[list[np.ndarray], list[tuple[int, int]]]:
    """The maps (h, w) float32 of a prepared loader's images, in the order of the data set, and the images' own sizes
    (width, height). Every process returns those of all; they are small, but there is one for every image.
    """
    found: list[tuple[int, np.ndarray, tuple[int, int]]] = []
    with torch.inference_mode():
        for batch in loader:
            maps = method(batch["images"], batch["labels"])[1]
            sizes = [tuple(size) for size in batch["image_sizes"].tolist()]
            found += zip(batch["indices"].tolist(), maps.float().cpu().numpy(), sizes, strict=True)
    if accelerator.num_processes > 1:
        found = gather_object(found)
    rows = {index: (raw, size) for index, raw, size in found}
    ordered = [rows[index] for index in sorted(rows)]
    return [raw for raw, _ in ordered], [size for _, size in ordered]


def threshold_of_maps(
    method: Method, loader: DataLoader, accelerator: Accelerator, protocol: str | Protocol
) -> ThresholdChoice:
    """The threshold that the maps of a prepared loader's images suggest, without any box: see `choose_threshold`."""
    maps, sizes = collect_maps(method, loader, accelerator)
    own = {"image_sizes": sizes} if get_protocol(protocol).own_pixels else {}
    return choose_threshold("unsupervised", maps=maps, protocol=protocol, **own)
