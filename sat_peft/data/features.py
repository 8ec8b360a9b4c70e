"""The one form that every data set takes: a `datasets.Dataset` with the columns below.

image_id  string, unique and stable: where the image came from
image     the encoded image
label     ClassLabel
boxes     (n, 4) float32, xyxy, half open, absolute pixels of the image; n may be 0
mask      optional greyscale image, light on the object, or a list of such images, whose union is the object
ignore    optional list of greyscale images, light where pixels count neither as object nor as background

Lists hold undecoded images, which `sat_peft.data.decoding.decode_masks` reads.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import ClassLabel, Dataset, Features, Image, Sequence, Value


def localization_features(class_names: list[str], *, with_mask: bool = False, several_masks: bool = False) -> Features:
    """The features of a data set with these classes, in this order.

    Args:
        class_names: class names of the labels.
        with_mask: add the column `mask`.
        several_masks: as lists of images, and with the column `ignore`.
    """
    features = {
        "image_id": Value("string"),
        "image": Image(),
        "label": ClassLabel(names=list(class_names)),
        "boxes": Sequence(Sequence(Value("float32"), length=4)),
    }
    if with_mask:
        # Lists stay undecoded: to cast them later, `datasets` would copy every row.
        features["mask"] = Sequence(Image(decode=False)) if several_masks else Image()
        if several_masks:
            features["ignore"] = Sequence(Image(decode=False))
    return Features(features)


def undecoded(dataset: Dataset) -> Dataset:
    """The same rows, whose image cells are `{"bytes": …, "path": …}`, for `sat_peft.data.decoding`."""
    for name, feature in dataset.features.items():
        if isinstance(feature, Image):
            dataset = dataset.cast_column(name, Image(decode=False))
        elif isinstance(element := getattr(feature, "feature", None), Image) and element.decode:
            dataset = dataset.cast_column(name, Sequence(Image(decode=False)))
    return dataset


def mask_cells(row: dict) -> tuple[list[dict], list[dict]]:
    """The undecoded masks and ignore masks of a row; the column `mask` may hold one or several, or none."""
    masks = row.get("mask") or []
    return masks if isinstance(masks, list) else [masks], row.get("ignore") or []


def column(dataset: Dataset, name: str) -> pa.ChunkedArray:
    """A column as Arrow keeps it, in the order of the rows: a million values are no Python objects."""
    return dataset.select_columns([name]).with_format("arrow")[:].column(name)


def labels(dataset: Dataset) -> np.ndarray:
    """(N,) int64 labels of all rows."""
    return column(dataset, "label").to_numpy()


def box_counts(dataset: Dataset) -> np.ndarray:
    """(N,) number of boxes of every row."""
    return pc.fill_null(pc.list_value_length(column(dataset, "boxes")), 0).to_numpy()


def rows_with_boxes(dataset: Dataset) -> Dataset:
    """The rows that have at least one box."""
    return dataset.select(np.flatnonzero(box_counts(dataset)))
