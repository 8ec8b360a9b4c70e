"""What a source yields: images with their annotations, and what is wrong with the data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from sat_peft.errors import UsageError

# Problems beyond these are counted, but no longer listed.
MAX_LISTED = 1000


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
    """

    image_id: str
    image: Path
    label: int
    boxes: np.ndarray | tuple = ()
    masks: tuple[Path, ...] = ()
    ignore: tuple[Path, ...] = ()


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
        count: of the bad entries.
        listed: the first of them.
        left_out: what is right and yet has no use, such as an image without any object: numbers by reason.
    """

    skip: bool = False
    count: int = 0
    listed: list[Problem] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)

    def add(self, where: str | Path, what: str, fix: str = "") -> None:
        """Reports one entry, which the caller then leaves out.

        Raises:
            UsageError: always, unless bad entries are skipped.
        """
        problem = Problem(str(where), what, fix)
        if not self.skip:
            raise UsageError(f"{problem} Or leave out what cannot be read with --skip-bad.")
        self.count += 1
        if len(self.listed) < MAX_LISTED:
            self.listed.append(problem)

    def leave_out(self, reason: str) -> None:
        """Counts an entry that the caller leaves out, though nothing is wrong with it."""
        self.left_out[reason] += 1

    def lines(self) -> list[str]:
        """What was skipped and left out, for the console; nothing where nothing was."""
        found = [f"left out: {count} {reason}" for reason, count in self.left_out.items()]
        if self.count:
            found.append(f"skipped: {self.count} bad entries, the first of them {self.listed[0]}")
        return found

    def report(self) -> dict:
        """The same in full, ready for JSON."""
        return {"count": self.count, "skipped": [asdict(problem) for problem in self.listed], "left_out": self.left_out}
