"""What is wrong on disk is an error that names the file and the fix, or is skipped, counted and listed."""

import json
import os
from pathlib import Path

import pytest
from PIL import Image

from sat_peft.data.loaders import ImageRows
from sat_peft.data.sources import Problems, Record, SourceSplit, load_source
from sat_peft.data.sources.build import build_dataset
from sat_peft.data.sources.files import class_folders, image_files
from sat_peft.errors import UsageError


def write_image(file: Path, **options) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (40, 20), (200, 30, 30)).save(file, **options)
    return file


@pytest.fixture
def root(tmp_path):
    for split in ("train", "test"):
        for name in ("cat", "dog"):
            write_image(tmp_path / split / name / "good.jpg")
    return tmp_path


def train_ids(root: Path, problems: Problems | None = None) -> list[str]:
    return load_source(str(root), "train", problems=problems)["image_id"][:]


def index_all(root: Path):
    return load_source(str(root), "train")


def read_all(root: Path) -> None:
    rows = ImageRows(index_all(root), lambda image: image)
    for index in range(len(rows)):
        rows[index]


def zero_bytes(folder: Path) -> None:
    (folder / "bad.jpg").touch()


def dangling_link(folder: Path) -> None:
    (folder / "bad.jpg").symlink_to(folder / "gone.jpg")


def link_to_itself(folder: Path) -> None:
    (folder / "bad.jpg").symlink_to("bad.jpg")


def truncated(folder: Path) -> None:
    file = write_image(folder / "bad.jpg")
    file.write_bytes(file.read_bytes()[:300])


def text(folder: Path) -> None:
    (folder / "bad.jpg").write_text("not a picture\n")


def box_outside(folder: Path) -> None:
    write_image(folder / "bad.jpg")
    row = {"file_name": "bad.jpg", "objects": {"bbox": [[30, 0, 20, 5]]}}
    (folder / "metadata.jsonl").write_text(json.dumps(row) + "\n")


# What is wrong, whether indexing finds it or the first reading, and the words that name it.
BAD = [
    (zero_bytes, "indexing", r"cat/bad\.jpg: the file is empty\. Replace or remove it"),
    (dangling_link, "indexing", r"cat/bad\.jpg: the file cannot be found or opened \(No such file.*Add it, or remove"),
    (link_to_itself, "indexing", r"cat/bad\.jpg: the link cannot be followed \(Too many levels.*Remove it"),
    (truncated, "reading", r"'train/cat/bad\.jpg' cannot be read.*Repair the file or remove it"),
    (text, "reading", r"'train/cat/bad\.jpg' cannot be read \(it is empty, damaged or of no known image format\)"),
    (box_outside, "reading", r"train/cat/bad\.jpg.*\[30\.0, 0\.0, 50\.0, 5\.0\].* leaves its image of 40 x 20 pixels"),
]


@pytest.mark.parametrize(("spoil", "found_in", "words"), BAD)
def test_bad_image_is_named_with_the_fix(root, spoil, found_in, words):
    spoil(root / "train/cat")
    use = index_all if found_in == "indexing" else read_all
    with pytest.raises(UsageError, match=words):
        use(root)


@pytest.mark.parametrize(("spoil", "found_in", "words"), BAD)
def test_bad_image_is_skipped_counted_and_listed(root, spoil, found_in, words):
    spoil(root / "train/cat")
    problems = Problems(skip=True)
    assert train_ids(root, problems) == ["train/cat/good.jpg", "train/dog/good.jpg"]
    assert problems.count == len(problems.listed) == 1
    assert "bad.jpg" in str(problems.listed[0])


def test_images_that_will_be_read_anyway_need_not_be_read_twice(root):
    truncated(root / "train/cat")
    zero_bytes(root / "train/dog")
    problems = Problems(skip=True, read_images=False)
    assert train_ids(root, problems) == ["train/cat/bad.jpg", "train/cat/good.jpg", "train/dog/good.jpg"]
    assert [str(problem).endswith("the file is empty. Replace or remove it.") for problem in problems.listed] == [True]


def test_link_to_a_folder_above_ends_and_loses_nothing(root):
    (root / "train/cat/again").symlink_to(root / "train/cat", target_is_directory=True)
    (root / "train/cat/up").symlink_to(root / "train", target_is_directory=True)
    ids = train_ids(root)
    assert ids[0] == "train/cat/good.jpg"
    assert len(ids) == len(set(ids)) < 10
    assert "train/cat/again/good.jpg" not in ids


def test_links_to_images_and_folders_elsewhere_are_followed(root):
    write_image(root / "store/one.jpg")
    (root / "train/cat/linked").symlink_to(root / "store", target_is_directory=True)
    (root / "train/cat/two.jpg").symlink_to(root / "store/one.jpg")
    assert {"train/cat/linked/one.jpg", "train/cat/two.jpg"} < set(train_ids(root))


