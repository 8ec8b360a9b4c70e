"""A data set of the Hub, or one that `datasets` reads from a folder: saved with `save_to_disk`, Parquet, JSON lines.

`hub:ID` names a data set of the Hub. Columns are taken by name, or guessed where only one can be meant; the format of
boxes is never guessed, since `bbox` is xywh in one data set and xyxy in the next. Images stay encoded and, like all
else, memory-mapped.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from datasets import Dataset, DatasetDict, Features, concatenate_datasets, load_dataset, load_from_disk
from datasets import Image as ImageFeature
from datasets.arrow_writer import ArrowWriter

from sat_peft.data.box_formats import RELATIVE_FORMATS, to_xyxy
from sat_peft.data.decoding import decode_image, outside_problem, read_head
from sat_peft.data.features import localization_features, undecoded
from sat_peft.data.sources.build import check_class_names, checked_boxes, new_arrow_file
from sat_peft.data.sources.columns import Columns, class_values, find_columns, values_of
from sat_peft.data.sources.files import SPLIT_NAMES
from sat_peft.data.sources.objects import check_label_from, choose_class
from sat_peft.data.sources.records import Problems
from sat_peft.data.sources.registry import Source
from sat_peft.errors import UsageError, unknown_choice
from sat_peft.files import is_file

_LAYOUT = (
    "Expected a folder of `Dataset.save_to_disk` or `DatasetDict.save_to_disk`, or one that `datasets.load_dataset` "
    "reads: Parquet, JSON lines or CSV files, named after their splits."
)


def _load(root: Path | None, dataset: str | None, subset: str | None) -> DatasetDict:
    """All splits, memory-mapped."""
    name = str(root) if root is not None else dataset
    if root is not None and not root.is_dir():
        raise UsageError(f"the folder {name!r} does not exist. {_LAYOUT}")
    try:
        saved = root is not None and _is_saved(root)
        found = load_from_disk(name) if saved else load_dataset(name, subset)
    except Exception as error:  # what a loader raises on files that are not as they should be is not documented
        raise UsageError(f"the data set {name!r} cannot be loaded: {error}") from error
    return found if isinstance(found, DatasetDict) else DatasetDict({"train": found})


def _find_split(splits: DatasetDict, split: str, given: str | None, where: str) -> Dataset | None:
    if given is not None and given not in splits:
        raise unknown_choice(f"split of {where}", given, splits)
    names = (given,) if given else SPLIT_NAMES[split]
    name = next((name for name in names if name in splits), None)
    if name is None and split == "train":
        raise UsageError(f"{where} has no split 'train', but {', '.join(splits)}. Name it with --train-split.")
    return None if name is None else splits[name]


def _boxes(value, box_format: str | None, image: dict, where: str, problems: Problems) -> np.ndarray | None:
    """(n, 4) xyxy of a cell with one box or a list of boxes; None after a problem."""
    if not value:
        return np.zeros((0, 4))
    try:
        boxes = np.atleast_2d(np.asarray(value, np.float64))
    except (TypeError, ValueError):  # lists of different lengths, or no numbers
        boxes = None
    if boxes is None or boxes.shape[1:] != (4,):
        problems.add(where, f"boxes must be 4 numbers, or lists of 4 numbers, got {str(value)[:80]}.")
        return None
    size = None
    if box_format in RELATIVE_FORMATS:
        try:
            size = read_head(image, where).size
        except UsageError as error:
            problems.add(where, str(error))
            return None
    return to_xyxy(boxes, box_format, size)


def _image_problem(image: dict, boxes: list, where: str) -> tuple[str, str] | None:
    """What is wrong with an image, its pixels read, and the fix."""
    try:
        height, width = decode_image(image, where).shape[-2:]
        return outside_problem(boxes, (width, height), image, where)
    except UsageError as error:
        return str(error), ""


@dataclass(frozen=True)
class _RowReader:
    """Reads the annotations of the rows of one split; whatever is wrong with a row goes to `problems`."""

    columns: Columns
    labels: dict
    class_names: list[str]
    label_from: str
    split: str
    problems: Problems

    def read(self, row: dict, image: dict | None, where: str) -> tuple[int, list[list[float]]] | None:
        """(label, xyxy boxes) of a row; None after a problem, or without an object.

        Args:
            row: the columns with the annotations.
            image: the undecoded image, for boxes that need its size.
            where: names the row.
        """
        columns, problems = self.columns, self.problems
        boxes = np.zeros((0, 4))
        if columns.boxes is not None:
            boxes = _boxes(values_of(row, columns.boxes), columns.box_format, image, where, problems)
            if boxes is None:
                return None
        value = values_of(row, columns.label)
        if columns.label_per_object:
            if not value:
                problems.leave_out(f"{self.split} images without an object to name their class")
                return None
            if len(value) != len(boxes):
                problems.add(where, f"it has {len(value)} labels of objects, but {len(boxes)} boxes.")
                return None
            chosen = choose_class(value, boxes, self.label_from, where, problems, title=self._title)
            if chosen is None:
                return None
            value, boxes = chosen
        if value not in self.labels:
            problems.add(where, f"the label {value!r} is none of the {len(self.labels)} classes of the train split.")
            return None
        checked = checked_boxes(where, boxes, problems)
        return None if checked is None else (self.labels[value], checked)

    def _title(self, value: object) -> str:
        return self.class_names[self.labels[value]] if value in self.labels else str(value)


class _Images:
    """The undecoded images of a split, each read only where something asks for it."""

    def __init__(self, rows: Dataset, columns: Columns, root: Path | None):
        self.rows, self.column = rows.select_columns([columns.image]), columns.image
        self.folder = None if columns.image_is_encoded else root

    def __getitem__(self, index: int) -> dict | None:
        """`{"bytes": …, "path": …}`; None for an empty cell or a path without a file."""
        cell = self.rows[index][self.column]
        if self.folder is None or cell is None:
            return cell
        path = self.folder / cell
        return {"bytes": None, "path": str(path)} if is_file(path) else None


def _annotate(
    rows: Dataset, reader: _RowReader, images: _Images, features: Features, where: str
) -> tuple[Dataset, array]:
    """(the columns `features` of all rows, the indices of the rows that can be used). The others have empty cells."""
    columns, problems = reader.columns, reader.problems
    # Where bad entries are skipped, nothing may fail later, in the middle of a training.
    reads_pixels = problems.skip and problems.read_images
    needs_images = (
        reads_pixels
        or not columns.image_is_encoded
        or columns.box_format in RELATIVE_FORMATS
        or rows.data.column(columns.image).null_count > 0
    )
    kept = array("q")
    file = new_arrow_file()
    with ArrowWriter(path=file, features=features) as writer:
        for index, row in enumerate(rows.select_columns(columns.annotations)):
            place = f"{where}, {reader.split}, row {index}"
            image, found = images[index] if needs_images else None, None
            if needs_images and image is None:
                problems.add(place, "the image is missing.", "Add it, or remove the row.")
            else:
                found = reader.read(row, image, place)
            wrong = _image_problem(image, found[1], place) if found is not None and reads_pixels else None
            if wrong is not None:
                problems.add(place, *wrong)
            elif found is not None:
                kept.append(index)
            label, boxes = found or (0, [])
            cells = {"image_id": f"{reader.split}/{index:08d}", "label": label, "boxes": boxes, "image": image}
            writer.write({name: cells[name] for name in features})
        writer.finalize()
    return Dataset.from_file(file), kept


def _read(
    root: Path | None,
    split: str,
    problems: Problems,
    *,
    dataset: str | None = None,
    subset: str | None = None,
    train_split: str | None = None,
    validation_split: str | None = None,
    test_split: str | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
    box_column: str | None = None,
    box_format: str | None = None,
    mask_column: str | None = None,
    label_from: str = "largest",
) -> Dataset | None:
    check_label_from(label_from)
    where = dataset or str(root)
    splits = _load(root, dataset, subset)
    train = _find_split(splits, "train", train_split, where)
    given = {"train": train_split, "validation": validation_split, "test": test_split}
    rows = _find_split(splits, split, given[split], where)
    if rows is None:
        return None
    columns = find_columns(
        train.features,
        where,
        image=image_column,
        label=label_column,
        boxes=box_column,
        box_format=box_format,
        mask=mask_column,
    )
    if not columns.image_is_encoded and root is None:
        raise UsageError(f"{where}: the column {columns.image!r} holds paths, which only a local folder can have.")
    class_names, labels = class_values(train, columns)
    if len(class_names) < 2:
        raise UsageError(f"{where} has {len(class_names)} classes; at least two are needed.")
    check_class_names(class_names, where)
    missing = [
        name for name in (columns.image, columns.mask, *columns.annotations) if name and name not in rows.features
    ]
    if missing:
        raise UsageError(f"{where}: the {split} split lacks the column {', '.join(missing)}, which train has.")
    rows = undecoded(rows)

    features = localization_features(class_names, with_mask=columns.mask is not None)
    written = {name: feature for name, feature in features.items() if name in ("image_id", "label", "boxes")}
    if not columns.image_is_encoded:
        written["image"] = features["image"]
    reader = _RowReader(columns, labels, class_names, label_from, split, problems)
    annotations, kept = _annotate(rows, reader, _Images(rows, columns, root), Features(written), where)
    if not kept:
        raise UsageError(f"{where} holds no usable images in its {split} split.")
    # Beside each other and not mapped into a new table, which would copy every image.
    parts = [annotations]
    own = {columns.image: "image"} if columns.image_is_encoded else {}
    own |= {columns.mask: "mask"} if columns.mask else {}
    if own:
        parts.append(rows.select_columns(list(own)).rename_columns(own))
    joined = concatenate_datasets(parts, axis=1) if len(parts) > 1 else parts[0]
    for name in own.values():
        joined = joined.cast_column(name, ImageFeature())
    joined = joined.select_columns(list(features))
    return joined if len(kept) == len(joined) else joined.select(kept)


def _is_saved(root: Path) -> bool:
    return (root / "dataset_dict.json").is_file() or (root / "state.json").is_file()


def _detect(root: Path) -> bool:
    tables = (path for pattern in ("*.parquet", "data/*.parquet") for path in root.glob(pattern))
    # That of an image folder is no data set of its own.
    return _is_saved(root) or any(path.name != "metadata.parquet" for path in tables)


SOURCE = Source(
    "hub", "a data set of the Hub (hub:ID), or a folder that `datasets` reads", _LAYOUT, _read, detect=_detect
)
