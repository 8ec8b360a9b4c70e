"""Metadata folders of wsolevaluation: boxes and masks by eye, lists that do not agree."""

from pathlib import Path

import pytest
from official_folders import write_image, write_text

from sat_peft.data.sources import Problems, load_source
from sat_peft.errors import UsageError

IMAGES = ("001.Auk/a, 1.jpg", "002.Owl/b.jpg")  # a comma in a name is no separator


@pytest.fixture
def root(tmp_path: Path) -> Path:
    base = tmp_path / "images"
    for image in IMAGES:
        write_image(base / image)
    for split in ("train", "val", "test"):
        folder = base / "metadata" / split
        write_text(folder / "image_ids.txt", *IMAGES)
        write_text(folder / "class_labels.txt", *(f"{image},{label}" for label, image in enumerate(IMAGES)))
        boxes = (f"{IMAGES[0]},0,2,39,29", f"{IMAGES[1]},1,2,3,4", f"{IMAGES[1]},5,6,7,8")
        write_text(folder / "localization.txt", *boxes)
    return base


def read(root: Path, split: str = "test", **options):
    return load_source("wsol_metadata", split, root=root, **options)


def test_corners_stay_as_they_are_published(root):
    for split in ("train", "validation", "test"):
        rows = read(root, split)
        assert rows["image_id"][:] == list(IMAGES)
        assert rows["boxes"][:] == [[[0, 2, 39, 29]], [[1, 2, 3, 4], [5, 6, 7, 8]]]
        assert rows["label"][:] == [0, 1]
        assert rows.features["label"].names == ["Auk", "Owl"]


def test_metadata_may_lie_elsewhere_and_in_another_order(root):
    (root / "metadata").rename(root.parent / "CUB")
    write_text(root.parent / "CUB/test/image_ids.txt", *reversed(IMAGES))
    assert read(root, metadata=str(root.parent / "CUB"))["label"][:] == [1, 0]
    with pytest.raises(UsageError, match=r"metadata' does not exist\. Expected image_ids\.txt"):
        read(root)


def test_empty_localization_means_no_boxes(root):
    write_text(root / "metadata/train/localization.txt")
    assert read(root, "train")["boxes"][:] == [[], []]


def test_validation_may_be_missing(root):
    (root / "metadata/val").rename(root / "metadata/other")
    assert read(root, "validation") is None


def test_masks_in_place_of_boxes(root):
    for name in ("m1.png", "m2.png", "i.png"):
        write_image(root / name)
    file = root / "metadata/test/localization.txt"
    write_text(file, f"{IMAGES[1]},m1.png,i.png", f"{IMAGES[1]},m2.png,")
    problems = Problems(skip=True)
    rows = read(root, problems=problems)
    assert [len(rows[0][name]) for name in ("mask", "ignore", "boxes")] == [2, 1, 0]
    assert "is not in localization.txt" in problems.listed[0].what


def test_classes_without_folders_of_their_own_are_numbered(root):
    write_text(root / "metadata/train/class_labels.txt", f"{IMAGES[0]},0", "001.Auk/c.jpg,1")
    assert read(root).features["label"].names == ["0", "1"]


@pytest.mark.parametrize(
    ("file", "lines", "words"),
    [
        ("image_ids.txt", IMAGES[:1], r"localization\.txt, line 2: its image is not in .*image_ids\.txt"),
        ("class_labels.txt", [f"{IMAGES[0]},0"], r"image_ids\.txt, line 2: '002\.Owl/b\.jpg' is not in .*class_labels"),
        ("class_labels.txt", [f"{IMAGES[0]},0", f"{IMAGES[1]},7"], "line 2: the training list has no class 7"),
        ("class_labels.txt", [f"{IMAGES[0]},x", f"{IMAGES[1]},1"], r"labels\.txt, line 1: the class must be a whole"),
        ("class_labels.txt", [f"{image},0" for image in (*IMAGES, IMAGES[0])], r"line 3: the image has a line already"),
        ("class_labels.txt", ["a"], r"labels\.txt, line 1: expected 2 columns with ',' between them, got 'a'"),
        ("localization.txt", [f"{IMAGES[0]},1,2,3,4"], r"image_ids\.txt, line 2: .* is not in localization\.txt"),
        ("localization.txt", ["b.jpg,1,2,3"], r"localization\.txt, line 1: expected path,x0,y0,x1,y1 or path,mask"),
        ("localization.txt", ["b.jpg,1,2,3,x"], r"localization\.txt, line 1: expected 4 numbers"),
        ("localization.txt", [f"{IMAGES[0]},1,2,300,4"], r"localization\.txt, line 1: the box .* leaves its image"),
    ],
)
def test_lists_that_do_not_agree_are_named_by_file_and_line(root, file, lines, words):
    write_text(root / "metadata/test" / file, *lines)
    with pytest.raises(UsageError, match=words):
        read(root)


def test_label_without_image_is_named(root):
    write_text(root / "metadata/train/image_ids.txt", IMAGES[0])
    write_text(root / "metadata/train/localization.txt", f"{IMAGES[0]},1,2,3,4")
    with pytest.raises(UsageError, match=r"class_labels\.txt, line 2: its image is not in .*image_ids\.txt"):
        read(root, "train")


def test_missing_list_is_named(root):
    (root / "metadata/test/localization.txt").unlink()
    with pytest.raises(UsageError, match=r"localization\.txt' does not exist"):
        read(root)
    (root / "metadata/train/class_labels.txt").unlink()
    with pytest.raises(UsageError, match=r"train/class_labels\.txt' does not exist"):
        read(root)
