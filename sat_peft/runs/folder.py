"""The run folder: everything that a run leaves behind, readable at every moment.

status.json    starting, running, finished, interrupted or failed
config.json    the full configuration
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
import traceback
from collections.abc import Mapping
from contextlib import AbstractContextManager
from importlib.metadata import version
from pathlib import Path

from sat_peft.errors import UsageError
from sat_peft.files import (
    FileProblem,
    is_file,
    parse_json,
    read_bytes,
    read_json,
    shown,
)
from sat_peft.files.outputs import (
    FolderLock,
    check_unlocked,
    check_writable,
    full_place,
    is_disk_full,
    is_unfinished,
    plain,
    remove,
    remove_unfinished,
    write_json_atomic,
    write_text_atomic,
)
from sat_peft.files.shared_paths import PATHS, split_paths
from sat_peft.options.training import RUN_FIELDS
from sat_peft.runs.reader import RunReader
from sat_peft.runs.termination import termination_waits

# What a run writes beside its configuration and status.
_FILES = (
    *("results.json", "parameters.json", "measurement.json", "best.json", "metrics.jsonl", PATHS),
    *("image_ids.json", "skipped.json", "set_aside.json", "classes.json", "examples.png", "report.html"),
)
_FOLDERS = ("adapter", "baselines", "gallery", "evaluation", "checkpoint")
# The status until the configuration is written.
_STARTING = "starting"
# As torch's back ends tell that a process of the group is gone.
_LOST_PROCESS = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "NCCL")
_PACKAGES = ("torch", "torchvision", "timm", "peft", "accelerate", "datasets", "evaluate", "numpy")


def check_output(path: str | Path, config: Mapping, *, overwrite: bool = False, resume: bool = False) -> None:
    """Refuses a folder that a run must not write into; a recipe asks before it starts anything long.

    Args:
        path: run folder.
        config: full configuration of the run, which goes on where an unfinished one of the same configuration stopped.
        overwrite: a run that it holds may be replaced.
        resume: it must hold a run, which did not come to its end.

    Raises:
        UsageError: `path` cannot be written, is being written by another process, holds other files, holds another or
            a finished run and `overwrite` is off, or, to be resumed, holds none or a finished one.
    """
    path = Path(path)
    if resume and RunReader(path).status() is None:
        raise UsageError(f"{str(path)!r} holds no run that could be resumed. Name the run folder.")
    check_writable(path)
    check_unlocked(path)
    links = [name for name in (*_FOLDERS, *_FILES) if (path / name).is_symlink()]
    if links and (resume or not overwrite):
        raise UsageError(
            f"{str(path / links[0])!r} is a link, through which a run does not write. Remove it, or take --overwrite."
        )
    status = RunReader(path).status()
    if status == "finished":
        # Of a process that was killed between its last two acts.
        remove(path / "checkpoint")
    if resume:
        if status == "finished":
            raise UsageError(f"the run {str(path)!r} is finished; there is nothing to resume.")
        return
    if status is None:
        # Model folders have a config.json too, and weights are not to be mistaken for a run.
        if path.is_dir() and any(not is_unfinished(file) for file in path.iterdir()):
            raise UsageError(
                f"the output folder {str(path)!r} holds files that are no run. Name another with --output."
            )
        return
    if overwrite or is_new(path):
        return
    if status == "finished" or changed_settings(path, config):
        raise UsageError(
            f"the output folder {str(path)!r} already holds a run. Name another with --output, or replace it with "
            "--overwrite."
        )


def is_new(path: Path) -> bool:
    """Whether nothing was computed yet in the run folder `path`, so that a run simply starts in it."""
    status = RunReader(path).status()
    if status in (None, _STARTING):
        return True
    # Earlier versions wrote the status before the configuration.
    return status == "running" and not any(os.path.lexists(path / name) for name in ("config.json", *_FILES, *_FOLDERS))


def changed_settings(path: Path, config: Mapping, *, defaults: Mapping | None = None) -> list[str]:
    """Names of the settings in which a run of `config` differs from the one of a folder; those of the run itself, as
    the number of threads, make no difference.

    Args:
        path: run folder with its config.json.
        config: full configuration.
        defaults: defaults of the settings; one that the recorded configuration lacks had its default's meaning. Without
            them it is another.
    """
    file = path / "config.json"
    if not is_file(file):
        return ["config.json"]
    known = _deciding(defaults or {}) | RunReader(path).config()
    for name, value in config.items():
        if isinstance(value, Path) and known.get(name):
            # Earlier versions recorded paths as they were given.
            known[name] = str(Path(known[name]).absolute())
    return [name for name, value in _deciding(config).items() if name not in known or known[name] != value]


def _deciding(config: Mapping) -> dict:
    """The settings that decide the figures of a run, as json reads them back. A preset does so by the others."""
    fields = {name: value for name, value in config.items() if name not in (*RUN_FIELDS, "preset")}
    return json.loads(json.dumps(fields, default=str))


class RunFolder(AbstractContextManager):
    """A folder for one run. Used as a context manager, it records how the run ended.

    Only the main process writes; in the others every method does nothing. While it is open, no other process may write
    into the folder. A run of the same configuration that did not come to its end goes on.

    Args:
        path: the folder; it must not hold another run.
        config: the run's full configuration, ready for JSON.
        main_process: whether this process writes.
        overwrite: write into a folder that already holds a run.
        resume: go on with the run that the folder holds.

    Raises:
        UsageError: as `check_output`.
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
        check_output(self.path, config, overwrite=overwrite, resume=resume)
        self.path.mkdir(parents=True, exist_ok=True)
        self._lock = FolderLock(self.path)
        remove_unfinished(self.path)
        if is_new(self.path) or (overwrite and not resume):
            # First of all, since it is what marks the folder as a run's, of which nothing is computed.
            self.write_json("status.json", {"status": _STARTING})
            # Results of the run that was here before must not stand beside this run's configuration.
            for name in ("config.json", *_FILES, *_FOLDERS):
                remove(self.path / name)
            shared, paths = split_paths(config)
            if paths:
                self.write_json(PATHS, paths)
            self.write_json("config.json", shared)
            versions = {name: version(name) for name in _PACKAGES}
            self.write_json("versions.json", {"python": platform.python_version(), **versions})
        self.write_json("status.json", {"status": "running"})

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
                file.write(json.dumps(metrics, default=plain) + "\n")

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
        if not self.main_process:
            return
        # A launcher may send SIGTERM once more while the end of the run is being written.
        with termination_waits():
            self._close(kind, error)

    def _close(self, kind, error) -> None:
        try:
            if error is None:
                self.write_json("status.json", {"status": "finished"})
                remove(self.path / "checkpoint")
            elif issubclass(kind, KeyboardInterrupt):
                self.write_json("status.json", {"status": "interrupted"})
            else:
                error = self._explained(error)
                reason = str(error) if isinstance(error, UsageError) else "".join(traceback.format_exception(error))
                self.write_json("status.json", {"status": "failed", "reason": reason})
        except OSError as failure:
            # The error of the run is the one to be told; its folder keeps the status `running`, from which it goes on.
            if error is None or not is_disk_full(failure):
                raise
        finally:
            self._lock.release()
        if error is not None and isinstance(error, UsageError) and not issubclass(kind, UsageError):
            raise error

    def _explained(self, error: BaseException) -> BaseException:
        """A full disk or the end of another process in words, with what to do; other errors as they are."""
        again = f"go on with --resume {self.path}"
        if is_disk_full(error):
            explained = UsageError(
                f"no space is left for {full_place(error, self.path)}. Free some space, then {again}."
            )
        elif isinstance(error, RuntimeError) and any(text in str(error) for text in _LOST_PROCESS):
            explained = UsageError(f"another process of this run has ended, so this one cannot go on. Then {again}.")
        else:
            return error
        explained.__cause__ = error
        return explained
