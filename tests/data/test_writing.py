"""Every format is read back: by the reader that others use where there is one, and against boxes known by eye."""

import errno
import json
import resource
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import supervision
import yaml
from added_modules import run_with_modules
from datasets import load_dataset
from PIL import Image

from sat_peft.data.box_formats import to_xyxy
from sat_peft.data.sources import load_source
from sat_peft.data.writing import Prediction, PredictionSet, check_format, check_names, write_format, writers
from sat_peft.data.writing.names import picture_paths
from sat_peft.errors import UsageError

CLASSES = ["ant", "<script>alert('1 & 2')</script>", "größe: #1", 'a "b", c']
# A 20 x 10 image whose left half is the object; one with two objects, one a single pixel in the last corner.
LEFT_HALF = Prediction("ant/1.jpg", (20, 10), CLASSES[0], 0, 0.75, [[0.0, 0.0, 10.0, 10.0]])
TWO = Prediction("b & <c>/1.jpg", (9, 7), CLASSES[1], 1, 0.5, [[2.0, 3.0, 5.0, 7.0], [8.0, 6.0, 9.0, 7.0]])
QUOTED = Prediction('"d".é.png', (4, 4), CLASSES[3], 3, 1.0, [[0.0, 1.0, 4.0, 3.0]])
PREDICTIONS = [LEFT_HALF, TWO, QUOTED]


def prediction_set(predictions=PREDICTIONS) -> PredictionSet:
    return PredictionSet(predictions, CLASSES, "original", 0.25, "validation: best")


def write(name: str, folder: Path, predictions=PREDICTIONS) -> Path:
    return write_format(name, folder, prediction_set(predictions))


def test_json_lines_say_everything(tmp_path):
    lines = write("jsonl", tmp_path).read_text(encoding="utf-8").splitlines()
    first, second, third = map(json.loads, lines)
    assert first == {
        "image_id": "ant/1.jpg",
        "width": 20,
        "height": 10,
        "label": "ant",
        "label_index": 0,
        "score": 0.75,
        "box": [0, 0, 10, 10],
        "boxes": [[0, 0, 10, 10]],
        "given_label": None,
        "predicted_label": "ant",
        "protocol": "original",
        "threshold": 0.25,
    }
    assert second["label"] == CLASSES[1]
    assert second["boxes"] == TWO.boxes
    assert third["image_id"] == QUOTED.image_id


def test_coco(tmp_path):
    coco = json.loads(write("coco", tmp_path).read_text(encoding="utf-8"))
    assert coco["info"]["protocol"] == "original"
    assert coco["info"]["threshold"] == 0.25
    assert [(category["id"], category["name"]) for category in coco["categories"]] == list(enumerate(CLASSES, 1))
    assert coco["images"][1] == {"id": 2, "file_name": "b & <c>/1.jpg", "width": 9, "height": 7}
    assert [a["id"] for a in coco["annotations"]] == [1, 2, 3, 4]
    assert [a["image_id"] for a in coco["annotations"]] == [1, 2, 2, 3]
    assert [a["category_id"] for a in coco["annotations"]] == [1, 2, 2, 4]
    assert [a["bbox"] for a in coco["annotations"]] == [[0, 0, 10, 10], [2, 3, 3, 4], [8, 6, 1, 1], [0, 1, 4, 2]]
    assert [a["area"] for a in coco["annotations"]] == [100, 12, 1, 8]
    assert [a["score"] for a in coco["annotations"]] == [0.75, 0.5, 0.5, 1.0]
    assert {a["iscrowd"] for a in coco["annotations"]} == {0}
    # The outline of the box: readers of masks refuse an empty list.
    assert coco["annotations"][1]["segmentation"] == [[2, 3, 5, 3, 5, 7, 2, 7]]


def test_coco_of_no_images_is_valid(tmp_path):
    coco = json.loads(write("coco", tmp_path, []).read_text(encoding="utf-8"))
    assert coco["images"] == coco["annotations"] == []
    assert len(coco["categories"]) == 4


def voc_boxes(file: Path) -> list[list[int]]:
    items = ElementTree.parse(file).getroot().iter("bndbox")
    return [[int(item.findtext(side)) for side in ("xmin", "ymin", "xmax", "ymax")] for item in items]


