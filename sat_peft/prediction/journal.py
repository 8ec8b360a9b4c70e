"""What is done, image by image: the truth from which a broken-off prediction goes on and annotations are written.

Every process appends to a file of its own, so that processes never wait for each other. A line is the prediction of an
image, or why there is none. The last line of an image counts.
"""

from __future__ import annotations

import json
import os
import typing
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

from sat_peft.data.writing import Prediction
from sat_peft.files import FileProblem, check_values, parse_json, path_problem, shown

_PATTERN = "journal-*.jsonl"
_FAILURE = {"image_id": str, "error": str}


def _files(folder: Path) -> list[Path]:
    """The journals of a folder. Raises `FileProblem` for one that cannot be read."""
    files = sorted(folder.glob(_PATTERN))
    for file in files:
        problem = path_problem(file)
        if problem is not None:
            raise problem
    return files


def repair(folder: Path) -> None:
    """Cuts off the lines that a killed process, or a full disk, left without their end."""
    for file in _files(folder):
        with file.open("rb+") as journal:
            size = journal.seek(0, os.SEEK_END)
            end = size
            while end > 0:
                start = max(0, end - 65536)
                journal.seek(start)
                newline = journal.read(end - start).rfind(b"\n")
                if newline >= 0:
                    end = start + newline + 1
                    break
                end = start
            if end < size:
                journal.truncate(end)


def _row(line: bytes, path: Path, number: int | None = None) -> dict:
    """The prediction, or the failure, that a line of a journal tells."""
    where = f"{path}, line {number}" if number is not None else path
    try:
        row = parse_json(line, where)
        hints = _FAILURE if isinstance(row, dict) and "error" in row else typing.get_type_hints(Prediction)
        found = {name: row.get(name) if isinstance(row, dict) else None for name in hints}
        check_values(where, found, hints)
        if hints is not _FAILURE and (row.keys() - hints or len(row["image_size"]) != 2 or not _are_boxes(row)):
            raise FileProblem(where, f"it is no prediction, but {shown(row)}.")
    except FileProblem as error:
        raise FileProblem(
            where, f"the line is damaged ({error.what})", "Remove it: its image is then predicted again."
        ) from error
    return row


def _are_boxes(row: dict) -> bool:
    return bool(row["boxes"]) and all(len(box) == 4 for box in row["boxes"])


class Journal:
    """The journal of a folder, as it was when it was opened. It holds where the lines are, not the lines.

    Raises:
        UsageError: a line that is none of this package.
    """

    def __init__(self, folder: Path):
        self.failures: dict[str, str] = {}
        self._places: dict[str, tuple[Path, int]] = {}
        for path in _files(folder):
            with path.open("rb") as file:
                offset = 0
                for number, line in enumerate(file, 1):
                    self._note(line, path, number, offset)
                    offset += len(line)

    def _note(self, line: bytes, path: Path, number: int, offset: int) -> None:
        row = _row(line, path, number)
        image_id = row["image_id"]
        if "error" not in row:
            self._places[image_id] = (path, offset)
            self.failures.pop(image_id, None)
        elif image_id not in self._places:
            self.failures[image_id] = row["error"]

    def __contains__(self, image_id: str) -> bool:
        """Whether the image has a prediction. One that could not be read has none, and is tried again."""
        return image_id in self._places

    def predictions(self, image_ids: Iterable[str]) -> Iterator[Prediction]:
        """The predictions of those of `image_ids` that have one, in that order."""
        files = {path: path.open("rb") for path in {path for path, _ in self._places.values()}}
        try:
            for image_id in image_ids:
                if image_id in self._places:
                    path, offset = self._places[image_id]
                    files[path].seek(offset)
                    row = _row(files[path].readline(), path)
                    yield Prediction(**(row | {"image_size": tuple(row["image_size"])}))
        finally:
            for file in files.values():
                file.close()


class JournalWriter(AbstractContextManager):
    """Appends the lines of one process."""

    def __init__(self, folder: Path, process: int):
        self._file = (folder / f"journal-{process}.jsonl").open("ab", buffering=0)

    def write(self, predictions: Iterable[Prediction], failures: dict[str, str]) -> None:
        """Writes the lines of a batch and waits until they are on disk."""
        rows = [vars(prediction) for prediction in predictions]
        rows += [{"image_id": image_id, "error": reason} for image_id, reason in failures.items()]
        lines = memoryview("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode())
        while lines:
            # An almost full disk takes a part, and says so at the next write.
            lines = lines[self._file.write(lines) :]
        os.fsync(self._file.fileno())

    def __exit__(self, *error) -> None:
        self._file.close()
