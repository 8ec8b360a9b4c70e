"""Frozen tokens of the training images on disk: the frozen blocks see each view once, and training skips them.

A cache is one file FOLDER/KEY.npy, (rows * views, N, D) float16 or float32, memory-mapped. KEY is a hash of everything
that the tokens depend on, which FOLDER/KEY.json spells out: the bytes of every image, the transform and its views, the
frozen weights, the versions of the libraries. So whatever changes leads to another file. A file is written under
another name and renamed when it is whole; a lock keeps two processes from building the same one. KEY.crc has a checksum
of every view, which is compared whenever it is read.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import shutil
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import datasets
import numpy as np
import torch
from accelerate.utils import tqdm
from filelock import FileLock, Timeout
from numpy.lib import format as npy
from torch.utils.data import DataLoader, Dataset, Sampler

from sat_peft.data.features import labels
from sat_peft.data.loaders import ImageRows, collate, training_loader
from sat_peft.data.sampler import EpochSampler, View
from sat_peft.errors import UsageError, unknown_choice
from sat_peft.files.outputs import atomic_replacement
from sat_peft.tuner import FrozenTokens

logger = logging.getLogger(__name__)

DTYPES = ("float16", "float32")
# Raised whenever what a cache holds is computed in another way.
_VERSION = 1
# Tokens that are computed anew whenever a cache is opened, and how far they may be off, as a share of their norm:
# float16 and other kernels stay below it by a factor of ten, another image or weight does not.
_CHECKED, _TOLERANCE = 2, 1e-2
_GB = 10**9
_CHECKSUMS = ".crc"
_SMALLER = "Take fewer views (--feature-views) or float16 (--feature-dtype)"


@dataclass(frozen=True)
class FeatureSource:
    """What a cache holds the tokens of.

    Args:
        images: the training images with their augmentation.
        views: augmented views of each.
        compute: (B, 3, H, W) images, on the CPU, to what is kept of them, (B, …).
        identity: what the tokens depend on besides images and transform, as JSON: backbone and libraries. A cache on
            disk needs it, and the next.
        image_shape: (channels, height, width) of the images that `compute` gets.
        dtype: `float16` or `float32`, of the numbers on disk.
        batch_size: images for `compute`.
        num_workers: loader processes.

    Raises:
        UsageError: a number or dtype out of range.
    """

    images: ImageRows
    views: int
    compute: Callable[[torch.Tensor], torch.Tensor]
    identity: dict = field(default_factory=dict)
    image_shape: tuple[int, int, int] | None = None
    dtype: str = "float16"
    batch_size: int = 32
    num_workers: int = 0

    def __post_init__(self):
        if self.views < 1:
            raise UsageError(f"the views of a feature cache must be at least 1, got {self.views}.")
        if self.dtype not in DTYPES:
            raise unknown_choice("dtype of the feature cache", self.dtype, DTYPES)

    def __len__(self) -> int:
        return len(self.images) * self.views

    def batches(self, places: Sequence[int]) -> Iterator[np.ndarray]:
        """Tokens of some places of the cache, (b, N, D), in batches."""
        loader = DataLoader(
            self.images,
            batch_size=self.batch_size,
            sampler=_Views(places, self.views),
            # A training must not depend on whether the cache was there, so the global generator is left alone.
            generator=torch.Generator(),
            collate_fn=collate,
            num_workers=self.num_workers if len(places) > self.batch_size else 0,
        )
        for batch in loader:
            tokens = self.compute(batch["images"]).float().cpu().numpy()
            with np.errstate(over="ignore"):
                tokens = tokens.astype(self.dtype)
            if not np.isfinite(tokens).all():
                raise UsageError(
                    f"tokens of the backbone are too large for {self.dtype} or not numbers. Use float32 "
                    "(--feature-dtype float32), and check the weights of the backbone."
                )
            yield tokens


class _Views(Sampler[View]):
    """The views that places of a cache stand for: those of a row lie side by side."""

    def __init__(self, places: Sequence[int], views: int):
        self.places, self.views = places, views

    def __len__(self) -> int:
        return len(self.places)

    def __iter__(self) -> Iterator[View]:
        for place in self.places:
            yield View(place // self.views, place)


class FeatureRows(Dataset):
    """The tokens of a finished cache as samples; its keys are views whose seed is a place in the cache.

    Args:
        path: path of the cache.
        labels: (rows,) of the images.
        image_shape: (channels, height, width) of the images that the tokens were made of.
    """

    def __init__(self, path: Path, labels: np.ndarray, image_shape: tuple[int, int, int]):
        self.path, self.labels, self.image_shape = path, labels, image_shape
        self.tokens = np.load(path, mmap_mode="r", allow_pickle=False)
        self.checksums = _read_checksums(path)

    def __getstate__(self) -> dict:
        # Pickled whole, a memory map would be its content.
        return {name: value for name, value in self.__dict__.items() if name not in ("tokens", "checksums")}

    def __setstate__(self, state: dict) -> None:
        self.__init__(**state)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, view: View) -> dict:
        tokens = self.tokens[view.seed].copy()
        if zlib.crc32(tokens.data) != self.checksums[view.seed]:
            raise UsageError(f"the feature cache {self.path} is damaged. Remove it; the next run builds it anew.")
        return {
            "tokens": torch.from_numpy(tokens),
            "label": self.labels[view.row],
            "index": view.row,
        }

    def collate(self, samples: list[dict]) -> dict:
        """`images` (`FrozenTokens`), `labels` (B,) and `indices` (B,) rows of the data set."""
        return {
            "images": FrozenTokens(torch.stack([sample["tokens"] for sample in samples]), self.image_shape),
            "labels": torch.tensor([sample["label"] for sample in samples]),
            "indices": torch.tensor([sample["index"] for sample in samples]),
        }


def open_feature_cache(folder: Path, source: FeatureSource, *, limit: float = 50.0) -> FeatureRows:
    """The cache of `source` in a folder; it is built where there is none, or none that can be trusted.

    Every process of a launch calls this: one builds, the others wait for it.

    Args:
        folder: folder of the caches, created if need be. A finished one may be read from a folder without write access.
        source: what it holds the tokens of.
        limit: limit of all caches in the folder together, in GB (10^9 bytes); those that were not used for longest go
            first.

    Raises:
        UsageError: the folder cannot be written, disk or limit are too small, or an image cannot be read.
    """
    details = source.identity | {
        "version": _VERSION,
        "rows": len(source.images),
        "views": source.views,
        "dtype": source.dtype,
        "images": _images_digest(source.images.rows),
        "resize": repr(source.images.resize),
        "transform": repr(source.images.transform),
    }
    key = hashlib.sha256(json.dumps(details, sort_keys=True).encode()).hexdigest()[:32]
    path = folder / f"{key}.npy"
    if _problem(path, source) is not None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with _locked(path):
                # Another process may have built it since.
                problem = _problem(path, source)
                if problem is not None:
                    if path.exists():
                        logger.info(f"feature cache: {path} {problem}, and is built anew")
                    _build(path, source, details, limit * _GB)
        except OSError as error:
            raise UsageError(
                f"the feature cache cannot be written in {folder} ({error.strerror or error}). Name a folder with "
                "enough space that can be written with --feature-cache, or train without it."
            ) from error
    with suppress(OSError):  # a folder without write access
        os.utime(path)  # what was not used for longest goes first
    return FeatureRows(path, labels(source.images.rows), source.image_shape)


def build_feature_loader(rows: FeatureRows, *, batch_size: int, num_workers: int = 0, seed: int = 0) -> DataLoader:
    """The training loader of a feature cache; epochs take the views of an image in turn."""
    sampler = EpochSampler(len(rows), seed, num_views=len(rows.tokens) // len(rows))
    return training_loader(rows, sampler, rows.collate, batch_size=batch_size, num_workers=num_workers)


def _images_digest(rows: datasets.Dataset) -> str:
    """SHA-256 over the content of all image files, in the order of the rows."""
    digest = hashlib.sha256()
    for row in rows.select_columns(["image_id", "image"]):
        content = row["image"].get("bytes")
        if content is None:
            try:
                content = Path(row["image"]["path"]).read_bytes()
            except OSError as error:
                raise UsageError(
                    f"the image {row['image_id']!r} cannot be read ({error.strerror}). Repair the file or remove it "
                    "from the data."
                ) from error
        # Its own digest, so that no byte may move from one image to the next.
        digest.update(hashlib.sha256(content).digest())
    return digest.hexdigest()


def _read_checksums(path: Path) -> np.ndarray:
    """CRC-32 of every view of a cache, which are beside it."""
    with path.with_suffix(_CHECKSUMS).open("rb") as file:
        return np.load(file, allow_pickle=False)


def _lock(path: Path) -> FileLock:
    return FileLock(path.with_suffix(".lock"))


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    lock = _lock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        logger.info(f"feature cache: another process is building {path}; waiting for it")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _problem(path: Path, source: FeatureSource) -> str | None:
    """What keeps a cache from being trusted: None if it is whole, and a few tokens are what the backbone gives now."""
    if not path.is_file():
        return "is not there"
    try:
        tokens = np.load(path, mmap_mode="r", allow_pickle=False)
        shape, checksums = tokens.shape, _read_checksums(path)
    except Exception as error:  # the header is read by Python's own parser, which raises what it likes
        return f"is damaged ({error})"
    if len(shape) != 3:
        return f"is damaged (it has {len(shape)} dimensions)"
    if len(tokens) != len(source) or tokens.dtype != source.dtype:
        return f"has {len(tokens)} entries of {tokens.dtype} instead of {len(source)} of {source.dtype}"
    if checksums.shape != shape[:1] or checksums.dtype != np.uint32:
        return "has damaged checksums"
    places = np.linspace(0, len(source) - 1, _CHECKED).astype(int).tolist()
    now = np.concatenate(list(source.batches(places))).astype(np.float32)
    there = tokens[places].astype(np.float32)
    if there.shape != now.shape or not np.linalg.norm(there - now) <= _TOLERANCE * np.linalg.norm(now):
        return "does not hold what the backbone makes of the images now"
    return None


def _build(path: Path, source: FeatureSource, details: dict, limit: float) -> None:
    (probe,) = source.batches([0])
    shape, dtype = (len(source), *probe.shape[1:]), np.dtype(source.dtype)
    size = int(np.prod(shape)) * dtype.itemsize
    logger.info(
        f"feature cache: {len(source.images)} images x {source.views} views of {shape[1]} x {shape[2]} numbers, "
        f"{size / _GB:.3g} GB in {path}"
    )
    _make_room(path, size, limit)
    free = shutil.disk_usage(path.parent).free
    if size > free:
        raise UsageError(
            f"the feature cache needs {size / _GB:.3g} GB, and {path.parent} has {free / _GB:.3g} GB left. "
            f"{_SMALLER}, or name another folder."
        )
    part, checksums = path.with_suffix(".part"), []
    try:
        with part.open("wb") as file:
            npy.write_array_header_1_0(
                file, {"descr": npy.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
            )
            _reserve(file, file.tell() + size)
            with tqdm(total=len(source), desc="feature cache", unit="view") as bar:
                for tokens in source.batches(range(len(source))):
                    file.write(tokens.data)
                    checksums += [zlib.crc32(view.data) for view in tokens]
                    bar.update(len(tokens))
            file.flush()
            os.fsync(file.fileno())
        path.with_suffix(".json").write_text(json.dumps(details, indent=2) + "\n", encoding="utf-8")
        with atomic_replacement(path.with_suffix(_CHECKSUMS)) as temporary, temporary.open("wb") as file:
            np.save(file, np.array(checksums, np.uint32))
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _reserve(file: BinaryIO, size: int) -> None:
    """Takes the space now, so that a disk that others fill meanwhile does not end a long computation."""
    if hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(file.fileno(), 0, size)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):  # not every file system can
                raise


def _make_room(path: Path, size: int, limit: float) -> None:
    """Removes what builders that were killed left behind, and the caches that were not used for longest."""
    if size > limit:
        raise UsageError(
            f"the feature cache needs {size / _GB:.3g} GB, more than its limit of {limit / _GB:.3g} GB. {_SMALLER}, "
            "or raise --feature-cache-limit."
        )
    for part in path.parent.glob("*.part"):
        with suppress(Timeout), _lock(part).acquire(timeout=0):
            part.unlink(missing_ok=True)
    others = sorted((each for each in path.parent.glob("*.npy") if each != path), key=lambda each: each.stat().st_mtime)
    used = sum(each.stat().st_size for each in others)
    while used + size > limit:
        oldest = others.pop(0)
        used -= oldest.stat().st_size
        logger.info(f"feature cache: {oldest} is removed, to stay within {limit / _GB:.3g} GB")
        for each in (oldest, *(oldest.with_suffix(suffix) for suffix in (".json", ".lock", _CHECKSUMS))):
            each.unlink(missing_ok=True)