def test_voc_counts_from_one_and_includes_the_last_pixel(tmp_path):
    folder = write("voc", tmp_path)
    assert {path.relative_to(folder).as_posix() for path in folder.rglob("*.*")} == {
        *("ant/1.xml", "b & <c>/1.xml", '"d".é.xml')
    }
    assert voc_boxes(folder / "ant/1.xml") == [[1, 1, 10, 10]]
    assert voc_boxes(folder / "b & <c>/1.xml") == [[3, 4, 5, 7], [9, 7, 9, 7]]
    root = ElementTree.parse(folder / "b & <c>/1.xml").getroot()
    assert root.findtext("folder") == "b & <c>"
    assert root.findtext("filename") == "1.jpg"
    assert [item.findtext("name") for item in root.iter("object")] == [CLASSES[1]] * 2
    assert (root.findtext("size/width"), root.findtext("size/height")) == ("9", "7")
    assert float(root.findtext("object/confidence")) == 0.5
    assert "<script>" not in (folder / "b & <c>/1.xml").read_text(encoding="utf-8")


def test_yolo_is_relative_to_the_image(tmp_path):
    folder = write("yolo", tmp_path)
    assert (folder / "labels/ant/1.txt").read_text() == "0 0.25 0.5 0.5 1\n"
    lines = (folder / "labels/b & <c>/1.txt").read_text().splitlines()
    numbers = [list(map(float, line.split())) for line in lines]
    assert [row[0] for row in numbers] == [1, 1]
    restored = to_xyxy([row[1:] for row in numbers], "yolo", TWO.image_size)
    assert restored.ravel().tolist() == pytest.approx([value for box in TWO.boxes for value in box], abs=1e-6)
    assert (folder / "classes.txt").read_text(encoding="utf-8").splitlines() == CLASSES
    data = yaml.safe_load((folder / "data.yaml").read_text(encoding="utf-8"))
    assert data["names"] == dict(enumerate(CLASSES))


def test_voc_tells_its_classes_where_the_file_can(tmp_path):
    folder = write_format("voc", tmp_path, replace(prediction_set(), class_names=["ant", "größe 2"]))
    lines = (folder / "labelmap.txt").read_text(encoding="utf-8").splitlines()
    assert [line.split(":") for line in lines[1:]] == [["ant", "", "", ""], ["größe 2", "", "", ""]]
    folder = write_format("voc", tmp_path, replace(prediction_set(), class_names=["ant", "size: 2"]))
    assert not (folder / "labelmap.txt").exists()


def test_label_studio_gets_predictions(tmp_path):
    predictions = replace(prediction_set(), image_root_url="http://host/photos", model_version="mine 1")
    folder = write_format("label_studio", tmp_path, predictions)
    tasks = json.loads((folder / "tasks.json").read_text(encoding="utf-8"))
    assert [task["data"]["image"] for task in tasks] == [
        "http://host/photos/ant/1.jpg",
        "http://host/photos/b%20%26%20%3Cc%3E/1.jpg",
        "http://host/photos/%22d%22.%C3%A9.png",
    ]
    assert not any("annotations" in task for task in tasks)
    [prediction] = tasks[1]["predictions"]
    assert (prediction["model_version"], prediction["score"]) == ("mine 1", 0.5)
    first, second = prediction["result"]
    assert first["id"] != second["id"]
    assert (first["type"], first["original_width"], first["original_height"]) == ("rectanglelabels", 9, 7)
    assert first["value"].pop("rectanglelabels") == [CLASSES[1]]
    shares = {"x": 200 / 9, "y": 300 / 7, "width": 300 / 9, "height": 400 / 7, "rotation": 0}
    assert first["value"] == pytest.approx(shares)
    view = ElementTree.parse(folder / "labels.xml").getroot()
    assert view.find("Image").get("name") == view.find("RectangleLabels").get("toName") == first["to_name"]
    assert view.find("RectangleLabels").get("name") == first["from_name"]
    assert [label.get("value") for label in view.iter("Label")] == CLASSES
    local = write_format("label_studio", tmp_path, prediction_set())
    [first, *_] = json.loads((local / "tasks.json").read_text(encoding="utf-8"))
    assert first["data"]["image"] == "/data/local-files/?d=ant/1.jpg"


# The larger of two regions is of two parts.
SQUARES = [[[[0.0, 0.0], [4.0, 0.0], [4.0, 3.0], [0.0, 3.0]], [[4.0, 3.0], [6.0, 3.0], [5.0, 5.0]]]]
SQUARES += [[[[8.0, 6.0], [9.0, 6.0], [9.0, 7.0], [8.0, 7.0]]]]
OUTLINED = replace(TWO, boxes=[[0.0, 0.0, 6.0, 5.0], [8.0, 6.0, 9.0, 7.0]], polygons=SQUARES)


