"""The image's own pixels, half-open boxes and the plain IoU."""

from sat_peft.localization.boxes import half_open, unchanged, whole_image
from sat_peft.localization.protocol import ImageTransform, Protocol
from sat_peft.localization.regions import LARGEST_COMPONENT
from sat_peft.localization.score_map import Absolute, bilinear_then_minmax

PROTOCOL = Protocol(
    name="original",
    source="sat_peft: the image's own pixels and the plain IoU",
    image=ImageTransform(resize=None),
    own_pixels=True,
    place_boxes=unchanged,
    normalize=bilinear_then_minmax,
    foreground=Absolute(),
    region=LARGEST_COMPONENT,
    to_boxes=half_open,
    empty_box=whole_image,
    inclusive=False,
    # What validation boxes choose for most of the trainings that scripts/reproduce.py compares.
    default_threshold=0.2,
    default_thresholds=tuple(round(0.05 * step, 2) for step in range(1, 19)),
)
