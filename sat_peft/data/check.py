"""Reads a data set end to end before anything is trained on it, and says what is in it and what is wrong."""

from __future__ import annotations

import hashlib
import os
from array import array
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

import numpy as np
from datasets import Dataset
from datasets.utils import tqdm

from sat_peft.data.decoding import decode_image, decode_masks, low_bits, outside_problem, read_head
from sat_peft.data.features import labels, mask_cells, undecoded
from sat_peft.data.shots import split_share
from sat_peft.data.sources import Problems
from sat_peft.data.sources.records import MAX_LISTED, SAME_MISTAKE
from sat_peft.data.sources.registry import SPLITS
from sat_peft.data.threads import in_order
from sat_peft.errors import UsageError

# Shares of the image, as edges of the histogram of box areas.
AREA_EDGES = (0, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 1)
_QUANTILES = {"min": 0, "5%": 0.05, "median": 0.5, "95%": 0.95, "max": 1}
# Two of a million different images have the same 64 bits with a probability of 3e-8.
_DIGEST_BYTES = 8
# The upper eight of 16 bits of which 12 are used.
_DARK = 16


@dataclass(frozen=True)
class Kind:
    """A kind of finding: its `title`, how to `fix` it, and whether it `stops` training."""

    title: str
    fix: str
    stops: bool


# What --skip-bad leaves out.
SKIPPED_KINDS = ("entry", "image", "box", "mask")
KINDS = {
    "split": Kind("splits that cannot be read", "Follow the message.", True),
    "entry": Kind("entries that cannot be used", "Repair or remove them, or leave them out with --skip-bad.", True),
    "image": Kind("images that cannot be read", "Repair or remove them, or leave them out with --skip-bad.", True),
    "box": Kind("images with boxes that are empty or leave the image", "Check the box format, or repair them.", True),
    "mask": Kind("images with masks that cannot be used", "Repair or remove them.", True),
    "untrained_class": Kind("classes without a training image", "Add images, or remove the class.", True),
    "leak": Kind(
        "images that are in two splits, pixel by pixel",
        "Remove one of each: figures measured on training images mean nothing.",
        True,
    ),
    "conflict": Kind("images that are in two classes of a split, pixel by pixel", "Remove the wrong one.", False),
    "duplicate": Kind("repeated images within a class and split, pixel by pixel", "Keep one of each.", False),
    "size": Kind(
        "images of another size than their annotation tells",
        "Look whether the boxes fit: the files may have been resized or turned since.",
        False,
    ),
    "dark": Kind(
        "images that use 12 or fewer of their 16 bits, and are read as nearly black",
        "Scale their values to all 16 bits, or save them with 8.",
        False,
    ),
    "empty_mask": Kind("masks without an object", "Masks are light, above 127 of 255, on the object.", False),
    "untested_class": Kind("classes without an image in an evaluated split", "Add images, if it matters.", False),
}


@dataclass
class Finding:
    """What was found of one kind: `count` times, of which the first `MAX_LISTED` are `listed`; `hint` is a cause."""

    kind: str
    stops: bool
    count: int = 0
    listed: list[str] = field(default_factory=list)
    hint: str = ""


