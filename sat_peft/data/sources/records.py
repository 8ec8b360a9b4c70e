"""What a source yields: images with their annotations, and what is wrong with the data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np

from sat_peft.errors import UsageError
from sat_peft.files.paths import FileProblem, shown_path

# Problems beyond these are counted, but no longer listed.
MAX_LISTED = 1000
_SHOWN = 5
SAME_MISTAKE = "All of them have the same mistake, likely that of the program that wrote the data: repair it there."

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Record:
    """One image with its annotations.

    Args:
        image_id: unique in its split, and stable: it depends neither on the machine nor on the root folder.
        image: the file.
        label: index of the class.
        boxes: (n, 4) xyxy, half open, absolute pixels of the image; n may be 0.
        masks: greyscale files whose union is the object, light on the object.
        ignore: greyscale files of pixels that count neither as object nor as background.
        where: names the boxes in messages: their file and entry; by default the image.
        size: (width, height) in pixels that the annotation tells of the image; None where it does not.
    """

    image_id: str
    image: Path
    label: int
    boxes: np.ndarray | tuple = ()
    masks: tuple[Path, ...] = ()
    ignore: tuple[Path, ...] = ()
    where: str = ""
    size: tuple[int, int] | None = None


@dataclass(frozen=True)
class SourceSplit:
    """One split as a source reads it.

    Args:
        class_names: in the order of the labels; the same in every split of a source.
        records: read once, one by one, so that a million of them need not be in memory.
        has_masks: whether the source has masks, of some images at least.
    """

    class_names: list[str]
    records: Iterator[Record]
    has_masks: bool = False


class Kept:
    """What a source has parsed, for as long as its data set is open: no file is read twice for another split."""

    def __init__(self):
        self._found: dict[object, object] = {}

    def once(self, key: object, parse: Callable[[], T]) -> T:
        """What `parse` returned when it was called for `key` the first time."""
        if key not in self._found:
            self._found[key] = parse()
        return self._found[key]


@dataclass(frozen=True)
class Problem:
    """Something wrong with the data: `where` (file and line, or image), `what`, and `fix`."""

    where: str
    what: str
    fix: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what} {self.fix}".rstrip()


@dataclass
class Problems:
    """What is wrong with a data set. Nothing is dropped in silence: the first problem is an error, or, where the user
    chose to skip bad entries, every one is counted and the first `MAX_LISTED` are listed.

    Args:
        skip: count and list instead of raising.
        read_images: where bad entries are skipped, decode every image while the data set is indexed, so that none
            fails later. Off where all are going to be read anyway.
        count: number of the bad entries.
        listed: the first of them.
        left_out: what is right and yet has no use, such as an image without any object: numbers by reason.
        noted: what was read as it was plainly meant, and what else is worth a word: numbers by what it is.
        sizes: (width, height) that annotations tell, by `image_id`, for whoever reads the images; None keeps none.
    """

    skip: bool = False
    read_images: bool = True
    count: int = 0
    listed: list[Problem] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    noted: Counter[str] = field(default_factory=Counter)
    sizes: dict[str, tuple[int, int]] | None = None

    def add(self, where: str | Path, what: str, fix: str = "") -> None:
        """Reports one entry, which the caller then leaves out.

        Raises:
            UsageError: always, unless bad entries are skipped.
        """
        problem = Problem(shown_path(where), what, fix)
        if not self.skip:
            raise UsageError(f"{problem} Or leave out what cannot be read with --skip-bad.")
        self.count += 1
        if len(self.listed) < MAX_LISTED:
            self.listed.append(problem)

    def read(self, reader: Callable[[Path], T], path: Path) -> T | None:
        """What `reader` finds in a file; None after a problem with it."""
        try:
            return reader(path)
        except FileProblem as error:
            self.add(error.where, error.what, error.fix)
            return None

    def leave_out(self, reason: str, count: int = 1) -> None:
        """Counts an entry that the caller leaves out, though nothing is wrong with it."""
        self.left_out[reason] += count

    def note(self, what: str, count: int = 1) -> None:
        """Counts something that the caller read in the one way that it can be meant."""
        self.noted[what] += count

    def take(self, others: Problems) -> None:
        """Adds what another reading of the same data found.

        Raises:
            UsageError: there is a bad entry, unless they are skipped.
        """
        for problem in others.listed:
            self.add(problem.where, problem.what, problem.fix)
        self.count += others.count - len(others.listed)
        self.left_out += others.left_out
        self.noted += others.noted

    def remarks(self) -> list[str]:
        """What was left out and what was noted, a line each."""
        return [f"left out: {count} {reason}" for reason, count in self.left_out.items()] + [
            f"note: {count} {what}" for what, count in self.noted.items()
        ]

    def digest(self) -> list[str]:
        """The first bad entries, how many there are, and whether they have one cause; nothing where there is none."""
        if not self.count:
            return []
        lines = [str(problem) for problem in self.listed[:_SHOWN]]
        if self.count > len(lines):
            lines.append(f"and {self.count - len(lines)} more bad entries")
        return lines + ([SAME_MISTAKE] if self.same_mistake else [])

    @property
    def same_mistake(self) -> bool:
        """Whether there are several bad entries, of which all need the same fix."""
        return self.count > 1 and len({problem.fix or problem.what for problem in self.listed}) == 1

    def lines(self) -> list[str]:
        """What was skipped, left out and noted, for the console; nothing where nothing was."""
        found = self.remarks()
        if self.count:
            first, *others = self.digest()
            found += [
                f"skipped: {self.count} bad entries, the first of them {first}",
                *(f"  {line}" for line in others),
            ]
        return found

    def report(self) -> dict:
        """The same in full, ready for JSON."""
        return {
            "count": self.count,
            "skipped": [asdict(problem) for problem in self.listed],
            "left_out": self.left_out,
            "noted": self.noted,
        }
