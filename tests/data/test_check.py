"""What the check of a data set finds, by its kind, and whether training may start."""

import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sat_peft.data.check import KINDS, SKIPPED_KINDS, check_data
from sat_peft.data.features import localization_features
from sat_peft.data.sources import load_source
from sat_peft.errors import UsageError

SCRIPT = Path(__file__).parents[2] / "scripts" / "check_data.py"


def write_image(file: Path, seed: int, size: tuple[int, int] = (40, 20), **options) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    width, height = size
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, **options)
    return file


def write_boxes(folder: Path, boxes: dict[str, list]) -> None:
    rows = [json.dumps({"file_name": name, "objects": {"bbox": found}}) for name, found in boxes.items()]
    (folder / "metadata.jsonl").write_text("\n".join(rows) + "\n")


@pytest.fixture
def root(tmp_path):
    """Two classes; three training and two test images each, no two alike, the test images with boxes."""
    for label, name in enumerate(("cat", "dog")):
        for index in range(3):
            write_image(tmp_path / "train" / name / f"{index}.png", 10 * label + index)
        for index in range(2):
            write_image(tmp_path / "test" / name / f"{index}.png", 100 + 10 * label + index)
    write_boxes(
        tmp_path / "test",
        {
            "cat/0.png": [[0, 0, 20, 20]],  # half of the image
            "cat/1.png": [[0, 0, 40, 20]],
            "dog/0.png": [[0, 0, 4, 2], [10, 10, 4, 2]],  # a hundredth each
            "dog/1.png": [[0, 0, 10, 20]],
        },
    )
    return tmp_path


def check(root: Path, **options):
    return check_data(lambda split, problems: load_source(str(root), split, problems=problems), workers=2, **options)


def found(root: Path, **options) -> dict[str, list[str]]:
    return {finding.kind: finding.listed for finding in check(root, **options).findings}


def test_sound_data_has_no_findings_and_its_figures_are_known(root):
    checked = check(root)
    assert checked.ok
    assert checked.findings == []
    summary = checked.summary()["splits"]
    assert list(summary) == ["train", "test"]
    assert summary["train"]["images"] == 6
    assert summary["train"]["classes"] == {"cat": 3, "dog": 3}
    assert summary["train"]["images_by_number_of_boxes"] == {"0": 6}
    assert summary["train"]["box_area_share"] is None
    assert summary["test"]["images_by_number_of_boxes"] == {"1": 3, "2": 1}
    assert summary["test"]["width"] == {"min": 40, "5%": 40, "median": 40, "95%": 40, "max": 40}
    assert summary["test"]["box_area_share"]["min"] == 0.01
    assert summary["test"]["box_area_share"]["max"] == 1
    histogram = summary["test"]["box_area_histogram"]
    assert dict(zip(histogram["edges"][1:], histogram["boxes"], strict=True))[1] == 1
    assert sum(histogram["boxes"]) == 5


def test_files_that_cannot_be_read_are_all_told(root):
    (root / "train/cat/empty.png").touch()
    (root / "train/cat/text.jpg").write_text("no image")
    whole = write_image(root / "test/dog/cut.png", 5).read_bytes()
    (root / "test/dog/cut.png").write_bytes(whole[:200])
    checked = check(root)
    assert not checked.ok
    listed = {finding.kind: finding.listed for finding in checked.findings}
    assert [text.split(": ")[0] for text in listed["entry"]] == ["train"]
    assert "empty.png: the file is empty" in listed["entry"][0]
    assert [text[:40] for text in listed["image"]] == [
        "train: the image 'train/cat/text.jpg' ca",
        "test: the image 'test/dog/cut.png' canno",
    ]
    assert checked.splits["train"].summary()["unreadable"] == 1
    assert check(root, tolerated=SKIPPED_KINDS).ok


