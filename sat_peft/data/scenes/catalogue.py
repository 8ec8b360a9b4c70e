"""What exists in PartScenes: bodies (families), parts (classes) and the named difficulties.

Geometry is in the object's own frame: the torso is about one unit long, x points to the head, y points down.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

CLASSES_PER_FAMILY = 4

# Part colours as RGB. A part is the only saturated thing on an object.
PART_COLOURS = {
    "red": (214, 40, 40),
    "orange": (247, 127, 0),
    "yellow": (252, 211, 25),
    "green": (40, 160, 60),
    "cyan": (30, 190, 200),
    "blue": (40, 70, 215),
    "violet": (130, 50, 190),
    "pink": (240, 90, 170),
}


@dataclass(frozen=True)
class Family:
    """A body: the silhouette and the pattern that the four classes of a family share."""

    name: str
    torso: str
    limbs: str
    tail: str
    pattern: str


@dataclass(frozen=True)
class SceneClass:
    """A class: a family's body that carries one part of a given shape and colour."""

    name: str
    family: Family
    part_shape: str
    part_colour: str


@dataclass(frozen=True)
class Difficulty:
    """How hard a scene is to read. Lengths are fractions of the image side.

    Args:
        object_length: range of the longer side of the object's box.
        contrast: least distance in brightness (0-255) between the body and the mean of the background.
        distractors: range of the number of distractor shapes, upper end included.
        texture: amplitude (0-255) of the background's texture.
        hue_spread: how far a body's hue strays from `BODY_HUE`, in degrees.
        rotation: largest rotation of the object, in degrees.
        grain: standard deviation (0-255) of the pixel noise.
        others: range of the number of objects of base classes behind the labelled one, upper end included. They are
            what photographs have beside their object: nothing labels or boxes them.
        other_length: range of the longer side of the box of each.
    """

    object_length: tuple[float, float]
    contrast: float
    distractors: tuple[int, int]
    texture: float
    hue_spread: float
    rotation: float
    grain: float
    others: tuple[int, int] = (0, 0)
    other_length: tuple[float, float] = (0.20, 0.35)


# Bodies are warm-coloured in a grey world: what an object is made of tells it from its surroundings at every class.
BODY_HUE = 28.0

DIFFICULTIES = {
    "easy": Difficulty((0.60, 0.85), 50.0, (0, 1), 12.0, 5.0, 10.0, 2.0),
    "standard": Difficulty((0.45, 0.80), 30.0, (1, 4), 20.0, 10.0, 20.0, 4.0),
    "cluttered": Difficulty((0.45, 0.80), 30.0, (1, 4), 20.0, 10.0, 20.0, 4.0, others=(1, 3)),
    "hard": Difficulty((0.25, 0.85), 15.0, (3, 8), 40.0, 60.0, 40.0, 8.0),
}

BASE_FAMILIES = (
    Family("beetle", "ellipse", "six_legs", "none", "plain"),
    Family("hound", "box", "two_legs", "rod", "stripes"),
    Family("finch", "drop", "wing", "fan", "spots"),
    Family("turtle", "dome", "four_stubs", "rod", "checks"),
    Family("pike", "spindle", "fins", "fan", "plain"),
    Family("crab", "hexagon", "claws", "none", "stripes"),
    Family("tapir", "bean", "two_legs", "none", "spots"),
    Family("kite", "diamond", "none", "streamer", "checks"),
    Family("moth", "ellipse", "wings", "none", "plain"),
    Family("lorry", "box", "wheels", "none", "stripes"),
    Family("boat", "trapezoid", "mast", "none", "spots"),
    Family("snail", "dome", "foot", "none", "checks"),
    Family("heron", "drop", "long_legs", "rod", "plain"),
    Family("ray", "triangle", "none", "streamer", "stripes"),
    Family("gecko", "spindle", "four_stubs", "rod", "spots"),
    Family("rocket", "barrel", "fins", "fan", "checks"),
)

NOVEL_FAMILIES = (
    Family("stag", "barrel", "long_legs", "rod", "spots"),
    Family("gull", "bean", "wings", "fan", "plain"),
    Family("cart", "trapezoid", "wheels", "streamer", "checks"),
    Family("newt", "hexagon", "four_stubs", "streamer", "stripes"),
    Family("squid", "drop", "six_legs", "none", "checks"),
)

_PART_SHAPES = (
    "disc",
    "square",
    "triangle",
    "diamond",
    "cross",
    "star",
    "ring",
    "crescent",
    "bar",
    "chevron",
    "hourglass",
    "gear",
)


