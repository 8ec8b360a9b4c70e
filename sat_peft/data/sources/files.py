"""The folders and images that data sets are made of: walked in this one place, for training and prediction."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Collection, Iterator
from pathlib import Path, PurePosixPath

from sat_peft.data.sources.records import Problems
from sat_peft.errors import UsageError
from sat_peft.files import is_file, is_folder, path_problem, respelled, shown, spelled
from sat_peft.files.paths import lies_below, shown_path
from sat_peft.files.readers import parse_number

# The names that the splits have in the layouts of people, the first that exists is taken.
SPLIT_NAMES = {"train": ("train",), "validation": ("validation", "val", "valid", "dev"), "test": ("test",)}
_PHONE_SUFFIXES = (".heic", ".heif") if importlib.util.find_spec("pillow_heif") else ()
IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm", ".jfif", ".jpe", ".avif"),
    *_PHONE_SUFFIXES,
)
ARCHIVE_SUFFIXES = (".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz", ".zip", ".7z", ".rar")
# What archives, network drives and systems leave in every folder, thumbnails among it; hidden ones go without saying.
_SYSTEM_FOLDERS = ("__macosx", "@eadir", "#recycle", "$recycle.bin", "system volume information", "lost+found")
# Folders that tools write before the names of images, wherever these are.
_IMAGE_FOLDERS = ("images", "image", "imgs", "img", "data", "JPEGImages", "obj_train_data")
METADATA_NAMES = tuple(f"metadata.{kind}" for kind in ("jsonl", "csv", "parquet"))
_KNOWN_FILES = (*METADATA_NAMES, "thumbs.db", "desktop.ini", "ehthumbs.db", "icon\r")
_PERMISSION = "Give yourself the permission to read it."


def require_folder(path: Path, layout: str) -> Path:
    """`path`, if it is a folder; else a `UsageError` that tells the `layout`. Archives are not read."""
    if is_file(path) and path.name.lower().endswith(ARCHIVE_SUFFIXES):
        raise UsageError(f"{str(path)!r} is an archive, which is not read. Extract it and name the folder. {layout}")
    if not is_folder(path):
        raise UsageError(f"the folder {str(path)!r} does not exist. {layout}")
    return path


def require_file(path: Path, layout: str) -> Path:
    """`path`, if it is a file that can be read; else a `UsageError` that tells the `layout`."""
    if not os.path.exists(path):
        raise UsageError(f"the file {shown_path(path)!r} does not exist. {layout}")
    problem = path_problem(path)
    if problem is not None:
        raise problem
    return path


def is_system_folder(name: str) -> bool:
    """Whether a folder of this name holds nothing that somebody put there: it is hidden, or a system's own."""
    return name.startswith(".") or name.lower() in _SYSTEM_FOLDERS


def class_folders(folder: Path) -> list[str]:
    """The names of the visible folders in `folder`, sorted; those that systems leave everywhere are none.

    Raises:
        UsageError: `folder` cannot be listed, or a name in it is not UTF-8.
    """
    try:
        entries = list(os.scandir(folder))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"the folder {shown_path(folder)!r} cannot be listed ({reason}). {_PERMISSION}") from error
    # Through os.path, which takes a link that leads to itself for no folder, where DirEntry raises.
    names = sorted(entry.name for entry in entries if not is_system_folder(entry.name) and os.path.isdir(entry.path))
    for name in names:
        if _undecodable(name):
            raise UsageError(f"the name of the folder {shown_path(folder / name)} is not encoded in UTF-8. Rename it.")
    return names


def folders_by_class(folder: Path) -> dict[str, list[str]]:
    """Class name -> the names of its folders in `folder`: those that are the same text in several encodings."""
    found: dict[str, list[str]] = {}
    for name in class_folders(folder):
        found.setdefault(spelled(name), []).append(name)
    return dict(sorted(found.items()))


def walk_files(
    folder: Path, problems: Problems, *, leave_out: Path | None = None, _above: tuple[tuple[int, int], ...] = ()
) -> Iterator[os.DirEntry]:
    """The visible files below `folder`, in the order of their paths; links are followed.

    A link to a folder that it stands in is left out, and so are the folders of systems and `leave_out`. A folder that
    cannot be listed, a link that leads to itself and a name that is not UTF-8 are reported.
    """
    try:
        status = os.stat(folder)
        here = (status.st_dev, status.st_ino)
        if here in _above:
            return  # Every file there has been found already.
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        problems.add(folder, f"the folder cannot be listed ({reason}).", _PERMISSION)
        return
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if not entry.name.isprintable() and _undecodable(entry.name):
            problems.add(entry.path, "the name is not encoded in UTF-8.", "Rename it.")
            continue
        try:
            is_folder = entry.is_dir()
        except OSError as error:
            problems.add(entry.path, f"the link cannot be followed ({error.strerror}).", "Remove it.")
            continue
        if not is_folder:
            yield entry
        elif is_system_folder(entry.name):
            problems.leave_out(f"folders {entry.name!r}, which systems leave everywhere")
        elif leave_out is None or Path(entry.path) != leave_out:
            yield from walk_files(Path(entry.path), problems, leave_out=leave_out, _above=(*_above, here))


