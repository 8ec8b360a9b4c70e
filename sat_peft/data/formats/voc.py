"""Pascal VOC's XML annotations, read and written: boxes from 1, the last pixel included.

    ROOT/VOCdevkit/VOC2012/{JPEGImages,Annotations,ImageSets/Main}   also ROOT = VOCdevkit or ROOT = VOC2012
    ROOT/{train,valid,test}/*.jpg with an .xml file beside each      flat folders

In VOC's own layout, ImageSets/Main/{train,val,test}.txt list the images of the splits. Difficult objects are left out.
Numbers may have a decimal comma.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path, PurePosixPath
from xml.etree.ElementTree import Element, ElementTree, SubElement, indent

import numpy as np

from sat_peft.data.box_formats import from_xyxy
from sat_peft.data.sources.files import IMAGE_SUFFIXES, SPLIT_NAMES, image_files, numbers, require_folder, walk_files
from sat_peft.data.sources.objects import AnnotatedImage, object_split
from sat_peft.data.sources.records import Kept, Problems, SourceSplit
from sat_peft.data.sources.registry import Source
from sat_peft.data.writing import PredictionSet, Writer
from sat_peft.data.writing.files import folder_replacement, link_images
from sat_peft.data.writing.names import annotation_path
from sat_peft.errors import UsageError
from sat_peft.files import is_file, is_folder, read_lines, read_xml, respelled
from sat_peft.files.readers import is_yes, parse_number

_CORNERS = ("xmin", "ymin", "xmax", "ymax")
_DECIMAL_COMMA = re.compile(r"^-?\d+,\d+$")
# Lists of the splits, the first that exists is taken.
_LISTS = {"train": ("train", "trainval"), "validation": ("val",), "test": ("test",)}
_LAYOUT = (
    "Expected ROOT/VOCdevkit/VOC2012 with JPEGImages, Annotations and ImageSets/Main/{train,val,test}.txt, or "
    "ROOT/{train,valid,test} with an .xml file beside every image."
)


def _year_folders(root: Path) -> list[Path]:
    """The folders below `root` that have VOC's own layout."""
    places = [root, *sorted(root.glob("VOC*")), *sorted(root.glob("VOCdevkit/VOC*"))]
    return [place for place in places if is_folder(place / "JPEGImages") and is_folder(place / "ImageSets" / "Main")]


def _year_folder(root: Path, year: str | None) -> Path | None:
    """The one of VOC's own layout; None where there is none."""
    folders = _year_folders(root)
    if year is not None:
        folders = [folder for folder in folders if folder.name == f"VOC{year}"]
        if not folders:
            raise UsageError(f"{root} has no folder VOC{year}. {_LAYOUT}")
    if len(folders) > 1:
        years = ", ".join(folder.name.removeprefix("VOC") for folder in folders)
        raise UsageError(f"{root} has several years: {years}. Name one with --year.")
    return folders[0] if folders else None


def _corner(box: Element, name: str, split: str, problems: Problems) -> str:
    text = (box.findtext(name) or "?").strip()
    if _DECIMAL_COMMA.match(text):
        problems.note(f"{split} coordinates with a decimal comma, read as a point")
        return text.replace(",", ".")
    return text


def _objects(
    root: Element, where: Path, split: str, keep_difficult: bool, problems: Problems
) -> tuple[list[str], list[list[float]], list[int]]:
    """(classes, boxes, numbers in the file) of the objects of an annotation that can be used."""
    classes, boxes, places = [], [], []
    for number, entry in enumerate(root.iterfind("object"), 1):
        place = f"{where}, object {number}"
        if not keep_difficult and is_yes(entry.findtext("difficult")):
            problems.leave_out(f"{split} difficult objects (--keep-difficult keeps them)")
            continue
        name, box = (entry.findtext("name") or "").strip(), entry.find("bndbox")
        if not name or box is None:
            problems.add(place, "an object needs a `name` and a `bndbox`.", "Add what is missing.")
            continue
        text = " ".join(_corner(box, key, split, problems) for key in _CORNERS)
        values = numbers(text, 4, place, problems)
        if values is not None:
            classes.append(name)
            boxes.append(values)
            places.append(number)
    return classes, boxes, places


def _size(root: Element) -> tuple[int, int] | None:
    """(width, height) that an annotation tells of its image."""
    width, height = (parse_number(root.findtext(f"size/{name}") or "") for name in ("width", "height"))
    return None if width is None or height is None else (int(width), int(height))


def _annotated(
    image: Path, image_id: str, xml: Path, split: str, keep_difficult: bool, problems: Problems
) -> Iterator[AnnotatedImage]:
    """The image with its objects; nothing after a problem with its file."""
    parsed = problems.read(read_xml, xml)
    if parsed is None:
        return
    classes, boxes, object_numbers = _objects(parsed, xml, split, keep_difficult, problems)
    place = partial(_place, xml, object_numbers)
    size = None if problems.sizes is None else _size(parsed)
    yield AnnotatedImage(image_id, image, str(xml), classes, boxes, place, size)


def _place(xml: Path, object_numbers: list[int], index: int) -> str:
    return f"{xml}, object {object_numbers[index]}"


def _listed_image(folder: Path, name: str) -> Path:
    """The image file of an entry of a list; that of VOC where none exists."""
    for suffix in IMAGE_SUFFIXES:
        if is_file(folder / f"{name}{suffix}"):
            return folder / f"{name}{suffix}"
    return folder / f"{name}.jpg"


