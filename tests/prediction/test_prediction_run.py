"""Predicting a folder of images: complete, continued, refused, and on a disk that is full."""

import errno
import json
import os
from pathlib import Path

import numpy as np
import pytest
from accelerate import Accelerator
from PIL import Image
from tiny_run import CLASSES, THRESHOLD, write_run

from sat_peft import Localizer
from sat_peft.data.writing import writers
from sat_peft.errors import UsageError
from sat_peft.prediction import pictures
from sat_peft.prediction.inputs import find_images, folder_labels
from sat_peft.prediction.predict import _read_sample, predict


@pytest.fixture(scope="module")
def localizer(tmp_path_factory) -> Localizer:
    return Localizer.from_pretrained(write_run(tmp_path_factory.mktemp("run")), device="cpu")


@pytest.fixture
def photos(tmp_path) -> Path:
    """Five images, two of the same name, and one that is damaged in the middle of their order."""
    generator = np.random.default_rng(0)
    for number, name in enumerate(
        ("ant/1.png", "ant/2.png", "bee & wasp/1.png", "bee & wasp/2.jpg", "bee & wasp/3.jpg")
    ):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        image = Image.fromarray(generator.integers(0, 255, (3, 4, 3), np.uint8))
        image.resize((40 + number, 30), Image.Resampling.NEAREST).save(path)
    damaged = tmp_path / "photos" / "ant" / "11.jpg"
    damaged.write_bytes((tmp_path / "photos" / "bee & wasp" / "3.jpg").read_bytes()[:300])
    return tmp_path / "photos"


def run(localizer, photos, output, **options):
    return predict(localizer, find_images([photos]), output, Accelerator(cpu=True), batch_size=2, **options)


def rows(output: Path) -> list[dict]:
    return [json.loads(line) for line in (output / "predictions.jsonl").read_text(encoding="utf-8").splitlines()]


def tree(folder: Path) -> dict:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


READABLE = ["ant/1.png", "ant/2.png", "bee & wasp/1.png", "bee & wasp/2.jpg", "bee & wasp/3.jpg"]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_every_image_is_predicted_as_by_the_localizer(localizer, photos, tmp_path, num_workers):
    summary = run(localizer, photos, tmp_path / "out", num_workers=num_workers, multi=True)
    found = rows(tmp_path / "out")
    assert [row["image_id"] for row in found] == READABLE
    for row in found:
        [expected] = localizer(photos / row["image_id"], multi=True)
        assert (row["label"], row["width"], row["height"]) == (expected.label, *expected.image_size)
        assert row["boxes"] == expected.boxes.tolist()
        assert row["score"] == pytest.approx(expected.score, abs=1e-5)
    assert (summary.images, summary.done_before, list(summary.failures)) == (6, 0, ["ant/11.jpg"])


def test_boxes_that_are_the_whole_image_are_counted(photos, tmp_path):
    (tmp_path / "model").mkdir()
    everywhere = Localizer.from_pretrained(write_run(tmp_path / "model"), device="cpu", threshold=0.0)
    first = run(everywhere, photos, tmp_path / "out")
    found = [(row["box"], row["width"] * row["height"]) for row in rows(tmp_path / "out")]
    whole = sum((x1 - x0) * (y1 - y0) >= 0.98 * area for (x0, y0, x1, y1), area in found)
    assert first.whole_image_boxes == whole > 0
    # Those that were done before count too.
    assert run(everywhere, photos, tmp_path / "out").whole_image_boxes == whole


def test_unreadable_image_is_listed_and_tried_again(localizer, photos, tmp_path):
    output = tmp_path / "out"
    summary = run(localizer, photos, output)
    [line] = (output / "skipped.jsonl").read_text().splitlines()
    skipped = json.loads(line)
    assert skipped["image_id"] == "ant/11.jpg"
    assert skipped["error"] == summary.failures["ant/11.jpg"]
    assert "cannot be read" in skipped["error"]
    Image.new("RGB", (5, 5)).save(photos / "ant" / "11.jpg")
    assert run(localizer, photos, output).failures == {}
    assert not (output / "skipped.jsonl").exists()
    assert [row["image_id"] for row in rows(output)] == ["ant/1.png", "ant/11.jpg", *READABLE[1:]]


