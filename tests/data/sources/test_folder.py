"""Folders of images as people have them, and what is said about folders that are not so."""

import json
from pathlib import Path

import pytest
from PIL import Image

from sat_peft.data.sources import load_source
from sat_peft.errors import UsageError


def load_image_folder(root: Path) -> dict:
    """The splits that exist."""
    loaded = {split: load_source("folder", split, root=root) for split in ("train", "validation", "test")}
    return {split: rows for split, rows in loaded.items() if rows is not None}


def write_image(path: Path, size: tuple[int, int] = (20, 10)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size).save(path)


def write_metadata(folder: Path, *rows: dict | str) -> Path:
    file = folder / "metadata.jsonl"
    file.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows), encoding="utf-8")
    return file


def boxed(file_name: str, *boxes) -> dict:
    return {"file_name": file_name, "objects": {"bbox": list(boxes)}}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """train: cat 1 and 2, dog 1; test: cat 1, dog 1."""
    for name in ("train/cat/1.jpg", "train/cat/2.jpg", "train/dog/1.png", "test/cat/1.jpg", "test/dog/1.jpg"):
        write_image(tmp_path / name)
    return tmp_path


def test_splits_labels_and_ids_come_from_the_paths(root):
    splits = load_image_folder(root)
    assert list(splits) == ["train", "test"]
    train = splits["train"]
    assert train["image_id"][:] == ["train/cat/1.jpg", "train/cat/2.jpg", "train/dog/1.png"]
    assert train.features["label"].names == ["cat", "dog"]
    assert train["label"][:] == [0, 0, 1]
    assert train["boxes"][:] == [[], [], []]
    assert train[0]["image"].size == (20, 10)


def test_validation_is_read_where_it_exists(root):
    write_image(root / "validation/dog/7.jpg")
    assert load_image_folder(root)["validation"]["label"][:] == [1]


def test_images_are_found_at_any_depth_and_whatever_the_case_of_the_suffix(root):
    write_image(root / "train/dog/garden/2024/A.JPG")
    (root / "train/dog/notes.txt").write_text("not an image")
    assert "train/dog/garden/2024/A.JPG" in load_image_folder(root)["train"]["image_id"][:]
    assert len(load_image_folder(root)["train"]) == 4


@pytest.mark.parametrize("hidden", ["train/cat/.thumb.jpg", "train/cat/.ipynb_checkpoints/1.jpg", "train/.cache/1.jpg"])
def test_hidden_files_and_folders_are_left_out(root, hidden):
    write_image(root / hidden)
    train = load_image_folder(root)["train"]
    assert len(train) == 3
    assert train.features["label"].names == ["cat", "dog"]


def test_boxes_are_converted_from_xywh_to_xyxy(root):
    write_metadata(
        root / "test",
        boxed("dog/1.jpg", [2, 3, 10, 4.5], [0, 0, 20, 10]),
        {"file_name": "cat/1.jpg", "objects": None},
    )
    test = load_image_folder(root)["test"]
    assert test["boxes"][:] == [[], [[2.0, 3.0, 12.0, 7.5], [0.0, 0.0, 20.0, 10.0]]]


def test_image_without_a_metadata_row_has_no_boxes(root):
    write_metadata(root / "test", boxed("dog/1.jpg", [1, 2, 3, 4]), "")
    assert load_image_folder(root)["test"]["boxes"][:] == [[], [[1.0, 2.0, 4.0, 6.0]]]


def test_metadata_may_lie_in_the_class_folder(root):
    write_metadata(root / "test/cat", boxed("1.jpg", [1, 2, 3, 4]))
    assert load_image_folder(root)["test"]["boxes"][0] == [[1.0, 2.0, 4.0, 6.0]]


def test_metadata_of_other_editors_is_read(root):
    # A byte order mark, Windows line ends, and a separator that JSON allows inside a string.
    rows = [json.dumps(boxed("cat/1.jpg", [1, 2, 3, 4]) | {"note": "a\u2028b"}, ensure_ascii=False), ""]
    (root / "test/metadata.jsonl").write_bytes("\r\n".join(rows).encode("utf-8-sig"))
    assert load_image_folder(root)["test"]["boxes"][0] == [[1.0, 2.0, 4.0, 6.0]]


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([boxed("cat/1.jpg"), '{"file_name": '], r"metadata\.jsonl, line 2: it is no JSON"),
        (["[1, 2]"], "line 1: a row needs a `file_name`"),
        ([{"objects": {"bbox": []}}], "line 1: a row needs a `file_name`"),
        (["", boxed("cat/9.jpg")], r"line 2: the image 'cat/9\.jpg' does not exist"),
        ([boxed("cat/1.jpg"), boxed("cat/1.jpg")], r"line 2: the image 'cat/1\.jpg' has a row already"),
        ([{"file_name": "cat/1.jpg", "objects": {"bbox": "1 2 3 4"}}], "line 1: boxes must be lists of four numbers"),
        ([{"file_name": "cat/1.jpg", "objects": {"bbox": {"x": 1}}}], "line 1: boxes must be lists of four numbers"),
        ([boxed("cat/1.jpg", [1, 2, 3])], r"\[x, y, width, height\].*got \[1, 2, 3\]"),
        ([boxed("cat/1.jpg", ["1", "2", "3", "four"])], r"got \['1', '2', '3', 'four'\]"),
        ([boxed("cat/1.jpg", [-1, 2, 3, 4])], r"x, y >= 0.*got \[-1, 2, 3, 4\]"),
        ([boxed("cat/1.jpg", [1, 2, 0, 4])], r"width, height > 0, got \[1, 2, 0, 4\]"),
        ([boxed("cat/1.jpg", [float("nan"), 2, 3, 4])], r"got \[nan, 2, 3, 4\]"),
        ([boxed("cat/1.jpg", [1, 2, float("inf"), 4])], r"got \[1, 2, inf, 4\]"),
    ],
)
def test_malformed_metadata_is_named_by_file_and_line(root, rows, words):
    write_metadata(root / "test", *rows)
    with pytest.raises(UsageError, match=words):
        load_image_folder(root)


