"""The page on photographs says by how much SAT is above and below the others, and on which ruler."""

import json

import pytest

from reproduction.photographs import methods_verdict, needs_rulers, photographs, rulers
from sat_peft.runs.sweep import gather_point


def run(**methods: tuple[float | None, float | None]) -> dict:
    figures = {
        name: {"gt_known": known, "top1_loc": 1.0, "top5_loc": 2.0, "top1_cls": classified}
        for name, (known, classified) in methods.items()
    }
    return {"trainable_parameters": 10, "seconds": 60.0, "methods": figures}


def test_margins_are_told_in_points_and_defeats_too():
    runs = [
        run(sat=(56.0, 47.0), cam=(46.0, 27.0), tscam=(40.0, 30.0), rollout=(60.0, None), centre_box=(50.5, 47.0)),
        run(sat=(58.0, 49.0), cam=(46.0, 29.0), tscam=(40.0, 32.0), rollout=(62.0, None), centre_box=(50.5, 49.0)),
    ]
    first, below, classes = methods_verdict({"shots-1": gather_point("1", runs)})
    gains = "CAM +11.0 points, TS-CAM +17.0 points, centre box +6.5 points"
    assert first == f"1 image per class: SAT 57.0 GT-known Loc, against {gains}."
    assert below == "**1 image per class: SAT 57.0 GT-known Loc: attention rollout (61.0) is not beaten.**"
    # The box without a map has the classes of SAT, and is no rival in telling them.
    assert classes == "1 image per class: SAT classifies 48.0 % right, the best of the others, TS-CAM, 31.0 %."


def test_the_four_rulers():
    curves = {"iou30": [40.0, 90.0], "iou50": [50.0, 60.0], "iou70": [30.0, 15.0]}
    curves |= {"multi_iou30": [95.0, 90.0], "multi_iou50": [70.0, 65.0], "multi_iou70": [30.0, 33.0]}
    assert rulers(curves) == (60.0, 70.0, pytest.approx(60.0), pytest.approx(66.0))


def test_runs_of_other_methods_alone_are_measured_by_every_ruler(tmp_path):
    for name in ("shots-1/seed-0", "no-flip/seed-0", "shots-5/seed-0", "shots-10/seed-0"):
        (tmp_path / name / "evaluation").mkdir(parents=True)
    for name in ("shots-1/seed-0", "no-flip/seed-0", "shots-5/seed-0", "shots-5/seed-0/evaluation"):
        (tmp_path / name / "results.json").write_text("{}")
    assert needs_rulers(tmp_path / "shots-1/seed-0")
    assert not needs_rulers(tmp_path / "no-flip/seed-0")
    assert not needs_rulers(tmp_path / "shots-5/seed-0")
    assert not needs_rulers(tmp_path / "shots-10/seed-0")


def test_the_page_says_what_the_figures_are_of(tmp_path):
    photographs("birds", "vit_small_patch14_dinov2", 350).write_page(tmp_path)
    page = (tmp_path / "results.md").read_text(encoding="utf-8")
    assert page.startswith(
        "# SAT on birds\n\nPreset `photos` on the frozen `vit_small_patch14_dinov2`, 350 test images"
    )


def test_one_number_of_shots_is_a_comparison_of_methods_already(tmp_path):
    place = tmp_path / "shots-1" / "seed-0"
    place.mkdir(parents=True)
    (place / "results.json").write_text(json.dumps(run(sat=(56.0, 47.0), cam=(46.0, 27.0))))
    photographs("birds", "deit_small", 350).write_page(tmp_path)
    page = (tmp_path / "results.md").read_text(encoding="utf-8")
    assert "1 image per class: SAT 56.0 GT-known Loc, against CAM +10.0 points." in page
    assert "How few images are enough?" not in page
