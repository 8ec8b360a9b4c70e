"""Few images and many steps: maps neither cover everything nor become uniform, wherever they start."""

from itertools import cycle, islice

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from peft import get_peft_model

from sat_peft import SatConfig, SatLoss, calibrate_masks
from sat_peft.backbones import create_backbone, resolve_data_config
from sat_peft.data.loaders import build_loaders
from sat_peft.data.scenes import NOVEL_CLASSES
from sat_peft.data.shots import choose_shots
from sat_peft.data.sources import load_source
from sat_peft.evaluation.evaluator import evaluate
from sat_peft.evaluation.measure import sat_method
from sat_peft.options.presets import PRESETS
from sat_peft.training.loop import create_optimizer, epochs_of

PHOTOS = PRESETS["few_shot"]["photos"]
BLOCKS, VIEWS = 3, 4


@pytest.fixture(scope="module")
def splits():
    train = load_source("part_scenes", "train", scenes_per_class=5)
    return {"train": train, "validation": load_source("part_scenes", "validation").select(range(60))}


@torch.no_grad()
def shift_mask_logits(vit, images: torch.Tensor, shift: float) -> None:
    """Changes the queries of the last blocks so that every mask logit grows by about `shift`.

    Added to all queries along the mean key, it changes the attention of the backbone little.
    """
    for block in vit.blocks[-BLOCKS:]:
        keys = []
        hook = block.attn.qkv.register_forward_hook(lambda module, args, output, keys=keys: keys.append(output))
        vit(images)
        hook.remove()
        width = vit.embed_dim
        mean = keys[0][..., width : 2 * width].mean((0, 1)).unflatten(0, (block.attn.num_heads, -1))
        step = shift * mean / mean.square().sum(1, keepdim=True) / block.attn.scale
        block.attn.qkv.bias[:width] += step.flatten()


def trained(splits, shots: int, start: float, steps: tuple[int, ...]) -> tuple[float, dict[int, dict]]:
    """The mean of the maps as pretraining has it, and figures after some steps of the preset `photos`."""
    torch.manual_seed(0)
    vit = create_backbone("sat_peft_vit_nano_patch8_96")
    train = choose_shots(splits["train"], shots, 0)
    # Half of the classes make half of the work of a step.
    few = splits | {"train": train.select(np.flatnonzero(np.array(train["label"]) % 2))}
    config = resolve_data_config(vit)
    loaders = build_loaders(few | {"test": few["validation"]}, config, protocol="original", batch_size=10)
    views = list(loaders.train.sampler)[:10]
    images = torch.stack([loaders.train.dataset[view]["image"] for view in views])
    shift_mask_logits(vit, images, start)
    sat = SatConfig(
        num_classes=len(NOVEL_CLASSES),
        num_spatial_blocks=BLOCKS,
        token_init="class_token",
        token_entry=PHOTOS["token_entry"],
        calibrated_masks=PHOTOS["calibrated_masks"],
    )
    model = get_peft_model(vit, sat)
    with torch.no_grad():
        before = model.eval()(images).maps.mean().item()
    calibrate_masks(model, images, PHOTOS["area_target"])
    weights = {name: value for name, value in PHOTOS.items() if name.endswith("_weight")}
    criterion = SatLoss(PHOTOS["area_target"], **weights)
    optimizer = create_optimizer(model, learning_rate=1e-3, weight_decay=0.05)
    accelerator, found = Accelerator(cpu=True), {}
    # As from a feature cache: what the frozen blocks make of some views of every image, which epochs take in turn.
    batches = islice(epochs_of(loaders.train), VIEWS * len(loaders.train))
    cached = [(model.base_model.frozen_tokens(batch["images"]), batch["labels"]) for _, _, batch in batches]
    model.train()
    for step, (tokens, labels) in zip(range(1, max(steps) + 1), cycle(cached), strict=False):
        criterion(model(tokens), labels).total.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if step in steps:
            measured = evaluate(sat_method(model.eval()), loaders.validation, accelerator, protocol="original")
            found[step] = {
                "area": float(np.mean([image.map_mean for image in measured.images])),
                "deviation": float(np.mean([image.map_deviation for image in measured.images])),
                "gt_known": max(measured.result.per_threshold["gt_known"]),
            }
            model.train()
    return before, found


@pytest.mark.slow
@pytest.mark.parametrize(("shots", "start", "least", "most"), [(1, -3.0, 0.0, 0.3), (5, 4.0, 0.7, 1.0)])
def test_maps_are_no_worse_after_many_steps_than_after_few(splits, shots, start, least, most):
    before, found = trained(splits, shots, start, (20, 200))
    assert least <= before <= most  # the backbones do differ
    assert abs(found[200]["area"] - PHOTOS["area_target"]) < 0.15
    assert found[200]["deviation"] > 0.1
    # A sixtieth is 1.7 points; the noise of so few images is about six.
    assert found[200]["gt_known"] >= found[20]["gt_known"] - 10
