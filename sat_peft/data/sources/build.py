"""From the records of a source to a memory-mapped `datasets.Dataset`."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import numpy as np
from datasets import Dataset
from datasets.arrow_writer import ArrowWriter
from datasets.fingerprint import get_temporary_cache_files_directory

from sat_peft.data.decoding import decode_image, outside_problem
from sat_peft.data.features import localization_features
from sat_peft.data.sources.records import Problems, Record, SourceSplit
from sat_peft.errors import UsageError


def _file_cell(path: Path) -> dict:
    return {"bytes": None, "path": str(path)}


def new_arrow_file() -> str:
    """The path of a file that is removed at the end of the process."""
    return str(Path(tempfile.mkdtemp(dir=get_temporary_cache_files_directory())) / "rows.arrow")


def checked_boxes(image_id: str, boxes, problems: Problems) -> list[list[float]] | None:
    """(n, 4) xyxy boxes as lists; None after a problem."""
    boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
    bad = ~np.isfinite(boxes).all(1) | (boxes[:, 2] <= boxes[:, 0]) | (boxes[:, 3] <= boxes[:, 1])
    if bad.any():
        shown = [round(value, 2) for value in boxes[bad][0].tolist()]
        problems.add(image_id, f"the box {shown} (x0, y0, x1, y1) has no area.", "Repair or remove the box.")
        return None
    return boxes.tolist()


def _file_problem(record: Record) -> tuple[str | Path, str, str] | None:
    """What is wrong with the files of a record, without reading them."""
    for path in (record.image, *record.masks, *record.ignore):
        try:
            size = path.stat().st_size
        except OSError as error:
            return path, f"the file cannot be found or opened ({error.strerror}).", "Add it, or remove its entry."
        if size == 0:
            return path, "the file is empty.", "Replace or remove it."
    return None


def _image_problem(record: Record) -> tuple[str | Path, str, str] | None:
    """What is wrong with a record, its image read."""
    problem = _file_problem(record)
    if problem is not None:
        return problem
    image = _file_cell(record.image)
    try:
        height, width = decode_image(image, record.image_id).shape[-2:]
        problem = outside_problem(record.boxes, (width, height), image, record.image_id)
    except UsageError as error:
        return record.image, str(error), ""
    return None if problem is None else (record.image_id, *problem)


def _usable(records: Iterator[Record], problems: Problems) -> Iterator[Record]:
    """The records whose files exist; where bad entries are skipped, those whose images can be decoded."""
    if not problems.skip:
        for record in records:
            problem = _file_problem(record)
            if problem is not None:
                problems.add(*problem)
            yield record
        return
    # Nothing may fail later, in the middle of a training, so every image is read once. Decoding releases the GIL.
    with ThreadPoolExecutor() as pool:
        while chunk := list(islice(records, 256)):
            for record, problem in zip(chunk, pool.map(_image_problem, chunk), strict=True):
                if problem is None:
                    yield record
                else:
                    problems.add(*problem)


def build_dataset(split: SourceSplit, problems: Problems, *, where: str, layout: str) -> Dataset:
    """Writes the records to an Arrow file of the process, removed at its end, and maps it into memory.

    Args:
        split: read once.
        problems: gets entries that cannot be used.
        where: the data set and split, for messages.
        layout: of the source, for messages.

    Raises:
        UsageError: no usable image, fewer than two classes, or, unless they are skipped, a bad entry.
    """
    if len(split.class_names) < 2:
        raise UsageError(f"{where} has {len(split.class_names)} classes; at least two are needed. {layout}")
    features = localization_features(split.class_names, with_mask=split.has_masks, several_masks=True)
    file = new_arrow_file()
    # Hashes, not texts: a million identifiers as Python strings take several times the room.
    seen: set[int] = set()
    count = 0
    with ArrowWriter(path=file, features=features) as writer:
        for record in _usable(split.records, problems):
            key = hash(record.image_id)
            if key in seen:
                problems.add(record.image_id, "the image is listed twice.", "Remove one of its entries.")
                continue
            boxes = checked_boxes(record.image_id, record.boxes, problems)
            if boxes is None:
                continue
            seen.add(key)
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
            raise UsageError(f"{where} holds no usable images{skipped}. {layout}")
        writer.finalize()
    return Dataset.from_file(file)
