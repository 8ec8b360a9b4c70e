"""Splits by name: which are loaded, which rows stay, and whose classes they have."""

import json

import numpy as np
import pytest
from PIL import Image

from sat_peft.data import splits
from sat_peft.data.sources import Problems
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


def test_rows_without_boxes_are_left_out_where_others_have_some(folder, said):
    loaded = load_splits(str(folder)).splits
    assert loaded["test"]["image_id"][:] == ["test/b/1.png"]
    assert len(loaded["validation"]) == len(loaded["train"]) == 4
    assert said.messages == ["test: evaluated on the 1 of 4 images that have boxes"]


def test_only_the_wanted_splits_are_loaded_and_a_folder_may_lack_validation(folder):
    assert list(load_splits(str(folder), ["train"]).splits) == ["train"]
    (folder / "validation").rename(folder.parent / f"{folder.name}-validation")
    assert list(load_splits(str(folder), ["validation", "test"]).splits) == ["test"]


def test_part_scenes_have_the_shots_that_are_asked_for(monkeypatch):
    for split, number in (("train", 2), ("validation", 1), ("test", 1)):
        monkeypatch.setitem(splits.SCENES_PER_CLASS, split, number)
    assert {name: len(rows) for name, rows in load_splits("part_scenes").splits.items()} == {
        "train": 40,
        "validation": 20,
        "test": 20,
    }
    three = load_splits("part_scenes", ["train"], shots=3).splits["train"]
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


@pytest.fixture
def whole(tmp_path):
    """Ten images of a, five of b and one of c, without splits."""
    for name, number in (("a", 10), ("b", 5), ("c", 1)):
        (tmp_path / name).mkdir()
        for index in range(number):
            Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / name / f"{index}.png")
    return tmp_path


def counts(loaded, split: str) -> list[int]:
    return np.bincount(loaded.splits[split]["label"], minlength=3).tolist()


def quiet(*arguments, **options):
    return load_splits(*arguments, **options)


def test_missing_test_split_is_a_share_of_every_class_and_said(whole, said):
    loaded = load_splits(str(whole))
    assert (counts(loaded, "train"), counts(loaded, "test")) == ([8, 4, 1], [2, 1, 0])
    assert loaded.set_aside == {"test": loaded.splits["test"]["image_id"][:]}
    told = "test: the data has no test split, so 3 training images are set aside, 13 remain for training"
    assert said.messages == [told]


def test_shares_are_disjoint_and_every_split_agrees_whichever_are_wanted(whole):
    loaded = quiet(str(whole), validation_fraction=0.3)
    assert [counts(loaded, split) for split in splits.SPLITS] == [[6, 3, 1], [2, 1, 0], [2, 1, 0]]
    ids = [image_id for rows in loaded.splits.values() for image_id in rows["image_id"]]
    assert len(ids) == len(set(ids)) == 16
    for split in splits.SPLITS:
        alone = quiet(str(whole), [split], validation_fraction=0.3)
        assert alone.splits[split]["image_id"][:] == loaded.splits[split]["image_id"][:]


def test_share_is_the_same_everywhere_and_another_with_another_seed(whole):
    # Whoever evaluates a run later must see the same images, so the draw must not change with numpy or with this code.
    drawn = quiet(str(whole)).set_aside["test"]
    assert drawn == COMMITTED
    assert quiet(str(whole), split_seed=1).set_aside["test"] != drawn


COMMITTED = ["a/1.png", "a/9.png", "b/0.png"]


def test_recorded_share_holds_where_images_were_added_since(whole):
    recorded = quiet(str(whole), validation_fraction=0.2).set_aside
    for index in range(10, 30):
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(whole / "a" / f"{index}.png")
    again = quiet(str(whole), validation_fraction=0.2, set_aside=recorded)
    assert again.set_aside == recorded
    assert not set(again.splits["train"]["image_id"]) & {*recorded["test"], *recorded["validation"]}
    (whole / recorded["test"][0]).unlink()
    with pytest.raises(UsageError, match=r"the recorded test split names 1 of \d+ images that the data does not have"):
        quiet(str(whole), validation_fraction=0.2, set_aside=recorded)


def test_validation_is_not_set_aside_where_there_is_one(folder):
    with pytest.raises(UsageError, match=r"has a validation split.*leave out --validation-fraction"):
        load_splits(str(folder), validation_fraction=0.2)
    with pytest.raises(UsageError, match="part_scenes has a validation split"):
        load_splits("part_scenes", ["test"], validation_fraction=0.2)


@pytest.mark.parametrize("fraction", [0, 1, -0.5, 1.5])
def test_share_out_of_range_is_refused(whole, fraction):
    with pytest.raises(UsageError, match=f"share of the validation split must be above 0 and below 1, got {fraction}"):
        quiet(str(whole), validation_fraction=fraction)


def test_tested_class_without_a_training_image_is_refused(folder):
    for path in (folder / "train" / "b").iterdir():
        path.unlink()
    with pytest.raises(UsageError, match="the validation split has images of 1 classes without a training image: b"):
        load_splits(str(folder))


def test_skipped_entries_are_counted_and_listed(folder, said):
    (folder / "train/a/0.png").write_bytes(b"no image")
    loaded = load_splits(str(folder), problems=Problems(skip=True))
    assert len(loaded.splits["train"]) == 3
    assert said.messages[0].startswith("skipped: 1 bad entries, the first of them ")
    report = loaded.problems.report()
    assert report["count"] == 1
    assert report["skipped"][0]["where"].endswith("train/a/0.png")
