"""Files and folders that are written: whole or not at all, by one process at a time, never through a link."""

from __future__ import annotations

import errno
import json
import os
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from sat_peft.errors import UsageError
from sat_peft.files.paths import short_name
from sat_peft.files.readers import read_json

# An adapter that is out of the way while a new one takes its place.
_REPLACED = ".replaced-"
# What a killed process leaves of files that it was writing, and of an adapter.
UNFINISHED = (".*.tmp", ".*.saving-*", f".*{_REPLACED}*")
# While a process writes into a folder: the lock itself, and who holds it.
LOCK, HOLDER = ".lock", ".lock.json"
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# As libraries tell it that lose the number of the error.
_DISK_FULL_TEXTS = ("No space left on device", "Disk quota exceeded", "os error 28", "PytorchStreamWriter failed")
_FIELDS = ("process", "host", "since")
# Of file systems that know no locks.
_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EINVAL)


@contextmanager
def atomic_replacement(path: Path) -> Iterator[Path]:
    """A sibling of `path` to write to. It takes the place of `path` at the end, or is removed after an error, so that
    `path` is never half written. A link is replaced, its target stays as it is.
    """
    process = f".{os.getpid()}.tmp"
    # A name may fill what a file system takes.
    temporary = path.with_name(f".{short_name(path.name, len(process) + 1)}{process}")
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        # Of a write that found no space, the system does not tell to which file.
        if error.errno is not None:
            error.filename = error.filename or str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)


def write_text_atomic(path: Path, text: str) -> None:
    """Writes `text` as UTF-8, whole or not at all."""
    with atomic_replacement(path) as temporary:
        # Half of a surrogate pair, which JSON may hold, is no UTF-8; written as its escape, JSON reads it again.
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def plain(value: object) -> object:
    """What `json` cannot write itself as what it can."""
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "tolist"):  # numbers and arrays of numpy, which takes long to import
        return value.tolist()
    raise TypeError(f"a {type(value).__name__} has no form in JSON: {value!r}")


def write_json_atomic(path: Path, value: object) -> None:
    """`write_text_atomic` of JSON; paths become strings, numpy values plain numbers and lists."""
    write_text_atomic(path, json.dumps(value, indent=2, ensure_ascii=False, default=plain) + "\n")


def is_disk_full(error: BaseException | None) -> bool:
    """Whether an error, or one that led to it, says that no space is left, whatever library raised it."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _DISK_FULL:
            return True
        if any(text in str(error) for text in _DISK_FULL_TEXTS):
            return True
        error = error.__cause__ or error.__context__
    return False


def full_place(error: BaseException, folder: Path | None = None) -> str:
    """Where no space is left after such an error, in words.

    Args:
        error: for which `is_disk_full` holds.
        folder: folder that is written to, where the error names no file.
    """
    if getattr(error, "filename", None):
        return repr(str(error.filename))
    # Rows of a data set and parts of large files lie in the temporary folder.
    return f"{repr(str(folder)) if folder else 'the output'} or for temporary files in {tempfile.gettempdir()!r}"


def remove(path: Path) -> None:
    """Removes a file, or a folder with all that is in it, if there is one. Of a link, the link and not its target."""
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)
    else:
        shutil.rmtree(path, ignore_errors=True)


def remove_unfinished(folder: Path, *, below: bool = True) -> None:
    """Removes what killed processes were writing in a folder, and puts back what they had moved out of the way.

    Args:
        folder: folder that nobody else is writing into.
        below: in the folders in it too.
    """
    prefix = "**/" if below else ""
    for path in list(folder.glob(prefix + UNFINISHED[-1])):
        name = path.name[1:].rpartition(_REPLACED)[0]
        if not os.path.lexists(path.with_name(name)):
            path.rename(path.with_name(name))
    for pattern in UNFINISHED:
        for path in list(folder.glob(prefix + pattern)):
            remove(path)


def is_unfinished(path: Path) -> bool:
    """Whether a file or folder is one of ours that was never finished, or belongs to a lock."""
    return path.name in (LOCK, HOLDER) or any(path.match(pattern) for pattern in UNFINISHED)


def check_writable(folder: Path) -> None:
    """Refuses a place where no folder can be written, before anything is computed for it. Nothing is made there, since
    several processes may ask at the same time.

    Raises:
        UsageError: a file or a link to nothing is in the way, or the system says no.
    """
    fix = "Name another folder with --output."
    try:
        if folder.is_symlink() and not folder.exists():
            raise UsageError(f"the output {str(folder)!r} is a link to what does not exist. {fix}")
        if folder.exists() and not folder.is_dir():
            raise UsageError(f"the output {str(folder)!r} is a file; name a folder with --output.")
        place = folder.absolute()
        there = next(each for each in (place, *place.parents) if os.path.lexists(each))
        with tempfile.TemporaryFile(dir=there, prefix=".", suffix=".tmp"):
            pass
    except OSError as error:
        raise UsageError(f"the output folder {str(folder)!r} cannot be written ({error.strerror}). {fix}") from error


class FolderLock(AbstractContextManager):
    """The right to write into a folder, which one process has at a time, until `release` or the end of the context. A
    process that is killed loses it.

    Args:
        folder: folder that exists.

    Raises:
        UsageError: another process has it; it is named.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self._lock = FileLock(folder / LOCK, timeout=0)
        try:
            self._lock.acquire()
        except Timeout:
            raise UsageError(
                f"the folder {str(folder)!r} is being written by {_holder(folder)}. Wait for its end, or stop it first."
            ) from None
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            self._lock = None
        holder = dict(
            zip(_FIELDS, (os.getpid(), socket.gethostname(), time.strftime("%Y-%m-%d %H:%M:%S")), strict=True)
        )
        try:
            write_json_atomic(folder / HOLDER, holder)
        except OSError:
            self.release()
            raise

    def release(self) -> None:
        """Gives the right back, and leaves no trace of it; once more does nothing."""
        if self._lock is None:
            return
        with suppress(OSError):  # on a full disk, or in a folder that is gone
            (self.folder / HOLDER).unlink(missing_ok=True)
            (self.folder / LOCK).unlink(missing_ok=True)
        self._lock.release(force=True)
        self._lock = None

    def __exit__(self, *error) -> None:
        self.release()


def _holder(folder: Path) -> str:
    with suppress(UsageError):
        found = read_json(folder / HOLDER)
        if isinstance(found, dict):
            return "process {process} on {host} since {since}".format_map({**dict.fromkeys(_FIELDS, "?"), **found})
    return "another process"


def check_unlocked(folder: Path) -> None:
    """Raises `UsageError` if another process is writing into a folder, which may not exist."""
    if (folder / LOCK).exists():
        FolderLock(folder).release()
