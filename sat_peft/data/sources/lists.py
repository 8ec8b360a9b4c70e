"""What the lists of research data sets share: columns, identifiers that several files must agree on, class names."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from sat_peft.data.sources.records import Problems
from sat_peft.errors import UsageError
from sat_peft.files import FileProblem, read_lines, shown

# CUB-200-2011 writes 001.Black_footed_Albatross, Stanford Dogs n02085620-Chihuahua.
_PREFIX = re.compile(r"^(\d+\.|n\d{8}-)(?=.)")


def line(path: Path, number: int) -> str:
    """The place of a line, for messages."""
    return f"{path}, line {number}"


def first_existing(root: Path, *names: str) -> Path | None:
    """The first of the files and folders `names` below `root` that exists, or None."""
    return next((root / name for name in names if os.path.exists(root / name)), None)


def read_columns(
    path: Path, count: int, problems: Problems, *, separator: str | None = None, rest: str = "last"
) -> Iterator[tuple[int, list[str]]]:
    """(line number, columns) of every line of a text file; a line with another number of columns is reported.

    Args:
        path: a UTF-8 file.
        count: number of the columns.
        problems: gets the lines that have more or fewer.
        separator: between two columns; None for white space.
        rest: the `first` or the `last` column may hold the separator itself.

    Raises:
        UsageError: the file is missing or not UTF-8.
    """
    for number, text in read_lines(path):
        text = text.strip()
        columns = text.split(separator, count - 1) if rest == "last" else text.rsplit(separator, count - 1)
        if len(columns) == count:
            yield number, [column.strip() for column in columns]
        else:
            shown = repr(separator) if separator else "white space"
            problems.add(
                line(path, number),
                f"expected {count} columns with {shown} between them, got {text[:80]!r}.",
                "Repair or remove the line.",
            )


def read_keyed(path: Path, problems: Problems, *, separator: str | None = None) -> dict[str, tuple[int, str]]:
    """key -> (line number, the rest of the line), of a file with a key in front of every line.

    A key without anything behind it and a key that was there before are reported.
    """
    found: dict[str, tuple[int, str]] = {}
    for number, (key, value) in read_columns(path, 2, problems, separator=separator):
        if key in found:
            problems.add(line(path, number), f"{key!r} has a line already ({found[key][0]}).", "Remove one of the two.")
        else:
            found[key] = (number, value)
    return found


def common_keys(tables: dict[Path, dict[str, tuple[int, str]]], problems: Problems) -> list[str]:
    """The keys that all tables have, in the order of the first; a key that one of them lacks is reported.

    Args:
        tables: tables by file, as `read_keyed` returns them.
        problems: gets, once, every key that is not in all of them.
    """
    common = set.intersection(*(set(table) for table in tables.values()))
    reported: set[str] = set()
    for path, table in tables.items():
        for key in [key for key in table if key not in common and key not in reported]:
            lacking = next(other for other, others in tables.items() if key not in others)
            reported.add(key)
            problems.add(
                line(path, table[key][0]), f"{key!r} is not in {lacking}.", "Add it there, or remove it everywhere."
            )
    return [key for key in next(iter(tables.values())) if key in common]


def read_names(path: Path) -> list[str]:
    """The names of classes, one in every line.

    Raises:
        FileProblem: the file cannot be read, or names a class twice.
    """
    found: dict[str, int] = {}
    for number, text in read_lines(path):
        name = text.strip()
        if found.setdefault(name, number) != number:
            what = f"the class {shown(name)} has a line already ({found[name]})."
            raise FileProblem(line(path, number), what, "Rename or remove one of the two.")
    return list(found)


def whole_number(text: str, choices: range, what: str, where: str, problems: Problems) -> int | None:
    """`text` as a whole number among `choices`; None after a problem."""
    try:
        number = int(text)
    except ValueError:
        number = None
    if number is None or number not in choices:
        problems.add(
            where,
            f"the {what} must be a whole number from {choices.start} to {choices.stop - 1}, got {text!r}.",
            "Repair or remove the line.",
        )
        return None
    return number


def readable_names(names: Sequence[str]) -> list[str]:
    """Class names without the number or WordNet identifier in front; those that would then be the same keep it."""
    short = [_PREFIX.sub("", name) for name in names]
    return [name if short.count(stripped) > 1 else stripped for name, stripped in zip(names, short, strict=True)]


def names_by_label(labelled: Iterator[tuple[str, int, str]]) -> list[str]:
    """The class names in the order of the labels, from the folders of labelled images.

    Args:
        labelled: (where, label, folder) of every image of the training split.

    Returns:
        `readable_names` of the folders.

    Raises:
        UsageError: a label has two folders, a folder two labels, or a label no image.
    """
    folders: dict[int, str] = {}
    labels: dict[str, int] = {}
    for where, label, folder in labelled:
        if folders.setdefault(label, folder) != folder:
            raise UsageError(f"{where}: class {label} has the folder {folder!r}, but {folders[label]!r} before.")
        if labels.setdefault(folder, label) != label:
            raise UsageError(f"{where}: the folder {folder!r} has class {label}, but {labels[folder]} before.")
    missing = sorted(set(range(max(folders, default=-1) + 1)) - set(folders))
    if missing:
        raise UsageError(f"the training list has no image of class {', '.join(map(str, missing[:5]))}.")
    return readable_names([folders[label] for label in sorted(folders)])
