"""YOLO's text files by eye: shares of the sides, polygons, and a data.yaml as its tools write it."""

from pathlib import Path

import pytest
from official_folders import write_image, write_text

from sat_peft.data.sources import Problems, load_source
from sat_peft.errors import UsageError

YAML = ["train: images/train", "val: images/val", "names: [dog, cat]"]


@pytest.fixture
def root(tmp_path) -> Path:
    """Images of 40 x 30 pixels; no test split."""
    write_text(tmp_path / "data.yaml", *YAML)
    for name, line in (("train/1", "0 .5 .5 1 1"), ("train/2", "1 .25 .5 .25 .2"), ("val/3", "1 .5 .5 .5 .5")):
        write_image(tmp_path / "images" / f"{name}.jpg")
        write_text(tmp_path / "labels" / f"{name}.txt", line)
    return tmp_path


def boxes(root: Path, split: str = "validation", **options) -> list:
    return load_source("yolo", split, root=root, **options)["boxes"][:]


def test_boxes_are_centre_and_size_in_shares_of_the_sides(root):
    train = load_source(str(root), "train")
    assert train.features["label"].names == ["dog", "cat"]
    assert train["label"][:] == [0, 1]
    assert train["boxes"][:] == [[[0, 0, 40, 30]], [[5, 12, 15, 18]]]
    assert train["image_id"][:] == ["images/train/1.jpg", "images/train/2.jpg"]
    assert load_source(str(root), "test") is None


def test_polygon_becomes_its_box_and_key_points_are_passed_over(root):
    label = root / "labels/val/3.txt"
    write_text(label, "1 .25 .5 .75 .5 .5 .8 .25 .6")
    assert boxes(root) == [[pytest.approx([10, 15, 30, 24])]]
    write_text(root / "data.yaml", *YAML, "kpt_shape: [1, 2]")
    write_text(label, "1 .5 .5 .5 .5 .1 .2")
    for name in ("1", "2"):
        write_text(root / f"labels/train/{name}.txt", f"{int(name) - 1} .5 .5 .5 .5 .1 .2")
    assert boxes(root) == [[[10, 7.5, 30, 22.5]]]


def test_turned_image_has_boxes_in_shares_of_its_upright_sides(root):
    from PIL import ExifTags, Image

    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    write_image(root / "images/val/3.jpg", exif=exif)
    assert boxes(root) == [[[7.5, 10, 22.5, 30]]]


def test_largest_object_names_the_class_and_equal_ones_the_first(root):
    write_text(root / "labels/val/3.txt", "0 .2 .2 .2 .2", "1 .5 .5 .5 .5", "1 .1 .1 .2 .2")
    validation = load_source("yolo", "validation", root=root)
    assert (validation["label"][:], len(validation["boxes"][0])) == ([1], 2)
    write_text(root / "labels/val/3.txt", "0 .2 .2 .2 .2", "1 .5 .5 .2 .2")
    assert load_source("yolo", "validation", root=root)["label"][:] == [0]


def test_empty_file_and_no_file_are_an_image_without_objects(root):
    write_image(root / "images/val/4.jpg")
    (root / "labels/val/4.txt").touch()
    problems = Problems()
    assert len(load_source("yolo", "validation", root=root, problems=problems)) == 1
    assert problems.lines() == ["left out: 1 validation images without an object to name their class"]
    (root / "labels/val/4.txt").unlink()
    problems = Problems()
    assert len(load_source("yolo", "validation", root=root, problems=problems)) == 1
    assert problems.lines() == [
        "left out: 1 validation images without an object to name their class",
        "note: 1 validation images without a label file, taken as images without an object",
    ]


@pytest.mark.parametrize(
    "lines",
    [
        ["path: /nowhere/on/this/machine", *YAML],
        ["path: .", *YAML],
        ["train: ../images/train", "val: ../images/val", "names: {0: dog, 1: cat}", "nc: 2"],
        ["train: [images/train]", "val: val.txt", "names: {0: dog, 1: cat}"],
    ],
)
def test_data_yaml_is_read_as_its_tools_write_it(root, lines):
    write_text(root / "data.yaml", *lines)
    write_text(root / "val.txt", "./images/val/3.jpg")
    assert boxes(root) == [[[10, 7.5, 30, 22.5]]]


def test_links_to_images_have_their_annotations_beside_the_link(root, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("store") / "blob.jpg"
    (root / "images/val/3.jpg").rename(elsewhere)
    (root / "images/val/3.jpg").symlink_to(elsewhere)
    assert boxes(root, allow_outside=True) == [[[10, 7.5, 30, 22.5]]]


def test_folder_above_the_root_may_be_called_images(root, tmp_path_factory):
    """Only below the root does `images` become `labels`; elsewhere the annotations lie beside the images."""
    moved = tmp_path_factory.mktemp("above") / "images" / "data"
    for split in ("train", "val"):
        (moved / split).mkdir(parents=True)
        for file in [*(root / "images" / split).iterdir(), *(root / "labels" / split).iterdir()]:
            file.rename(moved / split / file.name)
    write_text(moved / "data.yaml", "train: train", "val: val", "names: [dog, cat]")
    assert boxes(moved) == [[[10, 7.5, 30, 22.5]]]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("1 .5 .5 .5", "got 4 numbers"),
        ("1 .5 .5 .5 .5 .9", "got 6 numbers"),
        ("1 .5 .5 .5 x", "expected a class and numbers, .* got .1 .5 .5 .5 x"),
        ("1 .5 .5 .5 nan", "expected a class and numbers"),
        ("2 .5 .5 .5 .5", r"the class .2. has no name in data\.yaml"),
        ("0.5 .5 .5 .5 .5", r"the class .0\.5. has no name"),
        ("1 .5 .5 0 .5", "has no area"),
    ],
)
def test_damaged_line_is_named(root, line, words):
    write_text(root / "labels/val/3.txt", line)
    with pytest.raises(UsageError, match=rf"(3\.txt, line 1|images/val/3\.jpg): .*{words}"):
        boxes(root)


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (["names: [dog"], "is no YAML"),
        (["- dog"], "is no description of a data set"),
        (["train: images/train"], "`names` must list the classes, got None"),
        (["train: images/train", "names: [dog, dog]"], "has a class twice"),
        (["train: images/none", "names: [dog, cat]"], r"names 'images/none' for the train split, which does not exist"),
        (["names: [dog, cat]"], "no train split"),
    ],
)
def test_damaged_data_yaml_is_named(root, lines, words):
    write_text(root / "data.yaml", *lines)
    with pytest.raises(UsageError, match=words):
        boxes(root, "train")


def test_yaml_makes_no_objects(root):
    write_text(root / "data.yaml", "names: !!python/object/apply:os.system ['true']")
    # Read as the text that stands there; the tag means nothing.
    with pytest.raises(UsageError, match="no train split"):
        boxes(root)


def test_unreadable_image_is_named(root):
    (root / "images/val/3.jpg").write_bytes(b"no image")
    with pytest.raises(UsageError, match=r"images/val/3\.jpg.*cannot be read"):
        boxes(root)
