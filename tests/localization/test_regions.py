"""One component tree answers like OpenCV does for one foreground after the other."""

import numpy as np
import pytest

from sat_peft.localization import get_protocol, regions
from sat_peft.localization.regions import (
    LARGEST_COMPONENT,
    LARGEST_CONTOUR,
    all_contours,
    largest_component,
    largest_contour,
    sweep,
    sweep_one_by_one,
)
from sat_peft.localization.score_map import Absolute


def rings(count, generator):
    """Maps of concentric waves: components inside holes inside components."""
    y, x = np.mgrid[:24, :24]
    for _ in range(count):
        cy, cx = generator.uniform(4, 20, 2)
        yield (np.hypot(y - cy, x - cx) * generator.uniform(0.3, 1) % 2).astype(np.float32)


def blobs(count, generator):
    y, x = np.mgrid[:14, :14]
    for _ in range(count):
        raw = 0.05 * generator.random((14, 14))
        for cy, cx in generator.uniform(0, 14, (3, 2)):
            raw += np.exp(-((y - cy) ** 2 + (x - cx) ** 2) / generator.uniform(2, 12))
        yield raw.astype(np.float32)


def noise(count, generator):
    for _ in range(count):
        yield generator.random((11, 7), dtype=np.float32)


def plateaus(count, generator):
    """Few distinct values: flat stretches, and many components of equal size."""
    for _ in range(count):
        yield generator.integers(0, 3, (17, 17)).astype(np.float32)


KINDS = {"rings": rings, "blobs": blobs, "noise": noise, "plateaus": plateaus}
SETTINGS = {
    "sat": ("sat", np.linspace(0.05, 0.9, 18)),
    "wsol": ("wsol", np.arange(0, 1, 0.001)),
    "many cuts": ("original", np.linspace(0, 0.999, 300)),
}


def contour_set(found):
    return set(map(tuple, np.column_stack([found.contour_cuts, found.contour_extents]).tolist()))


def assert_equal_regions(found, expected):
    np.testing.assert_array_equal(found.found, expected.found)
    np.testing.assert_array_equal(found.extents[found.found], expected.extents[expected.found])
    assert contour_set(found) == contour_set(expected)


@pytest.mark.parametrize("size", [(60, 41), (33, 96), (224, 224)])
@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("kind", KINDS)
def test_the_tree_equals_one_foreground_at_a_time(kind, setting, size):
    name, thresholds = SETTINGS[setting]
    protocol = get_protocol(name)
    cuts, _ = protocol.foreground.cuts(thresholds)
    contours_seen = 0
    for raw in KINDS[kind](3 if size == (224, 224) else 8, np.random.default_rng(7)):
        scores = protocol.score_map(raw, size)
        levels = protocol.foreground.levels(scores, cuts)
        found = sweep(scores, levels, len(cuts), protocol.region, contours=True)
        assert_equal_regions(found, sweep_one_by_one(levels, len(cuts), protocol.region, contours=True))
        contours_seen += len(found.contour_cuts)
    assert contours_seen > len(cuts)


def test_the_tree_is_really_used_and_gives_way_to_pixel_noise(monkeypatch):
    calls = []

    def spy(*arguments):
        calls.append(arguments)
        return sweep_one_by_one(*arguments)

    monkeypatch.setattr(regions, "sweep_one_by_one", spy)
    rule = Absolute()
    cuts, _ = rule.cuts(np.linspace(0.1, 0.9, 9))
    for side, expected in ((8, 0), (96, 1)):
        raw = np.random.default_rng(0).random((side, side), dtype=np.float32)
        scores = get_protocol("original").score_map(raw, (96, 96))
        sweep(scores, rule.levels(scores, cuts), len(cuts), LARGEST_COMPONENT)
        assert len(calls) == expected


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (2, 2), (3, 2)])
def test_tiny_maps(shape):
    generator = np.random.default_rng(3)
    rule = Absolute()
    cuts, _ = rule.cuts(np.linspace(0.05, 0.95, 7))
    for _ in range(10):
        scores = generator.random(shape, dtype=np.float32)
        levels = rule.levels(scores, cuts)
        for region in (LARGEST_COMPONENT, LARGEST_CONTOUR):
            found = sweep(scores, levels, len(cuts), region, contours=True)
            assert_equal_regions(found, sweep_one_by_one(levels, len(cuts), region, contours=True))


def test_a_constant_map_has_no_region_above_its_value():
    scores = np.full((20, 30), 0.5, np.float32)
    levels = Absolute().levels(scores, np.array([0.2, 0.5, 0.8], np.float32))
    found = sweep(scores, levels, 3, LARGEST_COMPONENT, contours=True)
    assert found.found.tolist() == [True, False, False]
    assert found.extents[0].tolist() == [0, 0, 29, 19]
    assert contour_set(found) == {(0, 0, 0, 29, 19)}


def test_a_ring_has_a_contour_outside_and_one_around_its_hole():
    ring = np.zeros((20, 20), np.uint8)
    ring[2:18, 3:19] = 1
    ring[6:10, 8:15] = 0
    assert sorted(all_contours(ring).tolist()) == [[3, 2, 18, 17], [7, 5, 15, 10]]
    assert largest_contour(ring).tolist() == [3, 2, 18, 17]
    assert largest_component(ring).tolist() == [3, 2, 18, 17]
    scores = ring.astype(np.float32)
    found = sweep(scores, ring, 1, LARGEST_CONTOUR, contours=True)
    assert contour_set(found) == {(0, 3, 2, 18, 17), (0, 7, 5, 15, 10)}


def test_a_thin_ring_encloses_more_than_a_solid_square_of_more_pixels():
    image = np.zeros((40, 40), np.uint8)
    image[1:21, 1:21] = 1
    image[2:20, 2:20] = 0
    image[25:38, 25:38] = 1
    scores = image.astype(np.float32)
    assert image[25:, 25:].sum() > image[:21, :21].sum()
    assert sweep(scores, image, 1, LARGEST_CONTOUR).extents[0].tolist() == [1, 1, 20, 20]
    assert sweep(scores, image, 1, LARGEST_COMPONENT).extents[0].tolist() == [25, 25, 37, 37]


def test_components_join_across_corners_and_equal_ones_are_taken_in_reading_order():
    image = np.zeros((9, 9), np.uint8)
    image[6:8, 0:2] = 1
    image[1, 5] = image[2, 6] = image[3, 7] = image[2, 8] = 1
    assert largest_component(image).tolist() == [5, 1, 8, 3]
    assert sweep(image.astype(np.float32), image, 1, LARGEST_COMPONENT).extents[0].tolist() == [5, 1, 8, 3]
    assert largest_component(np.zeros((4, 4), bool)) is None
    assert largest_contour(np.zeros((4, 4), bool)) is None