def _part(number: int) -> tuple[str, str]:
    """(shape, colour) of part `number` of 96; neighbours differ in both."""
    colours = list(PART_COLOURS)
    # Every round through the 8 colours shifts the shapes by one, so that no pair comes twice in 12 rounds.
    round_number, colour_number = divmod(number, len(colours))
    return _PART_SHAPES[(round_number + 5 * colour_number) % len(_PART_SHAPES)], colours[colour_number]


def _scene_class(family: Family, part_number: int) -> SceneClass:
    shape, colour = _part(part_number)
    return SceneClass(f"{family.name}-{colour}-{shape}", family, shape, colour)


# Four base families of different patterns carry the same four parts, so that pretraining has to learn the bodies too.
_FAMILIES_PER_GROUP = 4
BASE_CLASSES = tuple(
    _scene_class(family, number // _FAMILIES_PER_GROUP * CLASSES_PER_FAMILY + part)
    for number, family in enumerate(BASE_FAMILIES)
    for part in range(CLASSES_PER_FAMILY)
)
_BASE_PARTS = len(BASE_FAMILIES) // _FAMILIES_PER_GROUP * CLASSES_PER_FAMILY
# Every novel class has a part of its own, which no base class has: the part alone tells the class.
NOVEL_CLASSES = tuple(
    _scene_class(NOVEL_FAMILIES[number // CLASSES_PER_FAMILY], _BASE_PARTS + number)
    for number in range(len(NOVEL_FAMILIES) * CLASSES_PER_FAMILY)
)
CLASS_SETS = {"base": BASE_CLASSES, "novel": NOVEL_CLASSES}


def _turned(points: np.ndarray, degrees: float) -> np.ndarray:
    angle = math.radians(degrees)
    rotation = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    return points @ rotation


def _rectangle(x0: float, y0: float, x1: float, y1: float) -> np.ndarray:
    return np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]])


def _ellipse(cx: float, cy: float, rx: float, ry: float, start: float = 0.0, stop: float = 360.0) -> np.ndarray:
    angles = np.radians(np.linspace(start, stop, 33))
    return np.stack([cx + rx * np.cos(angles), cy + ry * np.sin(angles)], 1)


def _superellipse(rx: float, ry: float, power: float) -> np.ndarray:
    angles = np.radians(np.linspace(0, 360, 41))
    cos, sin = np.cos(angles), np.sin(angles)
    return np.stack([rx * np.sign(cos) * np.abs(cos) ** power, ry * np.sign(sin) * np.abs(sin) ** power], 1)


def _drop() -> np.ndarray:
    t = np.radians(np.linspace(0, 360, 41))
    return np.stack([0.5 * np.cos(t), 0.36 * np.sin(t) * (0.55 + 0.45 * np.cos(t))], 1)


def _bean() -> np.ndarray:
    outer = _ellipse(0.0, 0.10, 0.50, 0.36, 180, 360)
    inner = _ellipse(0.0, 0.26, 0.46, 0.12, 0, -180)
    return np.concatenate([outer, inner])


TORSOS = {
    "ellipse": _ellipse(0, 0, 0.5, 0.27),
    "box": _superellipse(0.5, 0.22, 0.35),
    "drop": _drop(),
    "dome": np.concatenate([_ellipse(0, 0.18, 0.5, 0.44, 180, 360), [[0.5, 0.22], [-0.5, 0.22]]]),
    "spindle": _superellipse(0.56, 0.20, 1.4),
    "hexagon": np.array([[0.5, 0], [0.27, -0.30], [-0.27, -0.30], [-0.5, 0], [-0.27, 0.30], [0.27, 0.30]]),
    "bean": _bean(),
    "diamond": np.array([[0.5, 0], [0, -0.36], [-0.5, 0], [0, 0.36]]),
    "trapezoid": np.array([[0.52, -0.18], [-0.52, -0.18], [-0.34, 0.20], [0.34, 0.20]]),
    "triangle": np.array([[0.5, 0], [-0.42, -0.42], [-0.25, 0.0], [-0.42, 0.42]]),
    "barrel": _superellipse(0.5, 0.26, 0.6),
}


def _legs(xs: tuple[float, ...], top: float, bottom: float, width: float) -> list[np.ndarray]:
    return [_rectangle(x - width / 2, top, x + width / 2, bottom) for x in xs]


