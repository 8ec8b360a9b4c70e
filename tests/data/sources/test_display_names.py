"""Names of class folders: what the files may say, who is called what, and that the folder stays the key."""

import json
from pathlib import Path

import pytest
from PIL import Image

from sat_peft.data.check import check_data
from sat_peft.data.sources import load_source
from sat_peft.data.sources.display_names import class_lookup, read_display_names
from sat_peft.data.splits import check_class_names, load_splits
from sat_peft.errors import UsageError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three classes of one training and one test image; a folder has a space in its name."""
    for split in ("train", "test"):
        for name in ("n01", "n02", "golf ball"):
            (tmp_path / split / name).mkdir(parents=True)
            Image.new("RGB", (8, 8)).save(tmp_path / split / name / "1.png")
    return tmp_path


NAMES = {"n01": "tench, Tinca tinca", "golf ball": "Golfball größe 1"}
AS_TEXT = "n01 tench, Tinca tinca\n\ngolf ball\tGolfball größe 1\n"


@pytest.mark.parametrize(("file", "content"), [("classes.txt", AS_TEXT), ("classes.json", json.dumps(NAMES))])
def test_classes_are_called_as_the_file_says(root, file, content):
    (root / file).write_text(content, encoding="utf-8")
    assert read_display_names(root) == NAMES
    rows = load_source("folder", "test", root=root)
    # In the order of the folders, and under the paths of the folders; the class that is left out keeps its name.
    assert rows.features["label"].names == ["Golfball größe 1", "tench, Tinca tinca", "n02"]
    assert rows["image_id"][:] == ["test/golf ball/1.png", "test/n01/1.png", "test/n02/1.png"]
    loaded = load_splits(str(root))
    assert loaded.records() == {"classes.json": NAMES}
    check = check_data(lambda split, problems: load_source(str(root), split, problems=problems))
    assert check.class_names == rows.features["label"].names


def test_folders_without_splits_have_names_too(root):
    (root / "train" / "classes.txt").write_text("n01\ttench\nn02\n")
    rows = load_source("folder", "train", root=root / "train")
    assert rows.features["label"].names == ["golf ball", "tench", "n02"]


def test_without_a_file_classes_are_called_like_their_folders(root):
    assert read_display_names(root) == {}
    assert load_splits(str(root)).records() == {}


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"classes.txt": "n01 tench\nn1 cat"}, r"classes\.txt names 'n1', which is no class folder; .* golf ball, n01"),
        ({"classes.txt": "tench\ncat\ndog"}, r"names 'tench', which is no class folder"),
        ({"classes.txt": "n01 tench\nn01 cat"}, r"line 2: the class folder 'n01' is named twice"),
        ({"classes.json": '{"n01": "tench", "n01": "cat"}'}, "the class folder 'n01' is named twice"),
        ({"classes.txt": "n01 fish\nn02 fish"}, "'n01' and 'n02' would both be called 'fish'"),
        ({"classes.txt": "n01 n02"}, "'n01' and 'n02' would both be called 'n02'"),
        ({"classes.json": '["tench"]'}, "must look like"),
        ({"classes.json": '{"n01": ["tench"]}'}, "must look like"),
        ({"classes.json": '{"n01": {"a": "b"}}'}, "must look like"),
        ({"classes.json": '{"n01": " "}'}, "' ' is no name to show for the class folder 'n01'"),
        ({"classes.json": '{"n01": "a\\nb"}'}, "is no name to show"),
        ({"classes.json": '{"n01"'}, "is no JSON"),
        ({"classes.json": "{}", "classes.txt": ""}, r"has both classes\.txt and classes\.json"),
    ],
)
def test_files_that_say_something_else_are_refused(root, files, words):
    for name, content in files.items():
        (root / name).write_text(content)
    with pytest.raises(UsageError, match=words):
        load_source("folder", "train", root=root)


def test_a_class_answers_to_its_folder_and_to_its_name():
    shown = {"n01": "tench", "n02": "dog"}
    assert class_lookup(["tench", "n02"], shown) == {"tench": 0, "n02": 1, "n01": 0, "dog": 1}
    # A folder is what it is for, even where another class is called like it.
    assert class_lookup(["cat", "dog"], {"dog": "cat", "cat": "dog"}) == {"cat": 1, "dog": 0}
    check_class_names(["tench", "n02"], 2, ["n01", "dog"], shown)
    check_class_names(["cat", "dog"], 2, ["cat", "dog"], {"dog": "cat", "cat": "dog"})
    with pytest.raises(UsageError, match="only in the data: n01"):
        check_class_names(["tench", "n02"], 2, ["n01", "dog"])
    with pytest.raises(UsageError, match="same in another order"):
        check_class_names(["tench", "n02"], 2, ["dog", "n01"], shown)
