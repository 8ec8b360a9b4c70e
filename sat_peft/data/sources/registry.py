"""Opens data sets: what reads them is found by name, or by the layout of a folder."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from datasets import Dataset

from sat_peft.data.formats import registered
from sat_peft.data.sources.build import build_dataset, check_rows_inside
from sat_peft.data.sources.records import Kept, Problems, SourceSplit
from sat_peft.errors import UsageError, unknown_choice
from sat_peft.files import is_folder

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Source:
    """A data set or a format that can be read.

    Args:
        name: in the registry.
        title: what it is, in a line.
        layout: the files that it needs below its root, for error messages.
        read: `read(root, split, problems, **options)`; its keyword-only arguments are the source's options. It
            returns a `SourceSplit`, or a ready `Dataset` where the images are not files. A split that the data does not
            have is None; every source has `train`.
        keeps: whether `read` takes a `Kept` after `problems`, for files that several splits need.
        needs_root: whether it is read from a folder.
        beside: names of folders beside the root that belong to the data set.
        detect: whether a folder has this layout, from a glance; None where a folder alone does not tell.
    """

    name: str
    title: str
    layout: str
    read: Callable[..., SourceSplit | Dataset | None]
    needs_root: bool = True
    keeps: bool = False
    beside: tuple[str, ...] = ()
    detect: Callable[[Path], bool] | None = None

    @property
    def options(self) -> list[str]:
        """Names of the options of `read`."""
        parameters = inspect.signature(self.read).parameters.values()
        return [parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY]


def sources() -> dict[str, Source]:
    """All sources by name. A new one is a module of `sat_peft.data.formats` with a `SOURCE`."""
    return registered("SOURCE")


def detect_source(folder: Path) -> Source:
    """The source whose layout a folder has.

    Raises:
        UsageError: no folder, one that has the layout of none, or of several sources.
    """
    if not is_folder(folder):
        raise UsageError(f"the data folder {str(folder)!r} does not exist.")
    fitting = [source for source in sources().values() if source.detect is not None and source.detect(folder)]
    if len(fitting) == 1:
        return fitting[0]
    named = f"Name the format: --data FORMAT --data-root {folder}, where FORMAT is"
    if fitting:
        raise UsageError(f"{folder} could be read as several formats. {named} {' or '.join(s.name for s in fitting)}.")
    layouts = "".join(f"\n  {source.name}: {source.layout}" for source in sources().values() if source.detect)
    raise UsageError(f"{folder} has no layout that is known. {named} one of {', '.join(sources())}.{layouts}")


def find_source(name_or_path: str, root: str | Path | None = None) -> tuple[Source, Path | None, dict]:
    """The source that `name_or_path` means, its root and options that follow from the name.

    A name of the registry, with its `root`; `hub:ID`; or a folder, whose layout tells the source.

    Raises:
        UsageError: neither, a root that is missing or has no use, or a folder of no or an ambiguous layout.
    """
    known = sources()
    if name_or_path.startswith("hub:"):
        if root is not None:
            raise UsageError(f"{name_or_path!r} names its data; leave out --data-root {str(root)!r}.")
        return known["hub"], None, {"dataset": name_or_path.removeprefix("hub:")}
    if name_or_path in known:
        source = known[name_or_path]
        if source.needs_root and root is None:
            raise UsageError(
                f"the source {source.name!r} is read from a folder; name it with --data-root. {source.layout}"
            )
        if not source.needs_root and root is not None:
            raise UsageError(f"the source {source.name!r} has no folder; leave out --data-root {str(root)!r}.")
        return source, Path(root) if root else None, {}
    if root is not None:
        raise unknown_choice("source", name_or_path, known)
    if not os.path.exists(name_or_path) and not any(mark in name_or_path for mark in "/\\."):
        error = unknown_choice("source", name_or_path, known)
        raise UsageError(f"the data folder {name_or_path!r} does not exist, nor is it a source: {error}")
    folder = Path(name_or_path)
    return detect_source(folder), folder, {}


@dataclass(frozen=True)
class OpenSource:
    """A data set whose splits are read one after the other, from files that are parsed once. Get one by `open_source`.

    Args:
        source: its source.
        root: its folder; None where it has none.
        options: options of the source.
        allow_outside: read images that lie outside of the data's folder, too.
        kept: what has been parsed.
    """

    source: Source
    root: Path | None
    options: dict
    allow_outside: bool = False
    kept: Kept = field(default_factory=Kept)

    def read(self, split: str, problems: Problems | None = None, **options) -> Dataset | None:
        """Reads one split; image files are opened later, one by one.

        Args:
            split: `train`, `validation` or `test`.
            problems: collects what is wrong; by default the first problem is an error.
            options: options of the source for this split alone.

        Returns:
            A data set with the columns of `sat_peft.data.features`; None for a `validation` or `test` split that the
            data does not have.

        Raises:
            UsageError: an unknown split, a missing file, or a bad entry.
        """
        if split not in SPLITS:
            raise unknown_choice("split", split, SPLITS)
        source, problems = self.source, problems or Problems()
        kept = (self.kept,) if source.keeps else ()
        found = source.read(self.root, split, problems, *kept, **self.options, **options)
        if found is None and split == "train":
            raise UsageError(f"{source.name}: the data has no train split. {source.layout}")
        where = f"{source.name}, split {split!r}"
        if not isinstance(found, SourceSplit):
            if found is not None and not self.allow_outside:
                check_rows_inside(found, self.root, where)
            return found
        inside = () if self.allow_outside else (self.root, *(self.root.parent / name for name in source.beside))
        return build_dataset(found, problems, where=where, layout=source.layout, inside=inside)


def open_source(
    name_or_path: str, *, root: str | Path | None = None, allow_outside: bool = False, **options
) -> OpenSource:
    """Opens a data set, of which nothing is read yet.

    Args:
        name_or_path: a name of `sources()`, `hub:ID`, or a folder whose layout tells its format.
        root: the folder of a named source.
        allow_outside: see `OpenSource`.
        options: options of the source.

    Raises:
        UsageError: an unknown name or option, a missing folder.
    """
    source, folder, implied = find_source(name_or_path, root)
    for name in options:
        if name not in source.options:
            choices = ", ".join(source.options) or "none"
            raise UsageError(f"the source {source.name!r} has no option {name!r}. It has: {choices}.")
    return OpenSource(source, folder, implied | options, allow_outside)


def load_source(
    name_or_path: str,
    split: str,
    *,
    root: str | Path | None = None,
    allow_outside: bool = False,
    problems: Problems | None = None,
    **options,
) -> Dataset | None:
    """Reads one split of a data set: see `open_source` and `OpenSource.read`."""
    return open_source(name_or_path, root=root, allow_outside=allow_outside, **options).read(split, problems)