def test_link_loop_beside_the_class_folders_is_no_class(root):
    (root / "train/loop").symlink_to("loop")
    assert class_folders(root / "train") == ["cat", "dog"]


@pytest.fixture
def locked(root, monkeypatch):
    """A folder of cats that may not be listed; a fake, since the administrator may list everything."""
    write_image(root / "train/cat/locked/1.jpg")
    scandir = os.scandir

    def refuse(path):
        if Path(path).name == "locked":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    return root


def test_folder_without_permission_is_named(locked):
    with pytest.raises(UsageError, match=r"cat/locked: the folder cannot be listed \(Permission denied\).*permission"):
        train_ids(locked)
    with pytest.raises(UsageError, match=r"locked' cannot be listed \(Permission denied\)"):
        class_folders(locked / "train/cat/locked")


def test_folder_without_permission_is_skipped_and_listed(locked):
    problems = Problems(skip=True)
    assert train_ids(locked, problems) == ["train/cat/good.jpg", "train/dog/good.jpg"]
    assert [problem.where for problem in problems.listed] == [str(locked / "train/cat/locked")]


@pytest.fixture
def latin_name(root):
    """The path of an image whose name is Latin-1, as bytes."""
    file = os.fsencode(root / "train/cat") + b"/caf\xe9.jpg"
    try:
        with open(file, "wb") as opened:
            opened.write((root / "train/cat/good.jpg").read_bytes())
    except OSError:
        pytest.skip("the file system takes no such name")
    return file


def test_name_that_is_not_utf8_is_shown_as_text(root, latin_name):
    with pytest.raises(UsageError, match=r"caf\\xe9\.jpg: the name is not encoded in UTF-8\. Rename it"):
        train_ids(root)
    problems = Problems(skip=True)
    assert train_ids(root, problems) == ["train/cat/good.jpg", "train/dog/good.jpg"]
    json.dumps([str(problem) for problem in problems.listed]).encode("utf-8")


def test_class_folder_that_is_not_utf8_is_named(root, latin_name):
    os.mkdir(os.fsencode(root / "train") + b"/caf\xe9")
    with pytest.raises(UsageError, match=r"folder .*train/caf\\xe9 is not encoded in UTF-8"):
        train_ids(root)


def test_names_in_other_scripts_are_read(root):
    write_image(root / "train/cat/ねこ \u2028 é.jpg")
    assert "train/cat/ねこ \u2028 é.jpg" in train_ids(root)


def build(records, problems: Problems):
    split = SourceSplit(["cat", "dog"], iter(records), has_masks=any(record.masks for record in records))
    return build_dataset(split, problems, where="made, split 'train'", layout="")


def test_image_that_is_listed_twice(root):
    image = root / "train/cat/good.jpg"
    records = [Record("one", image, 0), Record("two", image, 1), Record("one", image, 1)]
    with pytest.raises(UsageError, match=r"one: the image is listed twice\. Remove one of its entries"):
        build(records, Problems())
    problems = Problems(skip=True)
    assert build(records, problems)["image_id"][:] == ["one", "two"]
    assert problems.count == 1


def test_box_without_an_area(root):
    image = root / "train/cat/good.jpg"
    records = [Record("one", image, 0, [[1, 1, 1, 9]]), Record("two", image, 1, [[0, 0, 5, 5]])]
    with pytest.raises(UsageError, match=r"one: the box \[1\.0, 1\.0, 1\.0, 9\.0\] .* has no area\. Repair or remove"):
        build(records, Problems())
    assert build(records, Problems(skip=True))["boxes"][:] == [[[0, 0, 5, 5]]]


@pytest.mark.parametrize("size", [None, (20, 40)])
def test_mask_that_cannot_be_used_is_skipped(root, size):
    image, mask = root / "train/cat/good.jpg", root / "mask.png"
    if size is None:
        mask.write_text("no image")
    else:
        Image.new("L", size, 255).save(mask)
    problems = Problems(skip=True)
    records = [Record("one", image, 0, masks=(mask,)), Record("two", image, 1)]
    assert build(records, problems)["image_id"][:] == ["two"]
    assert "mask" in problems.listed[0].what


def test_every_bad_entry_is_counted_and_a_thousand_are_listed(tmp_path):
    folder = tmp_path / "many"
    folder.mkdir()
    for index in range(1010):
        (folder / f"{index}.jpg").symlink_to(f"{index}.jpg")
    problems = Problems(skip=True)
    assert list(image_files(folder, problems)) == []
    assert (problems.count, len(problems.listed)) == (1010, 1000)
