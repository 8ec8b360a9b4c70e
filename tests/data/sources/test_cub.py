"""CUB-200-2011 as published: boxes by eye, and lists that do not agree."""

from pathlib import Path

import pytest
from official_folders import write_image, write_text

from sat_peft.data.sources import Problems, load_source
from sat_peft.errors import UsageError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Images 1 and 3 are train, 2 and 4 test; of 40 x 30 pixels."""
    base = tmp_path / "data"
    names = ("001.Black_Albatross/a.jpg", "001.Black_Albatross/b.jpg", "002.Auk/c.jpg", "002.Auk/d.jpg")
    for name in names:
        write_image(base / "images" / name)
    write_text(base / "images.txt", *(f"{number} {name}" for number, name in enumerate(names, 1)))
    write_text(base / "image_class_labels.txt", "1 1", "2 1", "3 2", "4 2")
    write_text(base / "train_test_split.txt", "1 1", "2 0", "3 1", "4 0")
    write_text(base / "bounding_boxes.txt", *(f"{number} 10.0 5.0 20.0 8.0" for number in range(1, 5)))
    write_text(base / "classes.txt", "1 001.Black_Albatross", "2 002.Auk")
    return base


def read(root: Path, split: str = "train", **options):
    return load_source("cub", split, root=root, **options)


def test_a_box_is_x_y_width_height(root):
    train = read(root)
    assert train["image_id"][:] == ["001.Black_Albatross/a.jpg", "002.Auk/c.jpg"]
    assert train["boxes"][:] == [[[10, 5, 30, 13]], [[10, 5, 30, 13]]]
    assert train.features["label"].names == ["Black_Albatross", "Auk"]
    assert "mask" not in train.column_names
    assert read(root, "test")["label"][:] == [0, 1]
    assert read(root, "validation") is None


def test_the_data_may_lie_one_level_down(root):
    root.rename(root.with_name("CUB_200_2011"))
    assert len(read(root.parent)) == 2


@pytest.mark.parametrize("place", ["segmentations", "../segmentations"])
def test_segmentations_are_read_where_they_are(root, place):
    for name in ("001.Black_Albatross/a.png", "002.Auk/c.png", "001.Black_Albatross/b.png", "002.Auk/d.png"):
        write_image(root / place / name)
    assert [len(masks) for masks in read(root)["mask"]] == [1, 1]


def test_missing_segmentation_is_named(root):
    write_image(root / "segmentations/001.Black_Albatross/a.png")
    with pytest.raises(UsageError, match=r"002\.Auk/c\.png: the file cannot be found"):
        read(root)


def test_names_that_only_differ_in_their_number_keep_it(root):
    write_text(root / "classes.txt", "1 001.Auk", "2 002.Auk")
    assert read(root).features["label"].names == ["001.Auk", "002.Auk"]


def test_a_box_past_the_edge_is_cut_there(root):
    write_text(root / "bounding_boxes.txt", "1 30 20 12 11", "2 0 0 9 9", "3 0 0 9 9", "4 0 0 9 9")
    assert read(root)["boxes"][0] == [[30, 20, 40, 30]]


@pytest.mark.parametrize(
    ("file", "lines", "words"),
    [
        ("images.txt", ["1 001.Black_Albatross/a.jpg"], r"labels\.txt, line 2: '2' is not in .*images\.txt"),
        ("image_class_labels.txt", ["1 1", "2 1", "4 2"], r"images\.txt, line 3: '3' is not in .*class_labels\.txt"),
        ("image_class_labels.txt", ["1 9", "2 1", "3 2", "4 2"], "line 1: the class must be .* from 1 to 2, got '9'"),
        ("image_class_labels.txt", ["1", "2 1", "3 2", "4 2"], r"labels\.txt, line 1: expected 2 columns .*got '1'"),
        ("train_test_split.txt", ["1 2", "2 0", "3 1", "4 0"], r"line 1: expected 1 \(train\) or 0 \(test\), got '2'"),
        ("bounding_boxes.txt", ["1 1 2 3", "2 0 0 9 9", "3 0 0 9 9", "4 0 0 9 9"], "line 1: expected 4 numbers"),
        ("bounding_boxes.txt", ["1 1 2 3 x", "2 0 0 9 9", "3 0 0 9 9", "4 0 0 9 9"], "line 1: expected 4 numbers"),
        ("bounding_boxes.txt", ["1 1 1 0 5", "2 0 0 9 9", "3 0 0 9 9", "4 0 0 9 9"], "has no area"),
        ("bounding_boxes.txt", ["1 0 0 90 9", "2 0 0 9 9", "3 0 0 9 9", "4 0 0 9 9"], "line 1: the box .* leaves its"),
        ("bounding_boxes.txt", ["1 0 0 9 9", "1 0 0 9 9", "3 0 0 9 9", "4 0 0 9 9"], "line 2: '1' has a line already"),
        ("images.txt", ["1 001.Black_Albatross/z.jpg", "2 b", "3 c", "4 d"], r"z\.jpg: the file cannot be found"),
        ("classes.txt", ["2 002.Auk", "3 003.Owl"], r"classes\.txt must number the classes from 1 on"),
    ],
)
def test_lists_that_do_not_agree_are_named_by_file_and_line(root, file, lines, words):
    write_text(root / file, *lines)
    with pytest.raises(UsageError, match=words):
        read(root)


@pytest.mark.parametrize(
    "file", ["images.txt", "image_class_labels.txt", "train_test_split.txt", "bounding_boxes.txt", "classes.txt"]
)
def test_missing_list_is_named(root, file):
    (root / file).unlink()
    with pytest.raises(UsageError, match=rf"{file}' does not exist\. Expected ROOT/images"):
        read(root)


def test_bad_entries_are_skipped_and_counted_where_the_user_says_so(root):
    write_text(root / "bounding_boxes.txt", "1 1 2 3", "2 0 0 9 9", "3 0 0 9 9", "5 0 0 9 9")
    problems = Problems(skip=True)
    assert read(root, problems=problems)["image_id"][:] == ["002.Auk/c.jpg"]
    assert [problem.where.rpartition("/")[2] for problem in problems.listed] == [
        "images.txt, line 4",
        "bounding_boxes.txt, line 4",
        "bounding_boxes.txt, line 1",
    ]


def test_archive_in_place_of_the_folder_asks_for_its_extraction(tmp_path):
    archive = tmp_path / "CUB_200_2011.tgz"
    archive.write_bytes(b"\x1f\x8b")
    with pytest.raises(UsageError, match=r"CUB_200_2011\.tgz' is an archive.*Extract it"):
        read(archive)
