"""FGVC-Aircraft as published: boxes that count from 1, levels of classes, lists that do not agree."""

from pathlib import Path

import pytest
from official_folders import write_image, write_text

from sat_peft.data.sources import load_source
from sat_peft.errors import UsageError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    base = tmp_path / "data"
    for image in ("0034309", "0034958", "0056978"):
        write_image(base / "images" / f"{image}.jpg")
    write_text(base / "images_box.txt", "0034309 1 1 40 30", "0034958 3 4 5 6", "0056978 0 2 10 12")
    write_text(base / "variants.txt", "707-320", "F-16A/B", "Boeing 717")
    for split, line in (("train", "0034309 Boeing 717"), ("val", "0034958 F-16A/B"), ("test", "0056978 707-320")):
        write_text(base / f"images_variant_{split}.txt", line)
    return base


def read(root: Path, split: str = "train", **options):
    return load_source("fgvc_aircraft", split, root=root, **options)


@pytest.mark.parametrize("above", [False, True])
def test_a_box_counts_from_1_and_has_its_last_pixel(root, above):
    folder = root.parent if above else root
    assert read(folder)["boxes"][:] == [[[0, 0, 40, 30]]]  # the whole image
    assert read(folder, "validation")["boxes"][:] == [[[2, 3, 5, 6]]]
    assert read(folder, "test")["boxes"][:] == [[[0, 1, 10, 12]]]  # written with x0 = 0, cut at the edge
    assert [read(folder, split)["label"][0] for split in ("train", "validation", "test")] == [2, 1, 0]
    assert read(folder).features["label"].names == ["707-320", "F-16A/B", "Boeing 717"]


def test_unknown_or_missing_level_is_named(root):
    with pytest.raises(UsageError, match=r"unknown level 'familly'\. Did you mean 'family'"):
        read(root, level="familly")
    with pytest.raises(UsageError, match=r"images_family_train\.txt' does not exist"):
        read(root, level="family")


@pytest.mark.parametrize(
    ("file", "line", "words"),
    [
        ("images_box.txt", "0034309 1 1 40", r"images_box\.txt, line 1: expected 4 numbers, got '1 1 40'"),
        ("images_box.txt", "0034958 1 1 40 30", r"variant_train\.txt, line 1: '0034309' is not in .*images_box\.txt"),
        ("images_box.txt", "0034309 1 1 80 30", r"images_box\.txt, line 1: the box .* leaves its image"),
        ("images_variant_train.txt", "0034309 Airbus", r"train\.txt, line 1: the class 'Airbus' is not in the list"),
        ("images_variant_train.txt", "0034309", r"train\.txt, line 1: expected 2 columns"),
    ],
)
def test_lists_that_do_not_agree_are_named_by_file_and_line(root, file, line, words):
    write_text(root / file, line)
    with pytest.raises(UsageError, match=words):
        read(root)