LIMBS: dict[str, list[np.ndarray]] = {
    "none": [],
    "two_legs": _legs((-0.33, 0.33), 0.1, 0.52, 0.12),
    "long_legs": _legs((-0.16, 0.16), 0.1, 0.72, 0.07),
    "six_legs": _legs((-0.3, 0.0, 0.3), -0.46, 0.46, 0.06),
    "four_stubs": _legs((-0.3, 0.3), -0.42, 0.42, 0.15),
    "wing": [np.array([[0.2, -0.1], [-0.25, -0.62], [-0.2, -0.1]])],
    "wings": [
        np.array([[0.2, 0.0], [0.02, -0.62], [-0.36, -0.50], [-0.15, 0.0]]),
        np.array([[0.2, 0.0], [0.02, 0.62], [-0.36, 0.50], [-0.15, 0.0]]),
    ],
    "fins": [
        np.array([[0.05, -0.1], [-0.22, -0.42], [-0.25, -0.1]]),
        np.array([[0.05, 0.1], [-0.22, 0.42], [-0.25, 0.1]]),
    ],
    "claws": [_turned(_ellipse(0.42, 0.28, 0.22, 0.09), 35), _turned(_ellipse(0.42, -0.28, 0.22, 0.09), -35)],
    "wheels": [_ellipse(-0.3, 0.26, 0.15, 0.15), _ellipse(0.3, 0.26, 0.15, 0.15)],
    "mast": [_rectangle(-0.05, -0.62, 0.02, -0.1), np.array([[-0.07, -0.6], [-0.07, -0.22], [-0.42, -0.22]])],
    "foot": [np.array([[0.62, 0.20], [0.52, 0.32], [-0.62, 0.32], [-0.5, 0.16]])],
}

TAILS: dict[str, list[np.ndarray]] = {
    "none": [],
    "rod": [np.array([[-0.38, -0.08], [-0.82, -0.30], [-0.84, -0.22], [-0.38, 0.06]])],
    "fan": [np.array([[-0.34, 0.0], [-0.78, -0.28], [-0.66, 0.0], [-0.78, 0.28]])],
    "streamer": [
        np.array([[-0.36, -0.05], [-0.62, 0.12], [-0.90, -0.06], [-0.88, 0.06], [-0.62, 0.24], [-0.36, 0.07]])
    ],
}

# Where the part sits, in the object's frame: at the head's end of the torso.
PART_ANCHOR = (0.44, -0.08)
PART_RADIUS = 0.28


def _star(points: int, inner: float) -> np.ndarray:
    angles = np.radians(np.arange(2 * points) * 180.0 / points - 90.0)
    radii = np.where(np.arange(2 * points) % 2 == 0, 1.0, inner)
    return np.stack([radii * np.cos(angles), radii * np.sin(angles)], 1)


_CROSS = np.array(
    [[-1, -3], [1, -3], [1, -1], [3, -1], [3, 1], [1, 1], [1, 3], [-1, 3], [-1, 1], [-3, 1], [-3, -1], [-1, -1]]
)

# Outlines of the parts in a circle of radius one; the ring's second outline is a hole.
PARTS: dict[str, list[np.ndarray]] = {
    "disc": [_ellipse(0, 0, 0.95, 0.95)],
    "square": [_rectangle(-0.8, -0.8, 0.8, 0.8)],
    "triangle": [np.array([[0, -1.0], [0.95, 0.75], [-0.95, 0.75]])],
    "diamond": [np.array([[0, -1.1], [0.75, 0], [0, 1.1], [-0.75, 0]])],
    "cross": [_CROSS / 3.0],
    "star": [_star(5, 0.42) * 1.1],
    "ring": [_ellipse(0, 0, 1.0, 1.0), _ellipse(0, 0, 0.5, 0.5)],
    "crescent": [np.concatenate([_ellipse(0, 0, 1, 1, 60, 300), _ellipse(0.42, 0, 0.75, 0.85, 270, 90)])],
    "bar": [_rectangle(-1.05, -0.38, 1.05, 0.38)],
    "chevron": [np.array([[-1, 0.6], [0, -0.9], [1, 0.6], [1, 0.95], [0, 0.15], [-1, 0.95]])],
    "hourglass": [np.array([[-0.85, -0.95], [0.85, -0.95], [0.2, 0], [0.85, 0.95], [-0.85, 0.95], [-0.2, 0]])],
    "gear": [_star(8, 0.66) * 1.05],
}
