"""From the records of a source to a memory-mapped `datasets.Dataset`."""

from __future__ import annotations

import atexit
import os
import shutil
import stat
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from functools import cache
from itertools import islice
from pathlib import Path

import numpy as np
import psutil
import pyarrow.compute
from datasets import Dataset, config
from datasets.arrow_writer import ArrowWriter
from huggingface_hub.constants import HF_HUB_CACHE

from sat_peft.data.box_formats import seem_relative
from sat_peft.data.decoding import decode_image, decode_masks, outside_problem
from sat_peft.data.features import localization_features
from sat_peft.data.sources.records import Problems, Record, SourceSplit
from sat_peft.errors import UsageError
from sat_peft.files import respelled, spelled
from sat_peft.files.paths import shown_path

# Of folders for the rows of data sets, before the number of the process.
_TEMPORARY = "sat_peft-rows-"
_ORPHAN_SECONDS = 3600
_LARGEST_PIXEL = 1e7
_ADD = "Add it, or remove its entry."
_OUTSIDE = "lies outside of the data's folder"
_ALLOW = "Copy it into the folder, or take --allow-outside."
# What boxes in pixels are whose numbers are none, and the fix.
SHARES_AS_PIXELS = (
    "lies in the first pixel of its image: its numbers seem to be shares of the image's sides, from 0 to 1.",
    "Write boxes in pixels: multiply x and width by the image's width, y and height by its height.",
)


def _file_cell(path: Path) -> dict:
    return {"bytes": None, "path": str(path)}


