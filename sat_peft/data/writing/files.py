"""Files and folders that are written piece by piece, and appear whole or not at all."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from sat_peft.data.writing.names import annotation_path
from sat_peft.data.writing.predictions import PredictionSet
from sat_peft.files.outputs import atomic_replacement

_NO_LINKS = (errno.EPERM, errno.EACCES, errno.EINVAL, errno.ENOSYS, errno.ENOTSUP)


@contextmanager
def text_file_replacement(path: Path) -> Iterator[TextIO]:
    """A text file to write, UTF-8 with Unix line ends, that takes the place of `path` at the end."""
    with atomic_replacement(path) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as file:
        yield file


@contextmanager
def folder_replacement(path: Path) -> Iterator[Path]:
    """A sibling folder to fill. It takes the place of `path` at the end, or is removed after an error."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    replaced = path.with_name(f".{path.name}.{os.getpid()}.replaced.tmp")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir()
    try:
        yield unfinished
        # No system renames a folder over one that holds files.
        if path.exists():
            path.rename(replaced)
        try:
            unfinished.rename(path)
        except OSError:
            if replaced.exists():
                replaced.rename(path)
            raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
        shutil.rmtree(replaced, ignore_errors=True)


def write_array(file: TextIO, items: Iterable[dict]) -> None:
    """Writes a JSON array item by item, so that memory does not grow with the number of images."""
    separator = "[\n"
    for item in items:
        file.write(separator + json.dumps(item, ensure_ascii=False))
        separator = ",\n"
    file.write("]" if separator == ",\n" else "[]")


def link_images(folder: Path, predictions: PredictionSet) -> None:
    """Fills `folder` with links to the images, named as their annotations are: readers look for the two side by side.

    Nothing is linked where the images are no files, or on a file system that takes no links.
    """
    if predictions.image_root is None:
        return
    for found in predictions.predictions:
        link = folder / annotation_path(found.image_id, Path(found.image_id).suffix, flat=predictions.flat)
        link.parent.mkdir(parents=True, exist_ok=True)
        try:
            link.symlink_to(predictions.image_root / found.image_id)
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            shutil.rmtree(folder)
            return