def test_boxes_that_leave_their_image_are_told_with_the_box(root):
    write_boxes(root / "train", {"cat/1.png": [[0, 0, 5, 5], [30, 10, 20, 5]], "dog/0.png": [[0, 0, 41, 20]]})
    checked = check(root)
    (finding,) = checked.findings
    assert (finding.kind, finding.stops, finding.count) == ("box", True, 1)  # one pixel is tolerated
    assert "train/cat/1.png: the box [30.0, 10.0, 50.0, 15.0]" in finding.listed[0]
    assert checked.splits["train"].bad_boxes == [1]


def test_boxes_of_stored_pixels_are_recognised(root):
    exif = Image.Exif()
    exif[0x0112] = 6
    write_image(root / "train/cat/turned.png", 7, exif=exif)
    write_boxes(root / "train", {"cat/turned.png": [[25, 0, 10, 10]]})
    (text,) = found(root)["box"]
    assert "20 x 40 pixels" in text
    assert "EXIF orientation 6 turns" in text
    assert check(root).splits["train"].turned == 1


def test_the_same_picture_in_two_splits_is_leakage(root):
    """Identical files, and the same pixels in another lossless format."""
    image = Image.open(root / "train/cat/0.png")
    image.save(root / "test/cat/again.bmp")
    (root / "test/cat/same.png").write_bytes((root / "train/cat/1.png").read_bytes())
    image.save(root / "test/cat/lossy.jpg", quality=30)
    checked = check(root)
    assert not checked.ok
    (finding,) = checked.findings
    assert finding.kind == "leak"
    assert sorted(finding.listed) == [
        "train/cat/0.png = test/cat/again.bmp",
        "train/cat/1.png = test/cat/same.png",
    ]
    assert check(root, tolerated=["leak"]).ok


def test_repeated_images_inside_a_split_do_not_stop_training(root):
    for copy in ("cat/copy.png", "dog/stray.png"):
        (root / "train" / copy).write_bytes((root / "train/cat/0.png").read_bytes())
    (root / "test/dog/copy.png").write_bytes((root / "test/dog/0.png").read_bytes())
    checked = check(root)
    assert checked.ok
    assert {finding.kind: finding.listed for finding in checked.findings} == {
        "conflict": ["train: train/cat/0.png = train/cat/copy.png = train/dog/stray.png"],
        "duplicate": ["test: test/dog/0.png = test/dog/copy.png"],
    }


def test_pictures_of_the_same_bytes_and_another_shape_differ(root):
    for name, size in (("wide", (40, 20)), ("high", (20, 40))):
        Image.new("RGB", size, (5, 5, 5)).save(root / "train/cat" / f"{name}.png")
    assert found(root) == {}


def test_classes_without_images(root):
    (root / "train/cow").mkdir()
    for file in (root / "test/dog").iterdir():
        file.unlink()
    (root / "test/metadata.jsonl").unlink()
    checked = check(root)
    assert {finding.kind: (finding.stops, finding.listed) for finding in checked.findings} == {
        "untrained_class": (True, ["train: cow"]),
        "untested_class": (False, ["test: cow", "test: dog"]),
    }


def test_split_that_cannot_be_read_does_not_hide_the_others(root):
    write_image(root / "test/cow/0.png", 1)
    (root / "train/cat/text.jpg").write_text("no image")
    listed = found(root)
    assert set(listed) == {"split", "image"}
    assert "class folders that" in listed["split"][0]


def test_data_without_any_split_is_an_error(tmp_path):
    with pytest.raises(UsageError, match="Expected ROOT/train/CLASS"):
        check(tmp_path)


@pytest.mark.parametrize("workers", [0, -1])
def test_number_of_workers_is_checked(workers):
    with pytest.raises(UsageError, match=rf"workers must be at least 1, got {workers}"):
        check_data(lambda split, problems: None, workers=workers)


