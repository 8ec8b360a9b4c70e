"""The check of a data set as text and as a picture."""

import io

import numpy as np
import pytest
from datasets import ClassLabel, Dataset
from PIL import Image

from sat_peft.data.check import check_data
from sat_peft.data.features import localization_features
from sat_peft.report.data_check import data_check_text, draw_contact_sheet

GREEN, RED = (52, 199, 89), (255, 59, 48)


def grey(seed: int) -> dict:
    buffer = io.BytesIO()
    Image.new("RGB", (60 + seed, 40), (90, 90, 90)).save(buffer, "PNG")
    return {"bytes": buffer.getvalue(), "path": None}


def rows(boxes: list, first: int, classes: int = 2) -> Dataset:
    return Dataset.from_dict(
        {
            "image_id": [f"image{first + index}" for index in range(len(boxes))],
            "image": [grey(first + index) for index in range(len(boxes))],
            "label": [index % classes for index in range(len(boxes))],
            "boxes": boxes,
        },
        features=localization_features(["cat", "dog $5$", *(f"c{index}" for index in range(classes - 2))]),
    )


def check(**splits):
    return check_data(lambda split, problems: splits.get(split), workers=1)


def pixels_of(path, colour) -> int:
    image = np.asarray(Image.open(path).convert("RGB")).astype(int)
    return int((np.abs(image - colour).max(-1) < 12).sum())


def test_text_has_figures_findings_and_the_verdict():
    text = data_check_text(check(train=rows([[], [], []], 0), test=rows([[[0, 0, 31.5, 20]], [[50, 0, 90, 10]]], 3)))
    lines = {line.split("  ")[0].strip(): line.split() for line in text.splitlines() if line}
    assert lines["images"][-2:] == ["3", "2"]
    assert lines["images with boxes"][-2:] == ["0", "2"]
    assert "STOPS TRAINING: 1 images with boxes that are empty or leave the image" in text
    assert "test: image4: the box [50.0, 0.0, 90.0, 10.0]" in text
    assert text.endswith("Training may not start yet.")


def test_text_says_where_localisation_cannot_be_measured_or_a_split_is_missing():
    text = data_check_text(check(train=rows([[[0, 0, 5, 5]], []], 0)))
    assert "localisation will not be measured" in text
    assert "There is no test split" in text
    assert text.endswith("Training may start.")


def test_examples_of_a_finding_are_bounded_in_the_text():
    text = data_check_text(check(train=rows([[[0, 0, 500, 5]]] * 30, 0)))
    assert "30 images with boxes that are empty or leave the image" in text
    assert text.count("the box [") == 5
    assert "and 25 more" in text


def test_long_class_names_keep_their_beginning():
    names = ["001.Black_footed_Albatross", "a short one", "x" * 27]
    made = rows([[], [], []], 0).cast_column("label", ClassLabel(names=names))
    lines = data_check_text(check(train=made)).splitlines()
    assert any(line.startswith("001.Black_footed_Albatross ") for line in lines)
    assert any(line.startswith("a short one ") for line in lines)
    assert any(line.startswith(f"{'x' * 25}… ") for line in lines)


def test_sheet_draws_boxes_where_they_are(tmp_path):
    path = tmp_path / "sheet.png"
    assert draw_contact_sheet(path, check(train=rows([[], []], 0), test=rows([[[10, 10, 30, 30]], []], 2))) == 4
    assert pixels_of(path, GREEN) > 100
    assert pixels_of(path, RED) == 0
    plain = tmp_path / "plain.png"
    draw_contact_sheet(plain, check(train=rows([[], []], 0)))
    assert pixels_of(plain, GREEN) == 0


def test_sheet_shows_boxes_that_leave_their_image_in_red(tmp_path):
    path = tmp_path / "sheet.png"
    draw_contact_sheet(path, check(train=rows([[[10, 10, 90, 30]], []], 0)))
    assert pixels_of(path, RED) > 50


@pytest.mark.parametrize(("columns", "max_classes"), [(2, 3), (5, 12)])
def test_sheet_is_bounded(tmp_path, columns, max_classes):
    many = rows([[[1, 1, 9, 9]]] * 80, 0, classes=20)
    shown = draw_contact_sheet(tmp_path / "a.png", check(train=many), columns=columns, max_classes=max_classes)
    assert shown == max_classes * min(columns, 4)


def test_sheet_leaves_out_what_cannot_be_read(tmp_path):
    broken = rows([[], [], []], 0).to_dict()
    made = Dataset.from_dict(
        broken | {"image": [grey(0), {"bytes": b"no image", "path": None}, grey(2)]},
        features=localization_features(["cat", "dog"]),
    )
    assert draw_contact_sheet(tmp_path / "a.png", check(train=made)) == 2
