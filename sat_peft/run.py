"""The run folder: everything that a run leaves behind, readable at every moment.

status.json    running, finished, …        config.json     the full configuration
paths.json     where data and weights lie on this machine: for `--run` and `--config`, not for sharing
versions.json  package versions            image_ids.json  the training images
metrics.jsonl  one line per logged step    adapter/        the saved adapter
results.json   the figures                 examples.png    what they look like
report.html    all of it on one page, drawn from measurement.json, parameters.json, gallery/ and the files above
skipped.json   bad entries of the data     set_aside.json  training images that stand for a missing split
classes.json   names of class folders, where the data has a file of them
baselines/     weights of trained ones     evaluation/     what recipes/evaluate.py writes
checkpoint/    what a resumed run starts from; removed when the run is finished
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import traceback
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from importlib.metadata import version
from pathlib import Path

import numpy as np

from sat_peft.errors import UsageError
from sat_peft.files import (
    FileProblem,
    check_values,
    is_file,
    parse_json,
    read_bytes,
    read_json,
    read_json_object,
    short_name,
    shown,
)
from sat_peft.shared_paths import PATHS, split_paths

# What a run writes beside its configuration and status.
_FILES = (
    *("results.json", "parameters.json", "measurement.json", "best.json", "metrics.jsonl", PATHS),
    *("image_ids.json", "skipped.json", "set_aside.json", "classes.json", "examples.png", "report.html"),
)
_FOLDERS = ("adapter", "baselines", "gallery", "evaluation", "checkpoint")
_PACKAGES = ("torch", "torchvision", "timm", "peft", "accelerate", "datasets", "evaluate", "numpy")


# Bytes that a file's name may have on every common system.


@contextmanager
def atomic_replacement(path: Path) -> Iterator[Path]:
    """A sibling of `path` to write to. It takes the place of `path` at the end, or is removed after an error, so that
    `path` is never half written.
    """
    process = f".{os.getpid()}.tmp"
    # A name may fill what a file system takes.
    temporary = path.with_name(f".{short_name(path.name, len(process) + 1)}{process}")
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text_atomic(path: Path, text: str) -> None:
    """Writes `text` as UTF-8, whole or not at all."""
    with atomic_replacement(path) as temporary:
        # Half of a surrogate pair, which JSON may hold, is no UTF-8; written as its escape, JSON reads it again.
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def _plain(value: object) -> object:
    """What `json` cannot write itself as what it can."""
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    raise TypeError(f"a {type(value).__name__} has no form in JSON: {value!r}")


def write_json_atomic(path: Path, value: object) -> None:
    """`write_text_atomic` of JSON; paths become strings, numpy values plain numbers and lists."""
    write_text_atomic(path, json.dumps(value, indent=2, ensure_ascii=False, default=_plain) + "\n")


def read_status(folder: Path) -> str | None:
    """How far the run of a folder has come, as its status.json tells; None where there is none.

    Raises:
        FileProblem: the file is damaged.
    """
    file = folder / "status.json"
    if not os.path.lexists(file):
        return None
    values = {"status": None} | read_json_object(file, "the status of a run")
    check_values(file, values, {"status": str})
    return values["status"]


def check_output(path: str | Path, *, overwrite: bool = False, resume: bool = False) -> None:
    """Refuses a folder that a run must not write into; a recipe asks before it starts anything long.

    Args:
        path: the run folder.
        overwrite: a run that it holds may be replaced.
        resume: it must hold a run, which did not come to its end.

    Raises:
        UsageError: `path` is a file, holds other files, holds another run and `overwrite` is off, or, to be resumed,
            holds none or a finished one.
    """
    path = Path(path)
    if resume:
        if not is_file(path / "status.json"):
            raise UsageError(f"{str(path)!r} holds no run that could be resumed. Name the run folder.")
        if read_status(path) == "finished":
            raise UsageError(f"the run {str(path)!r} is finished; there is nothing to resume.")
        return
    if path.exists() and not path.is_dir():
        raise UsageError(f"the output {str(path)!r} is a file; name a folder with --output.")
    if not path.is_dir() or not any(path.iterdir()):
        return
    # Model folders have a config.json too, and weights are not to be mistaken for a run.
    if not (path / "status.json").exists():
        raise UsageError(f"the output folder {str(path)!r} holds files that are no run. Name another with --output.")
    if not overwrite:
        raise UsageError(
            f"the output folder {str(path)!r} already holds a run. Name another with --output, or replace it with "
            "--overwrite."
        )


class RunFolder(AbstractContextManager):
    """A folder for one run. Used as a context manager, it records how the run ended.

    Only the main process writes; in the others every method does nothing.

    Args:
        path: the folder; it must not hold another run.
        config: the run's full configuration, ready for JSON.
        main_process: whether this process writes.
        overwrite: write into a folder that already holds a run.
        resume: go on with the run that the folder holds.

    Raises:
        UsageError: see `check_output`.
    """

    def __init__(
        self,
        path: str | Path,
        config: Mapping,
        *,
        main_process: bool = True,
        overwrite: bool = False,
        resume: bool = False,
    ):
        self.path = Path(path)
        self.main_process = main_process
        if not main_process:
            return
        check_output(self.path, overwrite=overwrite, resume=resume)
        if resume:
            self.write_json("status.json", {"status": "running"})
            return
        self.path.mkdir(parents=True, exist_ok=True)
        # First of all, since it is what marks the folder as a run's.
        self.write_json("status.json", {"status": "running"})
        # Results of the run that was here before must not stand beside this run's configuration.
        for name in _FILES:
            (self.path / name).unlink(missing_ok=True)
        for name in _FOLDERS:
            shutil.rmtree(self.path / name, ignore_errors=True)
        shared, paths = split_paths(config)
        if paths:
            write_json_atomic(self.path / PATHS, paths)
        write_json_atomic(self.path / "config.json", shared)
        versions = {name: version(name) for name in _PACKAGES}
        self.write_json("versions.json", {"python": platform.python_version(), **versions})

    def write_json(self, name: str, value: object) -> None:
        """Writes a JSON file into the folder, atomically."""
        if self.main_process:
            write_json_atomic(self.path / name, value)

    def read_json(self, name: str) -> object:
        """The content of a JSON file in the folder; None where there is none."""
        file = self.path / name
        return read_json(file) if is_file(file) else None

    def log(self, **metrics: float) -> None:
        """Appends one line to metrics.jsonl."""
        if self.main_process:
            with (self.path / "metrics.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps(metrics, default=_plain) + "\n")

    def forget_metrics(self, method: str, *, after: int) -> None:
        """Takes the lines of a method's steps beyond `after` out of metrics.jsonl: a resumed run takes them again."""
        file = self.path / "metrics.jsonl"
        if not self.main_process or not os.path.exists(file):
            return
        kept = []
        for line in read_bytes(file).splitlines(keepends=True):
            # The last line of a killed process may be cut off.
            if line.endswith(b"\n"):
                row = parse_json(line, file)
                if not isinstance(row, dict) or not isinstance(row.get("step"), int):
                    raise FileProblem(file, f"a line of it is damaged: {shown(row)}.", "Remove the line.")
                if row.get("method") != method or row["step"] <= after:
                    kept.append(line.decode("utf-8"))
        write_text_atomic(file, "".join(kept))

    def __exit__(self, kind, error, trace) -> None:
        if error is None:
            self.write_json("status.json", {"status": "finished"})
            if self.main_process:
                shutil.rmtree(self.path / "checkpoint", ignore_errors=True)
        elif issubclass(kind, KeyboardInterrupt):
            self.write_json("status.json", {"status": "interrupted"})
        else:
            reason = str(error) if isinstance(error, UsageError) else "".join(traceback.format_exception(error))
            self.write_json("status.json", {"status": "failed", "reason": reason})
