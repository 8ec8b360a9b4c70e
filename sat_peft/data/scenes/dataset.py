"""PartScenes as a `datasets.Dataset`, with splits that cannot overlap."""

from __future__ import annotations

import cv2
import numpy as np
from datasets import Dataset

from sat_peft.data.features import localization_features
from sat_peft.data.scenes.catalogue import CLASS_SETS, DIFFICULTIES
from sat_peft.data.scenes.render import render_scene
from sat_peft.errors import UsageError, unknown_choice

if TYPE_CHECKING:
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
            rows["image"].append({"bytes": _png(scene.image[..., ::-1]), "path": None})
            rows["label"].append(label)
            rows["boxes"].append([scene.box.tolist()])
            rows["mask"].append({"bytes": _png(scene.mask.astype(np.uint8) * 255), "path": None})
            rows["image_id"].append(f"{split}/{scene_class.name}/{index:05d}")
    return Dataset.from_dict(rows, features=features)
