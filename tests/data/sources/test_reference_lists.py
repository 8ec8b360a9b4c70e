"""The lists of the SAT paper's repository: their lines by eye, and what does not fit together."""

from pathlib import Path

import pytest
from official_folders import write_image, write_text

from sat_peft.data.sources import load_source
from sat_peft.errors import UsageError

BIRDS = ("001.Auk/a.jpg", "002.Owl/b.jpg")


@pytest.fixture
def birds(tmp_path: Path) -> Path:
    root = tmp_path / "birds"
    for split in ("train", "test"):
        write_text(root / f"{split}_list.txt", *(f"{path};{label}\r" for label, path in enumerate(BIRDS)))
        for path in BIRDS:
            write_image(root / split / path)
    write_text(root / "test_gt.txt", "1.0 2.0 30.0 20.0 30 40", "1.0 2.0 3.0 4.0 5.0 6.0 39.0 29.0 30 40")
    return root


def read(root: Path, split: str = "test", **options):
    return load_source("reference_lists", split, root=root, **options)


@pytest.mark.parametrize("name", ["test_gt.txt", "test_bounding_box.txt"])
def test_lists_of_birds_and_dogs(birds, name):
    (birds / "test_gt.txt").rename(birds / name)
    test = read(birds)
    assert test["boxes"][:] == [[[1, 2, 30, 20]], [[1, 2, 3, 4], [5, 6, 39, 29]]]
    assert test["image_id"][:] == [f"test/{path}" for path in BIRDS]
    assert test["label"][:] == [0, 1]
    assert test.features["label"].names == ["Auk", "Owl"]
    assert read(birds, "train")["boxes"][:] == [[], []]
    assert read(birds, "validation") is None


def test_lists_may_lie_apart_from_images_in_one_folder(birds):
    lists = birds.parent / "lists"
    lists.mkdir()
    for file in birds.glob("*.txt"):
        file.rename(lists / file.name)
    (birds / "test").rename(birds / "images")
    assert len(read(birds, lists=str(lists))) == 2
    with pytest.raises(UsageError, match=r"has none of the lists\. Expected one of the lists test_list\.txt"):
        read(birds)


@pytest.mark.parametrize(
    ("file", "lines", "words"),
    [
        ("test_gt.txt", ["1 2 3 4 30 40"], r"test_list\.txt has 2 lines, .*test_gt\.txt 1; they belong together"),
        ("test_gt.txt", ["1 2 3 4", "1 2 3 4 30 40"], r"test_gt\.txt, line 1: expected four numbers a box and then"),
        ("test_gt.txt", ["1 2 3 x 30 40", "1 2 3 4 30 40"], r"test_gt\.txt, line 1: expected 6 numbers"),
        ("test_gt.txt", ["1 2 90 4 30 40", "1 2 3 4 30 40"], r"test_gt\.txt, line 1: the box .* leaves its image"),
        ("test_list.txt", [BIRDS[0], f"{BIRDS[1]};1"], r"test_list\.txt, line 1: expected `path;label`"),
        ("test_list.txt", [f"{BIRDS[0]};0", f"{BIRDS[1]};5"], r"test_list\.txt, line 2: the class must be .* to 1"),
        ("test_list.txt", [f"{BIRDS[0]};0", "002.Owl/z.jpg;1"], r"z\.jpg: the file cannot be found"),
        ("train_list.txt", [f"{BIRDS[0]};0", f"{BIRDS[0]};1"], r"line 2: the folder '001\.Auk' has class 1, but 0"),
    ],
)
def test_lists_that_do_not_agree_are_named_by_file_and_line(birds, file, lines, words):
    write_text(birds / file, *lines)
    with pytest.raises(UsageError, match=words):
        read(birds)


