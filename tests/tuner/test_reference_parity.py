"""Agreement with the published implementation, on numbers recorded from it (tests/golden/README.md)."""

from pathlib import Path

import numpy as np
import pytest
import torch
from peft import get_peft_model
from timm.models.vision_transformer import VisionTransformer

from sat_peft import SatConfig, SatLoss, load_reference_weights
from sat_peft.training.losses import area_per_image, normalization_per_image

GOLDEN = Path(__file__).parents[1] / "golden" / "sat_model.npz"
TOLERANCE = 1e-5


def reference_model(tune):
    vit = VisionTransformer(
        img_size=224, patch_size=16, embed_dim=24, depth=12, num_heads=3, mlp_ratio=4, qkv_bias=True, num_classes=0
    )
    return get_peft_model(vit, SatConfig(num_classes=7, num_spatial_blocks=3, tune=tune)).eval()


def parity(tune):
    """Largest |difference| / largest |reference| per recorded tensor."""
    with np.load(GOLDEN) as archive:
        golden = {name: torch.from_numpy(np.asarray(archive[name])) for name in archive.files}
    model = reference_model(tune)
    weights = {name.removeprefix("weight/"): value for name, value in golden.items() if name.startswith("weight/")}
    load_reference_weights(model, weights)
    for parameter in model.parameters():
        parameter.requires_grad_(True)

    output = model(golden["images"].float())
    loss = SatLoss(area_target=float(golden["area_target"]))(output, golden["labels"])
    loss.total.backward()

    found = {
        "logits": output.logits,
        "maps": output.maps,
        "area_per_image": area_per_image(output.maps),
        "norm_per_image": normalization_per_image(output.maps),
        "loss_cls": loss.classification,
        "loss": loss.total,
        "loss_area": loss.area,
        "loss_norm": loss.normalization,
    }
    golden["loss_area"] = (golden["area_per_image"].mean() - golden["area_target"]).abs()
    golden["loss_norm"] = golden["norm_per_image"].mean()
    gradients = reference_gradients(model)
    found |= {name: gradients[name.removeprefix("grad/")] for name in golden if name.startswith("grad/")}
    return {
        name: float((value.detach() - golden[name]).abs().max() / golden[name].abs().max())
        for name, value in found.items()
    }


def reference_gradients(model):
    """Gradients under the reference's names; those of tuned copies stand for the copied weights."""
    gradients = {}
    for name, parameter in model.get_base_model().named_parameters():
        if parameter.grad is not None:
            name = name.replace(".base_layer", "").replace(".sat_full.default", "")
            name = name.replace("norm_pre.sat_token.default", "loc_token")
            name = name.replace("norm_pre.sat_pos_embed.default", "loc_embed").replace("norm.sat_head.default", "head")
            assert name not in gradients
            gradients[name] = parameter.grad
    return gradients


@pytest.mark.parametrize("tune", ["full", "none", "lora", "bias_norm"])
def test_outputs_losses_and_gradients_agree_with_the_reference(tune):
    differences = parity(tune)
    assert len(differences) == 16
    assert max(differences.values()) <= TOLERANCE, differences


if __name__ == "__main__":
    for mode in ("full", "none", "lora", "bias_norm"):
        for name, difference in parity(mode).items():
            print(f"tune={mode:<9} {name:<32} {difference:.1e}")
