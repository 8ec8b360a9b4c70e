"""A small folder of image files."""

import json
from pathlib import Path

from PIL import Image

from sat_peft.data.scenes import NOVEL_CLASSES, render_scene, scene_seed

CLASSES = NOVEL_CLASSES[:3]


def write_folder(root: Path, *, boxes: bool = True) -> Path:
    """Three classes of PartScenes as JPEG files: 3 training, 2 validation and 3 test images each."""
    for split, number in (("train", 3), ("validation", 2), ("test", 3)):
        rows = []
        for scene_class in CLASSES:
            (root / split / scene_class.name).mkdir(parents=True)
            for index in range(number):
                scene = render_scene(scene_class, scene_seed(split, index), image_size=64)
                file_name = f"{scene_class.name}/{index}.jpg"
                Image.fromarray(scene.image).save(root / split / file_name, quality=95)
                x0, y0, x1, y1 = scene.box.tolist()
                rows.append({"file_name": file_name, "objects": {"bbox": [[x0, y0, x1 - x0, y1 - y0]]}})
        if boxes and split != "train":
            (root / split / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return root