@dataclass(frozen=True)
class SplitCheck:
    """One split as it was read.

    Args:
        rows: the data set.
        label: (N,) class of every image.
        readable: (N,) whether the image could be decoded.
        size: (N, 2) width and height of the upright image in pixels; 0 where unreadable.
        turned: number of images that their EXIF orientation turns or mirrors.
        num_boxes: (N,) boxes of every image.
        box_areas: areas of all boxes as shares of their images.
        num_masked: images with a mask.
        bad_boxes: rows with a box that is empty or leaves the image.
        digest: (N,) uint64 hash of the upright RGB pixels and their size.
    """

    rows: Dataset
    label: np.ndarray
    readable: np.ndarray
    size: np.ndarray
    turned: int
    num_boxes: np.ndarray
    box_areas: np.ndarray
    num_masked: int
    bad_boxes: list[int]
    digest: np.ndarray

    @property
    def class_counts(self) -> np.ndarray:
        """(C,) number of images of every class."""
        return np.bincount(self.label, minlength=len(self.rows.features["label"].names))

    def summary(self) -> dict:
        """Everything but the images, ready for JSON."""
        names = self.rows.features["label"].names
        boxes, images = np.unique(self.num_boxes, return_counts=True)
        return {
            "images": len(self.rows),
            "unreadable": int((~self.readable).sum()),
            "turned_by_exif": self.turned,
            "classes": dict(zip(names, self.class_counts.tolist(), strict=True)),
            "images_by_number_of_boxes": dict(zip(map(str, boxes.tolist()), images.tolist(), strict=True)),
            "images_with_mask": self.num_masked,
            "width": _quantiles(self.size[self.readable, 0]),
            "height": _quantiles(self.size[self.readable, 1]),
            "box_area_share": _quantiles(self.box_areas),
            "box_area_histogram": {
                "edges": list(AREA_EDGES),
                "boxes": np.histogram(np.clip(self.box_areas, 0, 1), AREA_EDGES)[0].tolist(),
            },
        }


@dataclass(frozen=True)
class DataCheck:
    """What is in a data set, by split, and what was found in it.

    Args:
        splits: those that can be read; none where all entries are bad.
        findings: findings by kind.
        remarks: what was left out, and what was read as it was plainly meant.
    """

    splits: dict[str, SplitCheck]
    findings: list[Finding]
    remarks: list[str]

    @property
    def class_names(self) -> list[str]:
        return next(iter(self.splits.values())).rows.features["label"].names if self.splits else []

    @property
    def ok(self) -> bool:
        """Whether training may start."""
        return not any(finding.stops for finding in self.findings)

    def summary(self) -> dict:
        """The report, ready for JSON."""
        return {
            "ok": self.ok,
            "duplicates_by": "hash of the upright RGB pixels",
            "splits": {name: split.summary() for name, split in self.splits.items()},
            "findings": [
                {
                    "kind": finding.kind,
                    "title": KINDS[finding.kind].title,
                    "fix": KINDS[finding.kind].fix,
                    "stops_training": finding.stops,
                    "count": finding.count,
                    "listed": finding.listed,
                    "hint": finding.hint,
                }
                for finding in self.findings
            ],
            "remarks": self.remarks,
        }


class _Findings(dict[str, Finding]):
    """Findings by kind."""

    def add(self, kind: str, text: str) -> None:
        finding = self.setdefault(kind, Finding(kind, KINDS[kind].stops))
        finding.count += 1
        if len(finding.listed) < MAX_LISTED:
            finding.listed.append(text)


@dataclass(slots=True)
class _Measured:
    """What is kept of one image: see `SplitCheck`; `problems` are pairs of a kind and a text."""

    image_id: str
    size: tuple[int, int] = (0, 0)
    turned: bool = False
    num_boxes: int = 0
    box_areas: list[float] = field(default_factory=list)
    masked: bool = False
    digest: int = 0
    problems: list[tuple[str, str]] = field(default_factory=list)


