"""The images that a user names: files, folders and glob patterns, or a split of a data set."""

from __future__ import annotations

import glob
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import torch
from datasets import Dataset

from sat_peft.data.decoding import decode_image
from sat_peft.data.features import labels, undecoded
from sat_peft.data.sources import Problems
from sat_peft.data.sources.display_names import class_lookup, read_display_names
from sat_peft.data.sources.files import IMAGE_SUFFIXES, image_files
from sat_peft.data.writing import check_names
from sat_peft.errors import UsageError
from sat_peft.files import is_folder, spelled


@dataclass(frozen=True)
class ImageFiles:
    """Image files below one folder. Any other object with `image_ids`, `decode` and `root` serves as well.

    Args:
        root: the deepest folder that holds all of them, absolute.
        image_ids: their paths below `root`, with forward slashes; sorted, each once.
    """

    root: Path
    image_ids: Sequence[str]

    def decode(self, index: int) -> torch.Tensor:
        """The image as (3, H, W) uint8, upright. Raises `UsageError` where it cannot be read."""
        image_id = self.image_ids[index]
        return decode_image({"path": str(self.root / image_id)}, image_id)


@dataclass(frozen=True)
class DataSetImages:
    """Images of a data set, with the attributes of `ImageFiles`.

    Args:
        root: name of the data set and its split.
        image_ids: names of the rows, each once.
        rows: undecoded, with the columns of `sat_peft.data.features`.
    """

    root: str
    image_ids: Sequence[str]
    rows: Dataset

    def decode(self, index: int) -> torch.Tensor:
        """The image as (3, H, W) uint8, upright. Raises `UsageError` where it cannot be read."""
        return decode_image(self.rows[index]["image"], self.image_ids[index])


def data_set_images(rows: Dataset, name: str) -> DataSetImages:
    """The images of a data set with the columns of `sat_peft.data.features`, in its order.

    Args:
        rows: rows of one split.
        name: name of the data set and its split; predictions of another name never share a folder.

    Raises:
        UsageError: no image, or names that annotations and pictures cannot have.
    """
    image_ids = rows["image_id"][:]
    if not image_ids:
        raise UsageError(f"{name} has no images.")
    check_names(image_ids, "image name")
    for image_id in image_ids:
        # Annotations and maps are named after the images, and must not leave the output folder.
        path = PurePosixPath(image_id)
        if path.is_absolute() or ".." in path.parts:
            raise UsageError(f"the image name {image_id!r} of {name} leads out of the folder; give a relative path.")
    return DataSetImages(name, image_ids, undecoded(rows.select_columns(["image"])))


def data_set_labels(rows: Dataset, class_names: Sequence[str], shown: Mapping[str, str] | None = None) -> list[int]:
    """The class index of every row of a data set, found by the names of its classes.

    Args:
        rows: rows of one split.
        class_names: class names of the model.
        shown: names by class folder; a class may be called by either.

    Raises:
        UsageError: a class of the rows that is not among `class_names`.
    """
    names, indices = rows.features["label"].names, class_lookup(class_names, shown or {})
    found = labels(rows).tolist()
    unknown = [names[label] for label in sorted(set(found)) if names[label] not in indices]
    if unknown:
        raise UsageError(
            f"the data has {len(unknown)} classes that the model lacks, first {unknown[0]!r}. Take --classes predicted."
        )
    return [indices[names[label]] for label in found]


def find_images(inputs: Sequence[str | Path], *, leave_out: Path | None = None) -> ImageFiles:
    """The images that `inputs` name.

    Names stay apart by their folders: the id of an image is its path below the deepest folder that all inputs share.

    Args:
        inputs: files (taken whatever their suffix), folders (searched recursively for image files, as those of
            classes are: hidden ones are left out, links followed) and glob patterns, `**` included.
        leave_out: a folder that is not searched, such as the output.

    Raises:
        UsageError: an input that names nothing, no image at all, a folder that cannot be listed, a file name that
            annotations cannot carry.
    """
    if not inputs:
        raise UsageError("name at least one image file, folder or glob pattern.")
    leave_out = None if leave_out is None else _absolute(leave_out)
    roots: set[Path] = set()
    found: set[Path] = set()
    for given in inputs:
        matched: set[Path] = set()
        # A name that exists is meant as it stands, even where it has the characters of a pattern.
        named = os.path.exists(given)
        for path in [_absolute(given)] if named else _matches(given):
            if is_folder(path):
                problems = Problems(skip=True)
                matched.update(image_files(path, problems, leave_out=leave_out))
                if problems.count:
                    raise UsageError("\n  ".join(problems.digest()))
                roots.add(path)
            elif named or path.suffix.lower() in IMAGE_SUFFIXES:
                matched.add(path)
                roots.add(path.parent)
        if not matched:
            raise UsageError(
                f"no images in {str(given)!r}; image files end in {', '.join(sorted(IMAGE_SUFFIXES))}, in any case."
            )
        found |= matched
    root = Path(os.path.commonpath(roots))
    image_ids = sorted(path.relative_to(root).as_posix() for path in found)
    check_names([str(root), *image_ids], "file name")
    return ImageFiles(root, image_ids)


def _absolute(path: str | Path) -> Path:
    # Links stay what they are: two links to one file are two images, each with its own name and folder.
    return Path(os.path.abspath(path))


def _matches(pattern: str | Path) -> list[Path]:
    if not glob.has_magic(str(pattern)):
        raise UsageError(f"the input {str(pattern)!r} does not exist; name image files, folders or glob patterns.")
    matches = glob.glob(str(pattern), recursive=True)
    if not matches:
        raise UsageError(f"the pattern {str(pattern)!r} matches nothing.")
    return [_absolute(match) for match in matches]


def known_folder_labels(
    images: ImageFiles, class_names: Sequence[str], shown: Mapping[str, str] | None = None
) -> list[int | None]:
    """The class index of every image: of the nearest folder above it that is named like a class, or None.

    Folders above the root do not count; the root itself does.

    Args:
        images: found by `find_images`.
        class_names: class names of the model.
        shown: names by class folder; a class may be called by either.
    """
    indices = {spelled(name): index for name, index in class_lookup(class_names, shown or {}).items()}
    labels = []
    for image_id in images.image_ids:
        folders = list(map(spelled, [images.root.name, *image_id.split("/")[:-1]]))
        labels.append(next((indices[name] for name in reversed(folders) if name in indices), None))
    return labels


def folder_labels(images: ImageFiles, class_names: Sequence[str], shown: Mapping[str, str] | None = None) -> list[int]:
    """`known_folder_labels` of images that all lie in the folder of a class.

    Where some do not, names of class folders are looked for in the root of the images and in the two folders above it,
    as a data set has them in its root.

    Raises:
        UsageError: an image in no folder of a class, a malformed file of names.
    """
    labels = known_folder_labels(images, class_names, shown)
    if None in labels:
        nearby = next(filter(None, map(read_display_names, (images.root, *images.root.parents[:2]))), {})
        labels = known_folder_labels(images, class_names, {**nearby, **(shown or {})})
    unknown = [image_id for image_id, label in zip(images.image_ids, labels, strict=True) if label is None]
    if unknown:
        classes = ", ".join(class_names[:5]) + (", …" if len(class_names) > 5 else "")
        raise UsageError(
            f"{len(unknown)} of {len(labels)} images lie in no folder that is named like a class of the model, first "
            f"{unknown[0]!r}. The model's classes: {classes}. Move them, say in a classes.txt what their folders are "
            "called, or take --classes predicted."
        )
    return labels
