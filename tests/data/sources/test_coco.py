"""COCO's JSON by eye: conventions, layouts, images about several classes, and what is said about damage."""

import json
from pathlib import Path

import pytest
from official_folders import write_image

from sat_peft.data.sources import Problems, load_source
from sat_peft.errors import UsageError

CATEGORIES = [{"id": 18, "name": "dog"}, {"id": 3, "name": "cat"}, {"id": 90, "name": "unused"}]


def content(*images: tuple, categories=CATEGORIES) -> dict:
    """(file name, (category id, box) or (category id, box, crowd), …) of every image."""
    entries = {"images": [], "annotations": [], "categories": categories}
    for number, (file_name, *objects) in enumerate(images, 1):
        entries["images"].append({"id": number, "file_name": file_name})
        for category, box, *crowd in objects:
            entries["annotations"].append(
                {"id": len(entries["annotations"]) + 1, "image_id": number, "category_id": category, "bbox": box}
                | ({"iscrowd": crowd[0]} if crowd else {})
            )
    return entries


def write(root: Path, annotations: str, folder: str, entries: dict) -> None:
    file = root / annotations
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(entries))
    for image in entries["images"]:
        write_image(root / folder / image["file_name"])


TRAIN = content(("a/1.jpg", (3, [1, 2, 10, 5])), ("b/1.jpg", (18, [0, 0, 40, 30])))
TEST = content(("9.jpg", (18, [2.5, 3, 4, 5]), (3, [20, 10, 8, 8]), (3, [0, 0, 2, 2])))


@pytest.fixture
def root(tmp_path):
    write(tmp_path, "train.json", "train", TRAIN)
    write(tmp_path, "test.json", "test", TEST)
    return tmp_path


def test_boxes_are_xywh_and_classes_have_the_order_of_their_numbers(root):
    train = load_source("coco", "train", root=root)
    assert train.features["label"].names == ["cat", "dog"]  # 3, 18; nothing is of 90
    assert train["label"][:] == [0, 1]
    assert train["boxes"][:] == [[[1, 2, 11, 7]], [[0, 0, 40, 30]]]


def test_images_of_one_name_in_two_folders_differ(root):
    assert load_source("coco", "train", root=root)["image_id"][:] == ["train/a/1.jpg", "train/b/1.jpg"]


@pytest.mark.parametrize(
    ("label_from", "label", "boxes"),
    [(None, 0, [[20, 10, 28, 18], [0, 0, 2, 2]]), ("first", 1, [[2.5, 3, 6.5, 8]])],
)
def test_class_of_an_image_with_several_is_the_largest_or_the_first_and_its_boxes_stay(root, label_from, label, boxes):
    options = {} if label_from is None else {"label_from": label_from}
    test = load_source("coco", "test", root=root, **options)
    assert (test["label"][:], test["boxes"][:]) == ([label], [boxes])


def test_image_of_several_classes_is_a_bad_entry_where_only_one_is_allowed(root):
    with pytest.raises(UsageError, match=r"test\.json, images\[0\]: .*several classes: cat, dog\..*--label-from"):
        load_source("coco", "test", root=root, label_from="only")
    with pytest.raises(UsageError, match=r"unknown choice of --label-from 'biggest'"):
        load_source("coco", "test", root=root, label_from="biggest")


def test_crowds_are_left_out_unless_kept(root):
    write(root, "test.json", "test", content(("9.jpg", (3, [0, 0, 40, 30], 1), (18, [1, 1, 2, 2], 0))))
    assert load_source("coco", "test", root=root)["boxes"][:] == [[[1, 1, 3, 3]]]
    assert load_source("coco", "test", root=root, keep_crowd=True)["boxes"][:] == [[[0, 0, 40, 30]]]


def test_images_without_objects_are_left_out_and_counted(root):
    write(root, "test.json", "test", content(("9.jpg", (3, [1, 1, 2, 2])), ("8.jpg",), ("7.jpg", (3, [0, 0, 9, 9], 1))))
    problems = Problems()
    assert len(load_source("coco", "test", root=root, problems=problems)) == 1
    assert problems.lines() == [
        "left out: 1 test crowds (--keep-crowd keeps them)",
        "left out: 2 test images without an object to name their class",
    ]


