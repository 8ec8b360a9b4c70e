"""FGVC-Aircraft (2013b), as published.

    ROOT/images/0034309.jpg
    ROOT/images_box.txt   images_{variant,family,manufacturer}_{train,val,test}.txt
    ROOT/variants.txt   families.txt   manufacturers.txt

ROOT may also be the folder above, which holds `data`. Our `train`, `validation` and `test` are the official train, val
and test (3,334, 3,333 and 3,333 images); with the option `trainval`, train holds the official train and val, as most
publications train, and there is no validation split. The option `level` chooses what a class is: one of 100 variants,
70 families or 30 manufacturers. Boxes are x0 y0 x1 y1, counted from 1, the last pixel included (`voc`); a few start at
0 all the same and are cut at the edge. The lowest 20 rows of every image are a banner with the photographer's name.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from sat_peft.data.box_formats import to_xyxy
from sat_peft.data.sources.files import numbers, require_file, require_folder
from sat_peft.data.sources.lists import line, read_keyed, read_names
from sat_peft.data.sources.records import Problems, Record, SourceSplit
from sat_peft.data.sources.registry import Source
from sat_peft.data.sources.stored_boxes import upright_boxes
from sat_peft.errors import unknown_choice
from sat_peft.files import is_file, is_folder

_LAYOUT = (
    "Expected ROOT/images/*.jpg, images_box.txt, and of the level (variant, family or manufacturer) variants.txt and "
    "images_variant_{train,val,test}.txt, or all of this in ROOT/data."
)
LEVELS = {"variant": "variants.txt", "family": "families.txt", "manufacturer": "manufacturers.txt"}
_SPLITS = {"train": "train", "validation": "val", "test": "test"}


def _base(root: Path) -> Path:
    return root / "data" if is_folder(root / "data") else root


def _records(root: Path, lists: list[Path], names: list[str], problems: Problems) -> Iterator[Record]:
    box_file = require_file(root / "images_box.txt", _LAYOUT)
    boxes = read_keyed(box_file, problems)
    labels = {name: label for label, name in enumerate(names)}
    for file in lists:
        for image, (number, name) in read_keyed(file, problems).items():
            where = line(file, number)
            if name not in labels:
                problems.add(where, f"the class {name!r} is not in the list of classes.", "Add or repair it.")
            elif image not in boxes:
                problems.add(where, f"{image!r} is not in {box_file}.", "Add its box, or remove the image.")
            else:
                path = root / "images" / f"{image}.jpg"
                number, text = boxes[image]
                box = numbers(text, 4, line(box_file, number), problems)
                found = box and upright_boxes(to_xyxy([box], "voc"), path, line(box_file, number), problems)
                if found is not None:
                    yield Record(image, path, labels[name], found)


def _read(
    root: Path, split: str, problems: Problems, *, level: str = "variant", trainval: bool = False
) -> SourceSplit | None:
    require_folder(root, _LAYOUT)
    if level not in LEVELS:
        raise unknown_choice("level", level, LEVELS)
    root = _base(root)
    if trainval and split == "validation":
        return None
    official = ["train", "val"] if trainval and split == "train" else [_SPLITS[split]]
    lists = [require_file(root / f"images_{level}_{name}.txt", _LAYOUT) for name in official]
    names = read_names(require_file(root / LEVELS[level], _LAYOUT))
    return SourceSplit(names, _records(root, lists, names, problems))


def _detect(root: Path) -> bool:
    return all(is_file(_base(root) / name) for name in ("images_box.txt", "variants.txt"))


SOURCE = Source(
    "fgvc_aircraft", "FGVC-Aircraft: aircraft by variant, family or manufacturer", _LAYOUT, _read, detect=_detect
)
