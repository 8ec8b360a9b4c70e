"""Whether what a JSON file holds is of the types that a dataclass, or a mapping from names to types, declares."""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from sat_peft.files.paths import FileProblem, shown
from sat_peft.files.readers import is_number


def fits(value: object, hint: Any) -> bool:
    """Whether a value of a JSON file can stand for one of the type `hint`: a list for a tuple, a text for a path."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, argument) for argument in arguments)
    if origin is Literal:
        return any(value == argument and type(value) is type(argument) for argument in arguments)
    if origin is typing.Annotated:
        return fits(value, arguments[0])
    if origin in (list, tuple, set):
        inner = [argument for argument in arguments if argument is not Ellipsis]
        return isinstance(value, list | tuple) and all(any(fits(each, one) for one in inner) for each in value)
    if origin in (dict, Mapping):
        return isinstance(value, dict) and all(
            fits(key, arguments[0]) and fits(each, arguments[1]) for key, each in value.items()
        )
    if hint is None or hint is type(None):
        return value is None
    if hint is float:
        return is_number(value)
    if hint is int:
        return is_number(value) and isinstance(value, int)
    if hint is Path:
        return isinstance(value, str | Path)
    return isinstance(value, hint) if isinstance(hint, type) else True


def check_values(path: str | Path, values: Mapping[str, object], hints: Mapping[str, Any]) -> None:
    """Raises `FileProblem` for the first value in a file that is not of the type of its name."""
    for name, value in values.items():
        if name in hints and not fits(value, hints[name]):
            hint = hints[name]
            kind = str(hint).replace("typing.", "") if typing.get_args(hint) else getattr(hint, "__name__", str(hint))
            raise FileProblem(path, f"{name!r} must be {kind}, not {shown(value)}.", "Repair or replace the file.")
