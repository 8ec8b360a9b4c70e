"""Reading image files: one place that decides orientation, colour and what a broken file says."""

from __future__ import annotations

import io

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torchvision.transforms import v2

from sat_peft.errors import UsageError


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        # PIL would clip every value above 255 to white.
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        raise ValueError(f"pixels of mode {image.mode!r} have no fixed range; convert it to 8 or 16 bits per channel")
    if "transparency" in image.info:
        image = image.convert("RGBA")  # PIL warns about a palette with alpha on the direct way
    return image.convert("RGB")


def decode_mask(record: dict) -> np.ndarray:
    """The mask as (H, W) bool, True on the object.

    Args:
        record: `{"bytes": …, "path": …}` as `datasets` stores an undecoded greyscale image, 255 on the object.
    """
    source = io.BytesIO(record["bytes"]) if record.get("bytes") is not None else record["path"]
    with Image.open(source) as mask:
        return np.asarray(mask.convert("L")) > 127


def image_to_tensor(image: Image.Image) -> torch.Tensor:
    """An opened image as (3, H, W) uint8 RGB, upright and converted as by `decode_image`.

    Raises:
        ValueError: pixels of a mode without a fixed range.
    """
    return v2.functional.pil_to_tensor(_to_rgb(ImageOps.exif_transpose(image)))


def decode_image(record: dict, image_id: str) -> torch.Tensor:
    """The image as (3, H, W) uint8 RGB, upright as its EXIF orientation says.

    Greyscale, palette and CMYK images are converted, 16-bit images keep their upper 8 bits, transparency is dropped.

    Args:
        record: `{"bytes": …, "path": …}` as `datasets` stores an undecoded image.
        image_id: for the error message.

    Raises:
        UsageError: the file is missing, damaged or no image.
    """
    source = io.BytesIO(record["bytes"]) if record.get("bytes") is not None else record["path"]
    try:
        with Image.open(source) as image:
            return image_to_tensor(image)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        # PIL names the memory address of what it read here, which tells nobody anything.
        unidentified = isinstance(error, UnidentifiedImageError)
        reason = "it is empty, damaged or of no known image format" if unidentified else error
        raise UsageError(
            f"the image {image_id!r} cannot be read ({reason}). Repair the file or remove it from the data."
        ) from error