def image_files(
    folder: Path, problems: Problems, *, beside: Collection[str] = (), leave_out: Path | None = None
) -> Iterator[Path]:
    """The image files of `walk_files`, by their suffix. Other files are counted as left out, by suffix.

    Args:
        folder: folder that is searched.
        problems: see `walk_files`.
        beside: suffixes of files that belong there without being images, as annotations do.
        leave_out: a folder that is not searched.
    """
    for entry in walk_files(folder, problems, leave_out=leave_out):
        name = entry.name.lower()
        if name.endswith(IMAGE_SUFFIXES):
            yield Path(entry.path)
        elif name not in _KNOWN_FILES and not (beside and name.endswith(tuple(beside))):
            suffix = os.path.splitext(name)[1]
            hint = ", which `pip install pillow-heif` reads" if suffix in (".heic", ".heif") else ""
            problems.leave_out(f"files ending in {suffix!r}{hint}" if suffix else "files without a suffix")


class ImageFinder:
    """Finds the images that an annotation file names, as their names are plainly meant.

    Names that are not where they should be are also looked for without the folders in front of them that tools write
    (`images/`, the folder itself, the path of another machine), and with `/` for the backslash of Windows.

    Args:
        folder: folder that the names are relative to.
        root: root of the data set; no image outside of it is read.
        problems: gets notes about what was read otherwise than it stands.
    """

    def __init__(self, folder: Path, root: Path, problems: Problems):
        self.folder, self.root = os.path.abspath(folder), os.path.abspath(root)
        if self.folder != self.root and not lies_below(self.folder, self.root):
            self.root = os.path.dirname(self.folder)  # a folder that was named on its own
        self.problems = problems
        self._droppable = {*_IMAGE_FOLDERS, *Path(self.folder).parts[-3:], *Path(self.root).parts[-1:]}

    def find(self, name: str, where: str, problems: Problems) -> Path | None:
        """The image, as an absolute path below the root; None after a problem at `where`."""
        path = f"{self.folder}/{name}"
        if name[:1] not in ("/", ".") and ".." not in name and os.path.isfile(path):
            return Path(path)
        found = self._elsewhere(name)
        if found is not None:
            return found
        if os.path.isfile(os.path.join(self.folder, name)):
            what = f"the image {shown(name)} lies outside of {self.root}."
            problems.add(where, what, "Give a path relative to the folder of the images, and put the image there.")
        else:
            what = f"the image {shown(name)} does not exist below {shown_path(self.folder)}."
            problems.add(where, what, "Add it, correct its path, or remove the entry.")
        return None

    def _elsewhere(self, name: str) -> Path | None:
        for text in dict.fromkeys((name, name.replace("\\", "/"))):
            whole = os.path.normpath(os.path.join(self.folder, text))
            if self._is_below_root(whole) and os.path.isfile(whole):
                return Path(whole)
            pure = PurePosixPath(text)
            foreign = pure.is_absolute() or (pure.parts[:1] and pure.parts[0].endswith(":"))
            parts = [part for part in pure.parts if part not in ("/", "..", ".")]
            for start in range(len(parts)):
                if not foreign and not self._droppable.issuperset(parts[:start]):
                    break
                for base in (self.folder, self.root):
                    path = "/".join((base, *parts[start:]))
                    if os.path.isfile(path):
                        self.problems.note("images found without the folders that are written before their names")
                        return Path(path)
        same = respelled(Path(self.folder, name))
        return same if is_file(same) and self._is_below_root(os.path.normpath(same)) else None

    def _is_below_root(self, path: str) -> bool:
        return lies_below(path, self.root)

    def image_id(self, path: Path) -> str:
        """The path below the root, with forward slashes: the same on every machine."""
        # Not by pathlib, which takes as long as all else.
        return str(path)[len(os.path.join(self.root, "")) :].replace(os.sep, "/")


def _undecodable(name: str) -> bool:
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return True
    return False


def numbers(
    text: str, count: int, where: str, problems: Problems, *, separator: str | None = None
) -> list[float] | None:
    """`count` finite numbers in `text`; None after a problem."""
    values = [parse_number(word) for word in text.split(separator)]
    if len(values) != count or None in values:
        hint = ", separated by blanks" if separator is None and ("," in text or ";" in text) else ""
        problems.add(where, f"expected {count} numbers{hint}, got {text[:80]!r}.", "Repair or remove the line.")
        return None
    return values
