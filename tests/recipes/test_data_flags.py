"""The flags of the data, from the command line of one recipe to that of the other."""

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_run import write_weights

from sat_peft.commands import evaluate
from sat_peft.errors import UsageError
from scene_writers import export_scenes

pytestmark = pytest.mark.usefixtures("threads")

ROOT = Path(__file__).parents[2]


def load_recipe(name: str):
    spec = importlib.util.spec_from_file_location(f"{name}_for_flags", ROOT / "recipes" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


few_shot = load_recipe("few_shot")


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    return write_weights(tmp_path_factory.mktemp("weights"))


@pytest.fixture
def train(weights, tmp_path):
    """Trains for two steps on a tiny backbone of random weights; returns the run folder."""

    def run(**options) -> Path:
        output = tmp_path / "runs" / str(len(list(tmp_path.glob("runs/*"))))
        tiny = {"backbone": "test_vit", "weights": weights, "image_size": 32, "baselines": (), "tune": "none"}
        few_shot.main(few_shot.Config(**tiny | {"steps": 2, "threads": 1, "output": output} | options))
        return output

    return run


def measure(run: Path, **options) -> dict:
    evaluate.main(evaluate.Config(run=run, bootstrap=0, threads=1, **options))
    return read(run / "evaluation", "results.json")


def read(folder: Path, name: str):
    return json.loads((folder / name).read_text(encoding="utf-8"))


def flatten(root: Path) -> Path:
    """Class folders without splits from the writer's train split; boxes come along."""
    export_scenes(root, "imagefolder", scenes_per_class=5, image_size=32, num_classes=3, splits=("train",))
    for path in (root / "train").iterdir():
        path.rename(root / path.name)
    (root / "train").rmdir()
    return root


def test_splits_that_are_set_aside_are_recorded_and_evaluated_again(train, tmp_path, said):
    data = flatten(tmp_path / "data")
    run = train(data=str(data), validation_fraction=0.2, shots=(2,))
    told = said.text
    assert "test: the data has no test split, so 3 training images are set aside, 12 remain" in told
    aside = read(run, "set_aside.json")
    assert {split: len(image_ids) for split, image_ids in aside.items()} == {"test": 3, "validation": 3}
    assert not set(read(run, "image_ids.json")) & {*aside["test"], *aside["validation"]}
    assert read(run, "config.json")["validation_fraction"] == 0.2

    # Images that come later do not move others from one split to another.
    for folder in data.iterdir():
        if folder.is_dir():
            Image.new("RGB", (32, 32)).save(folder / "0.jpg")
    trained = read(run, "results.json")
    again = measure(run)["protocols"]["original"]["methods"]["sat"]
    assert again["summary"]["gt_known"] == trained["methods"]["sat"]["gt_known"]
    assert again["threshold"] == trained["threshold"]


def test_moved_data_is_found_with_its_new_root(train, tmp_path):
    export_scenes(tmp_path / "coco", "coco", scenes_per_class=2, image_size=32, num_classes=2)
    run = train(data="coco", data_root=tmp_path / "coco")
    (tmp_path / "coco").rename(tmp_path / "moved")
    with pytest.raises(UsageError, match="coco' does not exist"):
        measure(run)
    results = measure(run, data_root=tmp_path / "moved")
    assert (results["data"], results["data_root"]) == ("coco", "moved")
    trained = read(run, "results.json")["methods"]["sat"]["gt_known"]
    assert results["protocols"]["original"]["methods"]["sat"]["summary"]["gt_known"] == trained


def test_bad_entries_stop_the_run_or_are_listed_in_its_folder(train, tmp_path, said):
    export_scenes(tmp_path / "data", "imagefolder", scenes_per_class=2, image_size=32, num_classes=2)
    bad = sorted((tmp_path / "data" / "train").glob("*/*.jpg"))[0]
    bad.write_bytes(b"")
    with pytest.raises(UsageError, match=rf"{bad.name}: the file is empty\..*--skip-bad"):
        train(data=str(tmp_path / "data"))
    run = train(data=str(tmp_path / "data"), skip_bad=True)
    assert "skipped: 1 bad entries" in said.text
    skipped = read(run, "skipped.json")
    assert skipped["count"] == 1
    assert skipped["skipped"] == [
        {"where": str(bad), "what": "the file is empty.", "fix": "Replace or remove it."},
    ]
    assert measure(run)["skipped"]["count"] == 0  # those of the evaluated splits


def test_images_of_another_run_are_taken_again(train, tmp_path, said):
    export_scenes(tmp_path / "data", "folder", scenes_per_class=6, image_size=32, num_classes=2)
    first = train(data=str(tmp_path / "data"), shots=(2,), seed=3)
    second = train(data=str(tmp_path / "data"), image_ids=first / "image_ids.json")
    assert read(second, "image_ids.json") == read(first, "image_ids.json")
    assert "Training images: 4 (listed in" in said.text
    (tmp_path / "other.json").write_text('["train/nothing.jpg"]')
    with pytest.raises(UsageError, match="leave out --shots and --trials"):
        train(data=str(tmp_path / "data"), image_ids=first / "image_ids.json", trials=2)
    with pytest.raises(UsageError, match=r"other\.json names 1 of 1 images that the data does not have"):
        train(data=str(tmp_path / "data"), image_ids=tmp_path / "other.json")


def test_class_folders_without_any_box_train_and_show_their_maps(train, tmp_path, said):
    data = flatten(tmp_path / "data")
    (data / "metadata.jsonl").unlink()
    run = train(data=str(data))
    told = said.text
    assert "not measured (the test split has no boxes)" in told
    assert f"sat-peft predict IMAGES --run {run}" in told
    assert "sat-peft evaluate" not in told
    assert read(run, "results.json")["methods"]["sat"]["gt_known"] is None
    with Image.open(run / "examples.png") as picture:
        assert picture.format == "PNG"


@pytest.mark.parametrize("name", ["voc", "yolo", "hub", "parquet"])
def test_people_s_formats_train(train, tmp_path, name):
    export_scenes(tmp_path / "data", name, scenes_per_class=1, image_size=32, num_classes=2)
    options = {"hub": {"box_format": "xywh"}, "parquet": {"box_format": "xyxy"}}.get(name, {})
    run = train(data=str(tmp_path / "data"), **options)
    assert read(run, "results.json")["methods"]["sat"]["gt_known"] is not None


CLASSES, IMAGES, TESTED = 200, 3, 12


def write_birds(root: Path) -> Path:
    """The layout of CUB-200-2011, 200 classes of 3 JPEG files; the last image of the first 12 is for the test."""
    generator = np.random.default_rng(0)
    images, labels, splits, boxes = [], [], [], []
    names = [f"{number:03d}.Bird_{number}" for number in range(1, CLASSES + 1)]
    for label, name in enumerate(names, 1):
        (root / "images" / name).mkdir(parents=True)
        colour = generator.integers(0, 256, 3)
        for index in range(IMAGES):
            number = len(images) + 1
            pixels = np.full((36, 48, 3), 128, np.uint8)
            x, y = generator.integers(0, 20, 2)
            pixels[y : y + 14, x : x + 22] = colour
            Image.fromarray(pixels).save(root / "images" / name / f"{index}.jpg")
            images.append(f"{number} {name}/{index}.jpg")
            labels.append(f"{number} {label}")
            splits.append(f"{number} {int(index < IMAGES - 1 or label > TESTED)}")
            boxes.append(f"{number} {x}.0 {y}.0 22.0 14.0")
    for file, lines in (
        ("images.txt", images),
        ("image_class_labels.txt", labels),
        ("train_test_split.txt", splits),
        ("bounding_boxes.txt", boxes),
        ("classes.txt", [f"{number} {name}" for number, name in enumerate(names, 1)]),
    ):
        (root / file).write_text("\n".join(lines) + "\n")
    return root


def test_birds_train_and_are_evaluated_under_the_protocol_of_the_paper(train, tmp_path):
    write_birds(tmp_path / "birds")
    output = train(data="cub", data_root=tmp_path / "birds", baselines=("centre_box",))
    assert len(read(output, "image_ids.json")) == CLASSES
    assert read(output, "results.json")["test_images"] == TESTED
    results = measure(output, protocols=("sat",))
    assert (results["data"], results["num_images"], results["num_classes"]) == ("cub", TESTED, CLASSES)
    section = results["protocols"]["sat"]
    assert section["image_size"] == [224, 224]
    assert 0 <= section["methods"]["sat"]["summary"]["gt_known"] <= 100
