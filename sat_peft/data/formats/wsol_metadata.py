"""Any data set with metadata in the form of wsolevaluation (clovaai/wsolevaluation): CUB, ILSVRC, OpenImages.

    ROOT/…                                  the images
    METADATA/{train,val,test}/image_ids.txt      path below ROOT
                             class_labels.txt    path,label    (from 0)
                             localization.txt    path,x0,y0,x1,y1   a line per box, or
                                                 path,mask,ignore   a line per mask; ignore is given once
    METADATA/train/image_ids_proxy.txt      a tenth of the training set (ILSVRC)

METADATA is `ROOT/metadata`, or the option `metadata` (of the repository, the folder of one data set, as metadata/CUB).
Our `train`, `validation` and `test` are its train (train-weaksup), val (train-fullsup: images for choosing thresholds,
which are not in the official data sets) and test. With the option `proxy` train is the list of that name.

Boxes are corners in whole pixels, at most the last column and row; they are taken as they are (`xyxy`), which is how
wsolevaluation scores them and protocol `wsol` is defined. image_sizes.txt is not read: the images tell. Masks are light
on the object. Where the training images lie in folders by class, the folders name the classes, else their numbers do.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import numpy as np

from sat_peft.data.box_formats import to_xyxy
from sat_peft.data.sources.files import numbers, require_file, require_folder
from sat_peft.data.sources.lists import line, names_by_label, read_columns, whole_number
from sat_peft.data.sources.records import Problems, Record, SourceSplit
from sat_peft.data.sources.registry import Source
from sat_peft.data.sources.stored_boxes import upright_boxes
from sat_peft.errors import UsageError
from sat_peft.files import is_file, is_folder, read_lines

_LAYOUT = (
    "Expected image_ids.txt, class_labels.txt and localization.txt in METADATA/{train,val,test}, where METADATA is "
    "ROOT/metadata or the option metadata, and ROOT holds the images that they name."
)
_FOLDERS = {"train": "train", "validation": "val", "test": "test"}
_MAX_CLASSES = 1_000_000


@dataclass
class _Truth:
    """What localization.txt says of one image."""

    where: str
    boxes: list[list[float]] = field(default_factory=list)
    masks: list[str] = field(default_factory=list)
    ignore: list[str] = field(default_factory=list)


class _Labels:
    """path -> label of class_labels.txt, as two arrays: a million paths as Python strings would take 200 MB."""

    def __init__(self, file: Path, problems: Problems):
        self.file = file
        rows = np.fromiter(
            ((hash(path), label, number) for number, path, label in _labelled(file, problems)),
            [("key", np.int64), ("label", np.int32), ("line", np.int32)],
        )
        self._rows = rows[np.argsort(rows["key"], kind="stable")]
        self._used = np.zeros(len(rows), bool)
        repeated = np.flatnonzero(np.diff(self._rows["key"]) == 0)
        for number in np.sort(self._rows["line"][repeated + 1]):
            problems.add(line(file, number), "the image has a line already.", "Remove one of the two.")

    def take(self, path: str) -> int | None:
        """The label of an image; None where it has none."""
        index = np.searchsorted(self._rows["key"], hash(path))
        if index == len(self._rows) or self._rows["key"][index] != hash(path):
            return None
        self._used[index] = True
        return int(self._rows["label"][index])

    def unused(self) -> Iterator[str]:
        """The places of the lines whose image was not asked for."""
        return (line(self.file, number) for number in np.sort(self._rows["line"][~self._used]))


def _labelled(file: Path, problems: Problems) -> Iterator[tuple[int, str, int]]:
    """(line number, path, label) of class_labels.txt."""
    for number, (path, text) in read_columns(file, 2, problems, separator=",", rest="first"):
        label = whole_number(text, range(_MAX_CLASSES), "class", line(file, number), problems)
        if label is not None:
            yield number, path, label


def _class_names(file: Path, problems: Problems) -> list[str]:
    """Names of all classes, by the training list."""
    pairs = {(label, PurePosixPath(path).parent.name) for _, path, label in _labelled(file, problems)}
    labels = {label for label, _ in pairs}
    if len(pairs) == len(labels) == len({folder for _, folder in pairs}):
        return names_by_label((str(file), label, folder) for label, folder in pairs)
    return [str(label) for label in range(max(labels, default=-1) + 1)]


def _read_truth(file: Path, problems: Problems) -> dict[str, _Truth]:
    found: dict[str, _Truth] = {}
    for number, text in read_lines(file):
        where = line(file, number)
        columns = text.strip().rsplit(",", 4)
        if len(columns) == 3 and columns[1]:
            truth = found.setdefault(columns[0], _Truth(where))
            truth.masks.append(columns[1])
            truth.ignore += [columns[2]] if columns[2] else []
        elif len(columns) == 5:
            box = numbers(",".join(columns[1:]), 4, where, problems, separator=",")
            if box is not None:
                found.setdefault(columns[0], _Truth(where)).boxes.append(box)
        else:
            problems.add(where, f"expected path,x0,y0,x1,y1 or path,mask,ignore, got {text[:80]!r}.")
    return found


def _records(
    root: Path,
    image_list: Path,
    labels: _Labels,
    truths: dict[str, _Truth],
    num_classes: int,
    whole: bool,
    problems: Problems,
) -> Iterator[Record]:
    """Of the images in `image_list`, which, where it is the `whole` split, names every image that has a label."""
    annotated = bool(truths)
    for number, text in read_lines(image_list):
        path = text.strip()
        where = line(image_list, number)
        label = labels.take(path)
        truth = truths.pop(path, None)
        if label is None:
            problems.add(where, f"{path!r} is not in {labels.file}.", "Add its class, or remove the image.")
        elif label >= num_classes:
            problems.add(where, f"the training list has no class {label}.", "Remove the image.")
        elif annotated and truth is None:
            problems.add(where, f"{path!r} is not in localization.txt.", "Add it, or remove the image.")
        elif truth is None:
            yield Record(path, root / path, label)
        else:
            boxes = upright_boxes(to_xyxy(truth.boxes, "xyxy"), root / path, truth.where, problems)
            if boxes is not None:
                masks, ignore = (tuple(root / name for name in names) for names in (truth.masks, truth.ignore))
                yield Record(path, root / path, label, boxes, masks, ignore)
    leftovers = [truth.where for truth in truths.values()]
    for where in (*leftovers, *(labels.unused() if whole else ())):
        problems.add(where, f"its image is not in {image_list}.", "Add it there, or remove the line.")


def _read(
    root: Path, split: str, problems: Problems, *, metadata: str | None = None, proxy: bool = False
) -> SourceSplit | None:
    require_folder(root, _LAYOUT)
    lists = require_folder(Path(metadata) if metadata else root / "metadata", _LAYOUT)
    folder = lists / _FOLDERS[split]
    if split == "validation" and not is_folder(folder):
        return None
    # Problems of this list are counted when it is read as a split.
    names = _class_names(require_file(lists / "train" / "class_labels.txt", _LAYOUT), Problems(problems.skip))
    use_proxy = proxy and split == "train"
    image_list = require_file(folder / ("image_ids_proxy.txt" if use_proxy else "image_ids.txt"), _LAYOUT)
    labels = _Labels(require_file(folder / "class_labels.txt", _LAYOUT), problems)
    truths = _read_truth(require_file(folder / "localization.txt", _LAYOUT), problems)
    if not names:
        raise UsageError(f"{lists / 'train' / 'class_labels.txt'} is empty.")
    has_masks = any(truth.masks for truth in truths.values())
    records = _records(root, image_list, labels, truths, len(names), not use_proxy, problems)
    return SourceSplit(names, records, has_masks)


def _detect(root: Path) -> bool:
    return is_file(root / "metadata" / "train" / "image_ids.txt")


SOURCE = Source(
    "wsol_metadata", "metadata folders of wsolevaluation: CUB, ILSVRC, OpenImages", _LAYOUT, _read, detect=_detect
)
