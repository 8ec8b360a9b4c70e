"""Where training starts: masks of a chosen mean, with contrast."""

from __future__ import annotations

import torch
from peft import PeftModel

from sat_peft.errors import UsageError
from sat_peft.tuner.frozen import FrozenTokens
from sat_peft.tuner.layer import MaskCalibration


@torch.no_grad()
def calibrate_masks(model: PeftModel, images: torch.Tensor | FrozenTokens, mean: float) -> None:
    """Sets scale and shift of the mask logits of the active adapter, which has `calibrated_masks=True`.

    Afterwards the logits of every spatial block have, over the patches of these images, the mean logit(`mean`) and a
    standard deviation within an image of 1 on average. Without it, pretraining decides where the masks of a fresh token
    start: on DINOv2 near 1, where the sigmoid has hardly a gradient left. One forward pass; every block is calibrated
    on what those before it leave. In several processes call it with the same images in each.

    Args:
        model: PEFT model with a SAT adapter; its mode of training or evaluation stays.
        images: (B, 3, H, W), preprocessed for the backbone, on its device; some dozens suffice. Or what `frozen_tokens`
            made of them.
        mean: mean of the masks, as a fraction of the image, between 0 and 1; the area target of the loss.

    Raises:
        UsageError: for a mean out of range, or an active adapter without calibrated masks.
    """
    if not 0 < mean < 1:
        raise UsageError(f"the mean of calibrated masks is a fraction of the image between 0 and 1, not {mean!r}.")
    sat = model.base_model
    layers = [layer for layer in sat.modules() if isinstance(layer, MaskCalibration) and layer.current_adapter]
    if not layers:
        raise UsageError(
            f"the active adapter {model.active_adapter!r} has no calibrated masks. Create it with "
            "SatConfig(calibrated_masks=True)."
        )
    patches = slice(sat.model.num_prefix_tokens + 1, None)
    training = model.training
    model.eval()
    for layer in layers:
        layer.calibrates_to = mean, patches
    try:
        model(images)
    finally:
        for layer in layers:
            layer.calibrates_to = None
        model.train(training)
