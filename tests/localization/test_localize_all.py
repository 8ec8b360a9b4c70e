"""Several boxes of one map."""

import numpy as np
import pytest

from sat_peft.errors import UsageError
from sat_peft.localization import localize, localize_all


def drawn(rows: str) -> np.ndarray:
    """A map of zeros and ones; at its own size, scores are the map itself."""
    return np.array([[character == "#" for character in row.strip()] for row in rows.strip().splitlines()], np.float32)


SCENE = drawn(
    """
    #.........
    ....###...
    ....###...
    ..........
    ##.......#
    ##......#.
    """
)


def boxes_of(raw: np.ndarray, **options) -> list:
    size = raw.shape[::-1]
    return localize_all(raw, protocol="original", threshold=0.5, image_size=size, **options).tolist()


def test_components_are_sorted_by_size_and_touch_at_corners():
    assert boxes_of(SCENE, min_area=0) == [[4, 1, 7, 3], [0, 4, 2, 6], [8, 4, 10, 6], [0, 0, 1, 1]]


def test_small_components_are_left_out_and_the_largest_never_is():
    assert boxes_of(SCENE, min_area=3 / 60) == [[4, 1, 7, 3], [0, 4, 2, 6]]
    assert boxes_of(SCENE, min_area=1) == [[4, 1, 7, 3]]


def test_of_equal_components_the_first_in_reading_order_is_first():
    raw = drawn("..#.#\n##..#\n.....")
    assert boxes_of(raw, min_area=0) == [[0, 0, 3, 2], [4, 0, 5, 2]]
    raw = drawn("....#\n##..#\n.....")
    assert boxes_of(raw, min_area=0) == [[4, 0, 5, 2], [0, 1, 2, 2]]


def test_first_box_is_that_of_localize():
    generator = np.random.default_rng(0)
    for _ in range(200):
        raw = generator.integers(0, 5, (4, 5)).astype(np.float32)
        settings = {"protocol": "original", "threshold": 0.5, "image_size": (23, 17)}
        assert localize_all(raw, **settings)[0].tolist() == localize(raw, **settings).tolist()


def test_map_without_contrast_gives_the_whole_image():
    assert boxes_of(np.ones((3, 4), np.float32)) == [[0, 0, 4, 3]]


def test_mistakes_are_named():
    with pytest.raises(UsageError, match="min_area must be from 0 to 1"):
        boxes_of(SCENE, min_area=2)
    with pytest.raises(UsageError, match="'wsol' looks at contours"):
        localize_all(SCENE, protocol="wsol", threshold=0.5)
