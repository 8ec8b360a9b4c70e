"""MATLAB's .mat files of version 4 to 7.2, by scipy in a process of its own.

`scipy.io.loadmat` executes nothing, but it trusts what a file says about sizes: a damaged one ends the interpreter or
takes all memory. So a child with limits reads it (`mat_child.py`), and hands over plain values as JSON.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from functools import lru_cache
from pathlib import Path

from sat_peft.files.paths import FileProblem, path_problem, shown
from sat_peft.files.readers import parse_json

# Of the largest published file, 30 MB, it takes a tenth of each.
_BYTES, _SECONDS = 4 * 2**30, 60
_TEXT_LISTS = "Take it anew from where the data set is published, or use lists in text where the source reads them."


def read_mat(path: Path, names: tuple[str, ...]) -> list:
    """The variables `names` of a .mat file, each flattened in MATLAB's order of its rows.

    An array is a list of numbers; a cell array a list of texts, numbers, or None for what is no single value; a struct
    array a dictionary from the names of its fields to such lists.

    Raises:
        FileProblem: the file is missing or cannot be read, or lacks a variable.
    """
    problem = path_problem(path)
    if problem is not None:
        raise problem
    status = os.stat(path)
    found = _loaded(str(path), names, status.st_mtime_ns, status.st_size)
    missing = [name for name in names if name not in found]
    if missing:
        raise FileProblem(path, f"it has no variable {', '.join(missing)}.", _TEXT_LISTS)
    return [found[name] for name in names]


@lru_cache(maxsize=4)
def _loaded(path: str, names: tuple[str, ...], modified: int, size: int) -> dict:
    command = [sys.executable, "-P", str(Path(__file__).with_name("mat_child.py"))]
    command += [path, str(_BYTES), str(_SECONDS), *names]
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "PYTHONFAULTHANDLER": ""}
    try:
        done = subprocess.run(command, capture_output=True, timeout=2 * _SECONDS, env=environment, check=False)
    except subprocess.TimeoutExpired as error:
        raise FileProblem(path, f"reading it takes more than {_SECONDS} s: it is damaged.", _TEXT_LISTS) from error
    if done.returncode != 0:
        lines = done.stderr.decode("utf-8", "replace").strip().splitlines()
        reason = lines[-1][:200] if lines and done.returncode > 0 else _signal_name(done.returncode)
        raise FileProblem(path, f"it cannot be read as a .mat file of version 4 to 7.2 ({reason}).", _TEXT_LISTS)
    return parse_json(done.stdout, path)


def _signal_name(status: int) -> str:
    try:
        return f"it ended its reader by {signal.Signals(-status).name}"
    except ValueError:
        return f"it ended its reader with status {status}"


def texts(cells: object, path: Path) -> list[str]:
    """The strings of a cell array; an empty cell is an empty text.

    Raises:
        FileProblem: a cell is no text, or it is no cell array.
    """
    values = cells if isinstance(cells, list) else [cells]
    for number, value in enumerate(values, 1):
        if not isinstance(value, str):
            raise FileProblem(path, f"cell {number} holds {shown(value)} and no text.", _TEXT_LISTS)
    return values


def numbers(values: object, path: Path) -> list[float]:
    """The numbers of an array. Raises `FileProblem` where one is no finite number."""
    values = values if isinstance(values, list) else [values]
    for number, value in enumerate(values, 1):
        # NaN and infinity differ from themselves, or from what is left of them.
        if isinstance(value, bool | str | None) or not isinstance(value, int | float) or value - value != 0:
            raise FileProblem(path, f"entry {number} is {shown(value)} and no number.", _TEXT_LISTS)
    return values


def column(structs: object, field: str, path: Path) -> list:
    """The scalars or strings of one field of a struct array.

    Raises:
        FileProblem: the structs have no such field, or a value is no scalar.
    """
    fields = structs if isinstance(structs, dict) else {}
    if field not in fields:
        raise FileProblem(path, f"it has no field {field!r}; it has {', '.join(fields)[:200] or 'none'}.", _TEXT_LISTS)
    wrong = next((index for index, value in enumerate(fields[field]) if value is None), None)
    if wrong is not None:
        raise FileProblem(path, f"the field {field!r} of entry {wrong + 1} is no single value.", _TEXT_LISTS)
    return fields[field]
