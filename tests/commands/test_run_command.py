"""From a folder of images to boxes in one command, as a user gives it."""

import json
import shutil
from pathlib import Path

import pytest
from tiny_folder import CLASSES, write_folder
from tiny_run import write_weights

from sat_peft.commands import run as command
from sat_peft.errors import UsageError
from sat_peft.tuner.frozen import tokens_after

pytestmark = pytest.mark.usefixtures("threads")


@pytest.fixture(scope="module")
def options(tmp_path_factory) -> dict:
    weights = write_weights(tmp_path_factory.mktemp("weights"))
    return {"backbone": "test_vit", "weights": weights, "image_size": 64, "steps": 2, "threads": 1}


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    """Nine images in class folders, without splits and without boxes."""
    folder = tmp_path_factory.mktemp("photos")
    write_folder(folder / "split", boxes=False)
    shutil.move(folder / "split" / "train", folder / "photos")
    return folder / "photos"


@pytest.fixture(scope="module")
def done(photos, options, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("done") / "boxes"
    assert command.main(command.Config(images=photos, output=output, formats=("jsonl", "voc"), **options)) == 0
    return output


def predictions(output: Path) -> list[dict]:
    return [json.loads(line) for line in (output / "predictions/predictions.jsonl").read_text().splitlines()]


def test_every_image_has_a_box_of_its_own_class(photos, done):
    rows = predictions(done)
    assert [row["image_id"] for row in rows] == [
        f"{each.name}/{index}.jpg" for each in sorted(CLASSES, key=lambda each: each.name) for index in range(3)
    ]
    assert all(row["label"] == row["image_id"].split("/")[0] for row in rows)
    assert len(list((done / "predictions/voc").rglob("*.xml"))) == 9
    assert (done / "run/report.html").exists()
    assert (done / "check/contact_sheet.png").exists()
    results = json.loads((done / "run/results.json").read_text())
    assert list(results["methods"]) == ["sat"]
    assert results["training_images"] == 6  # one of three is set aside in every class


def test_second_call_computes_nothing_again(photos, done, options, capsys):
    before = {path: path.stat().st_mtime_ns for path in (done / "run").rglob("*") if path.is_file()}
    assert command.main(command.Config(images=photos, output=done, formats=("jsonl", "voc"), **options)) == 0
    assert "finished before" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in (done / "run").rglob("*") if path.is_file()} == before


def test_images_pass_the_frozen_blocks_once(photos, options, tmp_path, monkeypatch):
    computed = []

    def counted(vit, images, blocks):
        computed.append(len(images))
        return tokens_after(vit, images, blocks)

    monkeypatch.setattr("sat_peft.tuner.kept.tokens_after", counted)
    output = tmp_path / "boxes"
    # Twenty images in a step are the nine twice: views of them are not worth their time.
    assert command.main(command.Config(images=photos, output=output, **options | {"steps": 1})) == 0
    assert sum(computed) == 2 * 9  # each and its mirror image, for readout, threshold, evaluation and prediction
    config = json.loads((output / "run/config.json").read_text())
    assert config["augmentation"] == "none"
    assert config["feature_cache"]
    assert not (output / "features").exists()
    assert len(predictions(output)) == 9
    # The cache, which is gone, is not asked for again.
    shutil.rmtree(output / "predictions")
    assert command.main(command.Config(images=photos, output=output, **options | {"steps": 1})) == 0
    assert len(predictions(output)) == 9


def test_interrupted_run_goes_on_with_its_cache(photos, options, tmp_path, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    output = tmp_path / "boxes"
    config = command.Config(images=photos, output=output, **options | {"steps": 1})
    built = set()
    for _ in range(2):
        with monkeypatch.context() as patch:
            patch.setattr("sat_peft.training.building.fit_class_readout", interrupted)
            with pytest.raises(KeyboardInterrupt):
                command.main(config)
        (cache,) = (output / "features").glob("*.npy")
        built.add(cache.stat().st_ino)
    assert len(built) == 1
    assert command.main(config) == 0
    assert not cache.exists()
    assert len(predictions(output)) == 9


def test_few_images_are_seen_in_many_views(done):
    config = json.loads((done / "run/config.json").read_text())
    assert config["augmentation"] == "shift"
    assert config["feature_cache"] is None


def test_images_in_no_class_folder_get_the_predicted_class(photos, done, options, tmp_path):
    more = shutil.copytree(photos, tmp_path / "more")
    shutil.copy(next(photos.rglob("*.jpg")), more / "loose.jpg")
    output = tmp_path / "boxes"
    command.main(command.Config(images=more, output=output, **options))
    rows = {row["image_id"]: row for row in predictions(output)}
    assert len(rows) == 10
    assert all(row["label"] == row["predicted_label"] for row in rows.values())
    assert "loose.jpg" in rows


def test_other_options_are_refused_and_leave_the_run(photos, done, options):
    before = (done / "run/results.json").read_bytes()
    with pytest.raises(UsageError, match="was started with steps 2"):
        command.main(command.Config(images=photos, output=done, **options | {"steps": 3}))
    assert (done / "run/results.json").read_bytes() == before


def test_what_stops_training_ends_the_command(photos, options, tmp_path, capsys):
    bad = shutil.copytree(photos, tmp_path / "bad")
    next(bad.rglob("*.jpg")).write_bytes(b"no image")
    output = tmp_path / "boxes"
    assert command.main(command.Config(images=bad, output=output, **options)) == 1
    assert "--skip-bad" in capsys.readouterr().out
    assert not (output / "run").exists()
    assert command.main(command.Config(images=bad, output=output, skip_bad=True, **options)) == 0
    assert len(predictions(output)) == 8


def test_output_among_the_images_is_refused(photos, options):
    with pytest.raises(UsageError, match="would be taken for a class"):
        command.main(command.Config(images=photos, output=photos / "boxes", **options))
    assert not (photos / "boxes").exists()
