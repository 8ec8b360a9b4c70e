"""What a path names, and what it may be called: whatever a path is, nothing here raises an error of the system."""

from __future__ import annotations

import hashlib
import os
import re
import reprlib
import stat
import unicodedata
from pathlib import Path

from sat_peft.errors import UsageError

# What the file systems of Linux, macOS and Windows take.
MAX_NAME_BYTES = 255
_PERMISSION = "Give yourself the permission to read it."


class FileProblem(UsageError):
    """A file, or a place in it, that cannot be used: `where`, `what` is wrong, and the `fix`."""

    def __init__(self, where: str | Path, what: str, fix: str = ""):
        self.where, self.what, self.fix = str(where), what, fix
        super().__init__(f"{shown_path(where)}: {what} {fix}".rstrip())

    def __reduce__(self):
        return type(self), (self.where, self.what, self.fix)


def shown_path(path: str | Path) -> str:
    """A path as text that any terminal and file can take; what is not UTF-8 as escapes."""
    try:
        return os.fsencode(path).decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:
        return str(path).encode("utf-8", "backslashreplace").decode("utf-8")


def is_file(path: str | Path) -> bool:
    """Whether there is a file, through links; False for a path that no file can have."""
    return os.path.isfile(path)


def is_folder(path: str | Path) -> bool:
    """The same of a folder."""
    return os.path.isdir(path)


def lies_below(path: str | Path, folder: str | Path) -> bool:
    """Whether an absolute path begins with a folder, both written alike; links and `..` are not looked through."""
    # Not by pathlib, which takes as long as all else.
    return str(path).startswith(os.path.join(str(folder), ""))


def path_problem(path: str | Path) -> FileProblem | None:
    """What keeps `path` from being opened as a file, without opening it; None where nothing does."""
    try:
        status = os.stat(path)
    except OSError as error:
        missing = isinstance(error, FileNotFoundError | NotADirectoryError)
        return FileProblem(
            path,
            "the file does not exist." if missing else f"the file cannot be found or opened ({error.strerror}).",
            "Add it, or correct the path." if missing else "Correct the path, or its permissions.",
        )
    except ValueError:  # NUL, or half of a surrogate pair
        return FileProblem(path, "no file can have this name.", "Correct the path.")
    if stat.S_ISDIR(status.st_mode):
        return FileProblem(path, "it is a folder where a file is expected.", "Name a file.")
    if not stat.S_ISREG(status.st_mode):
        return FileProblem(path, "it is no ordinary file.", "Copy its content to a file.")
    return None if os.access(path, os.R_OK) else FileProblem(path, "it may not be read.", _PERMISSION)


class _Shown(reprlib.Repr):
    def __init__(self):
        super().__init__()
        self.maxlevel, self.maxstring, self.maxother = 3, 80, 80

    def repr_int(self, value: int, level: int) -> str:
        # Python refuses to write out an integer of thousands of digits.
        return repr(value) if abs(value) < 10**40 else f"an integer of about {value.bit_length() * 3 // 10} digits"


def shown(value: object) -> str:
    """A value from a file for a message: its beginning alone, however large or deep it is."""
    text = _Shown().repr(value)
    return text if len(text) <= 160 else f"{text[:157]}…"


def shown_name(name: str) -> str:
    """A name for a message; in quotes where it has blanks at its ends or characters that cannot be seen."""
    return name if name and name == name.strip() and name.isprintable() else repr(name)


def as_code(text: str) -> str:
    """Text that Markdown shows as it stands, in one line, whatever characters it holds."""
    text = " ".join(text.split())
    longest = max(map(len, re.findall("`+", text)), default=0)
    fence, blank = "`" * (longest + 1), " " if longest else ""
    return f"{fence}{blank}{text}{blank}{fence}"


def spelled(name: str) -> str:
    """The one spelling (NFC) of a name that several encodings of the same text have, as macOS writes others."""
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def same_spelling(first: str, second: str) -> bool:
    """Whether two names are the same text."""
    return first == second or spelled(first) == spelled(second)


def respelled(path: Path) -> Path:
    """`path`; where nothing is there, the file beside it whose name is the same text in another encoding."""
    text = str(path)
    if text.isascii() or os.path.exists(path):
        return path
    here = Path(path.anchor)
    for part in path.parts[1:] if path.anchor else path.parts:
        if os.path.lexists(here / part):
            here /= part
            continue
        try:
            same = next((name for name in os.listdir(here) if same_spelling(name, part)), part)
        except (OSError, ValueError):
            return path
        here /= same
    return here if os.path.exists(here) else path


def short_name(name: str, room: int = 0) -> str:
    """A file name that a file system takes with `room` more bytes in front of or behind it.

    A name that is too long loses its middle to a hash of the whole, so that no two become one.
    """
    encoded = name.encode("utf-8", "surrogateescape")
    most = MAX_NAME_BYTES - room
    if len(encoded) <= most:
        return name
    digest = hashlib.sha256(encoded).hexdigest()[:12]
    suffix = os.path.splitext(name)[1]
    suffix = suffix if len(suffix.encode("utf-8", "surrogateescape")) <= 16 else ""
    kept = encoded[: most - len(digest) - len(suffix.encode("utf-8", "surrogateescape")) - 1]
    return f"{kept.decode('utf-8', 'ignore')}-{digest}{suffix}"
