"""COCO's object annotations, read and written: a JSON file per split, boxes as xywh in pixels, 0-based.

    ROOT/annotations/instances_{train,val,test}2017.json   ROOT/{train,val,test}2017/*.jpg     COCO
    ROOT/{train,valid,test}/_annotations.coco.json         beside the images                   Roboflow
    ROOT/{train,val,test}.json                             ROOT/{train,val,test}/*.jpg

Numbers of categories need not be contiguous. Crowds are left out, since their box is around many objects. Numbers that
are written as text or with a fraction of zero are taken as numbers.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from sat_peft.data.box_formats import from_xyxy
from sat_peft.data.sources.files import SPLIT_NAMES, ImageFinder, require_folder
from sat_peft.data.sources.objects import AnnotatedImage, object_split
from sat_peft.data.sources.records import Kept, Problems, SourceSplit
from sat_peft.data.sources.registry import Source
from sat_peft.data.writing import PredictionSet, Writer
from sat_peft.data.writing.files import text_file_replacement, write_array
from sat_peft.errors import UsageError
from sat_peft.files import FileProblem, is_file, is_folder, is_number, read_json, shown
from sat_peft.files.readers import LARGE, is_yes, parse_number

# Of a number in a box, beyond all images.
_LARGEST = 1e9
_AS_TEXT = "annotations with numbers written as text or with a fraction, taken as numbers"
# (annotation file, folders of the images) below the root, `{split}` being a name of the split; the first that exist.
_LAYOUTS = (
    ("annotations/instances_{split}2017.json", ("{split}2017", "images/{split}2017")),
    ("annotations/instances_{split}2014.json", ("{split}2014", "images/{split}2014")),
    ("annotations/instances_{split}.json", ("{split}", "images/{split}", "images")),
    ("{split}/_annotations.coco.json", ("{split}",)),
    ("annotations/{split}.json", ("{split}", "images/{split}", "images")),
    ("{split}.json", ("{split}", "images/{split}", "images")),
    # One file, as labelling tools export it: the train split.
    ("annotations/instances_default.json", ("images/default", "images")),
    ("_annotations.coco.json", (".",)),
    ("annotations.json", ("images", ".")),
    ("result.json", (".",)),
)
_LAYOUT = (
    "Expected ROOT/annotations/instances_train2017.json and ROOT/train2017, ROOT/train/_annotations.coco.json, or "
    "ROOT/train.json and ROOT/train; likewise for val and test. Other places are named with --annotations and "
    "--images, for example --annotations 'json/{split}.json' --images 'pictures/{split}'."
)


def _annotation_file(root: Path, split: str, patterns: list[str]) -> tuple[Path, str, str] | None:
    """(file, its pattern, name of the split in it) of the first that exists."""
    for pattern in patterns:
        if "{split}" not in pattern and split != "train":
            continue
        for name in SPLIT_NAMES[split]:
            file = root / pattern.replace("{split}", name)
            if is_file(file):
                return file, pattern, name
    return None


def _find(root: Path, split: str, annotations: str | None, images: str | None) -> tuple[Path, Path] | None:
    """(annotation file, folder of the images) of a split; None where it has no annotations."""
    layouts = dict(_LAYOUTS)
    found = _annotation_file(root, split, [annotations] if annotations else list(layouts))
    if found is None:
        return None
    file, pattern, name = found
    choices = (images,) if images else layouts.get(pattern, ("{split}", "{split}2017", "images/{split}", "images", "."))
    folders = [root / choice.replace("{split}", name) for choice in choices]
    for folder in folders:
        if is_folder(folder):
            return file, folder
    raise UsageError(f"{file} has no images: there is no folder {' or '.join(map(str, folders))}. {_LAYOUT}")


def _read_content(file: Path) -> dict:
    content = read_json(file, limit=LARGE)
    keys = ("images", "annotations", "categories")
    if not isinstance(content, dict) or any(not isinstance(content.get(key), list) for key in keys):
        raise UsageError(f"{file} is no COCO annotation file: it needs the lists {', '.join(keys)}.")
    for key in keys:
        bad = next((number for number, entry in enumerate(content[key]) if not isinstance(entry, dict)), None)
        if bad is not None:
            raise FileProblem(file, f"{key}[{bad}] is no object in braces, but {shown(content[key][bad])}.")
    return content


def _identifier(value: object) -> int | str | None:
    """A number of an image or category in the one form that all its spellings have; None for none at all."""
    if type(value) is int:
        return value
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    number = parse_number(value) if isinstance(value, str) else value
    # A text with zeros in front is a name.
    if number is not None and is_number(number) and number == int(number) and str(value) in _spellings(int(number)):
        return int(number)
    return value if isinstance(value, str) else None


def _spellings(number: int) -> tuple[str, str]:
    return str(number), f"{number}.0"


def _category_names(content: dict, file: Path) -> dict[object, str]:
    """Names by number, in the order of the numbers."""
    names = {}
    for category in content["categories"]:
        key, name = _identifier(category.get("id")), category.get("name")
        if key is None or not isinstance(name, str):
            raise FileProblem(file, f"a category needs a whole number `id` and a `name`, got {shown(category)}.")
        if key in names and names[key] != name:
            raise FileProblem(file, f"the category {key} is called {shown(names[key])} and {shown(name)}.")
        names[key] = name
    return dict(sorted(names.items(), key=lambda item: (isinstance(item[0], str), item[0])))


def _box(value: object) -> list[float] | None:
    """Four finite numbers; None for anything else."""
    if not isinstance(value, list) or len(value) != 4:
        return None
    for entry in value:
        if (type(entry) is not int and type(entry) is not float) or not -_LARGEST < entry < _LARGEST:
            break
    else:
        return value
    numbers = [parse_number(entry) if isinstance(entry, str) else entry for entry in value]
    return [float(number) for number in numbers] if all(map(is_number, numbers)) else None


def _objects_by_image(
    content: dict, names: dict, file: Path, split: str, keep_crowd: bool, problems: Problems
) -> dict[object, list[tuple[str, list[float], object]]]:
    """(class, box, number of the annotation) of every object, by the number of its image, in the file's order."""
    images = {_identifier(entry.get("id")) for entry in content["images"]}
    objects = defaultdict(list)
    for entry in content["annotations"]:
        image, category = _identifier(entry.get("image_id")), _identifier(entry.get("category_id"))
        if image is None or image not in images:
            what, fix = f"the image {shown(entry.get('image_id'))} is not listed.", "Add it to `images`."
        elif category is None or category not in names:
            what, fix = f"the category {shown(entry.get('category_id'))} is not listed.", "Add it to `categories`."
        elif not keep_crowd and is_yes(entry.get("iscrowd")):
            problems.leave_out(f"{split} crowds (--keep-crowd keeps them)")
            continue
        elif (box := _box(entry.get("bbox"))) is None:
            what, fix = f"`bbox` must be [x, y, width, height] in pixels, got {shown(entry.get('bbox'))}.", "Repair it."
        else:
            if box is not entry["bbox"] or image is not entry["image_id"] or category is not entry["category_id"]:
                problems.note(f"{split} {_AS_TEXT}")
            objects[image].append((names[category], box, entry.get("id")))
            continue
        problems.add(f"{file}, annotation {shown(entry.get('id'))}", what, fix)
    return objects