def test_coco_has_outlines_where_there_are_some(tmp_path):
    coco = json.loads(write("coco", tmp_path, [OUTLINED]).read_text(encoding="utf-8"))
    first, second = coco["annotations"]
    assert first["segmentation"] == [[0, 0, 4, 0, 4, 3, 0, 3], [4, 3, 6, 3, 5, 5]]
    assert second["segmentation"] == [[8, 6, 9, 6, 9, 7, 8, 7]]
    assert (first["bbox"], first["area"], second["area"]) == ([0, 0, 6, 5], 14, 1)


def test_label_studio_gets_outlines_instead_of_boxes(tmp_path):
    folder = write("label_studio", tmp_path, [OUTLINED])
    [task] = json.loads((folder / "tasks.json").read_text(encoding="utf-8"))
    results = task["predictions"][0]["result"]
    assert [result["type"] for result in results] == ["polygonlabels"] * 3
    assert len({result["id"] for result in results}) == 3
    assert results[1]["value"]["polygonlabels"] == [CLASSES[1]]
    points = [[400 / 9, 300 / 7], [600 / 9, 300 / 7], [500 / 9, 500 / 7]]
    np.testing.assert_allclose(results[1]["value"]["points"], points)
    control = ElementTree.parse(folder / "labels.xml").getroot().find("PolygonLabels")
    assert (control.get("name"), control.get("toName")) == (results[0]["from_name"], results[0]["to_name"])


@pytest.mark.parametrize("name", ["coco", "voc", "yolo"])
def test_supervision_reads_the_same_boxes(tmp_path, name):
    """A reader that many tools are built on, on nested folders, as it is called in its documentation."""
    root = tmp_path / "photos"
    kept = [LEFT_HALF, replace(QUOTED, image_id="b/d.é.png")]
    for prediction in kept:
        (root / prediction.image_id).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", prediction.image_size).save(root / prediction.image_id)
    folder = write_format(name, tmp_path, replace(prediction_set(kept), flat=True, image_root=root))
    dataset = {
        "coco": lambda: supervision.DetectionDataset.from_coco(str(root), str(folder)),
        "voc": lambda: supervision.DetectionDataset.from_pascal_voc(str(folder / "images"), str(folder)),
        "yolo": lambda: supervision.DetectionDataset.from_yolo(
            str(folder / "images"), str(folder / "labels"), str(folder / "data.yaml")
        ),
    }[name]()
    found = {Path(path).name: detections for path, _, detections in dataset}
    assert sorted(found) == ["1.jpg", "d.é.png"]
    for prediction in kept:
        detections = found[Path(prediction.image_id).name]
        np.testing.assert_allclose(detections.xyxy, prediction.boxes, atol=1e-4)
        assert [dataset.classes[index] for index in detections.class_id] == [prediction.label]


def test_supervision_reads_outlines_as_masks(tmp_path):
    (tmp_path / "b & <c>").mkdir()
    Image.new("RGB", OUTLINED.image_size).save(tmp_path / OUTLINED.image_id)
    path = write("coco", tmp_path, [OUTLINED])
    dataset = supervision.DetectionDataset.from_coco(str(tmp_path), str(path), force_masks=True)
    [(_, _, detections)] = list(dataset)
    assert detections.mask.shape == (2, 7, 9)
    assert detections.mask[0, 1, 1]
    assert not detections.mask[0, 6].any()


def test_without_links_there_are_no_images(tmp_path, monkeypatch):
    def refused(*_, **__):
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(Path, "symlink_to", refused)
    folder = write_format("yolo", tmp_path, replace(prediction_set(), image_root=tmp_path))
    assert {path.name for path in folder.iterdir()} == {"labels", "classes.txt", "data.yaml"}


def test_imagefolder_is_read_by_datasets(tmp_path):
    root = tmp_path / "photos"
    for prediction in (LEFT_HALF, QUOTED):
        path = root / prediction.image_id
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", prediction.image_size).save(path)
    predictions = replace(prediction_set([LEFT_HALF, QUOTED]), given_labels={"ant/1.jpg": "bee", QUOTED.image_id: "x"})
    write_format("imagefolder", root, predictions)
    rows = load_dataset("imagefolder", data_dir=str(root), split="train", cache_dir=str(tmp_path / "cache"))
    found = {row["predicted_label"]: row for row in rows}
    assert rows.class_encode_column("label").features["label"].names == ["bee", "x"]
    assert found["ant"]["label"] == "bee"
    assert set(found) == {"ant", CLASSES[3]}
    assert found["ant"]["image"].size == (20, 10)
    assert found["ant"]["objects"] == {"bbox": [[0, 0, 10, 10]], "categories": ["ant"]}
    assert found[CLASSES[3]]["objects"]["bbox"] == [[0, 1, 4, 2]]
    assert found[CLASSES[3]]["score"] == 1.0


