"""Image files for the benchmarks."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from sat_peft.data.scenes import NOVEL_CLASSES, render_scene, scene_seed


def write_scenes(paths: Sequence[Path], *, image_size: int, distinct: int) -> None:
    """Writes scenes as JPEG files; file i shows novel class i modulo their number.

    Args:
        paths: of the files; their folders are made.
        image_size: side in pixels.
        distinct: as many scenes are drawn, a multiple of the number of classes. Further files are links to them, which
            costs a reader the same.
    """
    for number, path in enumerate(paths):
        path.parent.mkdir(parents=True, exist_ok=True)
        if number < distinct:
            scene = render_scene(
                NOVEL_CLASSES[number % len(NOVEL_CLASSES)], scene_seed("test", number), image_size=image_size
            )
            Image.fromarray(scene.image).save(path, quality=90)
        else:
            os.link(paths[number % distinct], path)
