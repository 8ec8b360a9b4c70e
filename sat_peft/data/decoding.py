"""Reading image files: one place that decides orientation, colour and what a broken file says.

Orientation: an image is what a viewer shows, turned as its EXIF orientation says, and boxes and masks lie in these
upright pixels, as annotation tools show them. A tool that ignores EXIF writes boxes of the stored pixels; where they
leave the upright image, the message says so. `read_head` tells size and orientation of every container as its pixels
are decoded: Pillow turns a TIFF itself, and no other.
"""

from __future__ import annotations

import importlib.util
import io
import os
import tempfile
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from filelock import FileLock
from PIL import ExifTags, Image, UnidentifiedImageError
from torchvision.transforms import v2

from sat_peft.data.box_formats import box_outside
from sat_peft.errors import UsageError
from sat_peft.files import is_file, path_problem

# EXIF orientations that swap width and height.
_SIDEWAYS = (5, 6, 7, 8)
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# From here on images are decoded one at a time: 100 MB of pixels, several times over while they are converted.
_LARGE_PIXELS = 33_000_000
_FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "TIFF", "AVIF", "BMP", "DIB", "GIF", "PPM")


@dataclass(frozen=True)
class ImageHead:
    """What the header of an image file tells.

    Args:
        stored: (width, height) in pixels of the image as the file holds it.
        orientation: as in EXIF, 1 to 8; 1 is upright as stored.
    """

    stored: tuple[int, int]
    orientation: int

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) in pixels of the upright image."""
        return self.stored[::-1] if self.orientation in _SIDEWAYS else self.stored


@cache
def _formats() -> tuple[str, ...]:
    """The formats that are opened. Pillow would also hand a PostScript file, whatever its suffix, to Ghostscript."""
    formats = _FORMATS
    if importlib.util.find_spec("pillow_heif"):
        import pillow_heif

        pillow_heif.register_heif_opener()
        formats += ("HEIF",)
    Image.init()
    return tuple(name for name in formats if name in Image.OPEN)


@contextmanager
def _opened(record: dict, name: str):
    """The PIL image of `record`; whatever goes wrong with it in the block is a `UsageError` about `name`."""
    source = io.BytesIO(record["bytes"]) if record.get("bytes") is not None else record["path"]
    try:
        if isinstance(source, str) and not is_file(source):
            problem = path_problem(source)  # a pipe would be waited for
            if problem is not None:
                raise UsageError(f"the {name} cannot be read ({problem.what.rstrip('.')}). {problem.fix}")
        with Image.open(source, formats=_formats()) as image:
            yield image
    except UsageError:
        raise
    except Image.DecompressionBombError as error:
        # PIL's limit, which keeps a few kilobytes from claiming all memory.
        limit = 2 * Image.MAX_IMAGE_PIXELS
        raise UsageError(
            f"the {name} cannot be read (it has more than {limit:,} pixels). Shrink it, and its boxes with it."
        ) from error
    except Exception as error:  # decoders raise what they like on a damaged file
        # PIL names the memory address of what it read here, which tells nobody anything.
        unidentified = isinstance(error, UnidentifiedImageError)
        reason = "it is empty, damaged or of no known image format" if unidentified else str(error) or repr(error)
        raise UsageError(
            f"the {name} cannot be read ({reason}). Repair the file or remove it from the data."
        ) from error


@contextmanager
def _room_for(image: Image.Image):
    """Decodes a large image while no other large one is decoded, by any thread or process of the user: half a megabyte
    of PNG may become gigabytes of pixels.
    """
    if image.width * image.height < _LARGE_PIXELS:
        yield
        return
    user = os.getuid() if hasattr(os, "getuid") else "user"
    # Of every thread one of its own, which excludes the others' as it does those of other processes.
    with FileLock(os.path.join(tempfile.gettempdir(), f"sat_peft-{user}-large-image.lock")):
        yield


def _to_eight_bits(image: Image.Image) -> Image.Image:
    """The image with 8 bits a channel; of 16 bits the upper eight are kept."""
    if image.mode.startswith("I;16"):
        # PIL would clip every value above 255 to white.
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ValueError(f"pixels of mode {image.mode!r} have no fixed range; convert it to 8 or 16 bits per channel")
    return image


def _to_rgb(image: Image.Image) -> Image.Image:
    image = _to_eight_bits(image)
    if "transparency" in image.info:
        image = image.convert("RGBA")  # PIL warns about a palette with alpha on the direct way
    return image.convert("RGB")


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation of an opened image; 1 where there is none, or none that can be read."""
    try:
        value = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # an EXIF block of which nothing can be made; every viewer shows the image
        return 1
    return int(value) if value in range(1, 9) else 1


def _upright(image: Image.Image) -> Image.Image:
    """The decoded image as its orientation says.

    `ImageOps.exif_transpose` writes the EXIF block anew, and fails on tags that are not as they should be.
    """
    image.load()
    if image.format == "TIFF":
        return image  # Pillow has turned it already
    turn = _TURNS.get(_orientation(image))
    return image if turn is None else image.transpose(turn)


