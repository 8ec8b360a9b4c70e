"""Predicted boxes in the formats of annotation tools and detectors.

`writers` names them. Each has a file or folder of its own, written from a `PredictionSet` that is read one image at a
time, and written whole or not at all. Formats that name an annotation after its image without the suffix cannot hold
`1.jpg` and `1.png` of one folder, or, flat, of any two; `check_format` tells before anything is predicted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from sat_peft.data.formats import registered
from sat_peft.data.writing.names import shared_annotation
from sat_peft.data.writing.predictions import Prediction, PredictionSet
from sat_peft.errors import UsageError, unknown_choice

__all__ = ["Prediction", "PredictionSet", "Writer", "check_format", "check_names", "write_format", "writers"]


@dataclass(frozen=True)
class Writer:
    """A format in which predictions are written.

    Args:
        name: of the format.
        path: file or folder in the output folder.
        write: function(path, predictions).
        named_by_stem: the name of an annotation is that of its image without the suffix.
    """

    name: str
    path: str
    write: Callable[[Path, PredictionSet], None]
    named_by_stem: bool = False


def writers() -> dict[str, Writer]:
    """All of them by name. A new one is a module of `sat_peft.data.formats` with a `WRITER`."""
    return registered("WRITER")


def check_format(name: str, image_ids: Sequence[str], *, flat: bool = False) -> None:
    """Raises `UsageError` for an unknown format, or images that would share an annotation file in it."""
    if name not in writers():
        raise unknown_choice("format", name, writers())
    if not writers()[name].named_by_stem:
        return
    if shared := shared_annotation(image_ids, flat=flat):
        first, second = shared
        nested = " take --no-flat," if flat and shared_annotation(image_ids, flat=False) is None else ""
        raise UsageError(
            f"{first!r} and {second!r} would share one file of the format {name!r}, which names annotations after "
            f"images without their suffix. Rename one of them,{nested} or leave that format out."
        )


def check_names(names: Sequence[str], what: str) -> None:
    """Raises `UsageError` for names that annotation files cannot carry: control characters, bytes that are no UTF-8."""
    for name in names:
        # Undecodable bytes of a file name are surrogates in Python, which no UTF-8 file takes.
        if any(ord(character) < 32 or character == "\x7f" or "\ud800" <= character <= "\udfff" for character in name):
            raise UsageError(
                f"the {what} {name!a} has control characters or bytes that are no UTF-8, which annotation files "
                "cannot carry. Rename it."
            )


def write_format(name: str, folder: Path, predictions: PredictionSet) -> Path:
    """Writes one format into `folder`, in place of an earlier version, and returns its file or folder."""
    writer = writers()[name]
    writer.write(folder / writer.path, predictions)
    return folder / writer.path
