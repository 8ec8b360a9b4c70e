"""Summaries of the training images in memory: classifiers on a frozen backbone see each view of an image once."""

from __future__ import annotations

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch.utils.data import DataLoader, Dataset

from sat_peft.data.feature_cache import FeatureSource
from sat_peft.data.features import labels
from sat_peft.data.loaders import training_loader
from sat_peft.data.sampler import EpochSampler, View
from sat_peft.evaluation.frozen import FrozenBackboneClassifier, Summaries

# Augmented views of an image; more change little, and each costs a pass through the backbone.
VIEWS = 8
# Of all summaries together; beyond it, as on millions of images, classifiers train from the images.
MAX_BYTES = 2**30


class SummaryRows(Dataset):
    """Summaries as samples; its keys are views whose seed is a place among the summaries.

    Args:
        values: (rows * views, F) float32, those of a row side by side.
        labels: (rows,) of the images.
    """

    def __init__(self, values: torch.Tensor, labels: np.ndarray):
        self.values, self.labels = values, labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, view: View) -> dict:
        return {"values": self.values[view.seed], "label": self.labels[view.row]}

    def collate(self, samples: list[dict]) -> dict:
        """`images` (`Summaries`) and `labels` (B,)."""
        return {
            "images": Summaries(torch.stack([sample["values"] for sample in samples])),
            "labels": torch.tensor([sample["label"] for sample in samples]),
        }


def summary_loader(
    classifier: FrozenBackboneClassifier, loader: DataLoader, accelerator: Accelerator, *, steps: int
) -> DataLoader | None:
    """A prepared training loader of summaries in place of the images of `loader`, whose epochs take views in turn.

    Every process computes a share of the summaries and gets all of them.

    Args:
        classifier: summarises the images; on its device.
        loader: loader of the training images, as `build_loaders` made it.
        accelerator: `Accelerator` of the run.
        steps: optimizer steps of the training.

    Returns:
        The loader, or None where the images themselves cost no more passes through the backbone, or summaries would
        take too much memory.
    """
    images = loader.dataset
    if steps * min(loader.batch_size * accelerator.num_processes, len(images)) <= VIEWS * len(images):
        return None
    source = FeatureSource(
        images,
        views=VIEWS,
        compute=lambda batch: classifier.summarize(batch.to(accelerator.device)).values,
        dtype="float32",
        num_workers=loader.num_workers,
    )
    (first,) = source.batches([0])
    if first.nbytes * len(source) > MAX_BYTES:
        return None
    share = np.array_split(np.arange(len(source)), accelerator.num_processes)[accelerator.process_index]
    parts = [torch.from_numpy(part) for part in source.batches(share.tolist())]
    if accelerator.num_processes > 1:
        parts = gather_object(parts)
    rows = SummaryRows(torch.cat(parts), labels(images.rows))
    sampler = EpochSampler(len(rows), loader.sampler.seed, num_views=VIEWS)
    return accelerator.prepare(training_loader(rows, sampler, rows.collate, batch_size=loader.batch_size))
