"""Paths in files that people share: without the folders of the machine that wrote them.

A run's config.json, report.html, model card and results.json hold no absolute path. What the run itself needs to find
its data and weights again, from any working directory, is in paths.json beside config.json, which stays at home.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sat_peft.files import read_json_object

PATHS = "paths.json"
# Folders of an absolute path inside a text; not those of a URL.
_FOLDERS = re.compile(r"""(?<![\w./\\:~-])(?:[A-Za-z]:)?[\\/](?:[^\s\\/'"<>|]+[\\/])+""")


def without_absolute_paths(value: Any) -> Any:
    """`value`, ready for JSON, with the last part alone of every absolute path, also of those inside of a text."""
    if isinstance(value, Mapping):
        return {name: without_absolute_paths(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_absolute_paths(item) for item in value]
    if isinstance(value, Path):
        value = str(value)
    if not isinstance(value, str):
        return value
    if value.startswith("hub:"):
        return "hub:" + without_absolute_paths(value.removeprefix("hub:"))
    if os.path.isabs(value) and not re.search("[\n'\"]", value):
        return Path(os.path.normpath(value)).name or value
    return _FOLDERS.sub("", value)


def split_paths(config: Mapping) -> tuple[dict, dict[str, str]]:
    """(the configuration for config.json, the values that it lost of it, for paths.json)."""
    shared = {name: without_absolute_paths(value) for name, value in config.items()}
    texts = {name: str(value) for name, value in config.items() if isinstance(value, str | Path)}
    return shared, {name: text for name, text in texts.items() if shared[name] != text}


def with_recorded_paths(config: Mapping, file: Path) -> dict:
    """The configuration that was read from `file`, a config.json, with the paths that the run keeps beside it.

    A value that somebody has changed since stays as it is.

    Raises:
        UsageError: the file of the paths is damaged.
    """
    paths = file.with_name(PATHS)
    if not paths.is_file():
        return dict(config)
    known = read_json_object(paths, "the paths of a run")
    return {
        name: known[name] if name in known and without_absolute_paths(known[name]) == value else value
        for name, value in config.items()
    }