def _listed(year: Path, split: str, root: Path, keep_difficult: bool, problems: Problems):
    """The images of a split in VOC's own layout; None without a list of it."""
    lists = [year / "ImageSets" / "Main" / f"{name}.txt" for name in _LISTS[split]]
    file = next((file for file in lists if is_file(file)), None)
    if file is None:
        return None

    def images() -> Iterator[AnnotatedImage]:
        for number, line in read_lines(file):
            name = line.split()[0]
            if name.startswith("/") or ".." in name.split("/"):
                what = f"the image {name!r} is no name of a file in {year / 'JPEGImages'}."
                problems.add(f"{file}, line {number}", what, "Name it without its folder and suffix.")
                continue
            image = _listed_image(year / "JPEGImages", name)
            xml = respelled(year / "Annotations" / f"{name}.xml")
            yield from _annotated(image, image.relative_to(root).as_posix(), xml, split, keep_difficult, problems)

    return images()


def _split_folder(root: Path, split: str) -> Path | None:
    return next((root / name for name in SPLIT_NAMES[split] if is_folder(root / name)), None)


def _beside(root: Path, split: str, keep_difficult: bool, problems: Problems):
    """The images of a split in a flat folder; None without one."""
    folder = _split_folder(root, split)
    if folder is None:
        return None

    def images() -> Iterator[AnnotatedImage]:
        without_image = {
            entry.path for entry in walk_files(folder, Problems(skip=True)) if entry.name.lower().endswith(".xml")
        }
        above = f"{folder.name}/"
        for image in image_files(folder, problems, beside=(".xml",)):
            xml = respelled(image.with_suffix(".xml"))
            without_image.discard(str(xml))
            image_id = above + str(image)[len(str(folder)) + 1 :].replace(os.sep, "/")
            yield from _annotated(image, image_id, xml, split, keep_difficult, problems)
        for xml in sorted(without_image):
            problems.add(xml, "there is no image of that name beside it.", "Add the image, or remove the file.")

    return images()


def _read(
    root: Path,
    split: str,
    problems: Problems,
    kept: Kept,
    *,
    year: str | None = None,
    label_from: str = "largest",
    keep_difficult: bool = False,
) -> SourceSplit | None:
    require_folder(root, _LAYOUT)
    own_layout = _year_folder(root, year)

    def read(name: str, problems: Problems) -> Iterator[AnnotatedImage] | None:
        if own_layout is not None:
            return _listed(own_layout, name, root, keep_difficult, problems)
        return _beside(root, name, keep_difficult, problems)

    return object_split(read, split, problems, kept, box_format="voc", label_from=label_from, layout=_LAYOUT)


def _detect(root: Path) -> bool:
    if _year_folders(root):
        return True
    folder = _split_folder(root, "train")
    return folder is not None and next(folder.glob("*.xml"), None) is not None


SOURCE = Source("voc", "Pascal VOC's XML annotations", _LAYOUT, _read, keeps=True, detect=_detect)


def annotation(
    image: str, image_size: tuple[int, int], objects: Iterable[tuple[str, list[float], dict]], source: str
) -> Element:
    """The `annotation` element of one image.

    Args:
        image: its path below the root folder, with forward slashes.
        image_size: (width, height) in pixels.
        objects: (class, box as xyxy, further elements of the object). Boxes become whole pixels.
        source: where the annotation comes from.
    """
    path = PurePosixPath(image)
    width, height = image_size
    root = Element("annotation")
    _add(root, folder="" if path.parent == PurePosixPath(".") else path.parent, filename=path.name)
    _add(SubElement(root, "source"), database=source)
    # Whatever the file holds, it was read as RGB.
    _add(SubElement(root, "size"), width=width, height=height, depth=3)
    _add(root, segmented=0)
    for name, box, more in objects:
        item = SubElement(root, "object")
        _add(item, name=name, pose="Unspecified", truncated=0, difficult=0, **more)
        corners = np.rint(from_xyxy([box], "voc")[0]).astype(int).tolist()
        _add(SubElement(item, "bndbox"), **dict(zip(_CORNERS, corners, strict=True)))
    indent(root)
    return root


def _add(parent: Element, **texts: object) -> None:
    for tag, text in texts.items():
        SubElement(parent, tag).text = str(text)


def write_voc(path: Path, predictions: PredictionSet) -> None:
    """Writes a folder with 1.xml for the image CLASS/1.jpg, or CLASS/1.xml where it is not to be flat, `labelmap.txt`
    with the classes, and links to the images in `images`.

    Boxes are whole pixels, 1-based, the last pixel included. The class probability stands in `confidence`, which VOC's
    results have and its annotations do not; readers pass it over. There is no labelmap.txt where the name of a class
    holds a colon or begins with `#`, which it cannot say.
    """
    with folder_replacement(path) as folder:
        names = predictions.class_names
        if not any(":" in name or name.startswith("#") for name in names):
            lines = ["# label:color_rgb:parts:actions", *(f"{name}:::" for name in names)]
            (folder / "labelmap.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
        link_images(folder / "images", predictions)
        for found in predictions.predictions:
            file = folder / annotation_path(found.image_id, ".xml", flat=predictions.flat)
            file.parent.mkdir(parents=True, exist_ok=True)
            objects = [(found.label, box, {"confidence": f"{found.score:.6f}"}) for box in found.boxes]
            root = annotation(found.image_id, found.image_size, objects, "predicted by sat_peft")
            ElementTree(root).write(file, encoding="utf-8", xml_declaration=True)


WRITER = Writer("voc", "voc", write_voc, named_by_stem=True)
