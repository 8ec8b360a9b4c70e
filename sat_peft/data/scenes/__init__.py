"""PartScenes: generated images in which one part carries the class and the whole object is the box.

A classifier may look at the part alone; a localiser must cover the body too. That is the conflict of weakly
supervised localisation in a form that runs anywhere: images, boxes and masks are exact and come from a seed.
"""

from sat_peft.data.scenes.catalogue import BASE_CLASSES, CLASS_SETS, DIFFICULTIES, NOVEL_CLASSES, SceneClass
from sat_peft.data.scenes.dataset import SPLITS, part_scenes, scene_seed
from sat_peft.data.scenes.render import Scene, render_scene

__all__ = [
    "BASE_CLASSES",
    "CLASS_SETS",
    "DIFFICULTIES",
    "NOVEL_CLASSES",
    "SPLITS",
    "Scene",
    "SceneClass",
    "part_scenes",
    "render_scene",
    "scene_seed",
]
