"""Every reader of a research data set against the same scenes, written in its layout."""

from pathlib import Path

import numpy as np
import pytest

from sat_peft.data.decoding import decode_mask
from sat_peft.data.scenes import part_scenes
from sat_peft.data.sources import Problems, load_source
from sat_peft.data.sources.registry import detect_source
from sat_peft.errors import UsageError
from scene_writers import export_scenes

CLASSES, SCENES, SIZE = 3, 2, 32
ALL = ("train", "validation", "test")
OFFICIAL = ("train", "test")
# (writer, source, options, splits that it has, splits with boxes)
LAYOUTS = [
    ("cub", "cub", {}, OFFICIAL, OFFICIAL),
    ("ilsvrc", "ilsvrc", {}, OFFICIAL, ("test",)),
    ("ilsvrc", "ilsvrc", {"boxes": "xml"}, OFFICIAL, ("test",)),
    ("ilsvrc", "ilsvrc", {"boxes": "csv"}, OFFICIAL, ("test",)),
    ("ilsvrc", "ilsvrc", {"boxes": "val_gt"}, OFFICIAL, ("test",)),
    ("ilsvrc", "ilsvrc", {"boxes": "none"}, OFFICIAL, ()),
    ("stanford_dogs", "stanford_dogs", {}, OFFICIAL, OFFICIAL),
    ("stanford_cars", "stanford_cars", {}, OFFICIAL, OFFICIAL),
    ("stanford_cars_one_file", "stanford_cars", {}, OFFICIAL, OFFICIAL),
    ("fgvc_aircraft", "fgvc_aircraft", {}, ALL, ALL),
    ("openimages30k", "openimages30k", {}, ALL, ()),
    ("openimages30k", "wsol_metadata", {}, ALL, ()),
    ("wsol_metadata", "wsol_metadata", {}, ALL, ALL),
    ("reference_lists_birds", "reference_lists", {}, OFFICIAL, ("test",)),
    ("reference_lists_imagenet", "reference_lists", {}, OFFICIAL, ("test",)),
]


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """layout -> its folder, written once."""
    roots: dict[str, Path] = {}

    def root(layout: str) -> Path:
        if layout not in roots:
            roots[layout] = tmp_path_factory.mktemp(layout) / "data"
            export_scenes(roots[layout], layout, scenes_per_class=SCENES, image_size=SIZE, num_classes=CLASSES)
        return roots[layout]

    return root


@pytest.fixture(scope="module")
def truth():
    """split -> the scenes of the first classes."""
    rows = {split: part_scenes(split, scenes_per_class=SCENES, image_size=SIZE) for split in ALL}
    return {split: scenes.select(range(CLASSES * SCENES)) for split, scenes in rows.items()}


def same_image(found, scene) -> bool:
    """Whether a JPEG shows a scene; no two scenes are this alike."""
    return np.abs(np.asarray(found, float) - np.asarray(scene, float)).mean() < 8


@pytest.mark.parametrize(("layout", "source", "options", "splits", "boxed"), LAYOUTS)
def test_images_labels_and_boxes_are_those_that_were_written(layout, source, options, splits, boxed, exported, truth):
    problems = Problems(skip=True)
    for split in ALL:
        rows = load_source(source, split, root=exported(layout), problems=problems, **options)
        if split not in splits:
            assert rows is None
            continue
        assert rows["label"][:] == truth[split]["label"][:]
        assert rows["boxes"][:] == (truth[split]["boxes"][:] if split in boxed else [[]] * len(rows))
        assert all(map(same_image, rows["image"], truth[split]["image"]))
        assert len(set(rows["image_id"])) == len(rows)
        assert not any(str(exported(layout)) in image_id for image_id in rows["image_id"])
    assert problems.listed == []


def test_the_scenes_differ(truth):
    assert not same_image(truth["train"]["image"][0], truth["train"]["image"][1])


def test_training_set_of_the_car_lists_holds_the_validation_images_too(exported, truth):
    root = exported("reference_lists_cars")
    train = load_source("reference_lists", "train", root=root)
    assert train["boxes"][:] == truth["train"]["boxes"][:] + truth["validation"]["boxes"][:]
    assert load_source("reference_lists", "test", root=root)["boxes"][:] == truth["test"]["boxes"][:]


@pytest.mark.parametrize("source", ["openimages30k", "wsol_metadata"])
def test_masks_of_an_image_join_to_its_object(source, exported, truth):
    rows = load_source(source, "test", root=exported("openimages30k"))
    for index, row in enumerate(rows):
        expected = np.asarray(truth["test"][index]["mask"]) > 127
        halves = [decode_mask(mask, row["image_id"]) for mask in row["mask"]]
        assert len(halves) == 2
        assert np.array_equal(halves[0] | halves[1], expected)
        ignore = decode_mask(row["ignore"][0], row["image_id"])
        assert ignore[0].all()
        assert not ignore[1:-1, 1:-1].any()


def test_segmentations_of_the_birds_are_read(exported, truth):
    rows = load_source("cub", "test", root=exported("cub")).to_list()
    for row, scene in zip(rows, truth["test"], strict=True):
        assert np.array_equal(decode_mask(row["mask"][0], row["image_id"]), np.asarray(scene["mask"]) > 127)


@pytest.mark.parametrize(
    ("layout", "other"),
    [
        (("cub", "cub"), ("reference_lists_birds", "reference_lists")),
        (("cub", "cub"), ("wsol_metadata", "wsol_metadata")),
        (("stanford_cars", "stanford_cars"), ("stanford_cars_one_file", "stanford_cars")),
        (("openimages30k", "openimages30k"), ("openimages30k", "wsol_metadata")),
    ],
)
def test_sources_of_one_data_set_name_its_classes_alike(layout, other, exported):
    names = [
        load_source(source, "test", root=exported(writer)).features["label"].names for writer, source in (layout, other)
    ]
    assert names[0] == names[1]


def test_levels_of_the_aircraft(exported):
    root = exported("fgvc_aircraft")
    family = load_source("fgvc_aircraft", "test", root=root, level="family")
    assert family.features["label"].names == ["Family 0", "Family 1"]
    assert family["label"][:] == [0, 0, 0, 0, 1, 1]
    manufacturer = load_source("fgvc_aircraft", "test", root=root, level="manufacturer")
    assert manufacturer.features["label"].names == ["First", "Second"]


def test_trainval_of_the_aircraft_joins_train_and_val(exported):
    root = exported("fgvc_aircraft")
    ids = {split: load_source("fgvc_aircraft", split, root=root)["image_id"][:] for split in ("train", "validation")}
    joined = load_source("fgvc_aircraft", "train", root=root, trainval=True)
    assert joined["image_id"][:] == ids["train"] + ids["validation"]
    assert load_source("fgvc_aircraft", "validation", root=root, trainval=True) is None


def test_proxy_list_is_a_part_of_train(exported):
    root = exported("wsol_metadata")
    whole = load_source("wsol_metadata", "train", root=root)["image_id"][:]
    problems = Problems(skip=True)
    proxy = load_source("wsol_metadata", "train", root=root, proxy=True, problems=problems)
    assert proxy["image_id"][:] == whole[::2]


@pytest.mark.parametrize(("layout", "source"), sorted({(layout, source) for layout, source, *_ in LAYOUTS}))
def test_a_folder_is_recognised_or_the_message_names_its_format(layout, source, exported):
    try:
        found = detect_source(exported(layout)).name
    except UsageError as error:
        # Images lie in class folders too, or the folder has the lists of two sources.
        found = str(error).partition("where FORMAT is ")[2]
    assert source in found
    assert "one of" not in found
