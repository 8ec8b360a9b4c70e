"""One builder of data loaders for training and evaluation, so that both see the same images the same way."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import datasets
import torch
from torch.utils.data import DataLoader, Dataset

from sat_peft.backbones import DataConfig
from sat_peft.data.decoding import decode_image, decode_masks, outside_problem
from sat_peft.data.features import mask_cells, undecoded
from sat_peft.data.sampler import EpochSampler, View
from sat_peft.data.shots import sample_evenly
from sat_peft.data.transforms import evaluation_transform, training_steps
from sat_peft.errors import UsageError
from sat_peft.localization import Protocol

# Of all loader processes of a training process together: 7,000 images of 224 x 224 pixels.
CACHE_BYTES = 2**30
# Training images that a class readout is fitted on, and those whose maps tell a threshold where there are no boxes, at
# most; more change little.
READOUT_IMAGES, UNLABELLED_IMAGES = 1000, 250


class ImageRows(Dataset):
    """The rows of a data set as samples: decoded, transformed, with boxes and size of the original image.

    The rows stay in the memory-mapped file; nothing is held for an image but what is cached.

    Args:
        rows: a data set with the columns of `sat_peft.data.features`.
        transform: (3, H, W) uint8 to the backbone's input.
        resize: the first step of the transform, which draws nothing; its result is what is cached.
        cache_bytes: keep that much of resized images in memory, those that are read first. For few images that are
            read many times.
        masks: read the masks too, where the data set has any. Of an image without masks, all pixels are ignored.
    """

    def __init__(
        self,
        rows: datasets.Dataset,
        transform: Callable,
        *,
        resize: Callable | None = None,
        cache_bytes: int = 0,
        masks: bool = False,
    ):
        columns = ["image_id", "image", "label", "boxes"]
        if masks:
            columns += [name for name in ("mask", "ignore") if name in rows.column_names]
        self.rows = undecoded(rows.select_columns(columns))
        self.transform = transform
        self.resize = resize
        self.masks = "mask" in columns
        self._cache: dict[int, dict] = {}
        self._cache_left = cache_bytes

    def __len__(self) -> int:
        return len(self.rows)

    def decode(self, index: int) -> torch.Tensor:
        """The original image of a row, (3, H, W) uint8."""
        row = self.rows[index]
        return decode_image(row["image"], row["image_id"])

    def _resized(self, index: int) -> dict:
        """The sample of a row before anything is drawn."""
        row = self.rows[index]
        image = decode_image(row["image"], row["image_id"])
        height, width = image.shape[-2:]
        boxes = torch.tensor(row["boxes"], dtype=torch.float32).reshape(-1, 4)
        problem = outside_problem(boxes, (width, height), row["image"], row["image_id"])
        if problem is not None:
            raise UsageError(f"{row['image_id']!r}: {' '.join(problem)}")
        sample = {"label": row["label"], "boxes": boxes, "image_size": (width, height), "index": index}
        if self.masks:
            sample["mask"], sample["ignore"] = decode_masks(*mask_cells(row), (width, height), row["image_id"])
        sample["image"] = image if self.resize is None else self.resize(image)
        return sample

    def __getitem__(self, key: int | View) -> dict:
        index, seed = key if isinstance(key, View) else (key, None)
        sample = self._cache.get(index)
        if sample is None:
            sample = self._resized(index)
            size = _size_in_bytes(sample)
            if size <= self._cache_left:
                self._cache[index] = sample
                self._cache_left -= size
        return sample | {"image": self._transformed(sample["image"], seed)}

    def _transformed(self, image: torch.Tensor, seed: int | None) -> torch.Tensor:
        if seed is None:
            return self.transform(image)
        # torchvision's transforms draw from the global generator, which is the model's.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return self.transform(image)


def _size_in_bytes(sample: dict) -> int:
    return sum(sample[name].nbytes for name in ("image", "boxes", "mask", "ignore") if name in sample)


def collate(samples: list[dict]) -> dict:
    """A batch of samples.

    Always: `images` (B, 3, H, W), `labels` (B,), `boxes` B tensors (n_i, 4) xyxy in pixels of the original image,
    `image_sizes` (B, 2) width and height of the original image, `indices` (B,) rows of the data set.

    Where the samples have masks: `masks` and `ignore`, B bool arrays (H, W) each in pixels of the original image, the
    object and what counts neither as object nor as background.
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
        batch["ignore"] = [sample["ignore"] for sample in samples]
    return batch