@pytest.fixture
def imagenet(tmp_path: Path) -> Path:
    root = tmp_path / "imagenet"
    for wnid in ("n01440764", "n01751748"):
        write_image(root / "train" / wnid / f"{wnid}_1.JPEG")
    write_image(root / "val/n01751748/ILSVRC2012_val_00000001.JPEG")
    write_text(root / "val_list.txt", "n01751748/ILSVRC2012_val_00000001.JPEG;1")
    write_text(root / "val_gt.txt", r"n01751748\\ILSVRC2012_val_00000001.JPEG 40 30 ; 11 10 39 19")
    return root


def test_lists_of_imagenet(imagenet):
    test = read(imagenet)
    assert (test["label"][:], test["boxes"][:]) == ([1], [[[11, 10, 39, 19]]])
    assert read(imagenet, "train")["label"][:] == [0, 1]
    # As unpacked, without folders.
    flat = imagenet / "val/ILSVRC2012_val_00000001.JPEG"
    (imagenet / "val/n01751748" / flat.name).rename(flat)
    assert read(imagenet)["image_id"][:] == test["image_id"][:] == [f"val/{flat.name}"]


@pytest.mark.parametrize(
    ("file", "line", "words"),
    [
        ("val_list.txt", "n01751748/ILSVRC2012_val_00000002.JPEG;1", r"val_list\.txt, line 1: .* is not in .*val_gt"),
        ("val_list.txt", "n01751748/ILSVRC2012_val_00000001.JPEG;0", r"line 1: class 0 is n01440764, .*n01751748"),
        ("val_list.txt", "n01751748/ILSVRC2012_val_00000001.JPEG;7", r"line 1: class 7 is no training folder"),
    ],
)
def test_imagenet_lists_that_do_not_agree_are_named(imagenet, file, line, words):
    write_text(imagenet / file, line)
    with pytest.raises(UsageError, match=words):
        read(imagenet)


def test_box_of_no_listed_image_is_named(imagenet):
    lines = (imagenet / "val_gt.txt").read_text().splitlines()
    write_text(imagenet / "val_gt.txt", *lines, r"n01751748\\ILSVRC2012_val_00000009.JPEG 40 30 ; 1 2 3 4")
    with pytest.raises(UsageError, match=r"val_gt\.txt, line 2: its image is not in val_list\.txt"):
        read(imagenet)


@pytest.fixture
def cars(tmp_path: Path) -> Path:
    root = tmp_path / "cars"
    for name in ("000001", "000002", "000003"):
        write_image(root / "images" / f"{name}.jpg")
    write_text(root / "classes.txt", "AM General 2000\r", "Acura RL 2012\r")
    write_text(
        root / "images_box.txt",
        "000001;AM General 2000;0;1.0 1.0 40.0 30.0 30 40\r",
        "000002;Acura RL 2012;1;3.0 4.0 5.0 6.0 30 40\r",
        "000003;Acura RL 2012;2;3.0 4.0 5.0 6.0 30 40\r",
    )
    return root


def test_lists_of_cars_and_aircraft_count_from_1(cars):
    train, test = read(cars, "train"), read(cars)
    assert train["boxes"][:] == [[[0, 0, 40, 30]], [[2, 3, 5, 6]]]
    assert (train["image_id"][:], test["image_id"][:]) == (["000001", "000003"], ["000002"])
    assert test["label"][:] == [1]
    assert test.features["label"].names == ["AM General 2000", "Acura RL 2012"]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("000002;Acura RL 2012;1", "line 1: expected 4 columns with ';' between them"),
        ("000002;Acura RL 2012;3;1 2 3 4 30 40", r"line 1: the split must be 0 \(train\), 1 \(test\) or 2"),
        ("000002;Volvo;1;1 2 3 4 30 40", r"line 1: the class 'Volvo' is not in .*classes\.txt"),
        ("000002;Acura RL 2012;1;1 2 3 4", "line 1: expected 6 numbers, got '1 2 3 4'"),
    ],
)
def test_car_lists_that_do_not_fit_are_named(cars, line, words):
    write_text(cars / "images_box.txt", line)
    with pytest.raises(UsageError, match=words):
        read(cars)
