"""What the files that belong to an image are called."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import PurePosixPath

from sat_peft.files import short_name


def annotation_path(image_id: str, suffix: str, *, flat: bool) -> PurePosixPath:
    """CLASS/1.xml for the image CLASS/1.jpg, or 1.xml where it is to be `flat`."""
    path = PurePosixPath(image_id).with_suffix("")
    path = path.with_name(short_name(path.name + suffix))
    return PurePosixPath(path.name) if flat else path


def shared_annotation(image_ids: Iterable[str], *, flat: bool) -> tuple[str, str] | None:
    """The first two images whose annotations would have one name, or None."""
    seen: dict[PurePosixPath, str] = {}
    for image_id in image_ids:
        other = seen.setdefault(annotation_path(image_id, ".", flat=flat), image_id)
        if other != image_id:
            return other, image_id
    return None


def picture_paths(image_ids: Iterable[str]) -> Callable[[str, str], PurePosixPath]:
    """Names the pictures of images: `named("CLASS/1.png", ".jpg")` is CLASS/1.jpg.

    It is CLASS/1.png.jpg where CLASS/1.jpg is an image too, so that no two images share a picture; also on file
    systems that do not tell capitals from small letters.
    """
    ids = {image_id.casefold() for image_id in image_ids}
    seen: set[str] = set()
    shared: set[str] = set()
    for image_id in ids:
        stem = str(PurePosixPath(image_id).with_suffix(""))
        # A stem that is the name of another image would meet that image's full name.
        (shared if stem in seen or (stem in ids and stem != image_id) else seen).add(stem)

    def named(image_id: str, suffix: str) -> PurePosixPath:
        path = PurePosixPath(image_id)
        if str(path.with_suffix("")).casefold() not in shared:
            path = path.with_suffix("")
        return path.with_name(short_name(path.name + suffix))

    return named
