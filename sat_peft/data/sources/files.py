"""Reading what data sets are made of: folders, text lists, tables and XML, with the place of every mistake."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterator
from pathlib import Path
from xml.etree.ElementTree import Element, ParseError

from defusedxml.common import DefusedXmlException
from defusedxml.ElementTree import parse as parse_xml

from sat_peft.data.sources.records import Problems
from sat_peft.errors import UsageError

# The names that the splits have in the layouts of people, the first that exists is taken.
SPLIT_NAMES = {"train": ("train",), "validation": ("validation", "val", "valid", "dev"), "test": ("test",)}
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm")
ARCHIVE_SUFFIXES = (".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz", ".zip", ".7z", ".rar")


def require_folder(path: Path, layout: str) -> Path:
    """`path`, if it is a folder; else a `UsageError` that tells the `layout`. Archives are not read."""
    if path.is_file() and path.name.lower().endswith(ARCHIVE_SUFFIXES):
        raise UsageError(f"{str(path)!r} is an archive, which is not read. Extract it and name the folder. {layout}")
    if not path.is_dir():
        raise UsageError(f"the folder {str(path)!r} does not exist. {layout}")
    return path


def require_file(path: Path, layout: str) -> Path:
    """`path`, if it is a file; else a `UsageError` that tells the `layout`."""
    if not path.is_file():
        raise UsageError(f"the file {str(path)!r} does not exist. {layout}")
    return path


def class_folders(folder: Path) -> list[str]:
    """The names of the visible folders in `folder`, sorted."""
    return sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith("."))


def image_files(folder: Path, problems: Problems, _above: tuple[tuple[int, int], ...] = ()) -> Iterator[Path]:
    """The visible image files below `folder`, in the order of their paths, by suffix; links are followed.

    A link to a folder that it stands in is left out, a folder that cannot be listed and a name that is not UTF-8 are
    reported.
    """
    status = folder.stat()
    here = (status.st_dev, status.st_ino)
    if here in _above:
        return  # Every image there has been found already.
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except PermissionError:
        problems.add(folder, "the folder cannot be listed.", "Give yourself the permission to read it.")
        return
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if not entry.name.isprintable() and _undecodable(entry.name):
            shown = os.fsencode(entry.path).decode("utf-8", "backslashreplace")
            problems.add(shown, "the name is not encoded in UTF-8.", "Rename it.")
        elif entry.is_dir():
            yield from image_files(Path(entry.path), problems, (*_above, here))
        elif entry.name.lower().endswith(IMAGE_SUFFIXES):
            yield Path(entry.path)


def _undecodable(name: str) -> bool:
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return True
    return False


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """(line number from 1, text without its end) of every line of a UTF-8 file that is not blank.

    Raises:
        UsageError: the file is missing or not UTF-8.
    """
    try:
        # Universal newlines alone, not splitlines(), which also splits where a name may hold a separator as it is.
        with path.open(encoding="utf-8-sig") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield number, line.rstrip("\n")
    except FileNotFoundError as error:
        raise UsageError(f"the file {str(path)!r} does not exist.") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not encoded in UTF-8 ({error}). Save it as UTF-8.") from error


def read_csv(path: Path, columns: tuple[str, ...]) -> Iterator[tuple[int, dict[str, str]]]:
    """(line number, row) of a comma-separated table with a header that has at least `columns`.

    Raises:
        UsageError: the file is missing, not UTF-8, or lacks a column.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            table = csv.DictReader(file)
            missing = [name for name in columns if name not in (table.fieldnames or ())]
            if missing:
                raise UsageError(
                    f"{path} has no column {', '.join(missing)}; it has {', '.join(table.fieldnames or ())}."
                )
            for row in table:
                yield table.line_num, row
    except FileNotFoundError as error:
        raise UsageError(f"the file {str(path)!r} does not exist.") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not encoded in UTF-8 ({error}). Save it as UTF-8.") from error


def read_json(path: Path) -> object:
    """The content of a JSON file.

    Raises:
        UsageError: the file is missing or no JSON.
    """
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise UsageError(f"the file {str(path)!r} does not exist.") from error
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UsageError(f"{path} is no JSON ({error}).") from error


def read_xml(path: Path, problems: Problems) -> Element | None:
    """The root of an XML file, without external entities and without expanding any; None after a problem."""
    try:
        return parse_xml(path, forbid_dtd=True).getroot()
    except FileNotFoundError:
        problems.add(path, "the annotation file does not exist.", "Add it, or remove the image.")
    except ParseError as error:
        problems.add(path, f"it is no XML ({error}).", "Repair or remove the file.")
    except DefusedXmlException as error:
        problems.add(path, f"it declares entities, which are not read ({error}).", "Write it without a DTD.")
    return None


def numbers(
    text: str, count: int, where: str, problems: Problems, *, separator: str | None = None
) -> list[float] | None:
    """`count` finite numbers in `text`; None after a problem."""
    try:
        values = [float(word) for word in text.split(separator)]
    except ValueError:
        values = []
    if len(values) != count or not all(abs(value) < float("inf") for value in values):
        problems.add(where, f"expected {count} numbers, got {text[:80]!r}.", "Repair or remove the line.")
        return None
    return values
