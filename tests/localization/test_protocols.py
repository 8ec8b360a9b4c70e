"""The protocols' arithmetic on single maps and boxes, worked out by hand."""

import dataclasses
import pickle
import subprocess
import sys

import numpy as np
import pytest

import sat_peft
from sat_peft.errors import UsageError
from sat_peft.localization import PROTOCOLS, box_iou, get_protocol, localize, to_score_map
from sat_peft.localization.boxes import best_iou


def test_names_and_unknown_names():
    assert set(PROTOCOLS) == {"sat", "wsol", "tscam", "original"}
    assert all(protocol.name == name for name, protocol in PROTOCOLS.items())
    assert get_protocol(get_protocol("sat")) is PROTOCOLS["sat"]
    with pytest.raises(UsageError, match=r"unknown protocol 'wsoll'.*'wsol'.*original, sat"):
        get_protocol("wsoll")


@pytest.mark.parametrize("name", PROTOCOLS)
def test_protocols_are_frozen_and_travel_to_other_processes(name):
    protocol = get_protocol(name)
    with pytest.raises(dataclasses.FrozenInstanceError):
        protocol.inclusive = False
    assert pickle.loads(pickle.dumps(protocol)) == protocol


def test_a_changed_protocol_is_one():
    smaller = dataclasses.replace(
        get_protocol("wsol"), name="wsol96", image=dataclasses.replace(get_protocol("wsol").image, resize=(96, 96))
    )
    assert smaller.evaluation_size() == (96, 96)
    with pytest.raises(UsageError, match="evaluation pixels are unknown"):
        dataclasses.replace(smaller, image=dataclasses.replace(smaller.image, resize=None))


def test_image_transform_is_data():
    sat, wsol, original = (get_protocol(name).image for name in ("sat", "wsol", "original"))
    assert (sat.resize, sat.crop, sat.interpolation) == ((256, 256), (224, 224), "bilinear")
    assert (wsol.resize, wsol.crop) == ((224, 224), None)
    assert (original.resize, original.crop) == (None, None)


@pytest.mark.parametrize(
    ("name", "box", "expected"),
    [
        # x: 100 / 500 * 256 - 16 = 35.2; y: 30 / 400 * 256 - 16 = 3.2; 300 -> 137.6; 390 -> 233.6, clamped to 223.
        ("sat", [100, 30, 300, 390], [35, 3, 137, 223]),
        ("sat", [0, 0, 500, 400], [0, 0, 223, 223]),
        ("wsol", [100, 30, 300, 390], [44, 16, 134, 218]),
        ("wsol", [0, 0, 500, 400], [0, 0, 224, 224]),
        ("tscam", [0, 0, 500, 400], [0, 0, 223, 223]),
        ("original", [100.5, 30, 300, 390], [100.5, 30, 300, 390]),
    ],
)
def test_boxes_to_evaluation_pixels(name, box, expected):
    boxes, valid = get_protocol(name).transform_boxes([box], (500, 400))
    assert boxes.tolist() == [expected]
    assert valid.tolist() == [True]


def test_the_crop_destroys_boxes_at_the_border():
    boxes, valid = get_protocol("sat").transform_boxes(
        [[0, 0, 20, 400], [0, 0, 500, 20], [50, 50, 400, 300]], (500, 400)
    )
    assert valid.tolist() == [False, False, True]
    assert boxes[0].tolist() == [0, 0, -5, 223]
    # One pixel wide is a box where both corners count, and none where boxes are half open.
    assert get_protocol("sat").transform_boxes([[100, 100, 100, 300]], (500, 400))[1].tolist() == [True]
    assert get_protocol("original").transform_boxes([[100, 100, 100, 300]], (500, 400))[1].tolist() == [False]
    boxes, valid = get_protocol("sat").transform_boxes([], (500, 400))
    assert boxes.shape == (0, 4)
    assert valid.shape == (0,)


def test_masks_follow_the_image():
    mask = np.zeros((256, 256), np.uint8)
    mask[16:20, 239] = 255
    assert np.argwhere(get_protocol("sat").transform_mask(mask)).tolist() == [[0, 223], [1, 223], [2, 223], [3, 223]]
    assert get_protocol("wsol").transform_mask(np.ones((50, 70))).all()
    assert get_protocol("original").transform_mask(mask, (128, 64)).shape == (64, 128)
    with pytest.raises(UsageError, match=r"mask has shape \(3, 4, 4\)"):
        get_protocol("wsol").transform_mask(np.zeros((3, 4, 4)))


@pytest.mark.parametrize(("inclusive", "expected"), [(False, 25 / 175), (True, 36 / 206)])
def test_iou_conventions(inclusive, expected):
    assert box_iou([[0, 0, 10, 10]], [[5, 5, 15, 15]], inclusive=inclusive) == pytest.approx(expected)


