"""Draws one PartScenes image with its exact mask and box.

Drawing and resizing work on bytes (filled polygons in fixed point, exact area averaging and exact bilinear resizing),
and what is computed in floats is rounded element by element, so that the same seed gives the same bytes everywhere.
"""

from __future__ import annotations

import colorsys
import hashlib
import math
from dataclasses import dataclass, replace

import cv2
import numpy as np

from sat_peft.data.scenes.catalogue import (
    BASE_CLASSES,
    BODY_HUE,
    DIFFICULTIES,
    LIMBS,
    PART_ANCHOR,
    PART_COLOURS,
    PART_RADIUS,
    PARTS,
    TAILS,
    TORSOS,
    Difficulty,
    SceneClass,
)

# Scenes are drawn this many times larger and averaged down, which smooths the edges.
SUPERSAMPLING = 2
# cv2 takes polygon vertices in fixed point with this many fractional bits.
_SHIFT = 4
# The texture's octaves: cells per image side and weight.
_OCTAVES = ((3, 0.55), (7, 0.3), (13, 0.15))
_GREY = np.array([0.299, 0.587, 0.114])


@dataclass(frozen=True)
class Scene:
    """An image with its truth.

    Args:
        image: (S, S, 3) uint8, RGB.
        mask: (S, S) bool, the pixels at least half covered by the object (body and part).
        box: (4,) float32 xyxy, half open, absolute pixels: the tight box of `mask`.
    """

    image: np.ndarray
    mask: np.ndarray
    box: np.ndarray


def _fill(canvas: np.ndarray, outlines: list[np.ndarray], colour: tuple[float, ...] | float) -> None:
    """Fills `outlines` (canvas pixels, even-odd rule) in place."""
    fixed = [np.rint(points * (1 << _SHIFT)).astype(np.int32) for points in outlines]
    cv2.fillPoly(canvas, fixed, colour, lineType=cv2.LINE_8, shift=_SHIFT)


def _noise(rng: np.random.Generator, cells: int, side: int) -> np.ndarray:
    """(side, side) uint8 smooth noise with `cells` cells a side."""
    grid = rng.integers(0, 256, (cells, cells), dtype=np.uint8)
    return cv2.resize(grid, (side, side), interpolation=cv2.INTER_LINEAR_EXACT)


def _muted_colour(rng: np.random.Generator, brightness: float, spread: float) -> np.ndarray:
    """An RGB colour of the given brightness whose channels differ by at most about 2 * `spread`."""
    tint = rng.uniform(-spread, spread, 3)
    return np.clip(brightness + tint - tint @ _GREY, 0, 255)


def _background(rng: np.random.Generator, side: int, difficulty: Difficulty, brightness: float) -> np.ndarray:
    """(side, side, 3) uint8: two muted colours mixed by smooth noise."""
    texture = sum(weight * _noise(rng, cells, side).astype(np.float32) for cells, weight in _OCTAVES)
    mix = (texture / 255.0 - 0.5)[..., None]
    low, high = (_muted_colour(rng, brightness + offset, 12.0) for offset in (-difficulty.texture, difficulty.texture))
    colour = ((low + high) / 2 + 2.0 * mix * (high - low)).astype(np.float32)
    return np.clip(np.rint(colour), 0, 255).astype(np.uint8)


def _distract(rng: np.random.Generator, canvas: np.ndarray, difficulty: Difficulty, brightness: float) -> None:
    """Draws muted shapes that belong to no object."""
    side = len(canvas)
    shapes = list(PARTS.values()) + [[torso] for torso in TORSOS.values()]
    for _ in range(rng.integers(difficulty.distractors[0], difficulty.distractors[1] + 1)):
        outlines = shapes[rng.integers(len(shapes))]
        radius, centre = rng.uniform(0.03, 0.09) * side, rng.uniform(0, side, 2)
        angle = rng.uniform(0, 2 * math.pi)
        turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
        colour = _muted_colour(rng, brightness + rng.choice([-1, 1]) * rng.uniform(20, 60), 12.0)
        _fill(canvas, [points @ turn.T * radius + centre for points in outlines], tuple(colour.tolist()))


@dataclass(frozen=True)
class _Pose:
    """Maps the object's frame to canvas pixels: `points @ matrix.T * scale + offset`."""

    matrix: np.ndarray
    scale: float
    offset: np.ndarray

    def __call__(self, outlines: list[np.ndarray]) -> list[np.ndarray]:
        return [points @ self.matrix.T * self.scale + self.offset for points in outlines]


def _pose(rng: np.random.Generator, outlines: list[np.ndarray], side: int, difficulty: Difficulty) -> _Pose:
    """A random flip, rotation, aspect, size and place at which the whole object lies inside the image."""
    angle = math.radians(rng.uniform(-difficulty.rotation, difficulty.rotation))
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    matrix = turn @ np.diag([rng.choice([-1.0, 1.0]) * rng.uniform(0.9, 1.1), rng.uniform(0.9, 1.1)])
    points = np.concatenate(outlines) @ matrix.T
    low, high = points.min(0), points.max(0)
    length = rng.uniform(*difficulty.object_length)
    scale = length * side / (high - low).max()
    room = side - (high - low) * scale
    return _Pose(matrix, scale, rng.uniform(0, 1, 2) * room - low * scale)


