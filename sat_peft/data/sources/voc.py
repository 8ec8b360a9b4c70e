"""Pascal VOC's XML annotations: boxes from 1, the last pixel included.

    ROOT/VOCdevkit/VOC2012/{JPEGImages,Annotations,ImageSets/Main}   also ROOT = VOCdevkit or ROOT = VOC2012
    ROOT/{train,valid,test}/*.jpg with an .xml file beside each      flat folders

In VOC's own layout, ImageSets/Main/{train,val,test}.txt list the images of the splits. Difficult objects are left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from xml.etree.ElementTree import Element

from sat_peft.data.sources.files import (
    IMAGE_SUFFIXES,
    SPLIT_NAMES,
    image_files,
    numbers,
    read_lines,
    read_xml,
    require_folder,
)
from sat_peft.data.sources.objects import AnnotatedImage, object_split
from sat_peft.data.sources.records import Problems, SourceSplit
from sat_peft.data.sources.registry import Source
from sat_peft.errors import UsageError

# Lists of the splits, the first that exists is taken.
_LISTS = {"train": ("train", "trainval"), "validation": ("val",), "test": ("test",)}
_LAYOUT = (
    "Expected ROOT/VOCdevkit/VOC2012 with JPEGImages, Annotations and ImageSets/Main/{train,val,test}.txt, or "
    "ROOT/{train,valid,test} with an .xml file beside every image."
)


def _year_folders(root: Path) -> list[Path]:
    """The folders below `root` that have VOC's own layout."""
    places = [root, *sorted(root.glob("VOC*")), *sorted(root.glob("VOCdevkit/VOC*"))]
    return [place for place in places if (place / "JPEGImages").is_dir() and (place / "ImageSets" / "Main").is_dir()]


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


def _objects(
    root: Element, where: Path, keep_difficult: bool, problems: Problems
) -> tuple[list[str], list[list[float]]] | None:
    """(classes, boxes) of the objects of an annotation; None after a problem."""
    classes, boxes = [], []
    for number, entry in enumerate(root.iterfind("object"), 1):
        place = f"{where}, object {number}"
        if (entry.findtext("difficult") or "0").strip() not in ("0", "Unspecified") and not keep_difficult:
            continue
        name, box = (entry.findtext("name") or "").strip(), entry.find("bndbox")
        if not name or box is None:
            problems.add(place, "an object needs a `name` and a `bndbox`.", "Add what is missing.")
            return None
        text = " ".join(box.findtext(key, "?").strip() for key in ("xmin", "ymin", "xmax", "ymax"))
        values = numbers(text, 4, place, problems)
        if values is None:
            return None
        classes.append(name)
        boxes.append(values)
    return classes, boxes


def _annotated(
    image: Path, xml: Path, root: Path, keep_difficult: bool, problems: Problems
) -> Iterator[AnnotatedImage]:
    """The image with its objects; nothing after a problem."""
    parsed = read_xml(xml, problems)
    found = None if parsed is None else _objects(parsed, xml, keep_difficult, problems)
    if found is not None:
        yield AnnotatedImage(image.relative_to(root).as_posix(), image, str(xml), *found)


def _listed_image(folder: Path, name: str) -> Path:
    """The image file of an entry of a list; that of VOC where none exists."""
    for suffix in IMAGE_SUFFIXES:
        if (folder / f"{name}{suffix}").is_file():
            return folder / f"{name}{suffix}"
    return folder / f"{name}.jpg"


def _listed(year: Path, split: str, root: Path, keep_difficult: bool, problems: Problems):
    """The images of a split in VOC's own layout; None without a list of it."""
    lists = [year / "ImageSets" / "Main" / f"{name}.txt" for name in _LISTS[split]]
    file = next((file for file in lists if file.is_file()), None)
    if file is None:
        return None

    def images() -> Iterator[AnnotatedImage]:
        for _, line in read_lines(file):
            name = line.split()[0]
            xml = year / "Annotations" / f"{name}.xml"
            yield from _annotated(_listed_image(year / "JPEGImages", name), xml, root, keep_difficult, problems)

    return images()


def _split_folder(root: Path, split: str) -> Path | None:
    return next((root / name for name in SPLIT_NAMES[split] if (root / name).is_dir()), None)


def _beside(root: Path, split: str, keep_difficult: bool, problems: Problems):
    """The images of a split in a flat folder; None without one."""
    folder = _split_folder(root, split)
    if folder is None:
        return None

    def images() -> Iterator[AnnotatedImage]:
        without_image = set(folder.rglob("*.xml"))
        for image in image_files(folder, problems):
            xml = image.with_suffix(".xml")
            without_image.discard(xml)
            yield from _annotated(image, xml, root, keep_difficult, problems)
        for xml in sorted(without_image):
            problems.add(xml, "there is no image of that name beside it.", "Add the image, or remove the file.")

    return images()


def _read(
    root: Path,
    split: str,
    problems: Problems,
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

    return object_split(read, split, problems, box_format="voc", label_from=label_from, layout=_LAYOUT)


def _detect(root: Path) -> bool:
    if _year_folders(root):
        return True
    folder = _split_folder(root, "train")
    return folder is not None and next(folder.glob("*.xml"), None) is not None


SOURCE = Source("voc", "Pascal VOC's XML annotations", _LAYOUT, _read, detect=_detect)
