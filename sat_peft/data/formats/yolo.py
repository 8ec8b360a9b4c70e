"""YOLO's text annotations, read and written, in the layout of Ultralytics.

Boxes are centre and size in shares of the image's sides.

    ROOT/data.yaml                          names, and where the images of train, val and test are
    ROOT/images/train/*.jpg                 or whatever data.yaml says: a folder, several, or a list of files
    ROOT/labels/train/*.txt                 the image's path with `labels` for `images`; else beside the image

A line is `class x y width height`, or `class x1 y1 x2 y2 …`, a polygon, whose box is taken. An image without a text
file, or with an empty one, is one without objects. Numbers may have commas between them, classes may be given by their
names, and may count from 1 where data.yaml counts from 0, or the other way round.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePath

from sat_peft.data.box_formats import from_xyxy
from sat_peft.data.sources.files import SPLIT_NAMES, image_files, require_folder
from sat_peft.data.sources.objects import AnnotatedImage, object_split
from sat_peft.data.sources.records import Kept, Problems, SourceSplit
from sat_peft.data.sources.registry import Source
from sat_peft.data.writing import PredictionSet, Writer
from sat_peft.data.writing.files import folder_replacement, link_images
from sat_peft.data.writing.names import annotation_path
from sat_peft.errors import UsageError
from sat_peft.files import FileProblem, is_file, is_folder, read_lines, read_yaml, respelled, shown
from sat_peft.files.readers import parse_number

# What YAML writes for nothing.
_NOTHING = (None, "", "~", "null", "Null", "NULL")
_REPAIR = "Repair or remove the line."
_FILES = ("data.yaml", "data.yml", "dataset.yaml", "dataset.yml")
_LAYOUT = (
    "Expected ROOT/data.yaml with `names` and the folders `train`, `val` and maybe `test`, and the annotations of "
    "ROOT/images/train/1.jpg in ROOT/labels/train/1.txt."
)


class _UnnamedClass(Exception):
    """An annotation is of a class without a name, and how its tool counts them has not been found out yet."""


@dataclass
class _Classes:
    """The names of the classes.

    Args:
        names: names by index.
        shift: what is added to the number of a class in the annotations to get that index.
        settled: whether `shift` has been found out.
    """

    names: dict[int, str]
    shift: int = 0
    settled: bool = False

    def find(self, word: str) -> str | None:
        """The name of the class that an annotation calls `word`; None where there is none.

        Raises:
            _UnnamedClass: there is none, and `shift` may be the reason.
        """
        number = parse_number(word)
        if number is None:
            return word if word in self.names.values() else None
        name = self.names.get(number + self.shift)
        if name is None and not self.settled:
            raise _UnnamedClass
        return name


def _read_description(file: Path) -> dict:
    content = read_yaml(file)
    if not isinstance(content, dict):
        raise FileProblem(file, f"it is no description of a data set, but {shown(content)}.", _LAYOUT)
    return content


def _class_names(content: dict, file: Path) -> dict[int, str]:
    """Names by index: `names` is a list, or a mapping from the index."""
    names = content.get("names")
    entries = dict(enumerate(names)) if isinstance(names, list) else names
    # Anything but texts could be an expansion of a few aliases to billions.
    if not isinstance(entries, dict) or not all(isinstance(name, str) for name in entries.values()):
        raise FileProblem(file, f"`names` must list the classes, got {shown(names)}.", "Write `names: [cat, dog]`.")
    try:
        indices = {int(key): name for key, name in entries.items()}
    except (ValueError, TypeError) as error:
        what = f"`names` must list the classes, or map 0, 1, … to them, got {shown(names)}."
        raise FileProblem(file, what, "Write `names: [cat, dog]`.") from error
    if len(set(indices.values())) < len(entries) or len(indices) < len(entries):
        what = "`names` has a class twice, so that their images could not be told apart."
        raise FileProblem(file, what, "Rename or remove all but one.")
    return dict(sorted(indices.items()))


def _places(content: dict, file: Path, split: str) -> list[Path] | None:
    """Folders and lists of the images of a split; None where data.yaml names none."""
    value = next((content[name] for name in SPLIT_NAMES[split] if content.get(name) not in (*_NOTHING, [], {})), None)
    if value is None:
        return None
    # `path` often names a folder of the machine that the data was made on.
    path = content.get("path")
    bases = [file.parent / path] if isinstance(path, str) and path not in _NOTHING else []
    bases.append(file.parent)
    places = []
    for entry in value if isinstance(value, list) else [value]:
        if not isinstance(entry, str):
            what = f"the {split} split must name a folder or a list of images, got {shown(entry)}."
            raise FileProblem(file, what, "Repair or remove the entry.")
        # Roboflow writes `../train/images` for a folder beside data.yaml.
        names = [entry, entry.removeprefix("../"), entry.replace("\\", "/")]
        choices = [base / name for base in bases for name in names]
        place = next((choice for choice in choices if os.path.exists(choice)), None)
        if place is None:
            what = f"it names {shown(entry)} for the {split} split, which does not exist."
            raise FileProblem(file, what, "Repair or remove the entry.")
        places.append(place)
    return places


def _image_paths(place: Path, problems: Problems) -> Iterator[Path]:
    if is_folder(place):
        yield from image_files(place, problems, beside=(".txt", ".cache", ".npy"))
        return
    for _, line in read_lines(place):
        # The paths in a list are relative to its folder.
        yield place.parent / line.strip()


def _relative(path: Path, root: Path) -> PurePath:
    """The path below the root; from the top where it lies elsewhere. Links stay: annotations lie beside the link."""
    path, above = os.path.abspath(path), f"{root}{os.sep}"
    return PurePath(path.removeprefix(above))


def _label_file(inside: PurePath, root: Path) -> Path:
    """`labels` for the last `images` in the path of an image below the root, or beside the image."""
    parts = list(inside.parts)
    if "images" in parts:
        parts[len(parts) - 1 - parts[::-1].index("images")] = "labels"
    return respelled((root / PurePath(*parts)).with_suffix(".txt"))


def _words(line: str) -> list[str]:
    """The words of a line, which may have commas or semicolons between them."""
    words = line.split()
    if len(words) == 1:
        words = line.replace(";", ",").split(",")
    return [word.strip() for word in words]


def _box(values: list[float], keypoints: bool, where: str, problems: Problems) -> list[float] | None:
    """The box of the numbers behind the class; None after a problem."""
    if len(values) == 4 or (keypoints and len(values) > 4):
        return values[:4]
    if keypoints or len(values) < 6 or len(values) % 2:
        what = f"expected `class x y width height`, or a polygon of three points or more, got {len(values) + 1} numbers"
        confidence = len(values) == 5 and 0 <= values[4] <= 1
        fix = "Remove the sixth number, the confidence of a prediction." if confidence else _REPAIR
        problems.add(where, f"{what}: {' '.join(f'{value:g}' for value in values[:8])}.", fix)
        return None
    x, y = values[::2], values[1::2]
    return [(min(x) + max(x)) / 2, (min(y) + max(y)) / 2, max(x) - min(x), max(y) - min(y)]


def _objects(
    file: Path, classes: _Classes, keypoints: bool, split: str, problems: Problems
) -> tuple[list[str], list[list[float]], list[int]] | None:
    """(classes, boxes, lines) of the objects in a text file that can be used; None after a problem with the file."""
    found: tuple[list[str], list[list[float]], list[int]] = ([], [], [])
    lines = problems.read(lambda path: list(read_lines(path)), file)
    if lines is None:
        return None
    for number, line in lines:
        where = f"{file}, line {number}"
        name, *words = _words(line)
        # A comma between digits, where blanks are between the numbers, is a decimal one.
        values = [parse_number(word.replace(",", ".")) for word in words]
        if None in values or not values:
            problems.add(where, f"expected a class and numbers, separated by blanks, got {line[:80]!r}.", _REPAIR)
            continue
        if "," in line or ";" in line:
            problems.note(f"{split} lines with commas, read as blanks between numbers or as decimal points")
        class_name = classes.find(name)
        if class_name is None:
            what = f"the class {shown(name)} has no name in data.yaml."
            problems.add(where, what, "Add it there to `names`.")
            continue
        box = _box(values, keypoints, where, problems)
        if box is not None:
            for column, value in zip(found, (class_name, box, number), strict=True):
                column.append(value)
    return found


def _place(file: Path, lines: list[int], index: int) -> str:
    return f"{file}, line {lines[index]}"


@dataclass(frozen=True)
class _Reader:
    """Reads the annotated images of the splits that a data.yaml describes."""

    content: dict
    file: Path
    base: Path
    classes: _Classes

    def read(self, split: str, problems: Problems) -> Iterator[AnnotatedImage] | None:
        places = _places(self.content, self.file, split)
        return None if places is None else self._images(places, split, problems)

    def _images(self, places: list[Path], split: str, problems: Problems) -> Iterator[AnnotatedImage]:
        keypoints = "kpt_shape" in self.content
        for place in places:
            for image in _image_paths(place, problems):
                inside = _relative(image, self.base)
                label_file = _label_file(inside, self.base)
                found = ([], [], [])
                if not os.path.exists(label_file):
                    problems.note(f"{split} images without a label file, taken as images without an object")
                else:
                    found = _objects(label_file, self.classes, keypoints, split, problems)
                if found is not None:
                    classes, boxes, lines = found
                    # Of what lies elsewhere the path without its root, which no name may begin with.
                    image_id = inside.as_posix().removeprefix(inside.anchor)
                    label_place = partial(_place, label_file, lines)
                    yield AnnotatedImage(image_id, image, str(label_file), classes, boxes, label_place)
        self.classes.settled = True

    def find_shift(self) -> int:
        """What is to be added to the classes of all annotations: they may count from 0 where data.yaml counts from 1,
        or the other way round. 0 where neither is plain.
        """
        names, found = self.classes.names, set()
        for split in SPLIT_NAMES:
            for place in _places(self.content, self.file, split) or []:
                for image in _image_paths(place, Problems(skip=True)):
                    label_file = _label_file(_relative(image, self.base), self.base)
                    lines = Problems(skip=True).read(lambda path: list(read_lines(path)), label_file) or []
                    found |= {parse_number(_words(line)[0]) for _, line in lines} - {None}
        if not found or min(found) == min(names):
            return 0
        shifts = {shift for shift in (1, -1) if {number + shift for number in found} <= set(names)}
        return shifts.pop() if len(shifts) == 1 and not found <= set(names) else 0


def _read(root: Path, split: str, problems: Problems, kept: Kept, *, label_from: str = "largest") -> SourceSplit | None:
    require_folder(root, _LAYOUT)
    file = next((root / name for name in _FILES if is_file(root / name)), None)
    if file is None:
        raise UsageError(f"{root} has no data.yaml, which names the classes. {_LAYOUT}")
    content = kept.once(file, lambda: _read_description(file))
    names = _class_names(content, file)
    classes = kept.once("classes", lambda: _Classes(names))
    reader = _Reader(content, file, Path(os.path.abspath(root)), classes)
    settings = {"box_format": "yolo", "label_from": label_from, "layout": _LAYOUT, "class_order": list(names.values())}
    try:
        # All training images are looked through for their classes first, so a class without a name is met there.
        found = object_split(reader.read, split, problems, kept, **settings)
    except _UnnamedClass:
        classes.shift, classes.settled = reader.find_shift(), True
        found = object_split(reader.read, split, problems, kept, **settings)
    if classes.shift:
        problems.note(f"numbering of the classes that is {-classes.shift:+d} against that of data.yaml, taken as meant")
    return found


def _detect(root: Path) -> bool:
    return any(is_file(root / name) for name in _FILES)


SOURCE = Source("yolo", "YOLO's text annotations with a data.yaml", _LAYOUT, _read, keeps=True, detect=_detect)


def label_line(label: int, box: list[float], image_size: tuple[int, int]) -> str:
    """The line of one object: its class from 0, centre and size of its xyxy box as shares of the image's sides."""
    # Nine digits name a hundredth of a pixel in an image of any size that can be opened.
    return " ".join([str(label), *(f"{value:.9g}" for value in from_xyxy([box], "yolo", image_size)[0].tolist())])