def _pattern(rng: np.random.Generator, name: str) -> list[np.ndarray]:
    """The outlines, in the object's frame, that the body's second shade fills."""
    phase = rng.uniform(0, 0.16)
    span = np.arange(-1.0, 1.0, 0.24)
    if name == "stripes":
        return [np.array([[x, -1], [x + 0.12, -1], [x + 0.12, 1], [x, 1]]) for x in span + phase]
    if name == "checks":
        return [
            np.array([[x, y], [x + 0.14, y], [x + 0.14, y + 0.14], [x, y + 0.14]])
            for i, x in enumerate(np.arange(-1.0, 0.9, 0.14) + phase)
            for j, y in enumerate(np.arange(-0.7, 0.7, 0.14) + phase)
            if (i + j) % 2
        ]
    if name == "spots":
        angles = np.radians(np.arange(0, 360, 45))
        circle = 0.065 * np.stack([np.cos(angles), np.sin(angles)], 1)
        return [circle + np.array([x + phase, y + phase]) for x in span for y in np.arange(-0.75, 0.7, 0.22)]
    return []


def _tinted(hue: float, saturation: float, brightness: float) -> np.ndarray:
    """An RGB colour of that hue (degrees) with about the given brightness (0-255)."""
    full = np.array(colorsys.hsv_to_rgb((hue / 360) % 1, saturation, 1.0))
    return np.clip(full * brightness / (full @ _GREY), 0, 255)


def _shades(rng: np.random.Generator, brightness: float, level: Difficulty) -> tuple[np.ndarray, np.ndarray]:
    """The body's two colours: of one hue, darker or lighter than the background by at least the level's contrast."""
    # A hue needs light to be seen, and room below white.
    up = rng.random() < 0.5 if 105 < brightness < 150 else brightness <= 105
    distance = level.contrast + rng.uniform(0, 25)
    first = brightness + (distance if up else -distance)
    hue = BODY_HUE + rng.uniform(-level.hue_spread, level.hue_spread)
    saturation = rng.uniform(0.55, 0.75)
    return _tinted(hue, saturation, first), _tinted(hue, saturation, max(first * 0.6, first - 50))


def _draw_object(
    rng: np.random.Generator, canvas: np.ndarray, scene_class: SceneClass, level: Difficulty, brightness: float
) -> np.ndarray:
    """Draws an object somewhere on the canvas. Returns its (side, side) uint8 coverage: 255 on body and part."""
    side = len(canvas)
    family = scene_class.family
    limbs = LIMBS[family.limbs] + TAILS[family.tail]
    torso = [TORSOS[family.torso]]
    jitter = rng.uniform(-0.04, 0.04, 2)
    radius = PART_RADIUS * rng.uniform(0.9, 1.1)
    part = [points * radius + np.asarray(PART_ANCHOR) + jitter for points in PARTS[scene_class.part_shape]]
    pose = _pose(rng, [*torso, *limbs, *part], side, level)

    first, second = _shades(rng, brightness, level)
    coverage = np.zeros((side, side), np.uint8)
    for outline in pose(torso + limbs):
        _fill(coverage, [outline], 255)
    patterned = np.zeros((side, side), np.uint8)
    for outline in pose(_pattern(rng, family.pattern)):
        _fill(patterned, [outline], 255)
    canvas[coverage > 0] = np.rint(first).astype(np.uint8)
    canvas[(coverage & patterned) > 0] = np.rint(second).astype(np.uint8)

    drawn_part = np.zeros((side, side), np.uint8)
    _fill(drawn_part, pose(part), 255)
    colour = np.asarray(PART_COLOURS[scene_class.part_colour], np.float64) * rng.uniform(0.85, 1.0)
    # A dark rim keeps the part readable on a body of the same brightness; it belongs to the part.
    rim = cv2.dilate(drawn_part, np.ones((3, 3), np.uint8), iterations=max(1, round(side / 128)))
    canvas[rim > 0] = 30
    canvas[drawn_part > 0] = np.rint(colour).astype(np.uint8)
    return coverage | rim


def render_scene(
    scene_class: SceneClass,
    seed: tuple[int, ...],
    *,
    image_size: int = 96,
    difficulty: str = "standard",
) -> Scene:
    """Draws the scene that (`scene_class`, `seed`, `difficulty`) name.

    Args:
        scene_class: an entry of `BASE_CLASSES` or `NOVEL_CLASSES`.
        seed: whole numbers; every different tuple is a random stream of its own.
        image_size: side S of the image in pixels. The same seed gives the same scene at every size.
        difficulty: a name of `DIFFICULTIES`.
    """
    level = DIFFICULTIES[difficulty]
    # The class is part of the stream's name, so two classes never share a layout.
    name = [*seed, int.from_bytes(hashlib.sha256(scene_class.name.encode()).digest()[:8], "little")]
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence(name)))
    side = image_size * SUPERSAMPLING
    brightness = rng.uniform(70, 185)
    canvas = _background(rng, side, level, brightness)
    _distract(rng, canvas, level, brightness)

    if level.others[1]:  # where there are none no number is drawn, which would change the scene
        smaller = replace(level, object_length=level.other_length)
        for _ in range(rng.integers(level.others[0], level.others[1] + 1)):
            _draw_object(rng, canvas, BASE_CLASSES[rng.integers(len(BASE_CLASSES))], smaller, brightness)
    coverage = _draw_object(rng, canvas, scene_class, level, brightness)

    image = cv2.resize(canvas, (image_size, image_size), interpolation=cv2.INTER_AREA)
    grain = rng.normal(0, level.grain, (image_size, image_size, 1)).astype(np.float32)
    image = np.clip(np.rint(image + grain), 0, 255).astype(np.uint8)
    mask = cv2.resize(coverage, (image_size, image_size), interpolation=cv2.INTER_AREA) >= 128
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    box = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], np.float32)
    return Scene(image, mask, box)
