"""COCO's object annotations: a JSON file per split, boxes as xywh in pixels, 0-based.

    ROOT/annotations/instances_{train,val,test}2017.json   ROOT/{train,val,test}2017/*.jpg     COCO
    ROOT/{train,valid,test}/_annotations.coco.json         beside the images                   Roboflow
    ROOT/{train,val,test}.json                             ROOT/{train,val,test}/*.jpg

Numbers of categories need not be contiguous. Crowds are left out, since their box is around many objects.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from sat_peft.data.sources.files import SPLIT_NAMES, read_json, require_folder
from sat_peft.data.sources.objects import AnnotatedImage, object_split
from sat_peft.data.sources.records import Problems, SourceSplit
from sat_peft.data.sources.registry import Source
from sat_peft.errors import UsageError

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
            file = root / pattern.format(split=name)
            if file.is_file():
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
    folders = [root / choice.format(split=name) for choice in choices]
    for folder in folders:
        if folder.is_dir():
            return file, folder
    raise UsageError(f"{file} has no images: there is no folder {' or '.join(map(str, folders))}. {_LAYOUT}")


def _read_content(file: Path) -> dict:
    content = read_json(file)
    keys = ("images", "annotations", "categories")
    if not isinstance(content, dict) or any(not isinstance(content.get(key), list) for key in keys):
        raise UsageError(f"{file} is no COCO annotation file: it needs the lists {', '.join(keys)}.")
    for key in keys:
        bad = next((number for number, entry in enumerate(content[key]) if not isinstance(entry, dict)), None)
        if bad is not None:
            raise UsageError(f"{file}: {key}[{bad}] is no object in braces, but {str(content[key][bad])[:80]!r}.")
    return content


def _category_names(content: dict, file: Path) -> dict[object, str]:
    """Names by number, in the order of the numbers."""
    for category in content["categories"]:
        if not isinstance(category.get("id"), int) or not isinstance(category.get("name"), str):
            raise UsageError(f"{file}: a category needs a whole number `id` and a `name`, got {category!r}.")
    return {entry["id"]: entry["name"] for entry in sorted(content["categories"], key=lambda entry: entry["id"])}


def _is_box(box: object) -> bool:
    return (
        isinstance(box, list)
        and len(box) == 4
        and all(isinstance(value, int | float) and math.isfinite(value) for value in box)
    )


def _objects_by_image(
    content: dict, names: dict, file: Path, keep_crowd: bool, problems: Problems
) -> dict[object, list[tuple[str, list[float]]]]:
    """(class, box) of every object, by the number of its image, in the order of the annotations."""
    images = {entry["id"] for entry in content["images"] if isinstance(entry.get("id"), int | str)}
    objects = defaultdict(list)
    for entry in content["annotations"]:
        where = f"{file}, annotation {entry.get('id')}"
        image, category = entry.get("image_id"), entry.get("category_id")
        if not isinstance(image, int | str) or image not in images:
            problems.add(where, f"the image {image!r} is not listed.", "Add it to `images`.")
        elif not isinstance(category, int) or category not in names:
            problems.add(where, f"the category {category!r} is not listed.", "Add it to `categories`.")
        elif entry.get("iscrowd") and not keep_crowd:
            continue
        elif not _is_box(entry.get("bbox")):
            problems.add(where, f"`bbox` must be [x, y, width, height] in pixels, got {entry.get('bbox')!r}.")
        else:
            objects[image].append((names[category], entry["bbox"]))
    return objects


def _images(content: dict, file: Path, folder: Path, root: Path, keep_crowd: bool, problems: Problems):
    names = _category_names(content, file)
    objects = _objects_by_image(content, names, file, keep_crowd, problems)
    seen = set()
    for number, entry in enumerate(content["images"]):
        where = f"{file}, images[{number}]"
        file_name = entry.get("file_name")
        if not isinstance(file_name, str) or not isinstance(entry.get("id"), int | str):
            problems.add(where, f"an image needs an `id` and a `file_name`, got {str(entry)[:80]!r}.")
            continue
        if entry["id"] in seen:
            problems.add(where, f"the image number {entry['id']} is listed twice.", "Remove one of its entries.")
            continue
        seen.add(entry["id"])
        found = objects.get(entry["id"], [])
        image_id = (folder.relative_to(root) / file_name).as_posix()
        yield AnnotatedImage(
            image_id, folder / file_name, where, [name for name, _ in found], [box for _, box in found]
        )


def _read(
    root: Path,
    split: str,
    problems: Problems,
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
    contents = {train[0]: _read_content(train[0])}

    def read(name: str, problems: Problems) -> Iterator[AnnotatedImage] | None:
        found = _find(root, name, annotations, images)
        if found is None:
            return None
        file, folder = found
        if file not in contents:
            contents[file] = _read_content(file)
        return _images(contents[file], file, folder, root, keep_crowd, problems)

    order = list(dict.fromkeys(_category_names(contents[train[0]], train[0]).values()))
    return object_split(
        read, split, problems, box_format="xywh", label_from=label_from, layout=_LAYOUT, class_order=order
    )


def _detect(root: Path) -> bool:
    return _annotation_file(root, "train", list(dict(_LAYOUTS))) is not None


SOURCE = Source("coco", "COCO's JSON annotations, also as labelling tools export them", _LAYOUT, _read, detect=_detect)