def test_strict_stops_and_keeps_what_is_done(localizer, photos, tmp_path):
    with pytest.raises(UsageError, match=r"'ant/11\.jpg' cannot be read"):
        run(localizer, photos, tmp_path / "out", strict=True)
    (photos / "ant" / "11.jpg").unlink()
    assert run(localizer, photos, tmp_path / "out", strict=True).failures == {}
    assert [row["image_id"] for row in rows(tmp_path / "out")] == READABLE


def test_image_that_breaks_a_decoder_in_an_unknown_way_does_not_end_the_run(localizer, photos):
    class Images:
        image_ids = ("a",)

        def decode(self, index):
            raise IndexError("corrupt directory")

    sample = _read_sample(Images(), 0, localizer.resize, thumbnails=False)
    assert sample == {"index": 0, "error": "IndexError: corrupt directory"}


class Killed(BaseException):
    """Stands for a process that dies between two batches."""


@pytest.mark.parametrize("batches", [1, 2])
def test_killed_run_goes_on_to_the_same_files_without_doing_anything_twice(
    localizer, photos, tmp_path, monkeypatch, batches
):
    options = {"maps": True, "overlays": True, "formats": tuple(writers())}
    (photos / "ant" / "1.png").rename(photos / "ant" / "0.png")
    run(localizer, photos, tmp_path / "whole", **options)
    localize, calls = localizer.localize_inputs, []

    def counted(inputs, *rest, **settings):
        if len(calls) == batches:
            raise Killed
        calls.append(len(inputs))
        return localize(inputs, *rest, **settings)

    monkeypatch.setattr(localizer, "localize_inputs", counted)
    with pytest.raises(Killed):
        run(localizer, photos, tmp_path / "out", **options)
    assert not (tmp_path / "out" / "coco.json").exists()
    journal = tmp_path / "out" / "journal-0.jsonl"
    with journal.open("ab") as file:  # the line that the process was writing
        file.write(b'{"image_id": "bee')
    (tmp_path / "out" / "maps" / ".3.png.77.tmp").write_bytes(b"half a map")
    done = sum(calls)
    calls.clear()
    batches = 99
    summary = run(localizer, photos, tmp_path / "out", **options)
    assert summary.done_before == done
    assert sum(calls) == 5 - done
    whole, continued = tree(tmp_path / "whole"), tree(tmp_path / "out")
    for files in (whole, continued):
        del files["journal-0.jsonl"]
    assert continued.keys() == whole.keys()
    # Scores and maps are rounded in another way in batches of another size; boxes and settings are the same.
    for name in whole:
        if name.endswith((".txt", ".yaml", "prediction.json")):
            assert continued[name] == whole[name]
    assert [row["image_id"] for row in rows(tmp_path / "out")] == ["ant/0.png", *READABLE[1:]]


