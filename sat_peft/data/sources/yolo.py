"""YOLO's text annotations in the layout of Ultralytics: boxes as centre and size in shares of the image's sides.

    ROOT/data.yaml                          names, and where the images of train, val and test are
    ROOT/images/train/*.jpg                 or whatever data.yaml says: a folder, several, or a list of files
    ROOT/labels/train/*.txt                 the image's path with `labels` for `images`; else beside the image

A line is `class x y width height`, or `class x1 y1 x2 y2 …`, a polygon, whose box is taken. An empty text file means an
image without objects.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path, PurePath

import yaml

from sat_peft.data.sources.files import SPLIT_NAMES, image_files, numbers, read_lines, require_folder
from sat_peft.data.sources.objects import AnnotatedImage, object_split
from sat_peft.data.sources.records import Problems, SourceSplit
from sat_peft.data.sources.registry import Source
from sat_peft.errors import UsageError

_FILES = ("data.yaml", "data.yml", "dataset.yaml", "dataset.yml")
_LAYOUT = (
    "Expected ROOT/data.yaml with `names` and the folders `train`, `val` and maybe `test`, and the annotations of "
    "ROOT/images/train/1.jpg in ROOT/labels/train/1.txt."
)


def _read_yaml(file: Path) -> dict:
    try:
        content = yaml.safe_load(file.read_bytes())
    except yaml.YAMLError as error:
        raise UsageError(f"{file} is no YAML ({error}).") from error
    if not isinstance(content, dict):
        raise UsageError(f"{file} is no description of a data set. {_LAYOUT}")
    return content


def _class_names(content: dict, file: Path) -> dict[int, str]:
    """Names by index: `names` is a list, or a mapping from the index."""
    names = content.get("names")
    entries = dict(enumerate(names)) if isinstance(names, list) else names
    if not isinstance(entries, dict) or not all(isinstance(key, int) for key in entries):
        raise UsageError(f"{file}: `names` must list the classes, got {str(names)[:80]!r}.")
    if len({str(name) for name in entries.values()}) < len(entries):
        raise UsageError(f"{file}: `names` has a class twice, so their images could not be told apart.")
    return {index: str(entries[index]) for index in sorted(entries)}


def _places(content: dict, file: Path, split: str) -> list[Path] | None:
    """Folders and lists of the images of a split; None where data.yaml names none."""
    value = next((content[name] for name in SPLIT_NAMES[split] if content.get(name)), None)
    if value is None:
        return None
    # `path` often names a folder of the machine that the data was made on.
    bases = [file.parent / str(content["path"])] if content.get("path") else []
    bases.append(file.parent)
    places = []
    for entry in value if isinstance(value, list) else [value]:
        # Roboflow writes `../train/images` for a folder beside data.yaml.
        names = [str(entry), str(entry).removeprefix("../")]
        choices = [base / name for base in bases for name in names]
        place = next((choice for choice in choices if choice.exists()), None)
        if place is None:
            raise UsageError(
                f"{file} names {str(entry)!r} for the {split} split, which does not exist. Repair or remove the entry."
            )
        places.append(place)
    return places


def _image_paths(place: Path, problems: Problems) -> Iterator[Path]:
    if place.is_dir():
        yield from image_files(place, problems)
        return
    for _, line in read_lines(place):
        # The paths in a list are relative to its folder.
        yield place.parent / line.strip()


def _relative(path: Path, root: Path) -> PurePath:
    """The path below the root; from the top where it lies elsewhere. Links stay: annotations lie beside the link."""
    path = Path(os.path.abspath(path))
    return path.relative_to(root) if path.is_relative_to(root) else path


def _label_file(image: Path, root: Path) -> Path:
    """`labels` for the last `images` in the path below the root, or beside the image."""
    inside = _relative(image, root)
    parts = list(inside.parts)
    if "images" in parts:
        parts[len(parts) - 1 - parts[::-1].index("images")] = "labels"
    return (root / PurePath(*parts)).with_suffix(".txt")


def _box(values: list[float], keypoints: bool, where: str, problems: Problems) -> list[float] | None:
    """The box of the numbers behind the class; None after a problem."""
    if len(values) == 4 or (keypoints and len(values) > 4):
        return values[:4]
    if keypoints or len(values) < 6 or len(values) % 2:
        problems.add(
            where,
            f"expected `class x y width height`, or a polygon of three points or more, got {len(values) + 1} numbers.",
            "Repair or remove the line.",
        )
        return None
    x, y = values[::2], values[1::2]
    return [(min(x) + max(x)) / 2, (min(y) + max(y)) / 2, max(x) - min(x), max(y) - min(y)]


def _objects(
    file: Path, names: dict[int, str], keypoints: bool, problems: Problems
) -> tuple[list[str], list[list[float]]] | None:
    """(classes, boxes) of a text file; None after a problem."""
    if not file.is_file():
        problems.add(
            file, "the annotation file does not exist.", "Add it, as an empty file if the image shows no object."
        )
        return None
    classes, boxes = [], []
    for number, line in read_lines(file):
        where = f"{file}, line {number}"
        values = numbers(line, len(line.split()), where, problems)
        if values is None:
            return None
        if values[0] not in names:
            problems.add(where, f"the class {values[0]:g} has no name in data.yaml.", "Add it there to `names`.")
            return None
        box = _box(values[1:], keypoints, where, problems)
        if box is None:
            return None
        classes.append(names[int(values[0])])
        boxes.append(box)
    return classes, boxes


def _read(root: Path, split: str, problems: Problems, *, label_from: str = "largest") -> SourceSplit | None:
    require_folder(root, _LAYOUT)
    file = next((root / name for name in _FILES if (root / name).is_file()), None)
    if file is None:
        raise UsageError(f"{root} has no data.yaml, which names the classes. {_LAYOUT}")
    content = _read_yaml(file)
    names = _class_names(content, file)
    base = Path(os.path.abspath(root))

    def read(name: str, problems: Problems) -> Iterator[AnnotatedImage] | None:
        places = _places(content, file, name)
        if places is None:
            return None

        def images() -> Iterator[AnnotatedImage]:
            for place in places:
                for image in _image_paths(place, problems):
                    label_file = _label_file(image, base)
                    found = _objects(label_file, names, "kpt_shape" in content, problems)
                    if found is not None:
                        yield AnnotatedImage(_relative(image, base).as_posix(), image, str(label_file), *found)

        return images()

    return object_split(
        read,
        split,
        problems,
        box_format="yolo",
        label_from=label_from,
        layout=_LAYOUT,
        class_order=list(names.values()),
    )


def _detect(root: Path) -> bool:
    return any((root / name).is_file() for name in _FILES)


SOURCE = Source("yolo", "YOLO's text annotations with a data.yaml", _LAYOUT, _read, detect=_detect)