def new_arrow_file() -> str:
    """The path of a file that is removed at the end of the process; after a kill, by a later process."""
    _remove_orphans()
    folder = tempfile.mkdtemp(prefix=f"{_TEMPORARY}{os.getpid()}-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return str(Path(folder) / "rows.arrow")


@cache
def _remove_orphans() -> None:
    """Removes the files of processes that were killed; of old ones alone, since containers may share the folder."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_TEMPORARY}*-*"):
        process = folder.name.removeprefix(_TEMPORARY).partition("-")[0]
        with suppress(OSError):
            old = time.time() - folder.stat().st_mtime > _ORPHAN_SECONDS
            if old and process.isdecimal() and not psutil.pid_exists(int(process)):
                shutil.rmtree(folder, ignore_errors=True)


def box_text(box) -> str:
    """An xyxy box for a message."""
    return f"the box {[round(float(value), 2) for value in box]} (x0, y0, x1, y1)"


def checked_boxes(where: str, boxes, problems: Problems) -> list[list[float]] | None:
    """(n, 4) xyxy boxes in pixels as lists; None after a problem."""
    if len(boxes) == 0:
        return []
    boxes = np.asarray(boxes, np.float64).reshape(-1, 4).tolist()
    bad = next((box for box in boxes if not has_area(box)), None)
    if bad is not None:
        problems.add(where, f"{box_text(bad)} has no area.", "Repair or remove the box.")
        return None
    if seem_relative(boxes):
        problems.add(where, f"{box_text(boxes[0])} {SHARES_AS_PIXELS[0]}", SHARES_AS_PIXELS[1])
        return None
    return boxes


def has_area(box: list[float]) -> bool:
    """Whether an xyxy box has an area, within the largest of images."""
    x0, y0, x1, y1 = box
    return -_LARGEST_PIXEL < x0 < x1 < _LARGEST_PIXEL and -_LARGEST_PIXEL < y0 < y1 < _LARGEST_PIXEL


def _place(record: Record) -> str:
    """What names the boxes of a record in messages."""
    return f"{record.where} ({record.image_id})" if record.where else record.image_id


def _is_inside(folders: Sequence[Path]) -> Callable[[Path], bool]:
    """Whether a path lies below one of `folders`, wherever links and `..` lead: a data set that somebody else made must
    not carry pictures of this machine into a report.
    """
    homes = tuple(os.path.join(os.path.realpath(folder), "") for folder in folders)
    real_folder = cache(os.path.realpath)

    def is_inside(path: Path) -> bool:
        folder, name = os.path.split(os.path.abspath(path) if ".." not in path.parts else os.path.realpath(path))
        real = os.path.join(real_folder(folder), name)
        if os.path.islink(real):
            real = os.path.realpath(real)
        return real.startswith(homes)

    return is_inside


def _inside(records: Iterator[Record], folders: Sequence[Path], problems: Problems) -> Iterator[Record]:
    """The records all of whose files lie below one of `folders`."""
    is_inside = _is_inside(folders)
    for record in records:
        foreign = next((path for path in (record.image, *record.masks, *record.ignore) if not is_inside(path)), None)
        if foreign is None:
            yield record
        else:
            what = f"{shown_path(foreign)} {_OUTSIDE} {shown_path(folders[0])}."
            problems.add(record.where or record.image_id, what, _ALLOW)


def check_rows_inside(rows: Dataset, folder: Path | None, where: str) -> None:
    """Raises `UsageError` if images of rows that are no `SourceSplit` are files outside of `folder` and of the caches
    of `datasets`, which unpacks there what it loads.
    """
    caches = (config.HF_DATASETS_CACHE, config.DOWNLOADED_DATASETS_PATH, config.EXTRACTED_DATASETS_PATH, HF_HUB_CACHE)
    is_inside = _is_inside([*([folder] if folder else ()), *map(Path, caches)])
    for name in ("image", "mask"):
        for cells in rows.data.column(name).chunks if name in rows.features else ():
            paths, encoded = cells.field("path"), cells.field("bytes")
            for path in paths.filter(pyarrow.compute.is_null(encoded)).drop_null().to_pylist():
                if not is_inside(Path(path)):
                    home = f" {shown_path(folder)}" if folder else ""
                    raise UsageError(f"{where}: {shown_path(path)} {_OUTSIDE}{home}. {_ALLOW}")


def _file_problem(record: Record) -> tuple[str | Path, str, str] | None:
    """What is wrong with the files of a record, without reading them."""
    for path in (record.image, *record.masks, *record.ignore):
        try:
            status = os.stat(path)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or "no file can have this name"
            what = f"the file cannot be found or opened ({reason})."
            return record.where or path, f"{path.name!r}: {what}" if record.where else what, _ADD
        if not stat.S_ISREG(status.st_mode):
            return path, "it is a folder or device where an image is expected.", "Replace or remove it."
        if status.st_size == 0:
            return path, "the file is empty.", "Replace or remove it."
    return None


def _respelled(record: Record) -> Record:
    """The record, whose image may be written in another encoding of the same text."""
    if str(record.image).isascii():
        return record
    return replace(record, image=respelled(record.image))


def _image_problem(record: Record) -> tuple[str | Path, str, str] | None:
    """What is wrong with a record, its image read."""
    problem = _file_problem(record)
    if problem is not None:
        return problem
    image = _file_cell(record.image)
    masks, ignore = ([_file_cell(path) for path in paths] for paths in (record.masks, record.ignore))
    try:
        height, width = decode_image(image, record.image_id).shape[-2:]
        problem = outside_problem(record.boxes, (width, height), image, record.image_id)
        if problem is None and masks:
            decode_masks(masks, ignore, (width, height), record.image_id)
    except UsageError as error:
        return record.image, str(error), ""
    return None if problem is None else (_place(record), *problem)


def _usable(records: Iterator[Record], problems: Problems) -> Iterator[Record]:
    """The records whose files exist; where bad entries are skipped, those whose images can be decoded."""
    if not (problems.skip and problems.read_images):
        for record in map(_respelled, records):
            problem = _file_problem(record)
            if problem is None:
                yield record
            else:
                problems.add(*problem)
        return
    # Nothing may fail later, in the middle of a training, so every image is read once. Decoding releases the GIL.
    with ThreadPoolExecutor() as pool:
        while chunk := [_respelled(record) for record in islice(records, 256)]:
            for record, problem in zip(chunk, pool.map(_image_problem, chunk), strict=True):
                if problem is None:
                    yield record
                else:
                    problems.add(*problem)


def _is_text(name: str) -> bool:
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:  # half of a surrogate pair, as JSON may escape it
        return False
    return True


def check_class_names(names: Sequence[str], where: str) -> None:
    """Raises `UsageError` for a name that is empty, no text, or there twice."""
    for name, count in Counter(names).items():
        if count > 1:
            raise UsageError(f"{where} has the class {name!r} {count} times. Rename or remove all but one.")
        if not name.strip() or not _is_text(name):
            raise UsageError(f"{where} has a class with the name {name!a}. Give it a name that can be read.")


def unusable(what: str, problems: Problems, layout: str) -> UsageError:
    """The error about a split of which nothing is left: `what`, and the reasons that its entries were left out for."""
    reasons = [*problems.digest(), *problems.remarks()]
    # The layout is told where nothing else explains it.
    return UsageError(f"{what} {layout}" if not reasons else "\n  ".join([what, *reasons]))


def build_dataset(
    split: SourceSplit, problems: Problems, *, where: str, layout: str, inside: Sequence[Path] = ()
) -> Dataset:
    """Writes the records to an Arrow file of the process, removed at its end, and maps it into memory.

    Args:
        split: read once.
        problems: gets entries that cannot be used.
        where: the data set and split, for messages.
        layout: layout of the source, for messages.
        inside: folders of the data set, the root first; an image outside of them is a bad entry. None for any place.

    Raises:
        UsageError: no usable image, fewer than two classes, or, unless they are skipped, a bad entry.
    """
    class_names = [spelled(name) for name in split.class_names]
    if len(class_names) < 2:
        raise unusable(f"{where} has {len(class_names)} classes; at least two are needed.", problems, layout)
    check_class_names(class_names, where)
    features = localization_features(class_names, with_mask=split.has_masks, several_masks=True)
    file = new_arrow_file()
    # Hashes, not texts: a million identifiers as Python strings take several times the room.
    seen: set[int] = set()
    count = 0
    with ArrowWriter(path=file, features=features) as writer:
        records = _inside(split.records, inside, problems) if inside else split.records
        for record in _usable(records, problems):
            key = hash(record.image_id)
            if key in seen:
                problems.add(record.image_id, "the image is listed twice.", "Remove one of its entries.")
                continue
            boxes = checked_boxes(_place(record), record.boxes, problems)
            if boxes is None:
                continue
            if not record.image_id.isascii() and not _is_text(record.image_id):
                problems.add(record.image_id, "the name of the image is no text.", "Rename it.")
                continue
            seen.add(key)
            if record.size is not None and problems.sizes is not None:
                problems.sizes[record.image_id] = record.size
            row = {
                "image_id": record.image_id,
                "image": _file_cell(record.image),
                "label": record.label,
                "boxes": boxes,
            }
            if split.has_masks:
                row["mask"] = [_file_cell(path) for path in record.masks]
                row["ignore"] = [_file_cell(path) for path in record.ignore]
            writer.write(row)
            count += 1
        if count == 0:
            skipped = f" ({problems.count} bad entries were left out)" if problems.count else ""
            raise unusable(f"{where} holds no usable images{skipped}.", problems, layout)
        writer.finalize()
    return Dataset.from_file(file)
