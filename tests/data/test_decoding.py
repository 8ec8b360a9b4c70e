"""Every kind of image file becomes upright 8-bit RGB, or an error that names it."""

import io
import warnings

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from sat_peft.data.decoding import decode_image
from sat_peft.errors import UsageError


def encode(image: Image.Image, file_format: str = "PNG", **options) -> dict:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return {"bytes": buffer.getvalue(), "path": None}


@pytest.fixture
def photo() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8))


def test_rgb_image_keeps_its_pixels(photo):
    decoded = decode_image(encode(photo), "a")
    assert decoded.dtype == torch.uint8
    np.testing.assert_array_equal(decoded.permute(1, 2, 0), np.asarray(photo))


# (orientation, where the red top-left quarter of the stored image belongs: row and column of the upright image)
@pytest.mark.parametrize(
    ("orientation", "shape", "corner"),
    [(1, (8, 16), (0, 0)), (3, (8, 16), (-1, -1)), (6, (16, 8), (0, -1)), (8, (16, 8), (-1, 0))],
)
def test_exif_orientation_turns_the_image_upright(orientation, shape, corner):
    pixels = np.zeros((8, 16, 3), np.uint8)
    pixels[:4, :8] = (255, 0, 0)
    exif = Image.Exif()
    exif[0x0112] = orientation
    decoded = decode_image(encode(Image.fromarray(pixels), exif=exif), "a")
    assert decoded.shape == (3, *shape)
    assert decoded[0, *corner] == 255
    assert (decoded[0] == 255).sum() == 32


def test_greyscale_becomes_three_equal_channels():
    pixels = np.arange(64, dtype=np.uint8).reshape(8, 8)
    decoded = decode_image(encode(Image.fromarray(pixels)), "a")
    for channel in decoded:
        np.testing.assert_array_equal(channel, pixels)


@pytest.mark.parametrize("file_format", ["PNG", "TIFF"])
def test_sixteen_bits_keep_their_upper_eight(file_format):
    pixels = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    decoded = decode_image(encode(Image.fromarray(pixels), file_format), "a")
    for channel in decoded:
        np.testing.assert_array_equal(channel, pixels >> 8)


def test_sixteen_bit_colour_keeps_its_upper_eight():
    pixels = np.linspace(0, 65535, 192).astype(np.uint16).reshape(8, 8, 3)
    encoded = cv2.imencode(".png", pixels[..., ::-1])[1].tobytes()
    np.testing.assert_array_equal(decode_image({"bytes": encoded}, "a").permute(1, 2, 0), pixels >> 8)


def test_cmyk_jpeg_has_the_colours_it_shows():
    cmyk = Image.new("CMYK", (16, 16), (0, 255, 255, 0))  # no cyan, full magenta and yellow: red
    decoded = decode_image(encode(cmyk, "JPEG", quality=95), "a")
    red, green, blue = decoded.float().mean((1, 2)).tolist()
    assert red > 230
    assert green < 40
    assert blue < 40


def test_transparency_is_dropped_without_a_warning():
    rgba = Image.new("RGBA", (8, 8), (10, 20, 30, 0))
    palette = Image.new("P", (8, 8), 1)
    palette.putpalette([0, 0, 0, 10, 20, 30])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for record in (encode(rgba), encode(palette, transparency=b"\x80\x00"), encode(palette)):
            assert decode_image(record, "a")[:, 3, 3].tolist() == [10, 20, 30]


def test_pixels_without_a_range_are_refused():
    depth = Image.fromarray(np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8))
    with pytest.raises(UsageError, match=r"'a'.*no fixed range.*8 or 16 bits"):
        decode_image(encode(depth, "TIFF"), "a")


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "BMP"])
@pytest.mark.parametrize("kept", [0.0, 0.02, 0.6])
def test_truncated_file_is_named(photo, file_format, kept):
    whole = encode(photo, file_format)["bytes"]
    with pytest.raises(UsageError, match=r"'train/cat/1\.jpg' cannot be read.*Repair the file or remove it"):
        decode_image({"bytes": whole[: int(len(whole) * kept)]}, "train/cat/1.jpg")


def test_message_about_an_empty_file_says_so_and_no_address(tmp_path):
    (tmp_path / "empty.jpg").touch()
    for record in ({"bytes": b""}, {"bytes": None, "path": str(tmp_path / "empty.jpg")}):
        with pytest.raises(UsageError, match="empty, damaged or of no known image format") as caught:
            decode_image(record, "empty.jpg")
        assert "0x" not in str(caught.value)


def test_missing_file_is_named(tmp_path):
    with pytest.raises(UsageError, match="No such file"):
        decode_image({"bytes": None, "path": str(tmp_path / "gone.jpg")}, "gone.jpg")
