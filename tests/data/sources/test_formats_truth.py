"""Every reader of a people's format against the same scenes, written in its layout."""

from pathlib import Path

import numpy as np
import pytest

from sat_peft.data.scenes import part_scenes
from sat_peft.data.sources import Problems, load_source
from scene_writers import export_scenes

CLASSES, SCENES, SIZE = 3, 2, 32
SPLITS = ("train", "validation", "test")
# (writer, options of the reader, whether the layout has boxes)
FORMATS = [
    ("folder", {}, False),
    ("imagefolder", {}, True),
    ("coco", {}, True),
    ("voc", {}, True),
    ("yolo", {}, True),
    ("hub", {"box_format": "xywh"}, True),
    ("parquet", {"box_format": "xyxy"}, True),
]


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """format -> its folder, written once."""
    roots: dict[str, Path] = {}

    def root(name: str) -> Path:
        if name not in roots:
            roots[name] = tmp_path_factory.mktemp(name) / "data"
            export_scenes(roots[name], name, scenes_per_class=SCENES, image_size=SIZE, num_classes=CLASSES)
        return roots[name]

    return root


@pytest.fixture(scope="module")
def truth() -> dict:
    """split -> its scenes as (class, image, boxes)."""
    found = {}
    for split in SPLITS:
        rows = part_scenes(split, scenes_per_class=SCENES, image_size=SIZE).select(range(CLASSES * SCENES))
        found[split] = triples(rows)
    return found


def triples(rows) -> list[tuple]:
    names = rows.features["label"].names
    return [(names[row["label"]], np.asarray(row["image"], float), np.array(row["boxes"])) for row in rows]


@pytest.mark.parametrize(("name", "options", "boxed"), FORMATS, ids=[name for name, *_ in FORMATS])
@pytest.mark.parametrize("split", SPLITS)
def test_images_classes_and_boxes_are_those_that_were_written(name, options, boxed, split, exported, truth):
    """The layout of the folder tells its format."""
    problems = Problems()
    rows = load_source(str(exported(name)), split, problems=problems, **options)
    assert len(set(rows["image_id"])) == len(rows) == CLASSES * SCENES
    assert problems.lines() == []
    found = triples(rows)
    for class_name, image, boxes in truth[split]:
        # No two scenes are this alike, and none that is stored is further from itself.
        matching = [scene for scene in found if np.abs(scene[1] - image).mean() < 8]
        assert [scene[0] for scene in matching] == [class_name]
        if boxed:
            # YOLO writes six decimals of a share.
            np.testing.assert_allclose(matching[0][2], boxes, atol=1e-3)
        else:
            assert len(matching[0][2]) == 0
