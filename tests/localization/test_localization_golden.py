"""Agreement with numbers that the two public implementations printed."""

import cv2
import numpy as np
import pytest
from localization_golden import load_sat, load_wsol
from packaging.version import Version

from sat_peft.localization import score_maps

EXACT_COLUMNS = ("threshold", "gt_known", "top1_loc")


@pytest.fixture(scope="module")
def sat():
    return load_sat()


@pytest.fixture(scope="module")
def wsol():
    return load_wsol()


def test_sat_reproduces_every_row_of_the_reference_table(sat):
    result = score_maps(sat["maps"], sat["boxes"], protocol="sat", logits=sat["logits"], labels=sat["labels"])
    for column, expected in zip(sat["columns"], sat["table"].T, strict=True):
        ours = result.per_threshold.get(column) or [result.summary[column]] * len(expected)
        tolerance = 1e-6 if column in EXACT_COLUMNS else 0.0051
        np.testing.assert_allclose(ours, expected, atol=tolerance, rtol=0, err_msg=column)


@pytest.mark.parametrize("step", [0.01, 0.001])
def test_wsol_reproduces_every_figure_of_wsolevaluation(wsol, step):
    result = score_maps(
        wsol["maps"],
        wsol["boxes"],
        protocol="wsol",
        thresholds=np.arange(0, 1, step),
        masks=wsol["masks"],
        ignore=wsol["ignore"],
    )
    expected = wsol["results"]
    single = [max(result.per_threshold[name]) for name in ("iou30", "iou50", "iou70")]
    multi = [max(result.per_threshold[name]) for name in ("multi_iou30", "multi_iou50", "multi_iou70")]
    assert single == pytest.approx(expected[f"single_{step}"], abs=1e-9)
    assert multi == pytest.approx(expected[f"multi_{step}"], abs=1e-9)
    assert result.summary["max_box_acc"] == pytest.approx(expected[f"single_{step}"][1], abs=1e-9)
    assert result.summary["max_box_acc_v2"] == pytest.approx(np.mean(expected[f"multi_{step}"]), abs=1e-9)
    # One of the maps is constant. Its cubic interpolation is rounding noise, which wsolevaluation stretches to [0, 1];
    # the noise, and with it PxAP, is that of an OpenCV.
    recorded_with = Version(cv2.__version__) >= Version("5")
    assert result.summary["px_ap"] == pytest.approx(expected[f"pxap_{step}"], abs=1e-9 if recorded_with else 0.25)