def test_imagefolder_is_read_by_the_recipes(tmp_path):
    """Predicted boxes can be trained and evaluated on: the metadata is what the package itself reads."""
    for split in ("train", "test"):
        for name in ("ant", "bee"):
            (tmp_path / split / name).mkdir(parents=True)
            Image.new("RGB", (20, 10)).save(tmp_path / split / name / "1.jpg")
    write("imagefolder", tmp_path / "test", [LEFT_HALF])
    rows = load_source("folder", "test", root=tmp_path)
    assert dict(zip(rows["image_id"], rows["boxes"], strict=True)) == {
        "test/ant/1.jpg": [[0, 0, 10, 10]],
        "test/bee/1.jpg": [],
    }


@pytest.mark.parametrize("name", writers())
def test_second_writing_replaces_the_first(tmp_path, name):
    write(name, tmp_path)
    path = write(name, tmp_path, [LEFT_HALF])
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    files = [path] if path.is_file() else list(path.rglob("*.*"))
    assert not any("1 & 2" in file.read_text(encoding="utf-8") for file in files if file.name.startswith(("1", "pred")))
    assert not any("<c>" in str(file.relative_to(path)) for file in files)


@pytest.mark.parametrize("name", writers())
def test_disk_that_is_full_leaves_the_earlier_version_whole(tmp_path, name):
    path = write(name, tmp_path, [LEFT_HALF])

    def content() -> dict:
        return {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}

    before = content()
    # Boxes enough that one image fills more than the limit; the system then refuses to write on.
    large = Prediction("ant/1.jpg", (20, 10), CLASSES[0], 0, 0.75, [[0.0, 0.0, 10.0, 10.0]] * 3000)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            write(name, tmp_path, [LEFT_HALF, large])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert content() == before
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("name", ["voc", "yolo"])
def test_images_that_would_share_a_file_are_refused(name):
    with pytest.raises(UsageError, match=rf"'a/1\.jpg' and 'a/1\.png' would share one file of the format '{name}'"):
        check_format(name, ["a/1.jpg", "b/1.jpg", "a/1.png"])
    check_format(name, ["a/1.jpg", "b/1.jpg", "a/1.2.jpg"])
    check_format("coco", ["a/1.jpg", "a/1.png"])


def test_pictures_have_a_name_of_their_own_each():
    named = picture_paths(["a/1.jpg", "b/1.png", "c/1.png", "c/1.jpg", "d.png", "d.png.jpg", "E.jpg", "e.png"])
    assert [str(named(name, ".jpg")) for name in ("a/1.jpg", "b/1.png", "c/1.png", "c/1.jpg")] == [
        *("a/1.jpg", "b/1.jpg", "c/1.png.jpg", "c/1.jpg.jpg")
    ]
    assert [str(named(name, ".jpg")) for name in ("d.png", "d.png.jpg", "E.jpg", "e.png")] == [
        *("d.jpg", "d.png.jpg.jpg", "E.jpg.jpg", "e.png.jpg")
    ]


def test_unknown_format_is_named():
    with pytest.raises(UsageError, match=r"unknown format 'coca'.*Did you mean 'coco'"):
        check_format("coca", [])


def test_a_format_is_one_file(tmp_path):
    """A file beside the others is found, read with and written with."""
    module = (
        "from sat_peft.data.sources import Source, SourceSplit\n"
        "from sat_peft.data.writing import Writer\n"
        "def read(root, split, problems):\n"
        "    return SourceSplit((root / f'{split}.names').read_text().split(), iter(()))\n"
        "def write(path, predictions):\n"
        "    path.write_text(' '.join(predictions.class_names))\n"
        "SOURCE = Source('names', 'names of classes', 'ROOT/train.names', read)\n"
        "WRITER = Writer('names', 'train.names', write)\n"
    )
    code = (
        "from sat_peft.data.sources import Problems, sources\n"
        "from sat_peft.data.writing import PredictionSet, write_format\n"
        "from pathlib import Path\n"
        "file = write_format('names', Path(), PredictionSet([], ['ant', 'bee'], 'original', 0.5, 'fixed'))\n"
        "print(file, sources()['names'].read(Path(), 'train', Problems()).class_names)"
    )
    lines = run_with_modules(tmp_path, {"data/formats/names.py": module}, code)
    assert lines == ["train.names ['ant', 'bee']"]


@pytest.mark.parametrize("name", ["a\nb", "a\x00", "caf\udce9.jpg", "\x7f"])
def test_names_that_no_file_can_carry_are_refused(name):
    with pytest.raises(UsageError, match=r"the file name .* has control characters or bytes that are no UTF-8"):
        check_names(["fine", name], "file name")
    check_names(["größe", "日本", "<&>", "😀"], "file name")
