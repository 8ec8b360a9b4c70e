"""What happens to an image between its file and the backbone, for training and for evaluation."""

from __future__ import annotations

from typing import get_args

import torch
from torchvision.transforms import InterpolationMode, v2

from sat_peft.backbones import DataConfig
from sat_peft.errors import UsageError, unknown_choice
from sat_peft.localization import ImageTransform, Protocol, get_protocol
from sat_peft.options.choices import AugmentationName

# Resizing before a random crop: 256 for a crop of 224, as is usual on CUB and ILSVRC.
_RESIZE_RATIO = 256 / 224
# The largest shift, as a share of the image side.
_SHIFT_RATIO = 1 / 12

# Where the centre crop is among the ten.
CENTRE_OF_TEN = 4

AUGMENTATIONS = get_args(AugmentationName)


def _resize(size: tuple[int, int], interpolation: str) -> v2.Resize:
    # timm also writes "random", for a training interpolation drawn anew for every image; evaluation needs one.
    mode = InterpolationMode.BICUBIC if interpolation == "random" else InterpolationMode(interpolation)
    return v2.Resize(size, interpolation=mode, antialias=True)


def _to_input(config: DataConfig) -> list[torch.nn.Module]:
    return [v2.ToDtype(torch.float32, scale=True), v2.Normalize(config.mean, config.std)]


def training_steps(config: DataConfig, augmentation: str = "shift") -> tuple[v2.Transform, v2.Transform]:
    """`training_transform` in two: the resize, which draws nothing, so that its result may be kept, and the rest."""
    height, width = size = config.image_size
    if augmentation == "shift":
        padding = [round(width * _SHIFT_RATIO), round(height * _SHIFT_RATIO)]
        views = [v2.RandomCrop(size, padding=padding, padding_mode="reflect"), v2.RandomHorizontalFlip()]
    elif augmentation == "crop":
        views = [v2.RandomCrop(size), v2.RandomHorizontalFlip()]
        size = (round(height * _RESIZE_RATIO), round(width * _RESIZE_RATIO))
    elif augmentation == "none":
        views = []
    else:
        raise unknown_choice("augmentation", augmentation, AUGMENTATIONS)
    return _resize(size, config.interpolation), v2.Compose([*views, *_to_input(config)])


def training_transform(config: DataConfig, augmentation: str = "shift") -> v2.Compose:
    """(3, H, W) uint8 to a normalised, augmented input of the backbone.

    Args:
        config: the backbone's data configuration.
        augmentation: `shift` (resize to the input, shift by up to 1/12 of the side with reflected edges, flip: keeps
            the whole object in sight), `crop` (resize to 8/7 of the input, random crop, flip: the published recipe)
            or `none`.
    """
    return v2.Compose(training_steps(config, augmentation))


def _evaluated_pixels(config: DataConfig, protocol: str | Protocol) -> ImageTransform:
    """What `protocol` does to an image. Raises `UsageError` if that is not of the size that the backbone takes."""
    protocol = get_protocol(protocol)
    final = protocol.image.crop or protocol.image.resize
    if final is not None and tuple(final) != tuple(config.image_size):
        raise UsageError(
            f"protocol {protocol.name!r} evaluates images of {final[0]} x {final[1]} pixels, but the backbone takes "
            f"{config.image_size[0]} x {config.image_size[1]}. Create the backbone with that image size, or choose "
            "protocol 'original', which takes any."
        )
    return protocol.image


def evaluation_steps(config: DataConfig, protocol: str | Protocol) -> tuple[v2.Compose, v2.Compose]:
    """`evaluation_transform` in two: resize and crop of one image, and the normalisation, which takes batches too.

    In between, pixels are uint8: a quarter of the memory, and of what goes to an accelerator.
    """
    image = _evaluated_pixels(config, protocol)
    steps = [_resize(image.resize or config.image_size, config.interpolation)]
    if image.crop:
        steps.append(v2.CenterCrop(image.crop))
    return v2.Compose(steps), v2.Compose(_to_input(config))


def evaluation_transform(config: DataConfig, protocol: str | Protocol, *, ten_crop: bool = False) -> v2.Compose:
    """(3, H, W) uint8 to the input of the backbone that `protocol` scores.

    Args:
        config: the backbone's data configuration.
        protocol: name or `Protocol`.
        ten_crop: (10, 3, h, w) instead of the centre crop alone: four corners and centre (index `CENTRE_OF_TEN`), then
            their mirror images.

    Raises:
        UsageError: the protocol fixes an image size that is not the backbone's, or has no crop to take ten of.
    """
    if not ten_crop:
        return v2.Compose(evaluation_steps(config, protocol))
    image = _evaluated_pixels(config, protocol)
    if not image.crop:
        name = get_protocol(protocol).name
        raise UsageError(f"protocol {name!r} shows whole images, of which there are no ten crops.")
    # Crops come last: of several tensors, torchvision's transforms take the first alone for an image.
    crops = [v2.TenCrop(image.crop), torch.stack]
    return v2.Compose([_resize(image.resize, config.interpolation), *_to_input(config), *crops])
