"""Images outside of the data's folder: a data set that somebody else made must not bring private ones into a report."""

from pathlib import Path

import pyarrow.parquet as parquet
import pytest
from datasets import ClassLabel, Dataset, Features, Image, Value
from official_folders import write_image, write_text

from sat_peft.data.sources import Problems, load_source
from sat_peft.errors import UsageError


@pytest.fixture
def secret(tmp_path) -> Path:
    return write_image(tmp_path / "private" / "secret.jpg")


def link(root: Path, secret: Path) -> None:
    (root / "train" / "cat" / "0.jpg").unlink()
    (root / "train" / "cat" / "0.jpg").symlink_to(secret)


def linked_folder(root: Path, secret: Path) -> None:
    (root / "train" / "mouse").symlink_to(secret.parent)


def yolo_list(root: Path, secret: Path) -> None:
    write_image(root / "images" / "0.jpg")
    write_text(root / "labels" / "0.txt", "0 .5 .5 .5 .5")
    write_text(secret.with_suffix(".txt"), "1 .5 .5 .5 .5")
    write_text(root / "train.txt", "./images/0.jpg", str(secret))
    write_text(root / "data.yaml", "train: train.txt", "names: [dog, cat]")


@pytest.mark.parametrize(("spoil", "source"), [(link, "folder"), (linked_folder, "folder"), (yolo_list, "yolo")])
def test_they_are_refused_unless_they_are_allowed(spoil, source, secret, tmp_path):
    root = tmp_path / "data"
    for name in ("cat", "dog"):
        write_image(root / "train" / name / "0.jpg")
    spoil(root, secret)
    with pytest.raises(UsageError, match=r"outside of the data's folder.*--allow-outside"):
        load_source(source, "train", root=root)
    problems = Problems(skip=True)
    kept = load_source(source, "train", root=root, problems=problems, allow_outside=True)
    assert problems.count == 0
    assert len(kept) > 1


def test_links_within_the_data_are_fine(tmp_path):
    store = write_image(tmp_path / "data" / "store" / "blob.jpg")
    write_image(tmp_path / "data" / "train" / "dog" / "0.jpg")
    (tmp_path / "data" / "train" / "cat").mkdir()
    (tmp_path / "data" / "train" / "cat" / "0.jpg").symlink_to(store)
    (tmp_path / "link").symlink_to(tmp_path / "data")
    assert len(load_source("folder", "train", root=tmp_path / "link")) == 2


@pytest.mark.parametrize("encoded", [True, False])
def test_rows_of_datasets_are_held_to_it_too(encoded, secret, tmp_path):
    root, safe = tmp_path / "data", write_image(tmp_path / "data" / "0.jpg")
    images, kind, options = ["0.jpg", "../private/secret.jpg"], Value("string"), {"image_column": "image"}
    if encoded:
        images, kind, options = [{"bytes": safe.read_bytes()}, {"bytes": None, "path": str(secret)}], Image(), {}
    rows = {"image": images, "label": [0, 1]}
    made = Dataset.from_dict(rows, Features(image=kind, label=ClassLabel(names=["cat", "dog"])))
    # By hand, since `datasets` would put the image itself into the file.
    parquet.write_table(made.data.table, root / "train.parquet")
    with pytest.raises(UsageError, match=r"secret.jpg lies outside of the data's folder.*--allow-outside"):
        load_source("hub", "train", root=root, **options)
    assert len(load_source("hub", "train", root=root, allow_outside=True, **options)) == 2
