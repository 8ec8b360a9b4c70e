"""OpenImages30k, the part of OpenImages V5 that wsolevaluation published: masks instead of boxes.

    ROOT/train/01226z/*.jpg                      (29,819 images)
    ROOT/{val,test}/01226z/7af766bd43da900b.jpg  (2,500 and 5,000 images)
                           7af766bd43da900b_m01226z_6554d965.png   (one or more: the objects)
                           7af766bd43da900b_ignore.png             (pixels that do not count, unless an object's)

Our `train`, `validation` and `test` are wsolevaluation's train, val (called train-fullsup there) and test. There are no
boxes, so what is measured is PxAP. The classes are OpenImages' identifiers, in their order. The same images are read
from wsolevaluation's lists by the source `wsol_metadata`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from sat_peft.data.sources.files import class_folders, image_files, require_folder
from sat_peft.data.sources.records import Problems, Record, SourceSplit
from sat_peft.data.sources.registry import Source
from sat_peft.errors import UsageError
from sat_peft.files import is_folder

_LAYOUT = (
    "Expected ROOT/train/CLASS/ID.jpg, and in ROOT/{val,test}/CLASS ID.jpg with its masks ID_mCLASS_*.png and "
    "ID_ignore.png."
)
_FOLDERS = {"train": "train", "validation": "val", "test": "test"}


def _masks_by_image(folder: Path, files: list[Path], problems: Problems) -> dict[str, tuple[list[Path], list[Path]]]:
    """image name without suffix -> (masks, ignore masks) of a class folder."""
    found: dict[str, tuple[list[Path], list[Path]]] = {path.stem: ([], []) for path in files if path.suffix != ".png"}
    for path in files:
        if path.suffix != ".png":
            continue
        image, _, kind = path.stem.partition("_")
        if image not in found:
            problems.add(path, f"its image {image}.jpg does not exist.", "Add the image, or remove the mask.")
        elif kind == "ignore":
            found[image][1].append(path)
        elif kind.startswith(f"m{folder.name}_"):
            found[image][0].append(path)
        else:
            problems.add(path, f"the name is neither ID_m{folder.name}_*.png nor ID_ignore.png.", "Rename it.")
    return found


def _records(folder: Path, class_names: list[str], with_masks: bool, problems: Problems) -> Iterator[Record]:
    for label, name in enumerate(class_names):
        if not is_folder(folder / name):
            continue
        files = list(image_files(folder / name, problems))
        found = _masks_by_image(folder / name, files, problems)
        for path in files:
            if path.stem not in found or path.suffix == ".png":
                continue
            masks, ignore = found[path.stem]
            if with_masks and not (masks and ignore):
                lacking = "ignore mask" if masks else "mask"
                problems.add(path, f"the image has no {lacking}.", "Extract the archive of the masks beside it.")
                continue
            yield Record(f"{folder.name}/{name}/{path.name}", path, label, (), tuple(masks), tuple(ignore))


def _read(root: Path, split: str, problems: Problems) -> SourceSplit | None:
    folder = root / _FOLDERS[split]
    for needed in (root, root / "train", folder):
        require_folder(needed, _LAYOUT)
    class_names = class_folders(root / "train")
    unknown = [name for name in class_folders(folder) if name not in class_names]
    if unknown:
        raise UsageError(f"{folder} has class folders that {root / 'train'} lacks: {', '.join(unknown[:5])}.")
    with_masks = split != "train"
    return SourceSplit(class_names, _records(folder, class_names, with_masks, problems), with_masks)


def _detect(root: Path) -> bool:
    if not is_folder(root / "val"):
        return False
    first = next(iter(class_folders(root / "val")), None)
    return first is not None and any(entry.name.endswith("_ignore.png") for entry in os.scandir(root / "val" / first))


SOURCE = Source("openimages30k", "OpenImages30k: 100 classes with masks, for PxAP", _LAYOUT, _read, detect=_detect)
