"""Splits by name: which are loaded, which rows stay, and whose classes they have."""

import json

import numpy as np
import pytest
from PIL import Image

from sat_peft.data import splits
from sat_peft.data.splits import check_class_names, load_splits
from sat_peft.errors import UsageError


@pytest.fixture
def folder(tmp_path):
    """Two classes of two images; the boxes of one test image are known and those of no validation image."""
    for split in ("train", "validation", "test"):
        for name in ("a", "b"):
            (tmp_path / split / name).mkdir(parents=True)
            for index in range(2):
                Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / split / name / f"{index}.png")
    row = {"file_name": "b/1.png", "objects": {"bbox": [[0, 0, 4, 4]]}}
    (tmp_path / "test" / "metadata.jsonl").write_text(json.dumps(row))
    return tmp_path


def test_rows_without_boxes_are_left_out_where_others_have_some(folder):
    said = []
    loaded = load_splits(str(folder), say=said.append)
    assert loaded["test"]["image_id"][:] == ["test/b/1.png"]
    assert len(loaded["validation"]) == len(loaded["train"]) == 4
    assert said == ["test: evaluated on the 1 of 4 images that have boxes"]


def test_only_the_wanted_splits_are_loaded_and_a_folder_may_lack_validation(folder):
    assert list(load_splits(str(folder), ["train"])) == ["train"]
    (folder / "validation").rename(folder.parent / f"{folder.name}-validation")
    assert list(load_splits(str(folder), ["validation", "test"], say=lambda _: None)) == ["test"]


def test_part_scenes_have_the_shots_that_are_asked_for(monkeypatch):
    for split, number in (("train", 2), ("validation", 1), ("test", 1)):
        monkeypatch.setitem(splits.SCENES_PER_CLASS, split, number)
    assert {name: len(rows) for name, rows in load_splits("part_scenes").items()} == {
        "train": 40,
        "validation": 20,
        "test": 20,
    }
    three = load_splits("part_scenes", ["train"], shots=3)["train"]
    assert len(three) == 60


def test_unknown_split_is_refused(folder):
    with pytest.raises(UsageError, match=r"unknown split 'tests'\. Did you mean 'test'"):
        load_splits(str(folder), ["tests"])


def test_class_names_must_agree_in_name_and_order():
    check_class_names(["a", "b"], 2, ["a", "b"])
    check_class_names(None, 1, ["a"])
    with pytest.raises(UsageError, match="tells 3 classes apart, but the data has 1"):
        check_class_names(None, 3, ["a"])
    with pytest.raises(UsageError, match=r"only in the data: c; only in the model: a\)"):
        check_class_names(["a", "b"], 2, ["b", "c"])
    with pytest.raises(UsageError, match="the same in another order"):
        check_class_names(["a", "b"], 2, ["b", "a"])
