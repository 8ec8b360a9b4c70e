"""The training loss of SAT: classification, batch area and normalization (SAT, spatial constraints); for few images of
one's own also separation and border.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import distributed, nn

from sat_peft.errors import UsageError
from sat_peft.tuner.output import SatOutput, border_per_image
from sat_peft.tuner.reference import BLUR_KERNEL

# Of variances, which may be zero.
_EPSILON = 1e-6
# Share of the mean area that the mean along the border may have without a loss.
_BORDER_SHARE = 0.8


class SatLossTerms(NamedTuple):
    """Scalar float32 losses: `total` is the weighted sum to call `backward()` on, the others are unweighted."""

    total: torch.Tensor
    classification: torch.Tensor
    area: torch.Tensor
    normalization: torch.Tensor
    separation: torch.Tensor
    border: torch.Tensor


def area_per_image(maps: torch.Tensor) -> torch.Tensor:
    """Mean of each map: (B, h, w) to (B,)."""
    return maps.flatten(1).mean(1)


def normalization_per_image(maps: torch.Tensor, kernel: torch.Tensor = BLUR_KERNEL) -> torch.Tensor:
    """Mean of M_s (1 - M_s) of each map, M_s being the map blurred with zero padding: (B, h, w) to (B,)."""
    blurred = F.conv2d(maps[:, None], kernel.to(maps)[None, None], padding=1)
    return (blurred * (1 - blurred)).flatten(1).mean(1)


def separation_per_image(maps: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
    """Share of the features' variance within an image that the map does not explain: (B,) in [0, 1].

    The map M splits the patches into an object (weights M) and a ground (weights 1 - M). With the area a and the mean
    features f of the two sides, the split explains a (1 - a) |f_object - f_ground|^2 of the variance, as in the
    analysis of variance; the rest is what is returned. A uniform map explains nothing, whatever its value.

    Args:
        maps: (B, h, w) in (0, 1).
        features: (B, h, w, D), layer-normalised here so that no single channel decides.
    """
    weights = maps.flatten(1)
    area = weights.mean(1)
    tokens = F.layer_norm(features.flatten(1, 2).to(weights.dtype), features.shape[-1:])
    tokens = tokens - tokens.mean(1, keepdim=True)
    # a (1 - a) (f_object - f_ground), since the features are centred.
    moment = torch.einsum("bn,bnd->bd", weights - area[:, None], tokens) / weights.shape[1]
    explained = moment.square().sum(1) / (area * (1 - area)).clamp_min(_EPSILON)
    return 1 - explained / tokens.square().sum(2).mean(1).clamp_min(_EPSILON)


def _beyond_share(border: torch.Tensor, area: torch.Tensor) -> torch.Tensor:
    """What the border has beyond its share of the area."""
    return (border - _BORDER_SHARE * area).clamp_min(0)


class SatLoss(nn.Module):
    """Loss = classification + area + normalization + separation + border, each with its weight.

    - classification: cross-entropy of the logits;
    - area: | mean over the batch of mean(M) - area_target |, which lets single objects be large or small;
    - normalization: mean of M_s (1 - M_s), M_s being the blurred map, which pulls maps towards 0 and 1;
    - separation (not in the paper): the share of the variance of the patch features within an image that the map does
      not explain, see `separation_per_image`. Maps that are uniform satisfy the paper's terms, all of them at the area
      target and two of them at 1, and with few images training rests there; they explain nothing;
    - border (not in the paper): by how much the mean over the batch of M over the outermost patches exceeds 0.8 of the
      mean area, the boundary prior of saliency detection (Wei et al., Geodesic Saliency Using Background Priors, ECCV
      2012). The separation is the same for a map and its inverse, and so nearly are the other terms; with few images
      this tells which of the two sides is the object. Then it is 0, and objects may reach the border. Of the mean over
      the batch a few images may have the ground for their object, where others have it inside: with
      `border_in_each_image` the excess is that of every image, and objects have to lie inside.

    The batch is the *global* batch. In a process group, with gradients enabled, sums are exchanged once per call; every
    process returns the same values, and the gradients, averaged over processes as DistributedDataParallel does, are
    those of one process with all images. This holds for the mean of the classification and normalization losses too
    when processes hold different numbers of images: each image weighs the same. Every process must then call the loss
    equally often. Without gradients (evaluation) the batch is that of the process, and nothing is exchanged.

    Args:
        area_target: Mean area that maps are drawn to, as a fraction of the image (paper: 0.25 CUB, 0.35 ILSVRC).
        classification_weight, area_weight, normalization_weight: Weights of the terms (paper: 1, 1, 1).
        separation_weight: Weight of the separation (paper: 0). At 0 it is not computed.
        border_weight: Weight of the border (paper: 0).
        label_smoothing: Label smoothing of the cross-entropy, in [0, 1).
        border_in_each_image: Whether the border counts in every image by itself instead of in the mean over the batch.

    Raises:
        UsageError: for values outside these ranges.
    """

    def __init__(
        self,
        area_target: float = 0.25,
        classification_weight: float = 1.0,
        area_weight: float = 1.0,
        normalization_weight: float = 1.0,
        separation_weight: float = 0.0,
        border_weight: float = 0.0,
        label_smoothing: float = 0.0,
        border_in_each_image: bool = False,
    ):
        super().__init__()
        if not 0 <= area_target <= 1:
            raise UsageError(f"area_target is a fraction of the image, from 0 to 1, not {area_target!r}.")
        if not 0 <= label_smoothing < 1:
            raise UsageError(f"label_smoothing must be at least 0 and less than 1, not {label_smoothing!r}.")
        weights = {
            "classification_weight": classification_weight,
            "area_weight": area_weight,
            "normalization_weight": normalization_weight,
            "separation_weight": separation_weight,
            "border_weight": border_weight,
        }
        for name, weight in weights.items():
            if not weight >= 0:
                raise UsageError(f"{name} must be 0 or more, not {weight!r}.")
        self.area_target = area_target
        self.label_smoothing = label_smoothing
        self.classification_weight = classification_weight
        self.area_weight = area_weight
        self.normalization_weight = normalization_weight
        self.separation_weight = separation_weight
        self.border_weight = border_weight
        self.border_in_each_image = border_in_each_image
        self.register_buffer("kernel", BLUR_KERNEL.clone(), persistent=False)

    def forward(self, output: SatOutput, labels: torch.Tensor) -> SatLossTerms:
        """The loss terms of a batch.

        Args:
            output: `logits` (B, C), `maps` (B, h, w) in (0, 1) and, for the separation, `features` (B, h, w, D).
            labels: (B,) integer class indices on the device of the logits.

        Raises:
            UsageError: if labels and logits do not fit each other. The range of the labels is checked on the CPU only;
                elsewhere the check would wait for the device, whose own assertion then reports it.
        """
        check_labels(output.logits, labels)
        maps = output.maps.float()
        if self.kernel.device != maps.device:
            self.kernel = self.kernel.to(maps.device)  # once: a copy in every step would wait for the device
        cross_entropy = F.cross_entropy(
            output.logits.float(), labels, reduction="sum", label_smoothing=self.label_smoothing
        )
        separation = maps.new_zeros(())
        if self.separation_weight:
            if output.features is None:
                raise UsageError(
                    "the separation needs features, which the output of this backbone lacks. Set separation_weight=0."
                )
            separation = separation_per_image(maps, output.features).sum()
        areas = area_per_image(maps)
        borders = border_per_image(maps)
        if self.border_in_each_image:
            borders = _beyond_share(borders, areas)
        sums = torch.stack(
            (
                cross_entropy,
                areas.sum(),
                normalization_per_image(maps, self.kernel).sum(),
                separation,
                borders.sum(),
            )
        )
        classification, area, normalization, separation, border = _global_mean(sums, count=labels.shape[0]).unbind()
        if not self.border_in_each_image:
            border = _beyond_share(border, area)
        area = (area - self.area_target).abs()
        total = (
            self.classification_weight * classification
            + self.area_weight * area
            + self.normalization_weight * normalization
            + self.separation_weight * separation
            + self.border_weight * border
        )
        return SatLossTerms(total, classification, area, normalization, separation, border)


def _global_mean(sums: torch.Tensor, count: int) -> torch.Tensor:
    """Sums over the images of this process to means over the images of all processes.

    With n of N images in one of W processes, the gradient of its sum is weighted by W / N: averaging over W processes
    then leaves 1 / N for every image.
    """
    if not (torch.is_grad_enabled() and distributed.is_available() and distributed.is_initialized()):
        return sums / count
    world_size = distributed.get_world_size()
    totals = torch.cat((sums.detach(), sums.new_full((1,), count)))
    distributed.all_reduce(totals)
    weighted = sums * (world_size / totals[-1])
    return totals[:-1] / totals[-1] + (weighted - weighted.detach())


def check_labels(logits: torch.Tensor, labels: torch.Tensor) -> None:
    """Checks that integer `labels` (B,) are class indices for `logits` (B, C).

    Raises:
        UsageError: naming the shapes, or on the CPU the first label that is no class.
    """
    if labels.dtype != torch.int64:
        raise UsageError(f"labels must be class indices of dtype torch.int64, not {labels.dtype}.")
    if logits.ndim != 2 or labels.shape != logits.shape[:1]:
        raise UsageError(
            f"labels of shape {tuple(labels.shape)} do not fit logits of shape {tuple(logits.shape)}: expected (B,) "
            "and (B, C)."
        )
    if labels.device.type == "cpu":
        wrong = labels[(labels < 0) | (labels >= logits.shape[1])]
        if len(wrong):
            raise UsageError(
                f"label {int(wrong[0])} is out of range: the model has {logits.shape[1]} classes, 0 to "
                f"{logits.shape[1] - 1}. Set SatConfig.num_classes to the number of classes of the dataset."
            )
