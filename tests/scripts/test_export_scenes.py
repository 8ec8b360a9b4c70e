"""PartScenes written as other formats: whole or not at all, and the same truth in each of them."""

from pathlib import Path

import pytest

import scene_writers as export
from sat_peft.errors import UsageError
from scene_writers import WRITERS, export_scenes


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_writes_files_and_leaves_nothing_else(name, tmp_path):
    export_scenes(tmp_path / "data", name, scenes_per_class=1, image_size=32, num_classes=2)
    assert [path.name for path in tmp_path.iterdir()] == ["data"]
    assert any(path.stat().st_size for path in (tmp_path / "data").rglob("*") if path.is_file())


def test_error_in_a_writer_leaves_nothing_behind(monkeypatch, tmp_path):
    def half(root: Path, scenes, class_names):
        next(scenes).save_image(root / "one.jpg")
        raise OSError("no space left on device")

    monkeypatch.setitem(export.WRITERS, "half", half)
    with pytest.raises(OSError, match="no space"):
        export_scenes(tmp_path / "data", "half", image_size=32)
    assert list(tmp_path.iterdir()) == []


def test_mistakes_are_named(tmp_path):
    with pytest.raises(UsageError, match=r"unknown format 'cocoo'\. Did you mean 'coco'"):
        export_scenes(tmp_path / "data", "cocoo")
    with pytest.raises(UsageError, match="exists already"):
        export_scenes(tmp_path, "coco")
    with pytest.raises(UsageError, match="scenes_per_class must be at least 1, got 0"):
        export_scenes(tmp_path / "data", "coco", scenes_per_class=0)
