"""The boxes of class folders, in the metadata files of `datasets`' imagefolder: JSON lines, CSV or Parquet."""

from __future__ import annotations

import ast
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sat_peft.data.box_formats import to_xyxy
from sat_peft.data.sources.files import METADATA_NAMES, ImageFinder, is_system_folder
from sat_peft.data.sources.records import Problems
from sat_peft.files import FileProblem, is_file, is_number, parse_json, path_problem, read_csv, read_lines, shown
from sat_peft.files.paths import lies_below
from sat_peft.files.readers import parse_number

_OBJECTS = "objects"
_BOX_NAMES = ("bbox", "bboxes", "box", "boxes", "bounding_box", "bounding_boxes")
_EXPECTED = (
    'Write a row as {"file_name": …, "objects": {"bbox": [[x, y, width, height], …]}}, in pixels from 0, with x, y '
    ">= 0 and width, height > 0."
)
_LONGEST_LITERAL = 100_000


@dataclass(frozen=True, slots=True)
class MetadataRow:
    """What metadata say of one image: (n, 4) xyxy boxes in pixels, and where."""

    boxes: np.ndarray
    file: Path
    number: int

    @property
    def where(self) -> str:
        return f"{self.file}, line {self.number}"


def _json_lines(file: Path, problems: Problems) -> Iterator[tuple[int, object]]:
    for number, line in read_lines(file):
        row = problems.read(lambda _, line=line, number=number: parse_json(line, f"{file}, line {number}"), file)
        if row is not None:
            yield number, row


def _parquet(file: Path) -> Iterator[tuple[int, object]]:
    problem = path_problem(file)
    if problem is not None:
        raise problem
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        number = 0
        for batch in pq.ParquetFile(file).iter_batches():
            for row in batch.to_pylist():
                number += 1
                yield number, row
    except (pa.ArrowException, OSError, ValueError, MemoryError) as error:
        raise FileProblem(file, f"it is no Parquet file ({str(error)[:200]}).", "Replace it.") from error


def _rows(file: Path, problems: Problems) -> Iterator[tuple[int, object]]:
    """(number from 1, row) of a metadata file; whatever is wrong with the file is reported."""
    readers = {".jsonl": lambda: _json_lines(file, problems), ".csv": lambda: read_csv(file, ("file_name",))}
    rows = readers.get(file.suffix.lower(), lambda: _parquet(file))()
    while True:
        try:
            row = next(rows, None)
        except FileProblem as error:
            problems.add(error.where, error.what, error.fix)
            return
        if row is None:
            return
        yield row


def _literal(value: object, where: str) -> object:
    """The value that a cell of a table writes as text, in JSON or as Python prints it."""
    if not isinstance(value, str) or not value.strip():
        return value or None
    try:
        return parse_json(value, where)
    except FileProblem:
        try:
            return ast.literal_eval(value[:_LONGEST_LITERAL].strip())
        except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
            return value


def _box_column(row: dict, problems: Problems) -> object:
    """The cell of boxes in a row, or in its structure of objects; None without one."""
    objects = row.get(_OBJECTS)
    if isinstance(objects, list) and all(isinstance(each, dict) for each in objects):
        objects = {key: [each.get(key) for each in objects] for each in objects for key in each}
    if objects is not None and not isinstance(objects, dict):
        return objects
    for place in (objects or {}, row):
        for name in _BOX_NAMES:
            if place.get(name) not in (None, ""):
                return place[name]
    for name in (*(objects or {}), *row):
        if isinstance(name, str) and "box" in name.lower() and name.lower() not in _BOX_NAMES:
            problems.note(f"metadata rows with {name!r}, which is not read: boxes are `objects.bbox` or `bbox`")
    return None


def _boxes(row: dict, where: str, problems: Problems) -> np.ndarray | None:
    """The xyxy boxes of one metadata row; None after a problem."""
    row = row | {name: _literal(row[name], where) for name in (_OBJECTS, *_BOX_NAMES) if name in row}
    found = _box_column(row, problems)
    if found is None:
        return np.zeros((0, 4))
    boxes = [found] if isinstance(found, list) and len(found) == 4 and not isinstance(found[0], list) else found
    if not isinstance(boxes, list):
        problems.add(where, f"boxes must be lists of four numbers, got {shown(boxes)}.", _EXPECTED)
        return None
    checked = []
    for box in boxes:
        numbers = [parse_number(value) if isinstance(value, str) else value for value in box] if _is_four(box) else []
        sound = len(numbers) == 4 and all(map(is_number, numbers)) and numbers[0] >= 0 and numbers[1] >= 0
        if not sound or not (numbers[2] > 0 and numbers[3] > 0):
            what = (
                f"a box must be [x, y, width, height] in pixels with x, y >= 0 and width, height > 0, got {shown(box)}."
            )
            problems.add(where, what, _EXPECTED)
            return None
        checked.append(numbers)
    return to_xyxy(checked, "xywh")


def _is_four(box: object) -> bool:
    return isinstance(box, list) and len(box) == 4


def _files_below(folder: Path, seen: set[tuple[int, int]]) -> list[Path]:
    """The metadata files below a folder; whatever cannot be listed is told when the images are looked for."""
    found, folders = [], []
    try:
        status = os.stat(folder)
        if (status.st_dev, status.st_ino) in seen:
            return []
        seen.add((status.st_dev, status.st_ino))
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name in METADATA_NAMES:
                    found.append(Path(entry.path))
                elif entry.is_dir() and not is_system_folder(entry.name):
                    folders.append(Path(entry.path))
    except OSError:
        return found
    return sorted(found) + [file for below in sorted(folders) for file in _files_below(below, seen)]


def metadata_files(root: Path, folder: Path) -> list[Path]:
    """The metadata files of a split: those below its folder, and those in the root of all splits."""
    below = _files_below(folder, set())
    above = [root / name for name in METADATA_NAMES if folder != root and is_file(root / name)]
    return above + below


def read_metadata(root: Path, folder: Path, *, first: bool, problems: Problems) -> dict[str, MetadataRow]:
    """What the metadata files say of the images of a split, by path.

    Args:
        root: root of the data set, absolute.
        folder: folder of the split, absolute; the root itself where there are no splits.
        first: whether this split reports the rows, in files of all splits, that are of no image at all.
        problems: gets what is wrong with the files and their rows.
    """
    found: dict[str, MetadataRow] = {}
    for file in metadata_files(root, folder):
        shared = not lies_below(file, folder) and folder != root
        finder = ImageFinder(file.parent, root, problems)
        for number, row in _rows(file, problems):
            where = f"{file}, line {number}"
            if not isinstance(row, dict) or not isinstance(row.get("file_name"), str):
                problems.add(where, f"a row needs a `file_name`, got {shown(row)}.", _EXPECTED)
                continue
            noted = problems if first or not shared else Problems(skip=True)
            image = finder.find(row["file_name"], where, noted)
            if image is None or not lies_below(image, folder):
                continue
            boxes = _boxes(row, where, problems)
            if boxes is None:
                continue
            before = found.get(str(image))
            if before is None:
                found[str(image)] = MetadataRow(boxes, file, number)
            elif before.file == file or not np.array_equal(before.boxes, boxes):
                what = f"the image {shown(row['file_name'])} has a row already ({before.where})."
                problems.add(where, what, "Remove one of the two.")
    return found