def check_data(
    load: Callable[[str, Problems], Dataset | None],
    *,
    workers: int | None = None,
    tolerated: Collection[str] = (),
    test_fraction: float | None = None,
    progress: bool = False,
) -> DataCheck:
    """Reads every image of every split, several at a time, and keeps a few numbers of each.

    Images are the same where the upright RGB pixels are: identical files, and the same picture in another lossless
    format; not where it was scaled or compressed anew.

    Args:
        load: a split by its name, as `load_source` does it; it reports bad entries to the `Problems` that it is given.
        workers: threads; as many as there are cores by default.
        tolerated: keys of `KINDS` that do not stop training.
        test_fraction: share of the training images that is going to stand for a test split, where there is none.
        progress: show a bar.

    Raises:
        UsageError: no split can be read, or `workers` is below 1.
    """
    workers = workers if workers is not None else os.cpu_count() or 1
    if workers < 1:
        raise UsageError(f"workers must be at least 1, got {workers}.")
    findings = _Findings()
    remarks: list[str] = []
    sizes: dict[str, dict[str, tuple[int, int]]] = {}
    loaded = _load(load, findings, remarks, sizes)
    splits = {}
    for name, rows in loaded.items():
        splits[name] = _check_split(name, rows, findings, sizes[name], workers, progress)
    if test_fraction is not None and "train" in loaded and "test" not in loaded and "split" not in findings:
        try:
            split_share(loaded["train"], test_fraction, 0, purpose="test")
        except UsageError as error:
            findings.add("split", f"test: {error}")
    _find_missing_classes(splits, findings)
    _find_duplicates(splits, findings)
    for finding in findings.values():
        finding.stops &= finding.kind not in tolerated
    return DataCheck(splits, [findings[kind] for kind in KINDS if kind in findings], remarks)


def _load(
    load: Callable[[str, Problems], Dataset | None],
    findings: _Findings,
    remarks: list[str],
    sizes: dict[str, dict[str, tuple[int, int]]],
) -> dict[str, Dataset]:
    loaded, errors = {}, []
    for split in SPLITS:
        sizes[split] = {}
        problems = Problems(skip=True, read_images=False, sizes=sizes[split])
        try:
            rows = load(split, problems)
        except UsageError as error:
            errors.append(error)
            # What follows the first line are the bad entries, which are findings of their own.
            what = str(error).partition("\n")[0] if problems.count else error
            findings.add("split", f"{split}: {what}")
            rows = None
        remarks += [line if split in line else f"{line} ({split})" for line in problems.remarks()]
        for problem in problems.listed:
            findings.add("entry", f"{split}: {problem}")
        if problems.count > len(problems.listed):
            findings["entry"].count += problems.count - len(problems.listed)
        if problems.same_mistake:
            findings["entry"].hint = SAME_MISTAKE
        if rows is not None:
            loaded[split] = rows
    if not loaded and "entry" not in findings:
        raise errors[0] if errors else UsageError("the data set has no split.")
    return loaded


def _check_split(
    name: str, rows: Dataset, findings: _Findings, told: dict[str, tuple[int, int]], workers: int, progress: bool
) -> SplitCheck:
    count = len(rows)
    size, num_boxes = np.zeros((count, 2), np.int32), np.zeros(count, np.int32)
    digest, areas, bad_boxes, turned, masked = np.zeros(count, np.uint64), array("f"), [], 0, 0
    measured = in_order(_measure, undecoded(rows), workers=workers, ahead=4 * workers)
    for row, image in enumerate(tqdm(measured, total=count, desc=f"reading {name}", disable=not progress)):
        size[row], num_boxes[row], digest[row] = image.size, image.num_boxes, image.digest
        areas.extend(image.box_areas)
        turned += image.turned
        masked += image.masked
        for kind, text in image.problems:
            findings.add(kind, f"{name}: {text}")
        given = told.get(image.image_id)
        # 0 x 0 is what tools write that do not know.
        if given is not None and min(given) > 0 and given != image.size and image.size != (0, 0):
            width, height = image.size
            text = f"{image.image_id}: {given[0]} x {given[1]} in the annotation, {width} x {height} in the file"
            findings.add("size", f"{name}: {text}")
        if any(kind == "box" for kind, _ in image.problems):
            bad_boxes.append(row)
    return SplitCheck(
        rows=rows,
        label=labels(rows),
        readable=size[:, 0] > 0,
        size=size,
        turned=turned,
        num_boxes=num_boxes,
        box_areas=np.asarray(areas),
        num_masked=masked,
        bad_boxes=bad_boxes,
        digest=digest,
    )