def made(masks: list, boxes: list):
    """A data set of another maker: what sources refuse may be in it."""
    from datasets import Dataset

    def png(array):
        import cv2

        return {"bytes": cv2.imencode(".png", array)[1].tobytes(), "path": None}

    pictures = [np.random.default_rng(index).integers(0, 256, (20, 40, 3), np.uint8) for index in range(2)]
    return Dataset.from_dict(
        {
            "image_id": ["a", "b"],
            "image": [png(picture) for picture in pictures],
            "label": [0, 1],
            "boxes": boxes,
            "mask": [png(mask) for mask in masks],
        },
        features=localization_features(["cat", "dog"], with_mask=True),
    )


def test_masks_and_boxes_of_ready_data_sets():
    full, empty, small = (np.full((20, 40), 255, np.uint8), np.zeros((20, 40), np.uint8), np.zeros((5, 5), np.uint8))
    rows = {"train": made([full, empty], [[], []]), "test": made([small, full], [[[0, 0, 5, 0]], [[1, 1, 2, 2]]])}
    checked = check_data(lambda split, problems: rows.get(split))
    listed = {finding.kind: finding.listed for finding in checked.findings}
    assert listed["empty_mask"] == ["train: b"]
    assert len(listed["mask"]) == 1
    assert "a mask of 'a' has 5 x 5 pixels" in listed["mask"][0]
    assert listed["box"] == ["test: a: the box [0.0, 0.0, 5.0, 0.0] (x0, y0, x1, y1) has no area."]
    assert listed["leak"] == ["a = a", "b = b"]
    assert checked.splits["train"].num_masked == 2


def run_script(monkeypatch, capsys, *arguments) -> tuple[int, str]:
    monkeypatch.setattr(sys, "argv", ["check_data.py", *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(SCRIPT), run_name="__main__")
    output = capsys.readouterr()
    return end.value.code, output.out + output.err


def test_script_writes_a_report_and_its_status_says_whether_training_may_start(root, tmp_path, monkeypatch, capsys):
    output = tmp_path / "report"
    status, text = run_script(monkeypatch, capsys, "--data", root, "--output", output)
    assert status == 0
    assert "Training may start." in text
    report = json.loads((output / "report.json").read_text())
    assert report["ok"] is True
    assert report["splits"]["test"]["classes"] == {"cat": 2, "dog": 2}
    assert Image.open(output / "contact_sheet.png").width > 300

    status, text = run_script(monkeypatch, capsys, "--data", root, "--output", output)
    assert status == 2
    assert "--overwrite" in text

    (root / "train/cat/text.jpg").write_text("no image")
    arguments = ("--data", root, "--output", output, "--overwrite")
    status, text = run_script(monkeypatch, capsys, *arguments)
    assert status == 1
    assert "STOPS TRAINING: 1 images that cannot be read" in text
    assert json.loads((output / "report.json").read_text())["findings"][0]["count"] == 1
    assert run_script(monkeypatch, capsys, *arguments, "--skip-bad")[0] == 0


def test_a_report_for_which_there_was_no_space_is_written_by_the_same_command(root, tmp_path, monkeypatch, capsys):
    def full(path, value):
        raise OSError(28, "No space left on device", str(path))

    arguments = ("--data", root, "--output", tmp_path / "report")
    with monkeypatch.context() as context:
        context.setattr("sat_peft.files.outputs.write_json_atomic", full)
        status, text = run_script(monkeypatch, capsys, *arguments)
    assert status == 2
    assert f"no space is left for '{tmp_path / 'report' / 'report.json'}'" in text
    assert run_script(monkeypatch, capsys, *arguments)[0] == 0


def test_script_refuses_data_that_does_not_exist(tmp_path, monkeypatch, capsys):
    status, text = run_script(monkeypatch, capsys, "--data", tmp_path / "nowhere", "--output", tmp_path / "report")
    assert status == 2
    assert "error: " in text
    assert not (tmp_path / "report").exists()


def test_every_kind_says_what_to_do():
    assert all(kind.title and kind.fix.endswith(".") for kind in KINDS.values())
    assert set(SKIPPED_KINDS) < set(KINDS)