def test_images_that_have_come_since_are_added(localizer, photos, tmp_path):
    output = tmp_path / "out"
    run(localizer, photos, output, formats=("coco",))
    Image.new("RGB", (9, 9)).save(photos / "ant" / "0.png")
    (photos / "ant" / "1.png").unlink()
    summary = run(localizer, photos, output)
    assert (summary.images, summary.done_before) == (6, 4)
    assert [row["image_id"] for row in rows(output)] == ["ant/0.png", *READABLE[1:]]
    # Formats of the first call are brought up to date with the second.
    names = [image["file_name"] for image in json.loads((output / "coco.json").read_text())["images"]]
    assert names == ["ant/0.png", *READABLE[1:]]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"multi": True}, "multi False there, True here"),
        ({"maps": True}, "maps False there, True here"),
        ({"labels": "folder"}, "labels 'predicted' there, 'given' here"),
        ({"threshold": 0.9}, r"threshold 0\.45 there, 0\.9 here"),
        ({"adapter": True}, "adapter '"),
        ({"tta": "flip"}, "tta 'none' there, 'flip' here"),
    ],
)
def test_folder_of_other_settings_is_refused_unless_it_may_be_overwritten(localizer, photos, tmp_path, change, words):
    output = tmp_path / "out"
    run(localizer, photos, output)
    before = tree(output)
    other, options = localizer, dict(change)
    if "threshold" in change:
        other = Localizer(localizer.model, threshold=options.pop("threshold"), device="cpu")
    if "tta" in change:
        other = Localizer(localizer.model, threshold=THRESHOLD, device="cpu", tta=options.pop("tta"))
    if "adapter" in change:
        del options["adapter"]
        (tmp_path / "second").mkdir()
        other = Localizer.from_pretrained(write_run(tmp_path / "second"), device="cpu")
        other.model.base_model.model.norm.sat_head["default"].bias.data += 1
    if "labels" in change:
        options["labels"] = folder_labels(find_images([photos]), CLASSES)
    with pytest.raises(UsageError, match=rf"other settings .*{words}.*--overwrite"):
        run(other, photos, output, **options)
    assert tree(output) == before
    summary = run(other, photos, output, overwrite=True, **options)
    assert summary.done_before == 0
    assert len(rows(output)) == 5


def test_folder_of_a_version_without_augmentation_goes_on(localizer, photos, tmp_path):
    output = tmp_path / "out"
    run(localizer, photos, output)
    settings = json.loads((output / "prediction.json").read_text())
    assert settings.pop("tta") == "none"
    (output / "prediction.json").write_text(json.dumps(settings))
    # One image of the folder cannot be read, and is tried again.
    assert run(localizer, photos, output).done_before == 5


def test_images_of_another_root_are_refused(localizer, photos, tmp_path):
    run(localizer, photos, tmp_path / "out")
    with pytest.raises(UsageError, match=r"root .*photos' there, .*photos/ant' here"):
        run(localizer, photos / "ant", tmp_path / "out")


def test_folder_of_other_files_is_refused_whatever(localizer, photos, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "results.json").write_text("{}")
    for overwrite in (False, True):
        with pytest.raises(UsageError, match=r"no predictions \(results\.json\)"):
            run(localizer, photos, tmp_path / "out", overwrite=overwrite)
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="is a file"):
        run(localizer, photos, tmp_path / "file")


def test_labels_from_folders(localizer, photos, tmp_path):
    labels = folder_labels(find_images([photos]), CLASSES)
    run(localizer, photos, tmp_path / "out", labels=labels)
    assert [row["label"] for row in rows(tmp_path / "out")] == ["ant"] * 2 + ["bee & wasp"] * 3


def test_maps_and_overlays(localizer, photos, tmp_path):
    Image.new("RGB", (3000, 2)).save(photos / "ant" / "wide.png")
    run(localizer, photos, tmp_path / "out", maps=True, overlays=True)
    with Image.open(tmp_path / "out/maps/ant/2.png") as grey:
        assert (grey.mode, grey.size, grey.getextrema()) == ("L", (41, 30), (0, 255))
        [found] = localizer(photos / "ant/2.png")
        np.testing.assert_allclose(np.asarray(grey) / 255, found.score_map(), atol=0.5 / 255 + 1e-3)
    with Image.open(tmp_path / "out/overlays/bee & wasp/3.jpg") as picture:
        assert (picture.mode, picture.size) == ("RGB", (44, 30))
    with Image.open(tmp_path / "out/overlays/ant/wide.jpg") as picture:
        assert picture.size == (1024, 1)