def _measure(row: dict) -> _Measured:
    image_id, record = row["image_id"], row["image"]
    boxes = np.asarray(row["boxes"], np.float64).reshape(-1, 4)
    measured = _Measured(image_id, num_boxes=len(boxes))
    try:
        pixels = np.ascontiguousarray(decode_image(record, image_id))
        measured.turned = read_head(record, image_id).orientation != 1
        bits = low_bits(record, image_id) if pixels.max(initial=0) < _DARK else None
    except UsageError as error:
        measured.problems.append(("image", str(error)))
        return measured
    if bits is not None:
        measured.problems.append(("dark", f"{image_id}: {bits} of 16 bits"))
    height, width = pixels.shape[-2:]
    measured.size = (width, height)
    content = hashlib.blake2b(f"{width}x{height}".encode(), digest_size=_DIGEST_BYTES)
    content.update(pixels)
    measured.digest = int.from_bytes(content.digest(), "little")

    extent = boxes[:, 2:] - boxes[:, :2]
    measured.box_areas = (extent.prod(1) / (width * height)).tolist()
    empty = ~(np.isfinite(boxes).all(1) & (extent > 0).all(1))
    if empty.any():
        shown = [round(value, 2) for value in boxes[empty][0].tolist()]
        measured.problems.append(("box", f"{image_id}: the box {shown} (x0, y0, x1, y1) has no area."))
    outside = outside_problem(boxes, (width, height), record, image_id)
    if outside is not None:
        measured.problems.append(("box", f"{image_id}: {' '.join(outside)}"))

    masks, ignore = mask_cells(row)
    measured.masked = bool(masks)
    if masks:
        try:
            mask, _ = decode_masks(masks, ignore, (width, height), image_id)
        except UsageError as error:
            measured.problems.append(("mask", str(error)))
        else:
            if not mask.any():
                measured.problems.append(("empty_mask", image_id))
    return measured


def _find_missing_classes(splits: dict[str, SplitCheck], findings: _Findings) -> None:
    for name, split in splits.items():
        kind = "untrained_class" if name == "train" else "untested_class"
        names = split.rows.features["label"].names
        for label in np.flatnonzero(split.class_counts == 0):
            findings.add(kind, f"{name}: {names[label]}")


def _find_duplicates(splits: dict[str, SplitCheck], findings: _Findings) -> None:
    names = list(splits)
    rows = [np.flatnonzero(split.readable) for split in splits.values()]
    if not rows:
        return
    split_of = np.repeat(np.arange(len(names)), [len(found) for found in rows])
    row_of = np.concatenate(rows)
    digest = np.concatenate([split.digest[found] for split, found in zip(splits.values(), rows, strict=True)])
    # Equal digests stand together, in the order of splits and rows.
    order = np.argsort(digest, kind="stable")
    starts = np.flatnonzero(np.diff(digest[order], prepend=~digest[order][:1]))
    sizes = np.diff(starts, append=len(order))
    for start, size in zip(starts[sizes > 1], sizes[sizes > 1], strict=True):
        group = order[start : start + size]
        shown = " = ".join(splits[names[split_of[i]]].rows[int(row_of[i])]["image_id"] for i in group[:5])
        found_in = np.unique(split_of[group])
        if len(found_in) > 1:
            findings.add("leak", shown)
        for number in found_in:
            members = row_of[group[split_of[group] == number]]
            if len(set(splits[names[number]].label[members].tolist())) > 1:
                findings.add("conflict", f"{names[number]}: {shown}")
            elif len(members) > 1:
                findings.add("duplicate", f"{names[number]}: {shown}")


def _quantiles(values: np.ndarray) -> dict[str, float] | None:
    if len(values) == 0:
        return None
    return {name: round(float(np.quantile(values, share)), 4) for name, share in _QUANTILES.items()}
