"""Whether a trained localiser is one: signs of maps that collapsed, told in words with what to change."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from sat_peft.evaluation.evaluator import Evaluation
from sat_peft.localization import covers_image

# Mean area of the maps beside the target, as a difference; the published targets are 0.25 and 0.35.
AREA_TOLERANCE = 0.2
# Objects leave some ground; maps that cover more tell nothing from it, whatever the target.
MOST_AREA = 0.75
# Deviation of a map within an image. A map of an object that is a third of the image has up to 0.47.
LEAST_DEVIATION = 0.03
# Share of images whose box is the whole image.
MOST_WHOLE = 0.5
# Share of images whose map has more along the border than inside. Of sound runs on photographs it is 2 %.
MOST_INVERSE = 0.05
# Fewer images say nothing of a share.
FEW_IMAGES = 10


@dataclass(frozen=True)
class Health:
    """The verdict on a run.

    Args:
        sound: nothing was found.
        findings: what was found, a sentence each, with its figures and what to change.
        figures: `mean_area` and `mean_deviation` of the maps; `inverse_maps`, those with more along the border than
            inside, `whole_image_boxes` and `true_whole_image_boxes` in percent of the test images (the last None
            without true boxes).
    """

    sound: bool
    findings: list[str]
    figures: dict[str, float | None]

    def text(self) -> str:
        """A paragraph for the terminal."""
        if self.sound:
            return "Health: no sign that the training failed."
        return "\n".join(["WARNING: this run should not be trusted.", *(f"  - {each}" for each in self.findings)])


def examine(
    evaluation: Evaluation, *, area_target: float | None, figures: Mapping[str, Mapping[str, float | None]]
) -> Health:
    """Looks for signs of failure in the evaluation of a trained model.

    Args:
        evaluation: evaluation of SAT on the test split.
        area_target: area target of the loss; None where the area was left out of it.
        figures: figures of all methods by name, in percent, as in results.json.
    """
    images = evaluation.images
    area = float(np.mean([image.map_mean for image in images]))
    deviation = float(np.mean([image.map_deviation for image in images]))
    inverse = 100 * float(np.mean([i.map_border > i.map_mean and i.map_deviation >= LEAST_DEVIATION for i in images]))
    sizes = np.array([image.size for image in images], float)
    whole = 100 * float(covers_image(evaluation.result.per_image["box"], sizes).mean())
    true = None
    if evaluation.num_with_boxes:
        true = 100 * float(np.mean([covers_image(image.boxes, image.size).any() for image in images]))
    findings = []
    if not np.isfinite(area) or (area_target is not None and abs(area - area_target) > AREA_TOLERANCE):
        findings.append(
            f"The maps cover {100 * area:.0f} % of the images on average"
            + (f", the area target is {100 * area_target:.0f} %" if area_target is not None else "")
            + ". Raise --area-weight, lower --normalization-weight or --learning-rate, or set --area-target to the "
            "share that your objects cover."
        )
    elif area > MOST_AREA:
        findings.append(
            f"The maps cover {100 * area:.0f} % of the images on average, which leaves hardly any ground. Lower "
            "--area-target to the share that your objects cover."
        )
    if deviation < LEAST_DEVIATION:
        findings.append(
            f"The maps are nearly constant (deviation {deviation:.3f} within an image), so their boxes mean nothing. "
            "Use --calibrated-masks and --separation-weight as the preset photos does, or more --steps."
        )
    if len(images) >= FEW_IMAGES and inverse > 100 * MOST_INVERSE:
        findings.append(
            f"{inverse:.0f} % of the maps have more along the border of the image than inside: they show the ground, "
            "perhaps of all images of a class, instead of the object. Use --border-weight 2 --border-in-each-image."
        )
    if len(images) >= FEW_IMAGES and whole - (true or 0) > 100 * MOST_WHOLE:
        findings.append(
            f"{whole:.0f} % of the boxes are the whole image"
            + (f", of the true ones {true:.0f} %" if true is not None else "")
            + ". Choose a higher --threshold, by validation images with boxes or by eye in the report."
        )
    sat, centre = (figures.get(name, {}).get("gt_known") for name in ("sat", "centre_box"))
    if sat is not None and centre is not None and sat < centre:
        findings.append(
            f"GT-known Loc {sat:.1f} is below that of a box in the middle of every image ({centre:.1f}). Look at the "
            "maps in the report; try more --shots or another --backbone."
        )
    found = {
        "mean_area": area,
        "mean_deviation": deviation,
        "inverse_maps": inverse,
        "whole_image_boxes": whole,
        "true_whole_image_boxes": true,
    }
    return Health(not findings, findings, {name: None if v is None else round(v, 4) for name, v in found.items()})
