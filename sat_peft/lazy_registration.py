"""Registers what the package adds to another library as soon as that library is imported, and not before."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType


class _Registration(MetaPathFinder):
    """Finds `library` as usual, and imports `module` behind it."""

    def __init__(self, library: str, module: str):
        self.library, self.module = library, module

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != self.library:
            return None
        found = (finder.find_spec(fullname, path, target) for finder in sys.meta_path if finder is not self)
        spec = next((spec for spec in found if spec is not None), None)
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def execute_and_register(module: ModuleType) -> None:
            execute(module)
            # An import that failed is tried again with this finder still in place.
            sys.meta_path.remove(self)
            import_module(self.module)

        spec.loader.exec_module = execute_and_register
        return spec


def register_after_import(library: str, module: str) -> None:
    """Imports `module`, which registers something with `library`, at once if `library` is imported already, or else
    right after its import.
    """
    if library in sys.modules:
        import_module(module)
    else:
        sys.meta_path.insert(0, _Registration(library, module))
