"""What happens to an image between its file and the backbone, for training and for evaluation."""

from __future__ import annotations

import torch
from torchvision.transforms import InterpolationMode, v2

from sat_peft.backbones import DataConfig
from sat_peft.errors import UsageError, unknown_choice
from sat_peft.localization import Protocol, get_protocol

# Resizing before a random crop: 256 for a crop of 224, as is usual on CUB and ILSVRC.
_RESIZE_RATIO = 256 / 224
# The largest shift, as a share of the image side.
_SHIFT_RATIO = 1 / 12

AUGMENTATIONS = ("shift", "crop", "none")


def _resize(size: tuple[int, int], interpolation: str) -> v2.Resize:
    # timm also writes "random", for a training interpolation drawn anew for every image; evaluation needs one.
    mode = InterpolationMode.BICUBIC if interpolation == "random" else InterpolationMode(interpolation)
    return v2.Resize(size, interpolation=mode, antialias=True)


def _to_input(config: DataConfig) -> list[torch.nn.Module]:
    return [v2.ToDtype(torch.float32, scale=True), v2.Normalize(config.mean, config.std)]


def training_transform(config: DataConfig, augmentation: str = "shift") -> v2.Compose:
    """(3, H, W) uint8 to a normalised, augmented input of the backbone.

    Args:
        config: the backbone's data configuration.
        augmentation: `shift` (resize to the input, shift by up to 1/12 of the side with reflected edges, flip: keeps
            the whole object in sight), `crop` (resize to 8/7 of the input, random crop, flip: the published recipe) or
            `none`.
    """
    height, width = size = config.image_size
    if augmentation == "shift":
        padding = [round(width * _SHIFT_RATIO), round(height * _SHIFT_RATIO)]
        views = [
            _resize(size, config.interpolation),
            v2.RandomCrop(size, padding=padding, padding_mode="reflect"),
            v2.RandomHorizontalFlip(),
        ]
    elif augmentation == "crop":
        larger = (round(height * _RESIZE_RATIO), round(width * _RESIZE_RATIO))
        views = [_resize(larger, config.interpolation), v2.RandomCrop(size), v2.RandomHorizontalFlip()]
    elif augmentation == "none":
        views = [_resize(size, config.interpolation)]
    else:
        raise unknown_choice("augmentation", augmentation, AUGMENTATIONS)
    return v2.Compose([*views, *_to_input(config)])


def evaluation_transform(config: DataConfig, protocol: str | Protocol) -> v2.Compose:
    """(3, H, W) uint8 to the input of the backbone that `protocol` scores.

    Raises:
        UsageError: the protocol fixes an image size that is not the backbone's.
    """
    protocol = get_protocol(protocol)
    image = protocol.image
    final = image.crop or image.resize
    if final is not None and tuple(final) != tuple(config.image_size):
        raise UsageError(
            f"protocol {protocol.name!r} evaluates images of {final[0]} x {final[1]} pixels, but the backbone takes "
            f"{config.image_size[0]} x {config.image_size[1]}. Create the backbone with that image size, or choose "
            "protocol 'original', which takes any."
        )
    steps = [_resize(image.resize or config.image_size, config.interpolation)]
    if image.crop:
        steps.append(v2.CenterCrop(image.crop))
    return v2.Compose([*steps, *_to_input(config)])