def test_pictures_of_images_that_share_a_stem_stay_apart(localizer, photos, tmp_path):
    output = tmp_path / "out"
    run(localizer, photos, output, overlays=True)
    assert sorted(path.name for path in (output / "overlays" / "bee & wasp").iterdir()) == ["1.jpg", "2.jpg", "3.jpg"]
    before = (output / "overlays" / "bee & wasp" / "2.jpg").read_bytes()
    Image.new("RGB", (9, 7)).save(photos / "bee & wasp" / "2.png")
    assert run(localizer, photos, output, overlays=True).done_before == 5
    assert (output / "overlays" / "bee & wasp" / "2.jpg").read_bytes() == before
    with Image.open(output / "overlays" / "bee & wasp" / "2.png.jpg") as picture:
        assert picture.size == (9, 7)


def test_longest_file_names_are_taken(localizer, tmp_path):
    """255 bytes, the most that a file system takes: in ASCII, in three bytes a letter, and without a suffix."""
    names = ["a" * 251 + ".png", "b" * 251 + ".gif", "é日" * 50 + "c.png", "c" * 255]
    (tmp_path / "photos").mkdir()
    for name in names:
        Image.effect_noise((9, 7), 90).save(tmp_path / "photos" / name, format="PNG")
    images = find_images([tmp_path / "photos" / name for name in names])
    options = {"formats": tuple(writers()), "maps": True, "overlays": True}
    for done_before in (0, 4):
        summary = predict(localizer, images, tmp_path / "out", Accelerator(cpu=True), **options)
        assert (summary.done_before, summary.failures) == (done_before, {})
    for folder in ("maps", "overlays", "yolo/labels"):
        assert len(list((tmp_path / "out" / folder).iterdir())) == 4


def test_journal_of_an_earlier_version_goes_on(localizer, photos, tmp_path):
    output = tmp_path / "out"
    run(localizer, photos, output)
    journal = output / "journal-0.jsonl"
    lines = [json.loads(line) for line in journal.read_text(encoding="utf-8").splitlines()]
    for line in lines:
        line.pop("predicted_label", None)
    journal.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert run(localizer, photos, output).done_before == 5
    assert all(row["predicted_label"] == row["label"] for row in rows(output))


@pytest.mark.parametrize(("change", "flat"), [({}, False), ({"rename": True}, True), ({"flat": False}, False)])
def test_voc_and_yolo_are_flat_where_names_are_unique(localizer, photos, tmp_path, change, flat):
    options = dict(change)
    if options.pop("rename", False) or "flat" in options:
        (photos / "ant" / "1.png").rename(photos / "ant" / "10.png")
        (photos / "ant" / "2.png").rename(photos / "ant" / "20.png")
    run(localizer, photos, tmp_path / "out", formats=("voc", "yolo"), **options)
    for folder, suffix in (("voc", "xml"), ("yolo/labels", "txt"), ("voc/images", "*"), ("yolo/images", "*")):
        found = list((tmp_path / "out" / folder).glob(f"3.{suffix}" if flat else f"bee & wasp/3.{suffix}"))
        assert len(found) == 1
    # A link leads to the image, so that the two folders are a data set as they stand.
    assert found[0].read_bytes() == (photos / "bee & wasp" / "3.jpg").read_bytes()


def test_flat_files_that_would_be_shared_are_refused(localizer, photos, tmp_path):
    with pytest.raises(UsageError, match=r"'ant/1\.png' and 'bee & wasp/1\.png' would share .* take --no-flat"):
        run(localizer, photos, tmp_path / "out", formats=("yolo",), flat=True)
    assert not (tmp_path / "out").exists()


