"""Which images an input names, and under which ids."""

import os
from pathlib import Path

import pytest
from datasets import Dataset

from sat_peft.data.features import localization_features
from sat_peft.errors import UsageError
from sat_peft.prediction.inputs import data_set_images, data_set_labels, find_images, folder_labels, known_folder_labels


@pytest.fixture
def photos(tmp_path) -> Path:
    names = ("cat/1.jpg", "cat/sub/2.JPEG", "dog/1.jpg", "dog/notes.txt", "dog/.hidden.jpg", ".cache/3.jpg", "[x].png")
    for name in names:
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path / "photos"


def test_folder_is_searched_recursively(photos):
    found = find_images([photos])
    assert found.root == photos
    assert list(found.image_ids) == ["[x].png", "cat/1.jpg", "cat/sub/2.JPEG", "dog/1.jpg"]


def test_same_names_stay_apart_below_the_common_folder(photos):
    assert list(find_images([photos / "dog", photos / "cat"]).image_ids) == ["cat/1.jpg", "cat/sub/2.JPEG", "dog/1.jpg"]
    one = find_images([photos / "cat" / "1.jpg"])
    assert (one.root, list(one.image_ids)) == (photos / "cat", ["1.jpg"])


def test_every_image_counts_once(photos):
    found = find_images([photos / "dog", photos / "dog" / "1.jpg", f"{photos}/*/1.jpg"])
    assert list(found.image_ids) == ["cat/1.jpg", "dog/1.jpg"]


def test_patterns(photos):
    assert list(find_images([f"{photos}/**/[12].*"]).image_ids) == ["cat/1.jpg", "cat/sub/2.JPEG", "dog/1.jpg"]
    # Folders that match are searched, files of other kinds are passed over.
    assert list(find_images([f"{photos}/d*"]).image_ids) == ["1.jpg"]
    assert list(find_images([f"{photos}/dog/*"]).image_ids) == ["1.jpg"]


def test_name_that_exists_is_no_pattern(photos):
    assert list(find_images([photos / "[x].png"]).image_ids) == ["[x].png"]


def test_named_file_counts_whatever_its_suffix(photos):
    assert list(find_images([photos / "dog" / "notes.txt"]).image_ids) == ["notes.txt"]


def test_relative_paths_are_those_of_the_working_folder(photos, monkeypatch):
    monkeypatch.chdir(photos / "cat")
    found = find_images(["."])
    assert (found.root, list(found.image_ids)) == (photos / "cat", ["1.jpg", "sub/2.JPEG"])


def test_output_inside_the_input_is_left_out(photos):
    (photos / "out" / "overlays").mkdir(parents=True)
    (photos / "out" / "overlays" / "1.jpg.jpg").touch()
    assert "out/overlays/1.jpg.jpg" not in find_images([photos], leave_out=photos / "out").image_ids


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ([], "name at least one"),
        (["gone"], "'gone' does not exist"),
        (["gone/*.jpg"], "matches nothing"),
        (["dog/notes*"], r"no images in 'dog/notes\*'.*\.jpeg"),
        (["empty"], "no images in 'empty'"),
        (["cat", "empty"], "no images in 'empty'"),
    ],
)
def test_input_that_names_nothing_is_refused(photos, monkeypatch, inputs, words):
    monkeypatch.chdir(photos)
    (photos / "empty").mkdir()
    with pytest.raises(UsageError, match=words):
        find_images(inputs)


def test_name_of_undecodable_bytes_is_refused_by_a_clear_line(photos):
    try:
        with open(os.fsencode(photos) + b"/caf\xe9.jpg", "wb"):
            pass
    except OSError:
        pytest.fail("this file system takes UTF-8 names alone; run the test on another")
    with pytest.raises(UsageError, match=r"caf\\xe9\.jpg: the name is not encoded in UTF-8"):
        find_images([photos])