def _size(entry: dict) -> tuple[int, int] | None:
    """(width, height) that an entry tells of its image."""
    given = entry.get("width"), entry.get("height")
    size = [parse_number(value) if isinstance(value, str) else value for value in given]
    return (int(size[0]), int(size[1])) if all(map(is_number, size)) else None


def _place(file: Path, image: str, objects: list[tuple], index: int) -> str:
    return f"{file}, annotation {shown(objects[index][2])} of {shown(image)}"


def _images(
    content: dict, file: Path, folder: Path, root: Path, split: str, keep_crowd: bool, problems: Problems
) -> Iterator[AnnotatedImage]:
    names = _category_names(content, file)
    objects = _objects_by_image(content, names, file, split, keep_crowd, problems)
    finder = ImageFinder(folder, root, problems)
    seen = set()
    for number, entry in enumerate(content["images"]):
        where = f"{file}, images[{number}]"
        file_name, key = entry.get("file_name"), _identifier(entry.get("id"))
        if not isinstance(file_name, str) or key is None:
            problems.add(where, f"an image needs an `id` and a `file_name`, got {shown(entry)}.", "Add them.")
            continue
        if key in seen:
            problems.add(where, f"the image number {key} is listed twice.", "Remove one of its entries.")
            continue
        seen.add(key)
        image = finder.find(file_name, where, problems)
        if image is not None:
            found = objects.get(key, [])
            yield AnnotatedImage(
                finder.image_id(image),
                image,
                where,
                [name for name, _, _ in found],
                [box for _, box, _ in found],
                partial(_place, file, file_name, found),
                None if problems.sizes is None else _size(entry),
            )


