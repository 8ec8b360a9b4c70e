"""TokenCut: the normalised cut of an image's patches, which trains nothing (Wang et al., CVPR 2022)."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from scipy.linalg import eigh

from sat_peft.evaluation.frozen import FrozenBackboneClassifier
from sat_peft.evaluation.registry import Baseline

# As published: patches whose cosine is above the first are joined; the second keeps the graph connected.
_JOINED, _APART = 0.2, 1e-5


def cut(tokens: torch.Tensor) -> torch.Tensor:
    """The side of the object in the normalised cut of patches: (N,) float32, larger on the object.

    The graph joins patches of similar tokens; its second smallest eigenvector splits it. The object is the side of the
    eigenvector's entry of largest magnitude.

    Args:
        tokens: (N, D) patch tokens of one image.
    """
    unit = F.normalize(tokens.double(), dim=1)
    weights = torch.where(unit @ unit.T > _JOINED, 1.0, _APART).cpu().numpy()
    degrees = weights.sum(1)
    _, vectors = eigh(np.diag(degrees) - weights, np.diag(degrees), subset_by_index=[1, 1])
    vector = vectors[:, 0]
    vector = vector * np.sign(vector[np.abs(vector).argmax()])
    return torch.from_numpy(vector).float()


class TokenCut:
    """TokenCut on the normalised patch tokens at the end of a frozen Vision Transformer, where the paper takes the keys
    of DINO's last block. Maps do not depend on the class.

    Args:
        classifier: gives the logits; its backbone gives the tokens.
    """

    def __init__(self, classifier: FrozenBackboneClassifier):
        self.classifier = classifier

    @torch.no_grad()
    def localize(self, images: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, C) logits of the classifier and (B, h, w) eigenvectors, the same whatever the `labels` (B,)."""
        tokens = self.classifier.patch_tokens(images)
        maps = torch.stack([cut(each) for each in tokens.flatten(1, 2)]).to(images.device)
        return self.classifier.classify(self.classifier.summary(tokens)), maps.unflatten(1, tokens.shape[1:3])


BASELINE = Baseline("TokenCut", lambda classifier: TokenCut(classifier).localize, classes_of="cam")
