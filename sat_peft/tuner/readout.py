"""Maps and classes read off the patch tokens by statistics of the training images, without gradients.

The token's map says where an object is, whatever its class. Two things that the patch tokens know are added after the
training: which patches of an image are like its object and not like its ground, and which speak for its class. The
first is read at the end of the backbone, where the training has set object and ground apart; the second where the
spatial blocks begin, since the tokens there still tell what kind of object they are of. The second is believed as far
as training images that are held out bear it out: of few images, or of classes that are much alike, it shows the part
that tells the class and not the object.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from peft import PeftModel
from torch import distributed, nn

from sat_peft.errors import UsageError
from sat_peft.tuner.config import SatConfig
from sat_peft.tuner.embedding import patch_embedding

# Chosen on validation photographs of twenty classes, 1 to 10 images a class. They change little by halves and doubles.
_CONTRAST_GAIN = 4.0
_SHRINKAGE = 0.3
# Of class evidence in adapters that record none, by the tokens that it is read from: final `tokens`, or `features` as
# the spatial blocks get them.
EVIDENCE_GAINS = {"tokens": 1.5, "features": 3.0}
# Held out, evidence of classes that differ in kind tells object from ground by 2 and more, and then maps gain by it;
# that of breeds of dogs by 1.5 at most, with up to 50 images of each, and then maps lose.
_LARGEST_GAIN, _TOLD_APART = 5.0, 1.5
_EPSILON = 1e-6
# Of classes without an image, which no image is to be told to be.
_NEVER = -1e4


def _weighted_mean(values: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Means over the patches of (B, N, D) or (B, N) values with weights (B, N), both kept as (B, 1, D) or (B, 1)."""
    expanded = weights.unsqueeze(-1) if values.ndim == 3 else weights
    return (values * expanded).sum(1, keepdim=True) / expanded.sum(1, keepdim=True).clamp_min(_EPSILON)


def contrast(tokens: torch.Tensor, maps: torch.Tensor) -> torch.Tensor:
    """What is like the object of an image, by the patch tokens themselves: (B, N) in (0, 1).

    The map splits the patches into object and ground; each is then placed on the line between the two mean tokens,
    and a sigmoid makes a map of the place, 0.5 half way. Patches that the map got wrong change sides. A map that hardly
    tells two sides apart, as one that is uniform, stays as it is, the more so the less it does.

    Args:
        tokens: (B, N, D) float32 patch tokens.
        maps: (B, N) in (0, 1).
    """
    object_mean, ground_mean = _weighted_mean(tokens, maps), _weighted_mean(tokens, 1 - maps)
    place = (tokens * (object_mean - ground_mean)).sum(-1)
    low, high = _weighted_mean(place, 1 - maps), _weighted_mean(place, maps)
    # Two sides of one point each, the object a third of the image, are 2.1 deviations apart.
    sides = ((high - low) / place.std(1, keepdim=True).clamp_min(_EPSILON)).clamp_max(1)
    found = torch.sigmoid(_CONTRAST_GAIN * ((place - low) / (high - low).clamp_min(_EPSILON) - 0.5))
    return maps + sides * (found - maps)


def standardised(evidence: torch.Tensor, foreground: torch.Tensor) -> torch.Tensor:
    """Evidence (B, C, N) relative to that of the foreground (B, N) of its image: of mean 0 and deviation 1 there."""
    weights = foreground.unsqueeze(1)
    total = weights.sum(2, keepdim=True).clamp_min(_EPSILON)
    centred = evidence - (evidence * weights).sum(2, keepdim=True) / total
    deviation = ((centred.square() * weights).sum(2, keepdim=True) / total).sqrt().clamp_min(_EPSILON)
    return centred / deviation


def weigh(foreground: torch.Tensor, evidence: torch.Tensor) -> torch.Tensor:
    """The part of the foreground that speaks for a class: (B, N) in (0, 1).

    Args:
        foreground: (B, N) in (0, 1), of `contrast`.
        evidence: (B, N) for the class, as `ClassReadout` gives it; where it is not negative, the foreground stays.
    """
    return foreground * (2 * torch.sigmoid(evidence)).clamp_max(1)


def _normalised(features: torch.Tensor) -> torch.Tensor:
    """Features, which no norm of the backbone has passed yet, so that no single channel decides."""
    return F.layer_norm(features, features.shape[-1:])