def test_given_class_stands_beside_the_predicted_one(localizer, photos, tmp_path):
    images = find_images([photos])
    labels = folder_labels(images, CLASSES)
    predicted = {}
    run(localizer, photos, tmp_path / "free")
    for row in rows(tmp_path / "free"):
        assert (row["given_label"], row["predicted_label"]) == (None, row["label"])
        predicted[row["image_id"]] = row["label"]
    run(localizer, photos, tmp_path / "given", labels=labels, formats=("jsonl", "imagefolder"))
    assert [row["predicted_label"] for row in rows(tmp_path / "given")] == [predicted[name] for name in READABLE]
    lines = (tmp_path / "given" / "metadata.jsonl").read_text(encoding="utf-8").splitlines()
    for row in map(json.loads, lines):
        assert row["label"] == row["file_name"].split("/")[0] == row["objects"]["categories"][0]
        assert row["predicted_label"] == predicted[row["file_name"]]


def test_overlay_frames_the_box(localizer):
    image = np.zeros((100, 200, 3), np.uint8)
    [found] = localizer(image)
    boxes = np.array([[50.0, 40.0, 150.0, 90.0], [0.0, 95.0, 5.0, 100.0]])
    found = type(found)(**(vars(found) | {"box": boxes[0], "boxes": boxes}))
    picture = np.asarray(pictures.overlay(found, image)).astype(int)
    red = (picture == (255, 59, 48)).all(-1)
    y, x = np.nonzero(red)
    assert (x.min(), y.min(), x.max() + 1, y.max() + 1) == (50, 40, 150, 90)
    assert not red[45:85, 55:145].any()
    assert (picture[95, :5] == 255).all()


def test_full_disk_is_said_and_nothing_is_half_written(localizer, photos, tmp_path, monkeypatch):
    """The disk fills up while the second map is written, and then while the annotations are."""
    output = tmp_path / "out"
    written = []
    save = Image.Image.save

    def save_until_full(image, path, **options):
        written.append(path)
        if len(written) == 2:
            Path(path).write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")
        save(image, path, **options)

    monkeypatch.setattr(Image.Image, "save", save_until_full)
    with pytest.raises(UsageError, match=r"no space is left .* give the same command again"):
        run(localizer, photos, output, maps=True)
    assert [path.name for path in (output / "maps").rglob("*.*")] == ["1.png"]
    monkeypatch.undo()

    synchronise = os.fsync

    def full(descriptor):
        if "coco.json" in os.readlink(f"/proc/self/fd/{descriptor}"):
            raise OSError(errno.ENOSPC, "No space left on device")
        synchronise(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UsageError, match="no space is left"):
        run(localizer, photos, output, maps=True, formats=("coco",))
    assert not [path for path in output.iterdir() if "coco" in path.name]
    monkeypatch.undo()
    summary = run(localizer, photos, output, maps=True, formats=("coco",))
    assert summary.done_before == 5
    assert len(json.loads((output / "coco.json").read_text())["images"]) == 5


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"formats": ("coca",)}, "unknown format 'coca'"),
        ({"formats": ("voc",)}, "would share one file"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"num_workers": -1}, "num_workers must be at least 0"),
        ({"multi": True, "min_area": 7.0}, "min_area must be from 0 to 1"),
    ],
)
def test_mistakes_are_answered_before_anything_is_written(localizer, photos, tmp_path, options, words):
    Image.new("RGB", (5, 5)).save(photos / "ant" / "1.jpg")
    options = {"batch_size": 2} | options
    with pytest.raises(UsageError, match=words):
        predict(localizer, find_images([photos]), tmp_path / "out", Accelerator(cpu=True), **options)
    assert not (tmp_path / "out").exists()


def test_long_names_have_maps_and_overlays_too(localizer, tmp_path):
    names = [f"{letter * 251}.png" for letter in "ab"]
    for name in names:
        path = tmp_path / "photos" / name
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (40, 30), (90, 30, 9)).save(path)
    summary = run(localizer, tmp_path / "photos", tmp_path / "out", maps=True, overlays=True, formats=("jsonl", "voc"))
    assert (summary.images, summary.failures) == (2, {})
    for folder in ("maps", "overlays"):
        assert len(list((tmp_path / "out" / folder).iterdir())) == 2
