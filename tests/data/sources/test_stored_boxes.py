"""Published boxes on images that EXIF turns, and at the edge."""

import numpy as np
import pytest
from PIL import ExifTags, Image

from sat_peft.data.decoding import decode_image
from sat_peft.data.sources.records import Problems
from sat_peft.data.sources.stored_boxes import upright_boxes
from sat_peft.errors import UsageError


@pytest.mark.parametrize("orientation", range(1, 9))
def test_box_stays_on_the_object_however_exif_turns_the_image(tmp_path, orientation):
    pixels = np.zeros((20, 30, 3), np.uint8)
    pixels[4:9, 6:20] = 255  # rows 4 to 8, columns 6 to 19
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    path = tmp_path / "image.png"
    Image.fromarray(pixels).save(path, exif=exif)

    found = upright_boxes(np.array([[6.0, 4, 20, 9]]), path, "here", Problems())

    shown = decode_image({"bytes": None, "path": str(path)}, "image")[0].numpy()
    rows, columns = np.flatnonzero(shown.any(1)), np.flatnonzero(shown.any(0))
    assert found.tolist() == [[columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]]


def test_few_pixels_past_the_edge_are_cut_and_more_are_a_problem(tmp_path):
    path = tmp_path / "image.png"
    Image.new("L", (100, 50)).save(path)
    assert upright_boxes(np.array([[-5.0, 0, 108, 55]]), path, "here", Problems()).tolist() == [[0, 0, 100, 50]]
    with pytest.raises(UsageError, match=r"list, line 7: the box .* leaves its image of 100 x 50 pixels"):
        upright_boxes(np.array([[0.0, 0, 100, 56]]), path, "list, line 7", Problems())


def test_unreadable_image_is_left_to_its_reader(tmp_path):
    (tmp_path / "image.png").write_bytes(b"no image")
    boxes = np.array([[0.0, 0, 900, 900]])
    assert upright_boxes(boxes, tmp_path / "image.png", "here", Problems()) is boxes
    assert upright_boxes(boxes, tmp_path / "missing.png", "here", Problems()) is boxes