@pytest.mark.parametrize(
    ("annotations", "folder", "split"),
    [
        ("annotations/instances_{}2017.json", "{}2017", "val"),
        ("annotations/instances_{}.json", "images/{}", "val"),
        ("{}/_annotations.coco.json", "{}", "valid"),
        ("{}.json", "images", "val"),
    ],
)
def test_usual_places_are_found(tmp_path, annotations, folder, split):
    flat = content(("1.jpg", (3, [1, 2, 10, 5])), ("2.jpg", (18, [0, 0, 40, 30])))
    write(tmp_path, annotations.format("train"), folder.format("train"), flat)
    write(tmp_path, annotations.format(split), folder.format(split), TEST)
    assert len(load_source(str(tmp_path), "train")) == 2
    assert len(load_source(str(tmp_path), "validation")) == 1
    assert load_source(str(tmp_path), "test") is None


def test_other_places_are_named(tmp_path):
    write(tmp_path, "json/train-v1.json", "pictures", TRAIN)
    options = {"annotations": "json/{split}-v1.json", "images": "pictures"}
    assert len(load_source("coco", "train", root=tmp_path, **options)) == 2
    with pytest.raises(UsageError, match=r"no folder .*photos"):
        load_source("coco", "train", root=tmp_path, **options | {"images": "photos"})
    with pytest.raises(UsageError, match=r"no annotations of a train split\. Expected"):
        load_source("coco", "train", root=tmp_path)


def test_one_file_of_a_labelling_tool_is_the_train_split(tmp_path):
    write(tmp_path, "annotations/instances_default.json", "images", TRAIN)
    assert len(load_source(str(tmp_path), "train")) == 2
    assert load_source(str(tmp_path), "test") is None


def damaged(**changes) -> dict:
    """TEST with one annotation changed."""
    entries = json.loads(json.dumps(TEST))
    entries["annotations"][0] |= changes
    return entries


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        (damaged(image_id=7), r"annotation 1: the image 7 is not listed"),
        (damaged(image_id=[1]), r"annotation 1: the image \[1\] is not listed"),
        (damaged(category_id=4), r"annotation 1: the category 4 is not listed"),
        (damaged(bbox=[1, 2, 3]), r"annotation 1: `bbox` must be \[x, y, width, height\] .* got \[1, 2, 3\]"),
        (damaged(bbox=None), r"annotation 1: `bbox` must be"),
        (damaged(bbox=[1, 2, float("nan"), 4]), "annotation 1: `bbox` must be"),
        (
            damaged(bbox=[1, 2, 0, 4], category_id=3),
            r"annotation 1 of .9\.jpg.: the xywh box .* has no area",
        ),
        (TEST | {"images": [{"id": 1}]}, r"images\[0\]: an image needs an `id` and a `file_name`"),
        (TEST | {"images": TEST["images"] * 2}, r"images\[1\]: the image number 1 is listed twice"),
        (content(("9.jpg", (90, [1, 1, 2, 2]))), r"its class 'unused' labels no training image"),
        (TEST | {"categories": [{"id": [3], "name": "cat"}]}, "a category needs a whole number `id`"),
        (TEST | {"images": ["9.jpg"]}, r"images\[0\] is no object in braces"),
        ({"images": []}, "is no COCO annotation file"),
        ([], "is no COCO annotation file"),
    ],
)
def test_damage_is_named_by_file_and_entry(root, entries, words):
    (root / "test.json").write_text(json.dumps(entries))
    with pytest.raises(UsageError, match=words) as caught:
        load_source("coco", "test", root=root)
    assert "9.jpg" in str(caught.value) or "test.json" in str(caught.value)


def test_missing_image_is_named_or_skipped_and_counted(root):
    write(root, "test.json", "test", content(("9.jpg", (3, [1, 1, 2, 2])), ("8.jpg", (3, [1, 1, 2, 2]))))
    (root / "test/8.jpg").unlink()
    with pytest.raises(
        UsageError, match=r"test\.json, images\[1\]: the image .8\.jpg. does not exist below .*/test\..*--skip-bad"
    ):
        load_source("coco", "test", root=root)
    problems = Problems(skip=True)
    assert load_source("coco", "test", root=root, problems=problems)["image_id"][:] == ["test/9.jpg"]
    assert problems.count == 1
    assert problems.listed[0].where.endswith("test.json, images[1]")


def test_what_is_wrong_with_the_training_images_is_told_when_they_are_read(root):
    """And not when the test images are, whose class names come from them; nor is it counted twice."""
    entries = json.loads(json.dumps(TRAIN))
    entries["annotations"].append({"id": 3, "image_id": 99, "category_id": 3, "bbox": [1, 1, 2, 2]})
    (root / "train.json").write_text(json.dumps(entries))
    assert len(load_source("coco", "test", root=root)) == 1
    problems = Problems(skip=True)
    assert len(load_source("coco", "train", root=root, problems=problems)) == 2
    assert problems.count == 1
