"""What a recipe leaves for the report: a record for every image, pictures for a bounded number, whole files."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from PIL import Image
from processes import run_processes
from run_folders import CLASSES, SIZE, evaluated, left_half, loader

from sat_peft.evaluation.figures import MAIN_FIGURES
from sat_peft.evaluation.measure import Measured
from sat_peft.report.records import MapPictures, choose_pictured, measurement, write_gallery
from sat_peft.tuner import SatOutput


def write(folder: Path, count: int, method=left_half, *, protocol="original", boxes=True, batch_size=4, **options):
    test_loader = loader(count, boxes=boxes, protocol=protocol, batch_size=batch_size)
    pictures = MapPictures()
    evaluation = evaluated(test_loader, protocol=protocol, method=method, see=pictures)
    write_gallery(folder, pictures, test_loader, evaluation, Accelerator(cpu=True), protocol=protocol, **options)
    return evaluation


def records(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "gallery/records.jsonl").read_text(encoding="utf-8").splitlines()]


def test_every_image_has_a_record(tmp_path):
    write(tmp_path, 6)
    found = records(tmp_path)
    assert [record["image_id"] for record in found] == [f"test/{CLASSES[i % 3]}/{i}.png" for i in range(6)]
    # The left half against the left sixth, two sixths, three sixths, ...
    assert [record["iou"] for record in found] == pytest.approx([1 / 3, 2 / 3, 1, 3 / 4, 3 / 5, 1 / 2], abs=0.03)
    third = found[2]
    assert third["label"] == CLASSES[2]
    assert third["predicted"] == CLASSES[0]
    assert third["score"] == pytest.approx(0.8)
    assert third["box"] == [0, 0, 30, 40]
    assert third["true_boxes"] == [[0, 0, 30, 40]]
    assert third["size"] == list(SIZE)
    assert (third["correct"], third["top1_correct"]) == (True, False)
    assert third["map_ranges"] == [[0, 0.5], [0, 1], [0, 0]]
    about = json.loads((tmp_path / "gallery/gallery.json").read_text())
    assert about["num_images"] == 6
    assert about["pictured"] == {"all": 6}
    assert about["threshold_source"] == "fixed: given"


def test_pictures_are_the_image_and_its_maps(tmp_path):
    write(tmp_path, 3)
    with Image.open(tmp_path / "gallery/000002.jpg") as image:
        assert (image.format, image.size) == ("JPEG", SIZE)
    with Image.open(tmp_path / "gallery/000002.png") as image:
        maps = np.asarray(image)
    assert maps.shape == (4, 3 * 6)
    # The map and the first block, each stretched to the whole range; the empty second block stays black.
    half = [255] * 3 + [0] * 3
    assert maps.tolist() == [half + half + [0] * 6] * 4


def test_sat_output_is_taken_as_it_is(tmp_path):
    def method(images, labels):
        logits, maps, block_maps = left_half(images, labels)
        return SatOutput(logits=logits, maps=maps, block_maps=block_maps)

    write(tmp_path / "output", 3, method)
    write(tmp_path / "tuple", 3)
    assert records(tmp_path / "output") == records(tmp_path / "tuple")


def test_pictures_are_small_and_few_whatever_the_images(tmp_path, monkeypatch):
    big = Image.effect_noise((1000, 500), 100).convert("RGB")
    pixels = torch.from_numpy(np.array(big)).permute(2, 0, 1)
    monkeypatch.setattr("sat_peft.data.loaders.ImageRows.decode", lambda rows, index: pixels)

    def fine_maps(images, labels):
        logits, _, _ = left_half(images, labels)
        return logits, torch.rand(len(images), 64, 64)

    write(tmp_path, 9, fine_maps, max_pictures=8)
    pictures = sorted((tmp_path / "gallery").glob("*.jpg"))
    assert len(pictures) == len(list((tmp_path / "gallery").glob("*.png"))) == 8
    assert [record["picture"] is not None for record in records(tmp_path)].count(True) == 8
    for path in pictures:
        with Image.open(path) as image:
            assert image.size == (160, 80)
        with Image.open(path.with_suffix(".png")) as image:
            assert image.size == (32, 32)


@pytest.mark.parametrize(("protocol", "side"), [("sat", 224), ("wsol", 224)])
def test_thumbnail_shows_what_the_protocol_scores(tmp_path, monkeypatch, protocol, side):
    # Left half black, right half white, with a red margin of a twentieth that a centre crop removes.
    pixels = np.zeros((400, 400, 3), np.uint8)
    pixels[:, 200:] = 255
    pixels[:, :20] = pixels[:, -20:] = (255, 0, 0)
    image = torch.from_numpy(pixels).permute(2, 0, 1)
    monkeypatch.setattr("sat_peft.data.loaders.ImageRows.decode", lambda rows, index: image)
    write(tmp_path, 1, protocol=protocol)
    assert records(tmp_path)[0]["size"] == [side, side]
    with Image.open(tmp_path / "gallery/000000.jpg") as thumbnail:
        row = np.asarray(thumbnail).astype(int)[80]
    assert row[[70, 90]].mean(1) == pytest.approx([0, 255], abs=12)
    reddish = row[2, 0] - row[2, 1] > 100
    assert reddish == (protocol == "wsol")


def test_which_images_are_pictured():
    evaluation = evaluated(loader(40))
    assert choose_pictured(evaluation, 40) == {"all": list(range(40))}
    chosen = choose_pictured(evaluation, 16)
    iou = evaluation.result.per_image["iou"]
    order = np.argsort(iou, kind="stable").tolist()
    assert chosen["lowest IoU"] == order[:4]
    assert chosen["around the median"] == order[18:22]
    assert chosen["highest IoU"] == order[-4:]
    spread = chosen["evenly spread"]
    assert spread == sorted(spread)
    assert len({position for group in chosen.values() for position in group}) == 16
    without = choose_pictured(evaluated(loader(40, boxes=False)), 4)
    assert without == {"evenly spread": [0, 13, 26, 39]}


def test_without_boxes_nothing_is_said_of_localisation(tmp_path):
    evaluation = write(tmp_path, 3, boxes=False)
    for record in records(tmp_path):
        assert record["iou"] is record["correct"] is record["top1_correct"] is None
        assert record["true_boxes"] == []
        assert record["picture"]
    content = measurement({"sat": Measured.of("SAT", evaluation)}, num_classes=3)
    assert content["measured"] is False
    assert content["methods"]["sat"]["summary"].keys() == {"top1_cls", "top5_cls"}
    assert content["curves"] == content["iou_histograms"] == {}


def test_measurement_holds_figures_intervals_curves_and_histograms():
    evaluation = evaluated(loader(12), threshold="oracle")
    summary = dict(evaluation.result.summary)
    centre = dict.fromkeys(MAIN_FIGURES, 12.5)
    methods = {"sat": Measured.of("SAT", evaluation), "centre_box": Measured("centre box", centre)}
    content = json.loads(json.dumps(measurement(methods, num_classes=3, bootstrap=20)))
    assert evaluation.result.summary == summary  # the recipe reads it too
    sat = content["methods"]["sat"]
    assert sat["title"] == "SAT"
    assert sat["summary"]["gt_known"] == summary["gt_known"]
    assert len(sat["confidence_intervals"]["gt_known"]) == 2
    assert "max_box_acc" not in sat["summary"]
    assert content["methods"]["centre_box"]["summary"] == centre
    assert content["methods"]["centre_box"]["threshold"] is None
    assert content["curves"]["sat"]["gt_known"] == evaluation.result.per_threshold["gt_known"]
    assert sum(content["iou_histograms"]["sat"]) == 12
    assert content["oracle"] is True
    assert content["num_images"] == 12


def test_values_that_are_no_numbers_are_written_as_json(tmp_path):
    def diverged(images, labels):
        logits, maps, _ = left_half(images, labels)
        return logits * float("nan"), maps * float("nan")

    write(tmp_path, 2, diverged)

    def refuse(name):
        raise AssertionError(f"{name} is no JSON")

    for line in (tmp_path / "gallery/records.jsonl").read_text().splitlines():
        record = json.loads(line, parse_constant=refuse)
        assert record["score"] == 0
        assert record["map_ranges"] == [[0, 0]]


def test_failed_writing_leaves_the_old_gallery_and_nothing_else(tmp_path, monkeypatch):
    write(tmp_path, 3)
    before = {path.name: path.read_bytes() for path in (tmp_path / "gallery").iterdir()}
    write_bytes, written = Path.write_bytes, []

    def breaks(path, content):
        written.append(path)
        if len(written) > 4:
            raise OSError("No space left on device")
        return write_bytes(path, content)

    monkeypatch.setattr(Path, "write_bytes", breaks)
    with pytest.raises(OSError, match="No space left"):
        write(tmp_path, 4)
    assert len(written) == 5
    assert {path.name: path.read_bytes() for path in (tmp_path / "gallery").iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["gallery"]


def test_refined_map_and_coarse_maps_of_blocks_are_tiles_of_one_size():
    pictures = MapPictures()
    fine, coarse = torch.rand(2, 1, 224, 112), torch.rand(3, 2, 4, 2)
    pictures([5, 3], fine[:, 0], coarse)
    assert list(pictures.found) == [5, 3]
    for row, (content, ranges) in enumerate(pictures.found.values()):
        tiles = np.split(np.asarray(Image.open(io.BytesIO(content))), 4, axis=1)
        assert {tile.shape for tile in tiles} == {(32, 16)}
        # A tile goes from black, the least value, to white.
        for tile, (low, high), block in zip(tiles[1:], ranges[1:], coarse[:, row].numpy(), strict=True):
            np.testing.assert_allclose(low + tile[4::8, 4::8] / 255 * (high - low), block, atol=1e-2)
        small = fine[row, 0].reshape(32, 7, 16, 7).mean((1, 3)).numpy()
        np.testing.assert_allclose(ranges[0][0] + tiles[0] / 255 * (ranges[0][1] - ranges[0][0]), small, atol=1e-2)


def test_new_gallery_replaces_the_old_one_and_what_a_killed_run_left(tmp_path):
    write(tmp_path, 5)
    (tmp_path / ".gallery.tmp").mkdir()
    (tmp_path / ".gallery.tmp/000000.jpg").write_bytes(b"half")
    write(tmp_path, 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["gallery"]
    assert len(records(tmp_path)) == len(list((tmp_path / "gallery").glob("*.jpg"))) == 2


def _write_in_a_process(folder: Path) -> None:
    accelerator = Accelerator(cpu=True)
    test_loader = accelerator.prepare(loader(7, batch_size=2))
    pictures = MapPictures()
    evaluation = evaluated(test_loader, see=pictures)
    write_gallery(folder, pictures, test_loader, evaluation, accelerator, protocol="original", max_pictures=4)


@pytest.mark.slow
def test_two_processes_write_the_gallery_of_one(tmp_path):
    """Seven images in batches of two: the sharding repeats one to make both shares equally long."""
    write(tmp_path / "one", 7, batch_size=2, max_pictures=4)
    run_processes(_write_in_a_process, tmp_path / "two")
    one, two = ({p.name: p.read_bytes() for p in (tmp_path / n / "gallery").iterdir()} for n in ("one", "two"))
    assert one == two
