"""ILSVRC 2012: every form of its boxes, by eye, and what does not fit together."""

from pathlib import Path

import numpy as np
import pytest
from official_folders import annotation_xml, write_image, write_text

from sat_peft.data.sources import Problems, load_source
from sat_peft.errors import UsageError

FIRST, SECOND = "n01440764", "n02012849"
NAMES = ("ILSVRC2012_val_00000001", "ILSVRC2012_val_00000002")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two classes; the first validation image is of the second, with two boxes."""
    base = tmp_path / "data"
    for wnid in (SECOND, FIRST):
        write_image(base / "train" / wnid / f"{wnid}_10.JPEG")
    for name in NAMES:
        write_image(base / "val" / f"{name}.JPEG")
    return base


def write_csv(root: Path, *rows: str) -> None:
    write_text(root / "LOC_val_solution.csv", "ImageId,PredictionString", *rows)


def write_boxes(root: Path, kind: str) -> None:
    """The same boxes in each form."""
    if kind == "xml":
        folder = root / "Annotations/CLS-LOC/val"
        write_text(folder / f"{NAMES[0]}.xml", annotation_xml((SECOND, 5, 6, 39, 20), (SECOND, 0, 0, 9, 29)))
        write_text(folder / f"{NAMES[1]}.xml", annotation_xml((FIRST, 1, 2, 3, 4)))
    elif kind == "csv":
        write_csv(root, f"{NAMES[0]},{SECOND} 5 6 39 20 {SECOND} 0 0 9 29 ", f"{NAMES[1]},{FIRST} 1 2 3 4")
    else:
        write_text(
            root / "val_gt.txt",
            rf"{SECOND}\\{NAMES[0]}.JPEG 40 30 ; 5 6 39 20 0 0 9 29",
            rf"{FIRST}\\{NAMES[1]}.JPEG 40 30 ; 1 2 3 4",
        )


def read(root: Path, split: str = "test", **options):
    return load_source("ilsvrc", split, root=root, **options)


def test_training_images_by_folder_in_the_order_of_the_identifiers(root):
    train = read(root, "train")
    assert train["image_id"][:] == [f"train/{FIRST}/{FIRST}_10.JPEG", f"train/{SECOND}/{SECOND}_10.JPEG"]
    assert train["label"][:] == [0, 1]
    assert train.features["label"].names == [FIRST, SECOND]
    assert read(root, "validation") is None


@pytest.mark.parametrize("kind", ["xml", "csv", "val_gt"])
@pytest.mark.parametrize("foldered", [False, True])
def test_corners_stay_as_they_are_published(root, kind, foldered):
    write_boxes(root, kind)
    if foldered:
        for name, wnid in zip(NAMES, (SECOND, FIRST), strict=True):
            (root / "val" / wnid).mkdir()
            (root / "val" / f"{name}.JPEG").rename(root / "val" / wnid / f"{name}.JPEG")
    boxes = dict(zip(*(read(root)[column] for column in ("image_id", "boxes")), strict=True))
    assert boxes == {
        f"val/{NAMES[0]}.JPEG": [[5, 6, 39, 20], [0, 0, 9, 29]],
        f"val/{NAMES[1]}.JPEG": [[1, 2, 3, 4]],
    }
    assert dict(zip(*(read(root)[column] for column in ("image_id", "label")), strict=True)) == {
        f"val/{NAMES[0]}.JPEG": 1,
        f"val/{NAMES[1]}.JPEG": 0,
    }


def test_folders_of_kaggle(root):
    write_boxes(root, "csv")
    (root / "ILSVRC/Data/CLS-LOC").mkdir(parents=True)
    for name in ("train", "val"):
        (root / name).rename(root / "ILSVRC/Data/CLS-LOC" / name)
    assert read(root)["label"][:] == [1, 0]
    assert len(read(root, "train")) == 2


def test_chosen_boxes_are_read_and_no_others(root):
    write_boxes(root, "csv")
    write_text(
        root / "val_gt.txt", rf"{SECOND}\\{NAMES[0]}.JPEG 40 30 ; 7 7 9 9", rf"{FIRST}\{NAMES[1]}.JPEG 40 30 ; 1 1 2 2"
    )
    assert read(root)["boxes"][1] == [[1, 2, 3, 4]]
    assert read(root, boxes="val_gt")["boxes"][:] == [[[7, 7, 9, 9]], [[1, 1, 2, 2]]]
    with pytest.raises(UsageError, match=r"has no Annotations/CLS-LOC/val, which hold"):
        read(root, boxes="xml")
    with pytest.raises(UsageError, match=r"unknown kind of boxes 'cvs'\. Did you mean 'csv'"):
        read(root, boxes="cvs")


def test_names_come_from_the_mapping_and_differ(root):
    mapping = root / "LOC_synset_mapping.txt"
    write_text(mapping, f"{FIRST} tench, Tinca tinca", f"{SECOND} crane", "n03126707 crane")
    write_image(root / "train/n03126707/n03126707_1.JPEG")
    names = read(root, "train").features["label"].names
    assert names == ["tench", f"crane ({SECOND})", "crane (n03126707)"]
    write_text(mapping, f"{FIRST} tench, Tinca tinca")
    with pytest.raises(UsageError, match=rf"LOC_synset_mapping\.txt has no line for {SECOND}"):
        read(root, "train")


def test_evaluation_needs_no_training_images_where_the_mapping_tells_the_classes(root):
    write_boxes(root, "csv")
    for path in sorted((root / "train").rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    (root / "train").rmdir()
    with pytest.raises(UsageError, match=r"neither the training folders nor LOC_synset_mapping\.txt"):
        read(root)
    write_text(root / "LOC_synset_mapping.txt", f"{SECOND} crane", f"{FIRST} tench, Tinca tinca")
    assert read(root)["label"][:] == [1, 0]


def write_development_kit(root: Path) -> None:
    from scipy.io import savemat

    synsets = np.zeros((3, 1), [("ILSVRC2012_ID", object), ("WNID", object)])
    # Numbers of the kit, which are not in the order of the identifiers, and a synset that is no class of the challenge.
    for row, (number, wnid) in enumerate([(1, SECOND), (2, FIRST), (1001, "n00001740")]):
        synsets[row, 0] = (np.uint16(number), wnid)
    savemat(root / "meta.mat", {"synsets": synsets})


def test_classes_without_boxes_come_from_the_development_kit(root):
    write_development_kit(root)
    write_text(root / "ILSVRC2012_validation_ground_truth.txt", "2", "1")
    test = read(root, boxes="none")
    assert test["label"][:] == [0, 1]
    assert test["boxes"][:] == [[], []]
    write_text(root / "ILSVRC2012_validation_ground_truth.txt", "2", "x")
    with pytest.raises(UsageError, match=r"ground_truth\.txt, line 2: the class must be .* got 'x'"):
        read(root, boxes="none")


def test_without_boxes_the_folders_of_val_tell_the_classes(root):
    for name, wnid in zip(NAMES, (SECOND, FIRST), strict=True):
        (root / "val" / wnid).mkdir()
        (root / "val" / f"{name}.JPEG").rename(root / "val" / wnid / f"{name}.JPEG")
    assert read(root, boxes="none")["label"][:] == [0, 1]


def test_missing_boxes_are_no_silent_choice(root):
    with pytest.raises(UsageError, match=r"has no Annotations/CLS-LOC/val nor LOC_val_solution\.csv nor val_gt\.txt"):
        read(root)
    with pytest.raises(
        UsageError, match=r"ILSVRC2012_validation_ground_truth\.txt' does not exist|meta\.mat' does not"
    ):
        read(root, boxes="none")


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([f"{NAMES[0]},{SECOND} 1 2 3"], "csv, line 2: expected groups of a class and four numbers"),
        ([f"{NAMES[0]},{SECOND} 1 2 3 x"], "csv, line 2: expected 4 numbers"),
        ([f"{NAMES[0]},"], "csv, line 2: no object"),
        ([f"{NAMES[0]},{SECOND} 1 2 3 4 {FIRST} 1 2 3 4"], "csv, line 2: the objects are of 2 classes"),
        ([f"{NAMES[0]},{SECOND} 1 2 3 4"] * 2, "csv, line 3: the image 'ILSVRC2012_val_00000001' has a line already"),
        ([f"{NAMES[0]},{SECOND} 1 2 3 4"], r"val_00000002\.JPEG: the image is not in .*LOC_val_solution\.csv"),
        (
            [f"{NAMES[0]},n09999999 1 2 3 4", f"{NAMES[1]},{FIRST} 1 2 3 4"],
            "line 2: the class 'n09999999' is not among",
        ),
        (
            [f"{NAMES[0]},{SECOND} 1 2 3 4", f"{NAMES[1]},{FIRST} 1 2 3 4", f"ILSVRC2012_val_00000003,{FIRST} 1 2 3 4"],
            r"csv, line 4: its image does not exist",
        ),
        ([f"{NAMES[0]},{SECOND} 1 2 80 4", f"{NAMES[1]},{FIRST} 1 2 3 4"], "line 2: the box .* leaves its image"),
    ],
)
def test_table_that_does_not_fit_is_named_by_line(root, rows, words):
    write_csv(root, *rows)
    with pytest.raises(UsageError, match=words):
        read(root)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (rf"{SECOND}\\{NAMES[0]}.JPEG 40 30", r"val_gt\.txt, line 1: expected `wnid"),
        (rf"{SECOND}\\{NAMES[0]}.JPEG 40 30 ; 1 2 3", r"val_gt\.txt, line 1: expected `wnid"),
        (rf"{NAMES[0]}.JPEG 40 30 ; 1 2 3 4", r"val_gt\.txt, line 1: expected `wnid"),
        (rf"{SECOND}\\{NAMES[0]}.JPEG 40 30 ; 1 2 3 four", r"val_gt\.txt, line 1: expected 4 numbers"),
    ],
)
def test_list_that_does_not_fit_is_named_by_line(root, line, words):
    write_text(root / "val_gt.txt", line)
    with pytest.raises(UsageError, match=words):
        read(root)


def test_xml_and_images_that_miss_each_other_are_named(root):
    write_boxes(root, "xml")
    folder = root / "Annotations/CLS-LOC/val"
    (folder / f"{NAMES[1]}.xml").rename(folder / "other.xml")
    problems = Problems(skip=True)
    assert len(read(root, problems=problems)) == 1
    assert [problem.where.rpartition("/")[2] for problem in problems.listed] == [f"{NAMES[1]}.xml", "other.xml"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("<annotation", "it is no XML"),
        ('<!DOCTYPE a [<!ENTITY b "c">]><annotation>&b;</annotation>', "entities"),
        (annotation_xml(), "no object"),
        (annotation_xml((SECOND, 1, 2, 3, "")), "expected 4 numbers"),
        ("<annotation><object><name>n02012849</name></object></annotation>", "expected 4 numbers"),
    ],
)
def test_xml_that_cannot_be_read_is_named(root, text, words):
    write_boxes(root, "xml")
    write_text(root / "Annotations/CLS-LOC/val" / f"{NAMES[0]}.xml", text)
    with pytest.raises(UsageError, match=rf"{NAMES[0]}\.xml: .*{words}"):
        read(root)


def test_folder_that_contradicts_the_annotation_is_named(root):
    write_boxes(root, "csv")
    (root / "val" / FIRST).mkdir()
    (root / "val" / f"{NAMES[0]}.JPEG").rename(root / "val" / FIRST / f"{NAMES[0]}.JPEG")
    with pytest.raises(UsageError, match=rf"its folder says {FIRST}, .*csv, line 2 says {SECOND}"):
        read(root)
