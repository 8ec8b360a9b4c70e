"""The one form that every data set takes: a `datasets.Dataset` with the columns below.

image_id  string, unique and stable: where the image came from
image     the encoded image
label     ClassLabel
boxes     (n, 4) float32, xyxy, half open, absolute pixels of the image; n may be 0
mask      optional greyscale image, light on the object, or a list of such images, whose union is the object
ignore    optional list of greyscale images, light where pixels count neither as object nor as background
"""

from __future__ import annotations

from datasets import ClassLabel, Dataset, Features, Image, Sequence, Value


def localization_features(class_names: list[str], *, with_mask: bool = False, several_masks: bool = False) -> Features:
    """The features of a data set with these classes, in this order.

    Args:
        class_names: of the labels.
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
        features["mask"] = Sequence(Image()) if several_masks else Image()
        if several_masks:
            features["ignore"] = Sequence(Image())
    return Features(features)


def rows_with_boxes(dataset: Dataset) -> Dataset:
    """The rows that have at least one box."""
    return dataset.select([index for index, boxes in enumerate(dataset["boxes"]) if len(boxes)])
