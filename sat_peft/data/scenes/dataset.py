"""PartScenes as a `datasets.Dataset`, with splits that cannot overlap."""

from __future__ import annotations

import cv2
import numpy as np
from datasets import Dataset

from sat_peft.data.features import localization_features
from sat_peft.data.scenes.catalogue import CLASS_SETS, DIFFICULTIES
from sat_peft.data.scenes.render import render_scene
from sat_peft.errors import UsageError, unknown_choice

SPLITS = ("train", "validation", "test")


def scene_seed(split: str, index: int, seed: int = 0) -> tuple[int, int, int]:
    """The seed of scene number `index` of every class in `split`.

    The split is a word of the seed, so no scene of one split can be drawn in another.
    """
    if split not in SPLITS:
        raise unknown_choice("split", split, SPLITS)
    if seed < 0:
        raise UsageError(f"the seed of scenes must be at least 0, got {seed}.")
    return (seed, SPLITS.index(split), index)


def _png(image: np.ndarray) -> dict:
    """An image as `datasets` stores it; cv2 takes the channels as BGR."""
    encoded = cv2.imencode(".png", image, [cv2.IMWRITE_PNG_COMPRESSION, 1])[1]
    return {"bytes": encoded.tobytes(), "path": None}


def part_scenes(
    split: str,
    *,
    scenes_per_class: int,
    classes: str = "novel",
    image_size: int = 96,
    difficulty: str = "standard",
    seed: int = 0,
) -> Dataset:
    """Renders one split of PartScenes.

    Args:
        split: `train`, `validation` or `test`; disjoint for every seed.
        scenes_per_class: images of each class. A longer split begins with the shorter one's scenes.
        classes: `base` (64 classes in 16 families, for pretraining) or `novel` (20 in 5, for the recipes). They
            share neither bodies nor (part shape, part colour) pairs.
        image_size: side of the images in pixels, 32 to 2048.
        difficulty: a name of `DIFFICULTIES`.
        seed: a whole number that names the whole data set.

    Returns:
        A data set with the columns of `sat_peft.data.features`, one box and one mask an image.

    Raises:
        UsageError: an unknown name, or a size or number out of range.
    """
    if classes not in CLASS_SETS:
        raise unknown_choice("set of classes", classes, CLASS_SETS)
    if difficulty not in DIFFICULTIES:
        raise unknown_choice("difficulty", difficulty, DIFFICULTIES)
    if not 32 <= image_size <= 2048:
        raise UsageError(f"image_size must be from 32 to 2048 pixels, got {image_size}.")
    if scenes_per_class < 1:
        raise UsageError(f"scenes_per_class must be at least 1, got {scenes_per_class}.")
    scene_classes = CLASS_SETS[classes]
    features = localization_features([scene_class.name for scene_class in scene_classes], with_mask=True)
    rows: dict[str, list] = {name: [] for name in features}
    for label, scene_class in enumerate(scene_classes):
        for index in range(scenes_per_class):
            scene = render_scene(
                scene_class, scene_seed(split, index, seed), image_size=image_size, difficulty=difficulty
            )
            rows["image_id"].append(f"{split}/{scene_class.name}/{index:05d}")
            rows["image"].append(_png(scene.image[..., ::-1]))
            rows["label"].append(label)
            rows["boxes"].append([scene.box.tolist()])
            rows["mask"].append(_png(scene.mask.astype(np.uint8) * 255))
    return Dataset.from_dict(rows, features=features)