def test_iou_shapes_and_edges():
    boxes = np.array([[0, 0, 4, 4], [2, 2, 6, 6], [9, 9, 9, 9]], float)
    overlap = box_iou(boxes, boxes)
    assert overlap.shape == (3, 3)
    assert overlap.tolist() == overlap.T.tolist()
    assert overlap[0, 0] == 1
    assert overlap[2, 2] == 0
    assert best_iou(boxes, np.zeros((0, 4)), inclusive=False).tolist() == [0, 0, 0]
    assert best_iou(boxes, boxes[1:2], inclusive=False)[1] == 1


def square(low=0.0, high=1.0):
    raw = np.full((14, 14), low, np.float32)
    raw[4:10, 2:10] = high
    return raw


@pytest.mark.parametrize(
    ("name", "empty"),
    [("sat", [0, 0, 224, 224]), ("wsol", [0, 0, 0, 0]), ("tscam", [0, 0, 1, 1]), ("original", [0, 0, 50, 40])],
)
@pytest.mark.parametrize("raw", [np.zeros((14, 14)), np.full((14, 14), np.nan), np.full((14, 14), np.inf)])
def test_constant_and_not_finite_maps_give_the_empty_box(name, empty, raw):
    assert localize(raw, protocol=name, threshold=0.3, image_size=(50, 40)).tolist() == empty


@pytest.mark.parametrize("name", PROTOCOLS)
def test_a_partly_nan_map_counts_as_empty(name):
    raw = square()
    raw[0, 0] = np.nan
    assert not to_score_map(raw, protocol=name, image_size=(50, 40)).any()


@pytest.mark.parametrize("name", PROTOCOLS)
def test_the_top_threshold_leaves_nothing(name):
    protocol = get_protocol(name)
    box = localize(square(), protocol=name, threshold=1.0, image_size=(50, 40)).tolist()
    assert box == localize(np.zeros((2, 2)), protocol=protocol, threshold=0.5, image_size=(50, 40)).tolist()


def test_sat_normalises_before_it_resizes_and_wsol_after():
    raw = np.array([[0, 0, 0], [0, 1, 0], [0, 0, 0]], np.float32)
    before, after = (to_score_map(raw, protocol=name) for name in ("sat", "wsol"))
    assert before.max() < 1 - 1e-6
    assert after.max() == 1
    assert after.min() == 0


def test_boxes_read_off_a_map():
    # Bilinear from 14 to 224: column c spans 16c..16c+15, values cross one half at cell borders.
    assert localize(square(), protocol="sat", threshold=0.5).tolist() == [32, 64, 160, 160]
    assert localize(square(), protocol="tscam", threshold=0.5).tolist() == [32, 64, 160, 160]
    assert localize(square(), protocol="original", threshold=0.5, image_size=(280, 140)).tolist() == [40, 40, 200, 100]
    # wsolevaluation keeps the far corner inside the image, the others end the box after the last pixel.
    bright_corner = square(1.0, 0.0)
    assert localize(bright_corner, protocol="wsol", threshold=0.5).tolist() == [0, 0, 223, 223]
    assert localize(bright_corner, protocol="tscam", threshold=0.5).tolist() == [0, 0, 224, 224]


@pytest.mark.parametrize("shape", [(7, 14), (14, 7), (3, 20)])
def test_maps_need_not_be_square(shape):
    raw = np.zeros(shape, np.float32)
    raw[:, : shape[1] // 2] = 1
    x0, y0, x1, y1 = localize(raw, protocol="original", threshold=0.5, image_size=(200, 100))
    assert (x0, y0, y1) == (0, 0, 100)
    assert abs(x1 - 200 * (shape[1] // 2) / shape[1]) <= 1


def test_scale_and_offset_of_a_map_do_not_matter_much():
    raw = np.random.default_rng(0).random((14, 14)).astype(np.float32)
    for name in PROTOCOLS:
        one = to_score_map(raw, protocol=name, image_size=(50, 40))
        other = to_score_map(1000 * raw - 3, protocol=name, image_size=(50, 40))
        np.testing.assert_allclose(one, other, atol=1e-4)


def test_one_map_has_no_oracle():
    with pytest.raises(UsageError, match="oracle"):
        localize(square(), protocol="sat", threshold="oracle")
    with pytest.raises(UsageError, match="image_size is None"):
        localize(square(), protocol="original")


def test_the_package_needs_no_model():
    # The package's own __init__ may register the PEFT method; localization must do without it.
    code = (
        f"import sys, types; package = types.ModuleType('sat_peft'); package.__path__ = {list(sat_peft.__path__)};"
        "sys.modules['sat_peft'] = package; import sat_peft.localization;"
        "heavy = {'torch', 'peft', 'timm', 'scipy', 'sklearn'} & set(sys.modules); assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
