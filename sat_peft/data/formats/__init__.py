"""Every data set and annotation format, a file each: `SOURCE` reads it, `WRITER` writes predictions in it.

A module that defines either, or both, is found here; `options/choices.py` repeats the names of the writers.
"""

from __future__ import annotations

import pkgutil
from functools import cache
from importlib import import_module


@cache
def registered(name: str) -> dict[str, object]:
    """What the modules of this package define under `name`, `SOURCE` or `WRITER`, by its own name."""
    modules = [import_module(f"{__name__}.{found.name}") for found in pkgutil.iter_modules(__path__)]
    found = [getattr(module, name) for module in modules if hasattr(module, name)]
    return {entry.name: entry for entry in sorted(found, key=lambda entry: entry.name)}
