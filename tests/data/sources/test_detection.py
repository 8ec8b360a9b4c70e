"""The layout of a folder tells its format, or the message names what it could be."""

import json

import pytest
from official_folders import annotation_xml, write_image, write_text

from sat_peft.data.sources.registry import detect_source
from sat_peft.errors import UsageError


def class_folders(root):
    write_image(root / "train/cat/1.jpg")
    write_image(root / "train/dog/1.jpg")


def flat_class_folders(root):
    write_image(root / "cat/1.jpg")
    write_image(root / "dog/1.jpg")


def yolo(root):
    write_text(root / "data.yaml", "names: [a, b]")
    write_image(root / "train/images/1.jpg")
    write_text(root / "train/labels/1.txt", "0 .5 .5 1 1")


def coco(root):
    write_text(root / "annotations/instances_train2017.json", "{}")
    write_image(root / "train2017/1.jpg")
    write_image(root / "val2017/1.jpg")


def roboflow_coco(root):
    write_text(root / "train/_annotations.coco.json", "{}")
    write_image(root / "train/1.jpg")


def voc(root):
    for folder in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (root / "VOC2007" / folder).mkdir(parents=True)


def flat_voc(root):
    write_image(root / "train/1.jpg")
    write_text(root / "train/1.xml", annotation_xml(("a", 1, 1, 2, 2)))


def saved(root):
    write_text(root / "dataset_dict.json", json.dumps({"splits": []}))


def parquet(root):
    write_text(root / "data/train-00000-of-00001.parquet", "")


@pytest.mark.parametrize(
    ("write", "name"),
    [
        (class_folders, "folder"),
        (flat_class_folders, "folder"),
        (yolo, "yolo"),
        (coco, "coco"),
        (roboflow_coco, "coco"),
        (voc, "voc"),
        (flat_voc, "voc"),
        (saved, "hub"),
        (parquet, "hub"),
    ],
)
def test_layout_tells_the_format(tmp_path, write, name):
    write(tmp_path)
    assert detect_source(tmp_path).name == name


def test_ambiguous_layout_names_the_candidates(tmp_path):
    roboflow_coco(tmp_path)
    yolo(tmp_path)
    with pytest.raises(UsageError, match=r"several formats.*--data-root .* FORMAT is coco or yolo"):
        detect_source(tmp_path)


def test_unknown_layout_names_every_known_one(tmp_path):
    with pytest.raises(UsageError, match=r"(?s)no layout that is known.*one of coco.*folder: Expected.*yolo: Expected"):
        detect_source(tmp_path)
    with pytest.raises(UsageError, match=r"nowhere' does not exist"):
        detect_source(tmp_path / "nowhere")