def _read(
    root: Path,
    split: str,
    problems: Problems,
    kept: Kept,
    *,
    annotations: str | None = None,
    images: str | None = None,
    label_from: str = "largest",
    keep_crowd: bool = False,
) -> SourceSplit | None:
    require_folder(root, _LAYOUT)
    train = _find(root, "train", annotations, images)
    if train is None:
        raise UsageError(f"{root} has no annotations of a train split. {_LAYOUT}")
    content = kept.once(train[0], lambda: _read_content(train[0]))

    def read(name: str, problems: Problems) -> Iterator[AnnotatedImage] | None:
        found = _find(root, name, annotations, images)
        if found is None:
            return None
        file, folder = found
        # Several splits may be one file; that of one split is let go with it.
        own = content if file == train[0] else _read_content(file)
        return _images(own, file, folder, root, name, keep_crowd, problems)

    order = list(dict.fromkeys(_category_names(content, train[0]).values()))
    settings = {"box_format": "xywh", "label_from": label_from, "layout": _LAYOUT, "class_order": order}
    return object_split(read, split, problems, kept, **settings)


def _detect(root: Path) -> bool:
    return _annotation_file(root, "train", list(dict(_LAYOUTS))) is not None


SOURCE = Source(
    "coco", "COCO's JSON annotations, also as labelling tools export them", _LAYOUT, _read, keeps=True, detect=_detect
)


def annotation(
    number: int, image: int, category: int, box: list[float], *, area: float | None = None, **more: object
) -> dict:
    """One object as COCO has it.

    Args:
        number, image, category: numbers of the annotation, of its image and of its category.
        box: xyxy, half open, absolute pixels.
        area: of the object in pixels; by default that of the box.
        more: further fields.
    """
    x, y, width, height = from_xyxy([box], "xywh")[0].tolist()
    return {
        "id": number,
        "image_id": image,
        "category_id": category,
        "bbox": [x, y, width, height],
        "area": width * height if area is None else area,
        "iscrowd": 0,
        **more,
    }


def write_coco(path: Path, predictions: PredictionSet) -> None:
    """Writes a COCO data set: `images`, `annotations` with `bbox` [x, y, width, height] in pixels, `categories`.

    Images, annotations and categories are numbered from 1, as in COCO, in the order of the images and of the classes.
    Annotations carry the class probability as `score` besides COCO's own fields, and as `segmentation` the outlines of
    the region, or, where masks were not asked for, of the box: readers that ask for masks get the box, and CVAT draws
    it as a polygon. `file_name` is relative to the root folder of the images.
    """
    info = {
        "description": "Predicted by sat_peft from image labels",
        "protocol": predictions.protocol,
        "threshold": predictions.threshold,
        "threshold_source": predictions.threshold_source,
    }
    categories = [{"id": index, "name": name} for index, name in enumerate(predictions.class_names, 1)]
    with text_file_replacement(path) as file:
        file.write(f'{{"info": {json.dumps(info, ensure_ascii=False)},\n"images": ')
        write_array(file, _predicted_images(predictions))
        file.write(',\n"annotations": ')
        write_array(file, _predicted_objects(predictions))
        file.write(',\n"categories": ')
        write_array(file, categories)
        file.write("}\n")


def _predicted_images(predictions: PredictionSet) -> Iterator[dict]:
    for number, found in enumerate(predictions.predictions, 1):
        width, height = found.image_size
        yield {"id": number, "file_name": found.image_id, "width": width, "height": height}


def _predicted_objects(predictions: PredictionSet) -> Iterator[dict]:
    number = 0
    for image, found in enumerate(predictions.predictions, 1):
        for index, box in enumerate(found.boxes):
            number += 1
            x0, y0, x1, y1 = box
            outlines = found.polygons[index] if found.polygons else [[[x0, y0], [x1, y0], [x1, y1], [x0, y1]]]
            area = sum(cv2.contourArea(np.array(points, np.float32)) for points in outlines)
            segmentation = [[side for point in points for side in point] for points in outlines]
            category = found.label_index + 1
            yield annotation(number, image, category, box, area=area, segmentation=segmentation, score=found.score)


WRITER = Writer("coco", "coco.json", write_coco)