class ClassReadout(nn.Module):
    """Linear discriminants of C classes: `weight` (C, D) and `bias` (C,) give logits from the final tokens.

    With `evidence="features"`, `evidence_weight` (C, D) gives the evidence of a token where the spatial blocks begin;
    else it is `weight` on the final tokens, as in adapters that were saved by earlier versions. All are buffers, which
    PEFT saves with an adapter and never trains. `gain` is how much the evidence counts; 0 leaves it out.
    """

    def __init__(self, num_classes: int, dim: int, evidence: str = "tokens", gain: float | None = None, device=None):
        super().__init__()
        self.evidence = evidence
        self.gain = EVIDENCE_GAINS[evidence] if gain is None else gain
        self.register_buffer("weight", torch.zeros(num_classes, dim, device=device))
        self.register_buffer("bias", torch.zeros(num_classes, device=device))
        if evidence == "features":
            self.register_buffer("evidence_weight", torch.zeros(num_classes, dim, device=device))

    def forward(
        self, tokens: torch.Tensor, features: torch.Tensor | None, maps: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Logits (B, C), foreground (B, N) and evidence (B, C, N) of patch tokens and features (B, N, D) with maps
        (B, N).
        """
        tokens = tokens.to(self.weight.dtype)
        foreground = contrast(tokens, maps)
        logits = _weighted_mean(tokens, foreground).squeeze(1) @ self.weight.T + self.bias
        if self.evidence == "features":
            evidence = self.evidence_weight @ _normalised(features.to(self.weight.dtype)).mT
        else:
            evidence = self.weight @ tokens.mT
        return logits, foreground, self.gain * standardised(evidence, foreground)


def empty_readout(config: SatConfig, dim: int, device) -> ClassReadout:
    """The readout that an adapter of this configuration has, of zeros yet; `dim` is the width of the tokens."""
    return ClassReadout(config.num_classes, dim, config.class_evidence, config.evidence_gain, device)


class _Moments:
    """Sums over patches, from which linear discriminants of classes follow."""

    def __init__(self, num_classes: int, dim: int):
        # On the CPU in double precision: sums over millions of patches, of which differences are taken.
        self.patches, self.total = torch.zeros(1, dtype=torch.float64), torch.zeros(dim, dtype=torch.float64)
        self.second = torch.zeros(dim, dim, dtype=torch.float64)
        self.images, self.weights = torch.zeros(2, num_classes, dtype=torch.float64)
        self.sums = torch.zeros(num_classes, dim, dtype=torch.float64)

    def add(self, tokens: torch.Tensor, foreground: torch.Tensor, labels: torch.Tensor) -> None:
        """Adds the patches of images: tokens (B, N, D), of the object by `foreground` (B, N), of classes (B,)."""
        tokens, foreground, labels = tokens.cpu().double(), foreground.cpu().double(), labels.cpu()
        rows = tokens.flatten(0, 1)
        self.patches += len(rows)
        self.total += rows.sum(0)
        self.second += rows.T @ rows
        self.images.index_add_(0, labels, torch.ones(len(labels), dtype=torch.float64))
        self.weights.index_add_(0, labels, foreground.sum(1))
        self.sums.index_add_(0, labels, torch.einsum("bn,bnd->bd", foreground, tokens))

    def sum_over_processes(self, device: torch.device) -> None:
        for value in vars(self).values():
            _sum_over_processes(value, device)

    @property
    def mean(self) -> torch.Tensor:
        """(D,) mean of all tokens."""
        return self.total / self.patches

    @property
    def seen(self) -> torch.Tensor:
        """(C,) whether a class has any image."""
        return self.images > 0

    @property
    def means(self) -> torch.Tensor:
        """(C, D) means of the object's tokens by class, less the mean of all tokens; 0 for a class without images."""
        means = self.sums / self.weights.clamp_min(_EPSILON)[:, None] - self.mean
        return torch.where(self.seen[:, None], means, 0)

    def whitened(self, rows: torch.Tensor) -> torch.Tensor:
        """Rows (N, D) times the inverse covariance of all patches, shrunk towards a multiple of the identity."""
        covariance = self.second / self.patches - torch.outer(self.mean, self.mean)
        covariance += _SHRINKAGE * covariance.diagonal().mean() * torch.eye(len(covariance), dtype=torch.float64)
        return torch.linalg.solve(covariance, rows.T).T

    def discriminants(self) -> tuple[torch.Tensor, torch.Tensor]:
        """`weight` (C, D) and `bias` (C,) of linear discriminant analysis, classes by the tokens of their objects."""
        weight = self.whitened(self.means)
        bias = -(weight @ self.mean) - (self.means * weight).sum(1) / 2
        return weight, torch.where(self.seen, bias, _NEVER)


class _ObjectsAndGrounds:
    """Of every image, the sum of its object's tokens and the mean of its ground's: what held-out evidence needs."""

    def __init__(self):
        self.weights, self.sums, self.grounds, self.labels = [], [], [], []

    def add(self, tokens: torch.Tensor, foreground: torch.Tensor, labels: torch.Tensor) -> None:
        """Adds images, as `_Moments` does."""
        tokens, foreground = tokens.cpu().double(), foreground.cpu().double()
        self.weights.append(foreground.sum(1))
        self.sums.append((tokens * foreground[..., None]).sum(1))
        self.grounds.append(_weighted_mean(tokens, 1 - foreground).squeeze(1))
        self.labels.append(labels.cpu())

    def told_apart(self, moments: _Moments, device: torch.device) -> float:
        """How much more the object of an image speaks for its class than the ground, on average over all images.

        In log odds against the mean class, by the discriminants that follow from the other images. An image that is
        the only one of its class has none, and counts as 0.
        """
        total = torch.zeros(1, dtype=torch.float64)
        if self.labels:
            weights, sums, grounds, labels = map(torch.cat, (self.weights, self.sums, self.grounds, self.labels))
            means, left = moments.means, (moments.weights[labels] - weights).clamp_min(_EPSILON)[:, None]
            without = (moments.sums[labels] - sums) / left - moments.mean
            # The mean over the classes changes with that of the image's own.
            classes = moments.seen.sum()
            centre = means.sum(0) / classes + (without - means[labels]) / classes
            difference = sums / weights.clamp_min(_EPSILON)[:, None] - grounds
            evidence = (moments.whitened(difference) * (without - centre)).sum(1)
            total += evidence[moments.images[labels] > 1].sum()
        _sum_over_processes(total, device)
        return (total / moments.images.sum()).nan_to_num().item()  # of a model that diverged


@torch.no_grad()
def fit_class_readout(model: PeftModel, batches: Iterable[tuple[torch.Tensor, torch.Tensor]]) -> None:
    """Fits the class readout of the active adapter, and adds it to the adapter.

    Linear discriminant analysis on the patch tokens: on the final ones for the logits, and where the spatial blocks
    begin for the evidence, of which what all classes have in common is left out. Evidence counts as far as it tells
    object from ground in images that are held out, one at a time; with one image a class, and for classes that are
    much alike, it does not, and maps are those of the foreground. In evaluation mode, the model's logits and maps are
    then those of the readout, see `SatOutput`; in training mode nothing changes. One pass over the images. In a process
    group, every process gives its own share of them, and all get the same readout.

    Args:
        model: PEFT model with a trained SAT adapter; it is left in evaluation mode.
        batches: images (B, 3, H, W), preprocessed for the backbone, on its device, and their labels (B,). Ten images a
            class are plenty.

    Raises:
        UsageError: there are no images.
    """
    model.eval()
    vit, config = model.get_base_model(), model.active_peft_config
    device = next(patch_embedding(vit).parameters()).device
    vit.norm.drop_readout(model.active_adapter)
    moments = {kind: _Moments(config.num_classes, vit.embed_dim) for kind in EVIDENCE_GAINS}
    held_out = _ObjectsAndGrounds()
    for images, labels in batches:
        output = model(images)
        tokens = output.tokens.flatten(1, 2).float()
        foreground = contrast(tokens, output.maps.flatten(1))
        moments["tokens"].add(tokens, foreground, labels)
        evident = tokens
        if output.features is not None:
            evident = _normalised(output.features.flatten(1, 2).float())
            moments["features"].add(evident, foreground, labels)
        held_out.add(evident, foreground, labels)
    for each in moments.values():
        each.sum_over_processes(device)
    if not moments["tokens"].patches:
        raise UsageError("a class readout needs images to be fitted on; there are none.")
    config.class_readout, config.class_evidence = True, "features" if moments["features"].patches else "tokens"
    told_apart = held_out.told_apart(moments[config.class_evidence], device)
    config.evidence_gain = _LARGEST_GAIN * min(max(told_apart - _TOLD_APART, 0.0), 1.0)
    readout = empty_readout(config, vit.embed_dim, device)
    vit.norm.add_readout(model.active_adapter, readout)
    weight, bias = moments["tokens"].discriminants()
    readout.weight.copy_(weight)
    readout.bias.copy_(bias)
    if config.class_evidence == "features":
        weight, _ = moments["features"].discriminants()
        readout.evidence_weight.copy_(weight - weight[moments["features"].seen].mean(0))


def _sum_over_processes(value: torch.Tensor, device: torch.device) -> None:
    if not (distributed.is_available() and distributed.is_initialized()):
        return
    # NCCL takes tensors of its device alone, where double precision may be slow but is there.
    shared = value.to(device)
    distributed.all_reduce(shared)
    value.copy_(shared)
