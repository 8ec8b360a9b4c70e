"""Pascal VOC's XML by eye: from 1, the last pixel included; difficult objects; years; flat folders."""

from pathlib import Path

import pytest
from official_folders import annotation_xml, write_image, write_text

from sat_peft.data.sources import Problems, load_source
from sat_peft.errors import UsageError


def add(year: Path, split: str, name: str, *objects: tuple, text: str | None = None) -> None:
    write_image(year / "JPEGImages" / f"{name}.jpg")
    write_text(year / "Annotations" / f"{name}.xml", text or annotation_xml(*objects))
    file = year / "ImageSets" / "Main" / f"{split}.txt"
    lines = file.read_text().splitlines() if file.exists() else []
    write_text(file, *lines, name)


@pytest.fixture
def year(tmp_path) -> Path:
    """A devkit of one year; its root is two folders up."""
    folder = tmp_path / "VOCdevkit" / "VOC2012"
    add(folder, "train", "1", ("dog", 1, 1, 40, 30))
    add(folder, "train", "2", ("cat", 3, 4, 3, 4))
    add(folder, "val", "3", ("cat", 11, 11, 20, 20), ("dog", 1, 1, 5, 5))
    return folder


def test_boxes_count_from_1_and_include_the_last_pixel(year):
    train = load_source("voc", "train", root=year.parents[1])
    assert train["boxes"][:] == [[[0, 0, 40, 30]], [[2, 3, 3, 4]]]
    assert train.features["label"].names == ["cat", "dog"]
    assert train["label"][:] == [1, 0]


@pytest.mark.parametrize("depth", [0, 1, 2])
def test_root_may_be_any_folder_above_the_images(year, depth):
    root = [year, *year.parents][depth]
    assert load_source(str(root), "validation")["boxes"][:] == [[[10, 10, 20, 20]]]
    assert load_source(str(root), "test") is None


def test_one_of_several_years_is_named(year):
    add(year.with_name("VOC2007"), "trainval", "1", ("cow", 1, 1, 2, 2))
    add(year.with_name("VOC2007"), "trainval", "2", ("pig", 1, 1, 2, 2))
    root = year.parents[1]
    with pytest.raises(UsageError, match=r"several years: 2007, 2012\. Name one with --year"):
        load_source("voc", "train", root=root)
    assert load_source("voc", "train", root=root, year="2007").features["label"].names == ["cow", "pig"]
    with pytest.raises(UsageError, match="no folder VOC2010"):
        load_source("voc", "train", root=root, year="2010")


def test_difficult_objects_are_left_out_unless_kept(year):
    easy, hard = annotation_xml(("cat", 1, 1, 2, 2)), annotation_xml(("cat", 5, 5, 9, 9))
    hard = hard.replace("<name>", "<difficult>1</difficult><name>")
    add(year, "test", "4", text=easy.replace("</annotation>", hard[hard.index("<object>") :]))
    root = year.parents[1]
    assert load_source("voc", "test", root=root)["boxes"][:] == [[[0, 0, 2, 2]]]
    assert load_source("voc", "test", root=root, keep_difficult=True)["boxes"][:] == [[[0, 0, 2, 2], [4, 4, 9, 9]]]
    add(year, "test", "5", text=hard)
    problems = Problems()
    assert len(load_source("voc", "test", root=root, problems=problems)) == 1
    assert problems.lines() == [
        "left out: 2 test difficult objects (--keep-difficult keeps them)",
        "left out: 1 test images without an object to name their class",
    ]


def test_boxes_of_parts_are_not_boxes_of_objects(year):
    part = "<part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox></part>"
    add(year, "test", "4", text=annotation_xml(("cat", 5, 5, 9, 9)).replace("</name>", f"</name>{part}"))
    assert load_source("voc", "test", root=year.parents[1])["boxes"][:] == [[[4, 4, 9, 9]]]


@pytest.mark.parametrize("validation", ["validation", "valid", "val"])
def test_flat_folders_have_the_annotations_beside_the_images(tmp_path, validation):
    for split, name in (("train", "cat"), ("train", "dog"), (validation, "dog")):
        write_image(tmp_path / split / "sub" / f"{name}.png")
        write_text(tmp_path / split / "sub" / f"{name}.xml", annotation_xml((name, 1, 2, 3, 4)))
    assert load_source("voc", "train", root=tmp_path)["image_id"][:] == ["train/sub/cat.png", "train/sub/dog.png"]
    assert load_source("voc", "validation", root=tmp_path)["label"][:] == [1]
    assert load_source("voc", "test", root=tmp_path) is None


def test_image_without_annotations_and_annotations_without_image_are_named(tmp_path):
    for name in ("cat", "dog"):
        write_image(tmp_path / "train" / f"{name}.jpg")
        write_text(tmp_path / "train" / f"{name}.xml", annotation_xml((name, 1, 2, 3, 4)))
    write_image(tmp_path / "train" / "new.jpg")
    with pytest.raises(UsageError, match=r"new\.xml: the file does not exist"):
        load_source(str(tmp_path), "train")
    (tmp_path / "train" / "new.jpg").unlink()
    write_text(tmp_path / "train" / "old.xml", annotation_xml(("cat", 1, 2, 3, 4)))
    with pytest.raises(UsageError, match=r"old\.xml: there is no image"):
        load_source(str(tmp_path), "train")
    problems = Problems(skip=True)
    assert len(load_source(str(tmp_path), "train", problems=problems)) == 2
    assert [problem.where for problem in problems.listed] == [str(tmp_path / "train" / "old.xml")]


BOMB = '<!DOCTYPE a [<!ENTITY b "dog"><!ENTITY c "&b;&b;">]><annotation><object><name>&c;</name></object></annotation>'
SECRET = '<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]><annotation><filename>&b;</filename></annotation>'


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (BOMB, "declares entities"),
        (SECRET, "declares entities"),
        ("<annotation><object>", "is no XML"),
        (annotation_xml(("cat", 1, 2, "x", 4)), r"object 1: expected 4 numbers, got '1 2 x 4'"),
        (annotation_xml(("cat", 1, 2, 3, 4)).replace("xmax", "right"), r"object 1: expected 4 numbers, got '1 2 \? 4'"),
        (annotation_xml(("", 1, 2, 3, 4)), r"object 1: an object needs a `name` and a `bndbox`"),
        (annotation_xml(("cow", 1, 2, 3, 4)), "its class 'cow' labels no training image"),
    ],
)
def test_damage_is_named_by_file_and_object(year, text, words):
    add(year, "test", "4", text=text)
    with pytest.raises(UsageError, match=rf"4\.xml.*{words}"):
        load_source("voc", "test", root=year.parents[1])


def test_first_damage_is_told_even_where_it_leaves_no_class(year):
    for name in ("1", "2"):
        write_text(year / "Annotations" / f"{name}.xml", "<annotation>")
    with pytest.raises(UsageError, match=r"1\.xml: it is no XML"):
        load_source("voc", "train", root=year.parents[1])
