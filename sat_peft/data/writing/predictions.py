"""What every writer is given."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

# Files of the machine that Label Studio runs on, below its LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT.
LOCAL_FILES = "/data/local-files/?d="


@dataclass(frozen=True)
class Prediction:
    """What was predicted for one image.

    Args:
        image_id: path of the image below the root folder, with forward slashes.
        image_size: (width, height) in pixels of the upright image.
        label, label_index: the class.
        score: its softmax probability, in [0, 1].
        boxes: n boxes [x0, y0, x1, y1], half open, 0-based, in absolute pixels of the upright image; largest
            component first.
        predicted_label: the most probable class, which a given `label` may not be; None where an earlier version did
            not note it.
        polygons: for each of the boxes, the outlines of its region, largest first: lists of points [x, y] in pixels as
            those of boxes; None where masks were not asked for.
    """

    image_id: str
    image_size: tuple[int, int]
    label: str
    label_index: int
    score: float
    boxes: list[list[float]]
    predicted_label: str | None = None
    polygons: list[list[list[list[float]]]] | None = None


@dataclass(frozen=True)
class PredictionSet:
    """The predictions of a set of images, and how they came about.

    Args:
        predictions: in the order in which they are written; iterated several times, so no plain iterator.
        class_names: class names of all classes, in the order of the logits.
        protocol: protocol by which the boxes were read off the maps.
        threshold: threshold of the maps.
        threshold_source: where the threshold comes from, in plain words.
        labels_given: `label` of the predictions is the class that was given, not the most probable one.
        given_labels: names of the given classes by `image_id`, of the images whose class is known.
        flat: formats with a file for every image have them in one folder, instead of in the folders of the images.
        image_root: folder that the `image_id`s are relative to; None where the images are no files below one.
        image_root_url: what Label Studio finds the same folder under.
        model_version: a name of the model.
    """

    predictions: Iterable[Prediction]
    class_names: list[str]
    protocol: str
    threshold: float
    threshold_source: str
    labels_given: bool = False
    given_labels: Mapping[str, str] = field(default_factory=dict)
    flat: bool = False
    image_root: Path | None = None
    image_root_url: str = LOCAL_FILES
    model_version: str = "sat_peft"

    def predicted_label(self, found: Prediction) -> str | None:
        """The most probable class of one of the predictions; None where it is not known."""
        return found.predicted_label if self.labels_given else found.label
