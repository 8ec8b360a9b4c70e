"""Every kind of image file becomes upright 8-bit RGB, or an error that names it."""

import io
import tempfile
import time
import warnings
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest
import torch
from filelock import FileLock
from PIL import Image

from sat_peft.data import decoding
from sat_peft.data.decoding import decode_image, decode_mask, outside_problem, read_head
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
    assert decoded[(0, *corner)] == 255
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
    with pytest.raises(UsageError, match=r"the file does not exist"):
        decode_image({"bytes": None, "path": str(tmp_path / "gone.jpg")}, "gone.jpg")


def test_orientation_that_swaps_the_sides_is_told_by_header_alone():
    stored = Image.new("RGB", (16, 8))
    for orientation, size in {1: (16, 8), 2: (16, 8), 3: (16, 8), 5: (8, 16), 6: (8, 16), 8: (8, 16)}.items():
        exif = Image.Exif()
        exif[0x0112] = orientation
        record = encode(stored, "JPEG", exif=exif)
        assert read_head(record, "a").orientation == orientation
        assert read_head(record, "a").size == size == tuple(decode_image(record, "a").shape[:0:-1])
    assert read_head(encode(stored, "PNG"), "a").size == (16, 8)
    assert read_head(encode(stored, "PNG"), "a").orientation == 1


def test_size_of_a_damaged_file_is_refused():
    with pytest.raises(UsageError, match=r"'a' cannot be read \(it is empty, damaged"):
        read_head({"bytes": b"\xff\xd8"}, "a")


@pytest.mark.parametrize(
    ("orientation", "box", "fix"),
    [
        (6, [0, 0, 12, 4], "boxes fit the pixels as stored, 16 x 8, which the EXIF orientation 6 turns"),
        (6, [0, 0, 20, 4], "check the box format"),
        (1, [0, 0, 4, 12], "check the box format"),
    ],
)
def test_box_of_the_stored_pixels_is_recognised(orientation, box, fix):
    exif = Image.Exif()
    exif[0x0112] = orientation
    record = encode(Image.new("RGB", (16, 8)), "JPEG", exif=exif)
    what, said = outside_problem([[0, 0, 2, 2], box], read_head(record, "a").size, record, "a")
    assert f"the box {box} (x0, y0, x1, y1) leaves its image" in what.replace(".0", "")
    assert fix in said
    assert outside_problem([[0, 0, 2, 2]], read_head(record, "a").size, record, "a") is None


def test_adobe_cmyk_is_read_as_another_decoder_reads_it():
    """JPEG files of Adobe's programs store inverted ink; read as they stand, they look like negatives."""
    inks = np.zeros((16, 16, 4), np.uint8)
    inks[:8, :, 1] = 255  # magenta above
    inks[8:, :, 3] = 128  # half black below
    encoded = encode(Image.fromarray(inks, "CMYK"), "JPEG", quality=100)
    assert b"Adobe" in encoded["bytes"]
    decoded = decode_image(encoded, "a").permute(1, 2, 0).numpy()
    other = cv2.imdecode(np.frombuffer(encoded["bytes"], np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    assert np.abs(decoded.astype(int) - other).max() < 12
    assert decoded[2, 2, 0] > 240
    assert decoded[2, 2, 1] < 15
    assert np.abs(decoded[13, 2].astype(int) - 127).max() < 5


def test_one_bit_images_are_black_and_white():
    pixels = np.zeros((8, 8), bool)
    pixels[2:4, 5] = True
    for options in ({}, {"transparency": 1}):
        decoded = decode_image(encode(Image.fromarray(pixels), **options), "a")
        np.testing.assert_array_equal(decoded[1], pixels * 255)


@pytest.mark.parametrize("mode", ["LA", "PA"])
def test_transparency_of_grey_and_palette_is_dropped(mode):
    image = Image.new("RGBA", (8, 8), (90, 90, 90, 10)).convert(mode)
    decoded = decode_image(encode(image, "TIFF" if mode == "PA" else "PNG"), "a")
    assert (decoded.int() - 90).abs().max() < 30  # the palette that PIL chooses is coarse


def test_single_pixel_keeps_its_colour():
    assert decode_image(encode(Image.new("RGB", (1, 1), (9, 8, 7))), "a").flatten().tolist() == [9, 8, 7]


def test_more_pixels_than_the_limit_are_refused_before_they_are_decoded(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50)
    for read in (decode_image, read_head, decode_mask):
        with pytest.raises(UsageError, match=r"'a' cannot be read \(it has more than 100 pixels\)\. Shrink it"):
            read(encode(Image.new("L", (11, 10))), "a")


@pytest.mark.parametrize("mode", ["1", "L", "I;16", "RGB"])
def test_mask_is_what_is_light(mode):
    pixels = np.zeros((6, 9), bool)
    pixels[1:3, 4:9] = True
    if mode == "1":
        image = Image.fromarray(pixels)
    elif mode == "I;16":
        image = Image.fromarray(np.where(pixels, 65535, 30000).astype(np.uint16))
    else:
        image = Image.fromarray(np.where(pixels, 200, 90).astype(np.uint8)).convert(mode)
    np.testing.assert_array_equal(decode_mask(encode(image), "a"), pixels)


def test_damaged_mask_is_named_with_its_file(tmp_path):
    (tmp_path / "mask.png").write_bytes(b"no image")
    with pytest.raises(UsageError, match=r"the mask '.*mask\.png' of 'cat/1' cannot be read"):
        decode_mask({"bytes": None, "path": str(tmp_path / "mask.png")}, "cat/1")


def test_large_images_are_decoded_one_at_a_time(photo, tmp_path, monkeypatch):
    """By all threads, and by all processes that share the temporary folder."""
    monkeypatch.setattr(decoding, "_LARGE_PIXELS", 24 * 32)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    running, most = [], []

    def slow(image: Image.Image) -> torch.Tensor:
        running.append(image)
        most.append(len(running))
        time.sleep(0.02)
        running.pop()
        return torch.zeros(3, 1, 1)

    monkeypatch.setattr(decoding, "image_to_tensor", slow)
    large, small = encode(photo), encode(photo.crop((0, 0, 31, 24)))
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda number: decode_image(large, str(number)), range(8)))
        assert max(most) == 1
        (lock,) = tmp_path.iterdir()
        with FileLock(lock):  # as another process would
            waiting = threads.submit(decode_image, large, "a")
            threads.submit(decode_image, small, "b").result(60)
            assert not waiting.done()
        waiting.result(60)
