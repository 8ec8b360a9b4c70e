"""Columns of a data set in `datasets`' form: which of them are image, label, boxes and mask."""

from __future__ import annotations

from dataclasses import dataclass

from datasets import ClassLabel, Dataset, Features, LargeList, List, Value
from datasets import Image as ImageFeature

from sat_peft.data.box_formats import BOX_FORMATS
from sat_peft.errors import UsageError, unknown_choice

_LABEL_NAMES = ("label", "labels")
_OBJECT_LABEL_NAMES = ("category", "categories", "label", "labels", "class", "classes")
_BOX_NAMES = ("bbox", "bboxes", "box", "boxes", "bounding_box", "bounding_boxes")
# Given for the boxes, it leaves them out.
NO_COLUMN = "none"


@dataclass(frozen=True)
class Columns:
    """Names of columns; a name with a dot is a field of a column of structures, as in `objects.bbox`.

    Args:
        image: column of images, or of paths.
        image_is_encoded: images, and not paths.
        label: column of classes.
        label_per_object: a list of classes in every row, one for every box.
        boxes: or None.
        box_format: a name of `BOX_FORMATS`; None without boxes.
        mask: or None.
    """

    image: str
    image_is_encoded: bool
    label: str
    label_per_object: bool
    boxes: str | None
    box_format: str | None
    mask: str | None

    @property
    def annotations(self) -> list[str]:
        """The whole columns in which label and boxes are."""
        return list(dict.fromkeys(name.split(".")[0] for name in (self.label, self.boxes) if name))


def _is_list(feature: object) -> bool:
    return isinstance(feature, List | LargeList)


def _fields(features: Features) -> dict[str, object]:
    """The columns, and those in columns of structures, by name."""
    found = {}
    for name, feature in features.items():
        found[name] = feature
        inner = feature.feature if _is_list(feature) else feature
        if isinstance(inner, dict):
            # In a list of structures every field is a list.
            listed = _is_list(feature)
            found |= {f"{name}.{key}": List(value) if listed else value for key, value in inner.items()}
    return found


def values_of(row: dict, name: str) -> object:
    """The cell of a column, or of a field of a column: from a structure of lists or from a list of structures."""
    column, _, field = name.partition(".")
    cell = row[column]
    if not field or cell is None:
        return cell
    return [entry[field] for entry in cell] if isinstance(cell, list) else cell[field]


def _is_class(feature: object) -> bool:
    whole = isinstance(feature, Value) and ("int" in feature.dtype or feature.dtype in ("string", "large_string"))
    return isinstance(feature, ClassLabel) or whole


def _guess(fitting: list[str], what: str, flag: str, where: str, fields: dict) -> str:
    if len(fitting) == 1:
        return fitting[0]
    which = f"several columns could hold the {what}: {', '.join(fitting)}" if fitting else f"no column tells the {what}"
    raise UsageError(f"{where}: {which}. Name it with {flag}; the columns are {', '.join(fields)}.")


def find_columns(
    features: Features,
    where: str,
    *,
    image: str | None = None,
    label: str | None = None,
    boxes: str | None = None,
    box_format: str | None = None,
    mask: str | None = None,
) -> Columns:
    """The columns that are given, and guesses of the others where only one can be meant.

    Args:
        features: features of the data set.
        where: the data set, for messages.
        image, label, boxes, box_format, mask: see `Columns`; `boxes` may be "none".

    Raises:
        UsageError: a column that does not exist or is of no use, none or several that could be meant, or boxes whose
            format is not given.
    """
    fields = _fields(features)
    for name in (image, label, mask, None if boxes == NO_COLUMN else boxes):
        if name is not None and name not in fields:
            raise unknown_choice(f"column of {where}", name, fields)
    images = [name for name in features if isinstance(features[name], ImageFeature) and name != mask]
    image = image or _guess(images, "images", "--image-column", where, fields)
    encoded = isinstance(fields[image], ImageFeature)
    if not encoded and not (isinstance(fields[image], Value) and "string" in fields[image].dtype):
        raise UsageError(f"{where}: the column {image!r} holds {fields[image]}, and neither images nor paths.")
    if mask is not None and not isinstance(fields[mask], ImageFeature):
        raise UsageError(f"{where}: the column {mask!r} holds {fields[mask]}, and no masks as images.")

    if boxes is None:
        fitting = [name for name in fields if name.split(".")[-1] in _BOX_NAMES]
        boxes = _guess(fitting, "boxes", "--box-column", where, fields) if fitting else NO_COLUMN
    if boxes == NO_COLUMN:
        boxes = box_format = None
    elif box_format is None:
        raise UsageError(
            f"{where}: the column {boxes!r} holds boxes, whose format only you know. Name it with --box-format: "
            f"{', '.join(BOX_FORMATS)}; or leave the boxes out with --box-column {NO_COLUMN}."
        )
    elif box_format not in BOX_FORMATS:
        raise unknown_choice("box format", box_format, BOX_FORMATS)

    if label is None:
        named = [name for name in _LABEL_NAMES if name in features and _is_class(features[name])]
        typed = [name for name in features if isinstance(features[name], ClassLabel)]
        group = boxes.split(".")[0] if boxes and "." in boxes else None
        of_objects = [f"{group}.{name}" for name in _OBJECT_LABEL_NAMES if f"{group}.{name}" in fields]
        label = _guess(named or typed or of_objects, "labels", "--label-column", where, fields)
    per_object = _is_list(fields[label])
    if not _is_class(fields[label].feature if per_object else fields[label]):
        raise UsageError(f"{where}: the column {label!r} holds {fields[label]}, and no classes.")
    if per_object and boxes is None:
        raise UsageError(
            f"{where}: the column {label!r} has a class for every object, which needs the objects' boxes. Name them "
            "with --box-column."
        )
    return Columns(image, encoded, label, per_object, boxes, box_format, mask)


def class_values(train: Dataset, columns: Columns) -> tuple[list[str], dict]:
    """(names of the classes, label by the value in the column): those of the ClassLabel, or all values in the train
    split, sorted.
    """
    feature = _fields(train.features)[columns.label]
    feature = feature.feature if columns.label_per_object else feature
    if isinstance(feature, ClassLabel):
        return feature.names, dict(enumerate(range(feature.num_classes)))
    if "." in columns.label or columns.label_per_object:
        rows = train.select_columns([columns.label.split(".")[0]])
        cells = (values_of(row, columns.label) for row in rows)
        found = {value for cell in cells if cell is not None for value in (cell if isinstance(cell, list) else [cell])}
    else:
        found = set(train.unique(columns.label))
    values = sorted(found - {None})
    return [str(value) for value in values], {value: label for label, value in enumerate(values)}
