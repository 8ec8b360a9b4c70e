"""A trained model as a base model of autodistill: it labels images, with which a small detector is trained.

    pip install 'sat_peft[autodistill]'

>>> from sat_peft.plugins.autodistill import SpatialAwareToken
>>> base = SpatialAwareToken("runs/NAME")
>>> base.label("IMAGES", extension=".jpg")  # writes IMAGES_labeled with data.yaml, as trainers of YOLO read it

Its prompts are the classes that it was trained on, the names of the folders of their images.
"""

from __future__ import annotations

import os

import numpy as np
import supervision
from autodistill.detection import CaptionOntology, DetectionBaseModel
from autodistill.helpers import load_image
from PIL import Image

from sat_peft.prediction.localizer import Localizer


class SpatialAwareToken(DetectionBaseModel):
    """A base model whose predictions are the boxes of a `Localizer`.

    Args:
        model: a localizer, or what `Localizer.from_pretrained` takes: the folder of a run or of an adapter.
        ontology: name of a class of the model -> name to label it with; by default all under their own names. Images of
            other classes get no box.
        multi: a box for every component of the foreground, instead of the largest one alone.

    Raises:
        UsageError: a class that the model does not have, or what `Localizer.from_pretrained` raises.
    """

    def __init__(
        self,
        model: Localizer | str | os.PathLike,
        ontology: CaptionOntology | None = None,
        *,
        multi: bool = False,
    ):
        self._localizer = model if isinstance(model, Localizer) else Localizer.from_pretrained(model)
        self._multi = multi
        names = self._localizer.class_names
        self.set_ontology(ontology or CaptionOntology({name: name for name in names}))

    def set_ontology(self, ontology: CaptionOntology) -> None:
        """Replaces the ontology. Raises `UsageError` for a class that the model does not have."""
        for prompt in ontology.prompts():
            self._localizer.class_index(prompt)
        super().set_ontology(ontology)

    def predict(self, input: str | os.PathLike | np.ndarray | Image.Image) -> supervision.Detections:
        """The boxes of an image; `class_id` counts the classes of the ontology.

        Args:
            input: a path, an address (http or https), an image of Pillow, or an array (H, W, 3) uint8 of channels BGR,
                as OpenCV reads it.
        """
        is_address = isinstance(input, str) and input.startswith(("http://", "https://"))
        if is_address or isinstance(input, np.ndarray):
            input = load_image(input, return_format="PIL")
        [found] = self._localizer(input, multi=self._multi)
        if found.label not in self.ontology.prompts():
            return supervision.Detections.empty()
        name = self.ontology.promptToClass(found.label)
        detections = found.to_supervision()
        detections.class_id[:] = self.ontology.classes().index(name)
        # A new array: those of NumPy cut off what is longer than the name before.
        detections.data["class_name"] = np.full(len(detections), name)
        return detections