def test_two_metadata_files_about_one_image_are_refused(root):
    write_metadata(root / "test", boxed("cat/1.jpg", [1, 2, 3, 4]))
    write_metadata(root / "test/cat", boxed("1.jpg", [5, 5, 5, 5]))
    with pytest.raises(UsageError, match=r"cat/metadata\.jsonl, line 1: the image '1\.jpg' has a row already"):
        load_image_folder(root)


def test_metadata_about_an_image_outside_the_class_folders_is_refused(root):
    write_image(root / "test/stray.jpg")
    write_metadata(root / "test", boxed("stray.jpg", [1, 2, 3, 4]))
    with pytest.raises(UsageError, match=r"line 1: it names .*test/stray\.jpg, which lies in no class folder"):
        load_image_folder(root)


def test_metadata_in_another_encoding_is_named(root):
    (root / "test/metadata.jsonl").write_bytes('{"file_name": "café.jpg"}'.encode("latin-1"))
    with pytest.raises(UsageError, match=r"metadata\.jsonl: it is not encoded in UTF-8"):
        load_image_folder(root)


def test_class_that_train_lacks_is_named(root):
    write_image(root / "test/cow/1.jpg")
    with pytest.raises(UsageError, match=r"test has class folders that .*train lacks: cow"):
        load_image_folder(root)


def test_class_that_test_lacks_is_allowed(root):
    write_image(root / "train/cow/1.jpg")
    splits = load_image_folder(root)
    assert splits["test"].features["label"].names == ["cat", "cow", "dog"]
    assert splits["test"]["label"][:] == [0, 2]


@pytest.mark.parametrize("alias", ["val", "valid", "dev"])
def test_misnamed_validation_is_not_passed_over(root, alias):
    write_image(root / alias / "cat/1.jpg")
    with pytest.raises(UsageError, match=f"{alias} would not be read; rename it to .*validation"):
        load_image_folder(root)


def test_missing_folders_are_named_with_the_layout(tmp_path):
    with pytest.raises(UsageError, match=r"nowhere' does not exist\. Expected ROOT/train/CLASS"):
        load_image_folder(tmp_path / "nowhere")
    (tmp_path / "test").mkdir()
    with pytest.raises(UsageError, match=r"no folder train\. Expected ROOT/train/CLASS"):
        load_image_folder(tmp_path)


def test_class_folders_without_splits_are_the_train_split(tmp_path):
    for name in ("cat/1.jpg", "cat/2.jpg", "dog/1.jpg"):
        write_image(tmp_path / name)
    write_metadata(tmp_path, boxed("dog/1.jpg", [1, 2, 3, 4]))
    splits = load_image_folder(tmp_path)
    assert list(splits) == ["train"]
    assert splits["train"]["image_id"][:] == ["cat/1.jpg", "cat/2.jpg", "dog/1.jpg"]
    assert splits["train"]["boxes"][:] == [[], [], [[1.0, 2.0, 4.0, 6.0]]]


def test_test_split_may_be_missing(root):
    for name in ("cat/1.jpg", "dog/1.jpg"):
        (root / "test" / name).unlink()
        (root / "test" / name).parent.rmdir()
    (root / "test").rmdir()
    assert list(load_image_folder(root)) == ["train"]


def test_folder_with_one_class_or_without_images_is_refused(tmp_path):
    write_image(tmp_path / "train/cat/1.jpg")
    (tmp_path / "test/cat").mkdir(parents=True)
    with pytest.raises(UsageError, match="1 classes; at least two"):
        load_image_folder(tmp_path)
    write_image(tmp_path / "train/dog/1.jpg")
    with pytest.raises(UsageError, match=r"split .test. holds no usable images"):
        load_image_folder(tmp_path)
