"""Files and folders that are written piece by piece, and appear whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from sat_peft.run import atomic_replacement


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
