"""MATLAB's .mat files, by scipy.

`scipy.io.loadmat` parses arrays and executes nothing. It trusts what a damaged file says about sizes, though, so take
such files from where their data set is published.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from sat_peft.errors import UsageError


def read_mat(path: Path, names: tuple[str, ...]) -> list[np.ndarray]:
    """The variables `names` of a .mat file of version 4 to 7.2, each with at least two dimensions, as MATLAB has it.

    Raises:
        UsageError: the file is missing or cannot be read, or lacks a variable.
    """
    # An import that only the data sets with such files have to wait for.
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    try:
        found = loadmat(path, variable_names=names)
    except FileNotFoundError as error:
        raise UsageError(f"the file {str(path)!r} does not exist.") from error
    except (MatReadError, OSError, ValueError, TypeError, KeyError, NotImplementedError) as error:
        raise UsageError(f"{path} cannot be read as a .mat file of version 4 to 7.2 ({error}).") from error
    missing = [name for name in names if name not in found]
    if missing:
        raise UsageError(f"{path} has no variable {', '.join(missing)}.")
    return [found[name] for name in names]


def texts(cells: np.ndarray) -> list[str]:
    """The strings of a cell array."""
    return [str(cell.item()) if cell.size else "" for cell in cells.ravel()]


def column(structs: np.ndarray, field: str, path: Path) -> list:
    """The scalars or strings of one field of a struct array, as Python objects.

    Raises:
        UsageError: the structs have no such field, or a value is no scalar.
    """
    fields = structs.dtype.names or ()
    if field not in fields:
        raise UsageError(f"{path} has no field {field!r}; it has {', '.join(fields) or 'none'}.")
    values = structs[field].ravel()
    wrong = next((index for index, value in enumerate(values) if np.size(value) != 1), None)
    if wrong is not None:
        raise UsageError(f"{path}: the field {field!r} of entry {wrong + 1} is no single value.")
    return [value.item() for value in values]