def description(splits: Mapping[str, str], class_names: list[str]) -> str:
    """The text of a data.yaml: a folder of images for each of `splits`, and the classes, numbered from 0."""
    # A string in JSON is a string in YAML, whatever characters it holds.
    names = "".join(f"  {index}: {json.dumps(name, ensure_ascii=False)}\n" for index, name in enumerate(class_names))
    return "".join(f"{split}: {folder}\n" for split, folder in splits.items()) + f"names:\n{names}"


def write_yolo(path: Path, predictions: PredictionSet) -> None:
    """Writes a folder with labels/1.txt for the image CLASS/1.jpg, or labels/CLASS/1.txt where it is not to be flat,
    `classes.txt`, `data.yaml`, and links to the images in `images`, where trainers look for them.

    The format has no place for scores.
    """
    names = predictions.class_names
    with folder_replacement(path) as folder:
        (folder / "classes.txt").write_text("".join(f"{name}\n" for name in names), encoding="utf-8")
        text = description({"train": "images", "val": "images"}, names)
        (folder / "data.yaml").write_text(text, encoding="utf-8")
        link_images(folder / "images", predictions)
        for found in predictions.predictions:
            file = folder / "labels" / annotation_path(found.image_id, ".txt", flat=predictions.flat)
            file.parent.mkdir(parents=True, exist_ok=True)
            lines = [label_line(found.label_index, box, found.image_size) for box in found.boxes]
            file.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


WRITER = Writer("yolo", "yolo", write_yolo, named_by_stem=True)
