"""The flags of the data: they reach the source, read back from a run's configuration, and are the recipes' own."""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import pytest
from PIL import Image

from sat_peft.data.options import (
    DataOptions,
    changed_data_options,
    data_options,
    load,
    recorded_data_options,
    with_absolute_paths,
)
from sat_peft.data.sources import sources
from sat_peft.errors import UsageError


@pytest.fixture
def coco(tmp_path) -> Path:
    """Two training images, one of them of two classes."""
    (tmp_path / "images").mkdir()
    for name in ("1", "2", "3"):
        Image.new("RGB", (20, 10)).save(tmp_path / "images" / f"{name}.jpg")
    entries = {
        "images": [{"id": number, "file_name": f"{number}.jpg"} for number in (1, 2, 3)],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 2, 2]},
            {"id": 2, "image_id": 1, "category_id": 2, "bbox": [0, 0, 9, 9]},
            {"id": 3, "image_id": 2, "category_id": 1, "bbox": [0, 0, 9, 9]},
            {"id": 4, "image_id": 3, "category_id": 2, "bbox": [0, 0, 9, 9]},
        ],
        "categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}],
    }
    for split in ("train", "test"):
        (tmp_path / f"{split}.json").write_text(json.dumps(entries))
    return tmp_path


def test_options_reach_the_source(coco):
    options = DataOptions(data="coco", data_root=coco)
    assert load(options).splits["train"]["label"][:] == [1, 0, 1]
    assert load(replace(options, label_from="first")).splits["train"]["label"][:] == [0, 0, 1]
    skipping = load(replace(options, label_from="only", skip_bad=True), ["train"])
    assert len(skipping.splits["train"]) == 2
    assert skipping.problems.count == 1


def test_option_of_another_source_is_refused(tmp_path):
    with pytest.raises(UsageError, match="the source 'part_scenes' has no option 'label_from'"):
        load(DataOptions(label_from="first"))


def test_every_source_has_its_flags_and_every_flag_its_source():
    own = {"data", "data_root", "skip_bad", "allow_outside", "validation_fraction", "test_fraction", "split_seed"}
    # Of PartScenes no more can be asked for than how hard they are and which, and hub:ID names the data set.
    of_sources = {name for source in sources().values() if source.name != "part_scenes" for name in source.options}
    assert set(asdict(DataOptions())) - own == (of_sources | {"difficulty", "scene_seed"}) - {"dataset"}


def test_difficulty_reaches_the_scenes():
    scenes = {name: load(DataOptions(difficulty=name), ["validation"]).splits["validation"] for name in (None, "hard")}
    assert scenes[None][0]["boxes"] != scenes["hard"][0]["boxes"]


def test_seed_of_the_scenes_draws_other_images_of_the_same_classes():
    plain, other = (load(DataOptions(scene_seed=seed), ["validation"]).splits["validation"] for seed in (0, 1))
    assert plain["boxes"] == load(DataOptions(), ["validation"]).splits["validation"]["boxes"] != other["boxes"]
    assert (plain.features, plain["label"]) == (other.features, other["label"])


def test_configuration_reads_back(tmp_path):
    @dataclass(frozen=True)
    class Config(DataOptions):
        shots: int = 1

    config = Config(data="voc", data_root=tmp_path, year="2007", keep_difficult=True, split_seed=3, shots=4)
    written = json.loads(json.dumps(asdict(config), default=str))
    assert recorded_data_options(written) == data_options(config)
    assert recorded_data_options({"data": "part_scenes", "shots": 1}) == DataOptions()


def test_given_options_replace_the_recorded_ones():
    recorded = DataOptions(data="voc", data_root=Path("old"), year="2007")
    given = DataOptions(data=None, data_root=Path("new"))
    assert changed_data_options(recorded, given, DataOptions(data=None)) == replace(recorded, data_root=Path("new"))


def test_folders_are_recorded_so_that_they_are_found_from_elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    assert with_absolute_paths(DataOptions(data="photos")).data == str(tmp_path / "photos")
    birds = DataOptions(data="cub", data_root=Path("birds"))
    assert with_absolute_paths(birds) == DataOptions(data="cub", data_root=tmp_path / "birds")
    for name in ("part_scenes", "hub:someone/birds", "nowhere"):
        assert with_absolute_paths(DataOptions(data=name)) == DataOptions(data=name)
