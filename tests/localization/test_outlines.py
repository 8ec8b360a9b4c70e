"""Regions as masks and polygons, beside the boxes of the same map."""

import cv2
import numpy as np
import pytest

from sat_peft.errors import UsageError
from sat_peft.localization import localize_all, localize_masks, localize_polygons


def blobs(seed: int) -> np.ndarray:
    return cv2.GaussianBlur(np.random.default_rng(seed).random((16, 16)).astype(np.float32), (0, 0), 1.5)


def rasterised(polygons: list[np.ndarray], shape: tuple[int, int]) -> np.ndarray:
    """Pixels whose centre lies within one of the polygons."""
    inside = np.zeros(shape, bool)
    for polygon in polygons:
        for y, x in np.ndindex(*shape):
            inside[y, x] |= cv2.pointPolygonTest(polygon, (x + 0.5, y + 0.5), False) > 0
    return inside


@pytest.mark.parametrize("seed", [0, 2, 3, 5])
def test_masks_and_polygons_are_of_the_same_regions_as_the_boxes(seed):
    settings = {"protocol": "original", "threshold": 0.6, "image_size": (90, 70)}
    boxes = localize_all(blobs(seed), min_area=0, **settings)
    masks = np.stack(list(localize_masks(blobs(seed), count=len(boxes), **settings)))
    polygons = localize_polygons(blobs(seed), count=len(boxes), **settings)
    assert len(boxes) == len(masks) == len(polygons) > 1
    for box, mask, region in zip(boxes, masks, polygons, strict=True):
        rows, columns = np.nonzero(mask)
        assert box.tolist() == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        points = np.concatenate(region)
        np.testing.assert_allclose(points.min(axis=0), box[:2], atol=1)
        np.testing.assert_allclose(points.max(axis=0), box[2:], atol=1)
        filled = cv2.drawContours(
            np.zeros(mask.shape, np.uint8),
            cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)[0],
            -1,
            1,
            cv2.FILLED,
        ).astype(bool)
        drawn = rasterised(region, mask.shape)
        # Outlines are true to a quarter of a pixel: what differs lies along them.
        rim = filled ^ cv2.erode(filled.astype(np.uint8), np.ones((3, 3), np.uint8)).astype(bool)
        wide = cv2.dilate(rim.astype(np.uint8), np.ones((3, 3), np.uint8)).astype(bool)
        assert not ((drawn ^ filled) & ~wide).any()
        assert (drawn & filled).sum() / (drawn | filled).sum() > 1 - 0.25 * rim.sum() / filled.sum()
    assert not (masks.sum(axis=0) > 1).any()


def test_an_outline_reaches_the_border_of_the_image():
    settings = {"protocol": "original", "threshold": 0.5, "image_size": (8, 6)}
    raw = np.zeros((6, 8), np.float32)
    raw[2:, 4:] = 1
    [[polygon]] = localize_polygons(raw, count=1, **settings)
    assert polygon.min(axis=0) == pytest.approx([4, 2])
    assert polygon.max(axis=0) == pytest.approx([8, 6])
    assert cv2.contourArea(polygon) == pytest.approx(16, abs=0.6)


def test_a_region_that_touches_at_corners_alone_and_one_with_a_hole():
    settings = {"protocol": "original", "threshold": 0.5}
    corners = np.zeros((5, 5), np.float32)
    corners[0:2, 0:2] = corners[2:4, 2:4] = 1
    [region] = localize_polygons(corners, count=1, image_size=(5, 5), **settings)
    assert sum(map(cv2.contourArea, region)) == pytest.approx(8, abs=1.5)
    assert np.concatenate(region).max(axis=0) == pytest.approx([4, 4])
    ring = np.zeros((9, 9), np.float32)
    ring[1:8, 1:8] = 1
    ring[3:6, 3:6] = 0
    [[outline]] = localize_polygons(ring, count=1, image_size=(9, 9), **settings)
    assert cv2.contourArea(outline) == pytest.approx(49, abs=1)
    [mask] = localize_masks(ring, count=1, image_size=(9, 9), **settings)
    assert mask.sum() == 40


def test_a_map_without_foreground_is_the_whole_image_as_its_box_is():
    settings = {"protocol": "original", "threshold": 0.5, "image_size": (7, 5), "count": 3}
    flat = np.full((2, 2), 0.3, np.float32)
    [mask] = localize_masks(flat, **settings)
    assert mask.tolist() == np.ones((5, 7), bool).tolist()
    [[polygon]] = localize_polygons(flat, **settings)
    assert cv2.contourArea(polygon) == 35


@pytest.mark.parametrize("function", [localize_masks, localize_polygons])
def test_protocols_that_look_at_contours_have_no_regions(function):
    with pytest.raises(UsageError, match="'wsol' looks at contours"):
        function(blobs(0), protocol="wsol", count=1)