def test_labels_are_the_nearest_folder_of_a_class(photos):
    (photos / "[x].png").unlink()
    images = find_images([photos])
    assert folder_labels(images, ["dog", "cat"]) == [1, 1, 0]
    assert folder_labels(images, ["dog", "cat", "sub"]) == [1, 2, 0]
    # The root counts, folders above it do not.
    assert folder_labels(find_images([photos / "cat"]), ["cat"]) == [0, 0]
    with pytest.raises(UsageError, match=r"2 of 2 images lie in no folder .* first '1\.jpg'.*classes: photos"):
        folder_labels(find_images([photos / "cat"]), ["photos"])


def test_image_in_no_class_folder_is_named(photos):
    with pytest.raises(UsageError, match=r"1 of 4 images .* first '\[x\]\.png'.*--classes predicted"):
        folder_labels(find_images([photos]), ["dog", "cat"])


def test_labels_are_found_by_the_names_that_folders_are_shown_under(photos):
    images = find_images([photos / "cat", photos / "dog"])
    assert folder_labels(images, ["Hund", "Katze"], {"dog": "Hund", "cat": "Katze"}) == [1, 1, 0]
    assert known_folder_labels(images, ["Hund", "x"], {"dog": "Hund"}) == [None, None, 0]
    with pytest.raises(UsageError, match="3 of 3 images lie in no folder"):
        folder_labels(images, ["Hund", "Katze"])
    # As in the root of a data set, one or two folders above a split or a class.
    (photos / "classes.json").write_text('{"dog": "Hund", "cat": "Katze"}')
    assert folder_labels(images, ["Hund", "Katze"]) == [1, 1, 0]
    assert folder_labels(find_images([photos / "cat"]), ["Hund", "Katze"]) == [1, 1]
    # The model may have been trained before its folders had names.
    assert folder_labels(images, ["dog", "cat"]) == [1, 1, 0]


def rows(*image_ids: str) -> Dataset:
    empty = {"bytes": b"", "path": None}
    columns = {"image_id": image_ids, "image": [empty] * len(image_ids), "boxes": [[]] * len(image_ids)}
    labels = [number % 2 for number in range(len(image_ids))]
    return Dataset.from_dict(columns | {"label": labels}, features=localization_features(["ant", "bee"]))


def test_data_set_keeps_its_order_and_finds_its_classes_by_name():
    found = data_set_images(rows("b/1.jpg", "a/1.jpg"), "test of x")
    assert (found.root, list(found.image_ids)) == ("test of x", ["b/1.jpg", "a/1.jpg"])
    with pytest.raises(UsageError, match=r"'a/1\.jpg' cannot be read"):
        found.decode(1)
    assert data_set_labels(rows("1", "2", "3"), ["bee", "cow", "ant"]) == [2, 0, 2]
    assert data_set_labels(rows("1", "2"), ["Biene", "ant"], {"bee": "Biene"}) == [1, 0]
    assert data_set_labels(rows("1"), ["ant"]) == [0]  # no image of the class that the model lacks
    with pytest.raises(UsageError, match="1 classes that the model lacks, first 'bee'"):
        data_set_labels(rows("1", "2"), ["ant"])


@pytest.mark.parametrize(
    ("image_ids", "words"),
    [
        ((), "test of x has no images"),
        (("a/../../1.jpg",), "leads out of the folder"),
        (("/etc/1.jpg",), "leads out of the folder"),
        (("a\n.jpg",), "control characters"),
    ],
)
def test_data_set_with_names_that_no_file_may_have_is_refused(image_ids, words):
    with pytest.raises(UsageError, match=words):
        data_set_images(rows(*image_ids), "test of x")


def test_linked_folders_are_searched_as_those_of_classes_are(photos, tmp_path):
    """And a folder that stands in itself is searched once; what systems leave is not."""
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "@eaDir").mkdir(parents=True)
    for name in ("9.jfif", "@eaDir/9.jpg"):
        (elsewhere / name).write_bytes((photos / "[x].png").read_bytes())
    before = find_images([photos]).image_ids
    (photos / "linked").symlink_to(elsewhere, target_is_directory=True)
    (photos / "again").symlink_to(photos, target_is_directory=True)
    assert sorted(set(find_images([photos]).image_ids) - set(before)) == ["linked/9.jfif"]
