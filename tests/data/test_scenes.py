"""PartScenes: deterministic, exact, disjoint."""

import hashlib
import io

import cv2
import numpy as np
import pytest
from packaging.version import Version
from PIL import Image

from sat_peft.data.scenes import (
    BASE_CLASSES,
    CLASS_SETS,
    DIFFICULTIES,
    NOVEL_CLASSES,
    SPLITS,
    part_scenes,
    render_scene,
    scene_seed,
)
from sat_peft.errors import UsageError

# SHA-256 (first 16 digits) of the image and mask bytes of sample scenes: (classes, class number, size, difficulty).
SAMPLE_HASHES = {
    ("base", 0, 96, "standard"): "4272d4ccb0a8efe4",
    ("base", 37, 96, "hard"): "c838b7cca56e6333",
    ("novel", 0, 96, "easy"): "cedef974967c1faa",
    ("novel", 13, 224, "standard"): "d6b64cff46a50047",
    ("novel", 5, 96, "cluttered"): "aba5d79ebc2f330a",
}


def _digest(scene) -> str:
    return hashlib.sha256(scene.image.tobytes() + scene.mask.tobytes()).hexdigest()[:16]


@pytest.mark.skipif(Version(cv2.__version__) < Version("5"), reason="OpenCV 4 draws edges in its own way")
@pytest.mark.parametrize(("sample", "expected"), SAMPLE_HASHES.items())
def test_sample_scenes_have_the_committed_bytes(sample, expected):
    classes, number, size, difficulty = sample
    scene = render_scene(CLASS_SETS[classes][number], scene_seed("test", 3), image_size=size, difficulty=difficulty)
    assert _digest(scene) == expected


def test_cluttered_scenes_have_unlabelled_objects_beside_the_labelled_one():
    """Saturated colours are parts alone: one in a standard scene, more in a cluttered one, outside of its box."""

    def coloured_outside_the_box(difficulty: str) -> list[int]:
        counts = []
        for number, scene_class in enumerate(NOVEL_CLASSES):
            scene = render_scene(scene_class, (number,), image_size=128, difficulty=difficulty)
            assert (scene.box[2:] - scene.box[:2]).max() > 0.4 * 128
            x0, y0, x1, y1 = scene.box.astype(int)
            spread = np.ptp(scene.image.astype(int), axis=2)
            spread[y0:y1, x0:x1] = 0
            counts.append(int((spread > 120).sum()))
        return counts

    assert not any(coloured_outside_the_box("standard"))
    assert sum(count > 0 for count in coloured_outside_the_box("cluttered")) > 10


def test_catalogue_has_enough_classes_with_distinct_bodies_and_parts():
    assert len(BASE_CLASSES) == 64
    assert len({c.family for c in BASE_CLASSES}) == 16
    assert len(NOVEL_CLASSES) == 20
    assert len({c.family for c in NOVEL_CLASSES}) == 5
    assert len({c.name for c in BASE_CLASSES + NOVEL_CLASSES}) == 84

    def body(family):
        return family.torso, family.limbs, family.tail, family.pattern

    assert len({body(c.family) for c in BASE_CLASSES + NOVEL_CLASSES}) == 21
    novel_parts = {(c.part_shape, c.part_colour) for c in NOVEL_CLASSES}
    assert len(novel_parts) == 20
    assert not novel_parts & {(c.part_shape, c.part_colour) for c in BASE_CLASSES}


def test_every_base_part_sits_on_several_bodies():
    for part in {(c.part_shape, c.part_colour) for c in BASE_CLASSES}:
        assert len({c.family for c in BASE_CLASSES if (c.part_shape, c.part_colour) == part}) == 4


@pytest.mark.parametrize("difficulty", DIFFICULTIES)
@pytest.mark.parametrize("size", [64, 96, 224])
def test_box_is_the_tight_box_of_the_mask(difficulty, size):
    for number, scene_class in enumerate(NOVEL_CLASSES):
        scene = render_scene(scene_class, (number,), image_size=size, difficulty=difficulty)
        x0, y0, x1, y1 = scene.box.astype(int)
        assert scene.image.shape == (size, size, 3)
        assert 0 <= x0 < x1 <= size
        assert 0 <= y0 < y1 <= size
        assert scene.mask.sum() == scene.mask[y0:y1, x0:x1].sum() > 0
        for edge in (scene.mask[y0], scene.mask[y1 - 1], scene.mask[:, x0], scene.mask[:, x1 - 1]):
            assert edge.any()


def test_object_differs_from_its_surroundings():
    differences = []
    for number, scene_class in enumerate(BASE_CLASSES):
        scene = render_scene(scene_class, (number,))
        grey = scene.image.mean(2)
        differences.append(abs(np.median(grey[scene.mask]) - np.median(grey[~scene.mask])))
    assert np.median(differences) > 30


def test_the_same_scene_at_two_sizes_shows_the_same_thing():
    small, large = (render_scene(NOVEL_CLASSES[3], (5,), image_size=size) for size in (96, 192))
    np.testing.assert_allclose(small.box * 2, large.box, atol=3)


def test_splits_are_disjoint_and_longer_splits_extend_shorter_ones():
    images = {}
    for split in SPLITS:
        rows = part_scenes(split, scenes_per_class=3)
        images[split] = {hashlib.sha256(image["bytes"]).hexdigest() for image in _raw(rows)}
        assert len(images[split]) == 60
        assert len(set(rows["image_id"])) == 60
    assert not images["train"] & images["validation"]
    assert not images["train"] & images["test"]
    assert not images["validation"] & images["test"]
    shorter = {hashlib.sha256(image["bytes"]).hexdigest() for image in _raw(part_scenes("test", scenes_per_class=2))}
    assert shorter < images["test"]


def _raw(rows):
    from datasets import Image as ImageFeature

    return rows.cast_column("image", ImageFeature(decode=False))["image"]


def test_dataset_rows_hold_the_scene():
    rows = part_scenes("validation", scenes_per_class=2, image_size=64)
    row = rows[5]
    scene = render_scene(NOVEL_CLASSES[2], scene_seed("validation", 1), image_size=64)
    np.testing.assert_array_equal(np.asarray(row["image"]), scene.image)
    np.testing.assert_array_equal(np.asarray(row["mask"]) > 0, scene.mask)
    assert row["boxes"] == [scene.box.tolist()]
    assert rows.features["label"].int2str(row["label"]) == NOVEL_CLASSES[2].name
    assert Image.open(io.BytesIO(_raw(rows)[5]["bytes"])).format == "PNG"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"split": "tests"}, "train, validation, test"),
        ({"classes": "old"}, "base, novel"),
        ({"difficulty": "hrad"}, "'hard'"),
        ({"image_size": 8}, "32 to 2048"),
        ({"scenes_per_class": 0}, "at least 1"),
        ({"seed": -1}, "at least 0, got -1"),
    ],
)
def test_wrong_arguments_are_named(arguments, words):
    with pytest.raises(UsageError, match=words):
        part_scenes(**({"split": "test", "scenes_per_class": 1} | arguments))
