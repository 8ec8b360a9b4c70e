"""One builder of data loaders for training and evaluation, so that both see the same images the same way."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import datasets
import torch
from torch.utils.data import DataLoader, Dataset

from sat_peft.backbones import DataConfig
from sat_peft.data.box_formats import box_outside
from sat_peft.data.decoding import decode_image, decode_mask
from sat_peft.data.sampler import EpochSampler, View
from sat_peft.data.transforms import evaluation_transform, training_transform
from sat_peft.errors import UsageError
from sat_peft.localization import Protocol


class ImageRows(Dataset):
    """The rows of a data set as samples: decoded, transformed, with boxes and size of the original image.

    Args:
        rows: a data set with the columns of `sat_peft.data.features`.
        transform: (3, H, W) uint8 to the backbone's input.
        cache: keep decoded images in memory. For few images that are read many times.
        masks: read the masks too, where the data set has any.
    """

    def __init__(self, rows: datasets.Dataset, transform: Callable, *, cache: bool = False, masks: bool = False):
        images = ["image", "mask"] if masks and "mask" in rows.column_names else ["image"]
        self.rows = rows.select_columns(["image_id", "label", "boxes", *images])
        for name in images:
            self.rows = self.rows.cast_column(name, datasets.Image(decode=False))
        self.transform = transform
        self._decoded: dict[int, torch.Tensor] | None = {} if cache else None

    def __len__(self) -> int:
        return len(self.rows)

    def decode(self, index: int) -> torch.Tensor:
        """The original image of a row, (3, H, W) uint8."""
        row = self.rows[index]
        return decode_image(row["image"], row["image_id"])

    def __getitem__(self, key: int | View) -> dict:
        index, seed = key if isinstance(key, View) else (key, None)
        row = self.rows[index]
        if self._decoded is None:
            image = decode_image(row["image"], row["image_id"])
        else:
            if index not in self._decoded:
                self._decoded[index] = decode_image(row["image"], row["image_id"])
            image = self._decoded[index]
        boxes = torch.tensor(row["boxes"], dtype=torch.float32).reshape(-1, 4)
        height, width = image.shape[-2:]
        outside = box_outside(boxes, (width, height))
        if outside is not None:
            raise UsageError(
                f"a box of {row['image_id']!r} leaves its image: {outside} (x0, y0, x1, y1) in {width} x {height} "
                "pixels. Boxes are absolute pixels of the original image; check the box format."
            )
        sample = {
            "image": self._transformed(image, seed),
            "label": row["label"],
            "boxes": boxes,
            "image_size": (width, height),
            "index": index,
        }
        if "mask" in row:
            sample["mask"] = decode_mask(row["mask"])
        return sample

    def _transformed(self, image: torch.Tensor, seed: int | None) -> torch.Tensor:
        if seed is None:
            return self.transform(image)
        # torchvision's transforms draw from the global generator, which is the model's.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return self.transform(image)


def collate(samples: list[dict]) -> dict:
    """A batch: `images` (B, 3, H, W), `labels` (B,), `boxes` B tensors (n_i, 4) xyxy in pixels of the original image,
    `image_sizes` (B, 2) width and height of the original image, `indices` (B,) rows of the data set, and where the
    samples have masks `masks`, B bool arrays (H, W) in pixels of the original image.
    """
    batch = {
        "images": torch.stack([sample["image"] for sample in samples]),
        "labels": torch.tensor([sample["label"] for sample in samples]),
        "boxes": [sample["boxes"] for sample in samples],
        "image_sizes": torch.tensor([sample["image_size"] for sample in samples]),
        "indices": torch.tensor([sample["index"] for sample in samples]),
    }
    if "mask" in samples[0]:
        batch["masks"] = [sample["mask"] for sample in samples]
    return batch


@dataclass(frozen=True)
class Loaders:
    """Loaders by split; `validation` is None where there is no such split."""

    train: DataLoader
    validation: DataLoader | None
    test: DataLoader


def build_evaluation_loader(
    rows: datasets.Dataset,
    config: DataConfig,
    *,
    protocol: str | Protocol,
    batch_size: int = 64,
    num_workers: int = 0,
    masks: bool = False,
    ten_crop: bool = False,
) -> DataLoader:
    """The loader of one evaluated split, in the order of its rows; recipes and the evaluator use no other.

    Args:
        rows: with the columns of `sat_peft.data.features`.
        config: the backbone's image size and normalisation.
        protocol: the evaluation protocol; it decides the transform.
        batch_size: images per process and batch.
        num_workers: loader processes; 0 loads in the evaluating process.
        masks: read the masks too, where there are any, for PxAP.
        ten_crop: images are (B, 10, 3, H, W), for `sat_peft.evaluator.ten_crop`.

    Raises:
        UsageError: a number out of range, a protocol that needs images of another size or has no crop to take ten of.
    """
    for name, number, least in (("batch_size", batch_size, 1), ("num_workers", num_workers, 0)):
        if number < least:
            raise UsageError(f"{name} must be at least {least}, got {number}.")
    images = ImageRows(rows, evaluation_transform(config, protocol, ten_crop=ten_crop), masks=masks)
    return DataLoader(images, batch_size=batch_size, collate_fn=collate, num_workers=num_workers)


def build_loaders(
    splits: dict[str, datasets.Dataset],
    config: DataConfig,
    *,
    protocol: str | Protocol,
    batch_size: int,
    eval_batch_size: int = 64,
    augmentation: str = "shift",
    num_workers: int = 0,
    cache_train: bool = False,
    seed: int = 0,
) -> Loaders:
    """Builds the loaders of a run; recipes and the evaluator use no others.

    Args:
        splits: `train`, `test` and maybe `validation`, with the columns of `sat_peft.data.features`.
        config: the backbone's image size and normalisation.
        protocol: the evaluation protocol; it decides the evaluation transform.
        batch_size, eval_batch_size: images per process and batch.
        augmentation: of the training images, see `training_transform`.
        num_workers: loader processes per loader; 0 loads in the training process.
        cache_train: keep decoded training images in memory.
        seed: of the training order.

    Returns:
        Loaders of batches as `collate` makes them. Training batches are shuffled, evaluation batches are in order.

    Raises:
        UsageError: a number out of range, an unknown augmentation, a protocol that needs images of another size.
    """
    numbers = {"batch_size": (batch_size, 1), "eval_batch_size": (eval_batch_size, 1), "num_workers": (num_workers, 0)}
    for name, (number, least) in numbers.items():
        if number < least:
            raise UsageError(f"{name} must be at least {least}, got {number}.")

    def evaluation(name: str) -> DataLoader | None:
        if name not in splits:
            return None
        return build_evaluation_loader(
            splits[name], config, protocol=protocol, batch_size=eval_batch_size, num_workers=num_workers
        )

    rows = ImageRows(splits["train"], training_transform(config, augmentation), cache=cache_train)
    train = DataLoader(
        rows,
        batch_size=batch_size,
        sampler=EpochSampler(len(rows), seed),
        # Of the loader processes, whose own randomness nothing uses. The global generator is left to the model.
        generator=torch.Generator(),
        collate_fn=collate,
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
    )
    return Loaders(train, evaluation("validation"), evaluation("test"))
