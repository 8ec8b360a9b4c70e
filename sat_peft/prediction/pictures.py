"""Pictures of a prediction: the map alone, and the map and the boxes on the image."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import cv2
import matplotlib
import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torchvision.transforms import v2

from sat_peft.files.outputs import atomic_replacement
from sat_peft.prediction.found import Localization

# Longest side of an overlay in pixels: it is for looking at, not for measuring.
OVERLAY_SIDE = 1024
_MAP_SHARE = 0.45
_FRAME = (255, 59, 48)


def thumbnail(image: torch.Tensor) -> np.ndarray:
    """An image (3, H, W) uint8 as (h, w, 3) uint8 with sides of at most `OVERLAY_SIDE` pixels."""
    height, width = image.shape[-2:]
    ratio = min(1.0, OVERLAY_SIDE / max(height, width))
    if ratio < 1:
        image = v2.functional.resize(image, [max(1, round(height * ratio)), max(1, round(width * ratio))])
    return image.permute(1, 2, 0).contiguous().numpy()


def map_picture(found: Localization) -> Image.Image:
    """The map in pixels of the original image, 8-bit grey: 0 is the lowest score, 255 the highest.

    A map without contrast is black.
    """
    return Image.fromarray(np.rint(found.score_map() * 255).astype(np.uint8))


def mask_picture(found: Localization) -> Image.Image:
    """The regions of all boxes in pixels of the original image, 8-bit grey: 255 inside, 0 outside."""
    return Image.fromarray(found.foreground().astype(np.uint8) * 255)


def overlay(found: Localization, image: np.ndarray) -> Image.Image:
    """The map in colours on the image, the boxes, and the class with its probability.

    Args:
        found: the prediction.
        image: (h, w, 3) uint8 thumbnail of the image.
    """
    height, width = image.shape[:2]
    scores = cv2.resize(found.map, (width, height), interpolation=cv2.INTER_LINEAR)
    scores -= scores.min()
    scores = np.rint(255 * scores / max(scores.max(), 1e-6)).astype(np.uint8)
    colours = cv2.cvtColor(cv2.applyColorMap(scores, cv2.COLORMAP_TURBO), cv2.COLOR_BGR2RGB)
    picture = Image.fromarray(cv2.addWeighted(image, 1 - _MAP_SHARE, colours, _MAP_SHARE, 0))
    draw = ImageDraw.Draw(picture)
    line = max(1, round(max(width, height) / 200))
    scale = np.array([width, height, width, height]) / np.tile(found.image_size, 2)
    for number, box in enumerate(found.boxes * scale):
        x0, y0, x1, y1 = np.rint(box).astype(int).tolist()
        # PIL's rectangles include their last pixel.
        corners = (x0, y0, max(x0, x1 - 1), max(y0, y1 - 1))
        # The box of the largest component is framed in red, the others in white.
        draw.rectangle(corners, outline=_FRAME if number == 0 else "white", width=line)
    text, font = f"{found.label} {found.score:.2f}", _font(max(10, round(max(width, height) / 40)))
    draw.rectangle(draw.textbbox((2, 1), text, font=font), fill="black")
    draw.text((2, 1), text, fill="white", font=font)
    return picture


@cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    # The font of matplotlib's figures: it has more alphabets than PIL's own.
    return ImageFont.truetype(Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf"), size)


def save_picture(picture: Image.Image, path: Path, image_format: str) -> None:
    """Writes a picture whole or not at all, with the folders that it lies in."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_replacement(path) as temporary:
        picture.save(temporary, format=image_format)