def image_to_tensor(image: Image.Image) -> torch.Tensor:
    """An opened image as (3, H, W) uint8 RGB, upright and converted as by `decode_image`.

    Raises:
        ValueError: pixels of a mode without a fixed range.
    """
    return v2.functional.pil_to_tensor(_to_rgb(_upright(image)))


def decode_image(record: dict, image_id: str) -> torch.Tensor:
    """The image as (3, H, W) uint8 RGB, upright as its EXIF orientation says.

    Greyscale, palette and CMYK images are converted, 16-bit images keep their upper 8 bits, transparency is dropped:
    what is see-through has the colour that is stored there.

    Args:
        record: `{"bytes": …, "path": …}` as `datasets` stores an undecoded image.
        image_id: for the error message.

    Raises:
        UsageError: the file is missing, damaged or no image, its pixels have no fixed range, or there are more than
            179 million of them.
    """
    with _opened(record, f"image {image_id!r}") as image, _room_for(image):
        return image_to_tensor(image)


def decode_mask(record: dict, image_id: str) -> np.ndarray:
    """The mask as (H, W) bool, True where its grey is above 127 of 255; upright as its EXIF orientation says.

    Args:
        record: `{"bytes": …, "path": …}` as `datasets` stores an undecoded greyscale image, light on the object.
        image_id: name of the image, for the error message.

    Raises:
        UsageError: as for `decode_image`.
    """
    file = f" {record['path']!r}" if record.get("path") else ""
    with _opened(record, f"mask{file} of {image_id!r}") as mask, _room_for(mask):
        return np.asarray(_to_eight_bits(_upright(mask)).convert("L")) > 127


def decode_masks(
    masks: Sequence[dict], ignore: Sequence[dict], image_size: tuple[int, int], image_id: str
) -> tuple[np.ndarray, np.ndarray]:
    """The object and what counts neither as object nor as background, (H, W) bool each.

    Of an image without masks nothing is known, so all of its pixels are ignored.

    Args:
        masks, ignore: masks as for `decode_mask`, of which the unions are taken.
        image_size: (width, height) of the upright image in pixels.
        image_id: name of the image, for error messages.

    Raises:
        UsageError: as for `decode_mask`, or a mask of another size than its image.
    """
    unions = np.zeros((2, *image_size[::-1]), bool)
    for union, records in zip(unions, (masks, ignore), strict=True):
        for record in records:
            mask = decode_mask(record, image_id)
            if mask.shape != union.shape:
                raise UsageError(
                    f"a mask of {image_id!r} has {mask.shape[1]} x {mask.shape[0]} pixels, its image {image_size[0]} x "
                    f"{image_size[1]}. A mask covers its upright image, pixel by pixel; resize it."
                )
            union |= mask
    if not masks:
        unions[1] = True
    return unions[0], unions[1]


def read_head(record: dict, image_id: str) -> ImageHead:
    """Size and orientation of an image, from its header alone where the format has one.

    Args:
        record: `{"bytes": …, "path": …}` as `datasets` stores an undecoded image.
        image_id: for the error message.

    Raises:
        UsageError: the file is missing or no image.
    """
    with _opened(record, f"image {image_id!r}") as image:
        stored = image.size
        if image.format == "TIFF":  # whose size Pillow tells as it is going to be
            stored = image.tag_v2[ExifTags.Base.ImageWidth], image.tag_v2[ExifTags.Base.ImageLength]
        return ImageHead(stored, _orientation(image))


def low_bits(record: dict, image_id: str) -> int | None:
    """How many of its 16 bits a channel an image uses, where these are 12 or fewer, so that it is all but black.

    Raises:
        UsageError: as for `decode_image`.
    """
    with _opened(record, f"image {image_id!r}") as image:
        if not image.mode.startswith("I;16"):
            return None
        bits = int(np.asarray(image).max(initial=0)).bit_length()
        return bits if 0 < bits <= 12 else None


def outside_problem(boxes, image_size: tuple[int, int], record: dict, image_id: str) -> tuple[str, str] | None:
    """What is wrong, and its fix, where one of the (n, 4) xyxy boxes leaves the upright image; None where none does.

    Args:
        boxes: in pixels of the upright image.
        image_size: its (width, height) in pixels.
        record, image_id: of the image, as for `decode_image`.
    """
    outside = box_outside(boxes, image_size)
    if outside is None:
        return None
    width, height = image_size
    shown = [round(value, 2) for value in outside]
    what = f"the box {shown} (x0, y0, x1, y1) leaves its image of {width} x {height} pixels."
    head = read_head(record, image_id)
    if head.orientation in _SIDEWAYS and box_outside(boxes, head.stored) is None:
        return what, (
            f"The boxes fit the pixels as stored, {height} x {width}, which the EXIF orientation {head.orientation} "
            "turns: remove the orientation from the file, or turn the boxes."
        )
    return what, "Boxes lie in the upright image; check the box format, and whether the annotation is of this image."