@dataclass(frozen=True)
class Loaders:
    """Loaders by split; `validation` is None where there is no such split.

    `readout` has training images as they are evaluated, for the class readout, and `unlabelled` fewer of them, whose
    maps choose a threshold where there are no boxes. `features` has the training images too, as the frozen blocks left
    them (`sat_peft.data.feature_cache`), or is None.
    """

    train: DataLoader
    validation: DataLoader | None
    test: DataLoader
    readout: DataLoader
    unlabelled: DataLoader
    features: DataLoader | None = None


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
        ten_crop: images are (B, 10, 3, H, W), for `sat_peft.evaluation.evaluator.ten_crop`.

    Raises:
        UsageError: a number out of range, a protocol that needs images of another size or has no crop to take ten of.
    """
    for name, number, least in (("batch_size", batch_size, 1), ("num_workers", num_workers, 0)):
        if number < least:
            raise UsageError(f"{name} must be at least {least}, got {number}.")
    images = ImageRows(rows, evaluation_transform(config, protocol, ten_crop=ten_crop), masks=masks)
    return DataLoader(images, batch_size=batch_size, collate_fn=collate, num_workers=num_workers)


def training_loader(
    rows: Dataset, sampler: EpochSampler, collate_fn: Callable[[list], dict], *, batch_size: int, num_workers: int = 0
) -> DataLoader:
    """A loader whose order and views the sampler decides alone, whatever the number of loader processes."""
    return DataLoader(
        rows,
        batch_size=batch_size,
        sampler=sampler,
        # Of the loader processes, whose own randomness nothing uses. The global generator is left to the model.
        generator=torch.Generator(),
        collate_fn=collate_fn,
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
    )


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
    cache_bytes: int = CACHE_BYTES,
    seed: int = 0,
) -> Loaders:
    """Builds the loaders of a run; recipes and the evaluator use no others.

    Args:
        splits: `train`, `test` and maybe `validation`, with the columns of `sat_peft.data.features`.
        config: the backbone's image size and normalisation.
        protocol: the evaluation protocol; it decides the evaluation transform.
        batch_size, eval_batch_size: images per process and batch.
        augmentation: augmentation of the training images, see `training_transform`.
        num_workers: loader processes per loader; 0 loads in the training process.
        cache_train: keep resized training images in memory, which are then read and decoded once.
        cache_bytes: that memory's limit per training process, its loader processes together. Images beyond it are
            read every time.
        seed: seed of the training order and of the augmentation, see `EpochSampler`.

    Returns:
        Loaders of batches as `collate` makes them. Training batches are shuffled, evaluation batches are in order.

    Raises:
        UsageError: a number out of range, an unknown augmentation, a protocol that needs images of another size.
    """
    numbers = {
        "batch_size": (batch_size, 1),
        "eval_batch_size": (eval_batch_size, 1),
        "num_workers": (num_workers, 0),
        "cache_bytes": (cache_bytes, 0),
    }
    for name, (number, least) in numbers.items():
        if number < least:
            raise UsageError(f"{name} must be at least {least}, got {number}.")

    def evaluation(rows: datasets.Dataset | None) -> DataLoader | None:
        if rows is None:
            return None
        return build_evaluation_loader(
            rows, config, protocol=protocol, batch_size=eval_batch_size, num_workers=num_workers
        )

    resize, augment = training_steps(config, augmentation)
    rows = ImageRows(
        splits["train"],
        augment,
        resize=resize,
        cache_bytes=cache_bytes // max(1, num_workers) if cache_train else 0,
    )
    train = training_loader(
        rows, EpochSampler(len(rows), seed), collate, batch_size=batch_size, num_workers=num_workers
    )
    few = (evaluation(sample_evenly(splits["train"], count)) for count in (READOUT_IMAGES, UNLABELLED_IMAGES))
    return Loaders(train, evaluation(splits.get("validation")), evaluation(splits.get("test")), *few)
