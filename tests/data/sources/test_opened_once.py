"""Annotation files are parsed once, however many splits are read and whatever they need of each other."""

import sys
from collections import Counter
from pathlib import Path

import pytest

from sat_peft.data.sources import load_source
from sat_peft.data.splits import load_splits
from scene_writers import export_scenes

_OPENED: Counter[str] = Counter()
_COUNTED: list[str] = []


def _count(event: str, arguments: tuple) -> None:
    if event == "open" and _COUNTED and isinstance(arguments[0], str) and arguments[0].startswith(_COUNTED[0]):
        _OPENED[arguments[0]] += 1


@pytest.fixture
def opened(tmp_path):
    """Counts the files below a folder that are opened; hooks of Python cannot be taken back, so it stays and rests."""
    if not hasattr(sys, "sat_peft_counts"):
        sys.addaudithook(_count)
        sys.sat_peft_counts = True
    _OPENED.clear()
    _COUNTED[:] = [str(tmp_path)]
    yield _OPENED
    _COUNTED.clear()


@pytest.mark.parametrize("name", ["coco", "voc", "yolo", "imagefolder"])
def test_no_annotation_file_is_read_twice(tmp_path, opened, name):
    export_scenes(tmp_path / "data", name, scenes_per_class=2, image_size=32, num_classes=3)
    opened.clear()
    splits = load_splits(str(tmp_path / "data")).splits
    assert set(splits) == {"train", "validation", "test"}
    annotations = {file: count for file, count in opened.items() if Path(file).suffix not in (".png", ".jpg")}
    assert annotations
    assert set(annotations.values()) == {1}


@pytest.mark.parametrize("name", ["coco", "voc", "yolo"])
def test_splits_of_one_opening_are_those_of_openings_of_their_own(tmp_path, name):
    export_scenes(tmp_path / "data", name, scenes_per_class=2, image_size=32, num_classes=3)
    together = load_splits(str(tmp_path / "data")).splits
    for split, rows in together.items():
        alone = load_source(str(tmp_path / "data"), split)
        assert rows.features == alone.features
        assert rows[:] == alone[:]
