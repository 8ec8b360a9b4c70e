"""Reading image files: one place that decides orientation, colour and what a broken file says."""

from __future__ import annotations

import io

import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torchvision.transforms import v2

from sat_peft.errors import UsageError


def decode_image(record: dict, image_id: str) -> torch.Tensor:
    """The image as (3, H, W) uint8 RGB, upright as its EXIF orientation says.

    Args:
        record: `{"bytes": …, "path": …}` as `datasets` stores an undecoded image.
        image_id: for the error message.

    Raises:
        UsageError: the file is missing, damaged or no image.
    """
    source = io.BytesIO(record["bytes"]) if record.get("bytes") is not None else record["path"]
    try:
        with Image.open(source) as image:
            upright = ImageOps.exif_transpose(image)
            return v2.functional.pil_to_tensor(upright.convert("RGB"))
    except (OSError, UnidentifiedImageError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UsageError(
            f"the image {image_id!r} cannot be read ({error}). Repair the file or remove it from the data."
        ) from error
