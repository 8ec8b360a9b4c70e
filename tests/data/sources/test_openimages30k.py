"""OpenImages30k: masks are found by their names, and their absence is told."""

from pathlib import Path

import pytest
from official_folders import write_image

from sat_peft.data.sources import Problems, load_source
from sat_peft.errors import UsageError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for split in ("train", "val", "test"):
        for name in ("01226z/1cd9.jpg", "0bt_c3/3a29.jpg"):
            write_image(tmp_path / split / name)
    for split in ("val", "test"):
        names = ("01226z/1cd9_m01226z_65", "01226z/1cd9_m01226z_88", "01226z/1cd9_ignore")
        for name in (*names, "0bt_c3/3a29_m0bt_c3_35", "0bt_c3/3a29_ignore"):
            write_image(tmp_path / split / f"{name}.png")
    return tmp_path


def mask_names(rows) -> list[list[str]]:
    undecoded = rows.with_format("arrow")[:]
    return [[Path(cell["path"]).name for cell in cells] for cells in undecoded["mask"].to_pylist()]


def test_masks_and_ignore_masks_by_name(root):
    test = load_source("openimages30k", "test", root=root)
    assert test["image_id"][:] == ["test/01226z/1cd9.jpg", "test/0bt_c3/3a29.jpg"]
    assert mask_names(test) == [["1cd9_m01226z_65.png", "1cd9_m01226z_88.png"], ["3a29_m0bt_c3_35.png"]]
    assert [len(masks) for masks in test["ignore"]] == [1, 1]
    assert test["boxes"][:] == [[], []]
    train = load_source("openimages30k", "train", root=root)
    assert "mask" not in train.column_names
    assert train.features["label"].names == ["01226z", "0bt_c3"]


@pytest.mark.parametrize(
    ("remove", "words"),
    [
        ("0bt_c3/3a29_m0bt_c3_35.png", r"3a29\.jpg: the image has no mask"),
        ("0bt_c3/3a29_ignore.png", r"3a29\.jpg: the image has no ignore mask"),
        ("0bt_c3/3a29.jpg", r"3a29_ignore\.png: its image 3a29\.jpg does not exist"),
    ],
)
def test_files_that_miss_each_other_are_named(root, remove, words):
    (root / "test" / remove).unlink()
    with pytest.raises(UsageError, match=words):
        load_source("openimages30k", "test", root=root)


def test_mask_of_another_class_is_named_and_skipped(root):
    write_image(root / "test/0bt_c3/3a29_m01226z_1.png")
    problems = Problems(skip=True)
    assert len(load_source("openimages30k", "test", root=root, problems=problems)) == 2
    assert "ID_m0bt_c3_*.png" in problems.listed[0].what


def test_missing_folders_and_foreign_classes_are_named(root):
    write_image(root / "test/0zzz/1.jpg")
    with pytest.raises(UsageError, match=r"test has class folders that .*train lacks: 0zzz"):
        load_source("openimages30k", "test", root=root)
    (root / "val").rename(root / "validation")
    with pytest.raises(UsageError, match=r"val' does not exist\. Expected ROOT/train"):
        load_source("openimages30k", "validation", root=root)
