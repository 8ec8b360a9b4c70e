"""The output folder of a prediction.

prediction.json    the settings, which every image of the folder shares
journal-N.jsonl    what is done, written by process N; see `journal.py`
predictions.jsonl, coco.json, voc/, yolo/, label_studio/, metadata.jsonl    the formats that were asked for
skipped.jsonl      images that could not be read, and why; only where there are some
maps/, masks/, overlays/   pictures named after the image, on request
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from sat_peft.data.writing import writers
from sat_peft.errors import UsageError
from sat_peft.files import FileProblem, read_json_object, shown
from sat_peft.files.outputs import (
    check_unlocked,
    check_writable,
    is_unfinished,
    remove,
    remove_unfinished,
    write_json_atomic,
)

SETTINGS = "prediction.json"
SKIPPED = "skipped.jsonl"
MAPS, MASKS, OVERLAYS = "maps", "masks", "overlays"
_OWN = (SKIPPED, MAPS, MASKS, OVERLAYS, "journal-*.jsonl")
# Settings that folders of earlier versions do not have, as they were then.
_NOT_IN_EARLIER = {"tta": "none", "masks": False}


def check_prediction_folder(folder: Path) -> None:
    """Raises `UsageError` if predictions may not be written to `folder` whatever their settings are."""
    check_writable(folder)
    check_unlocked(folder)
    if not folder.is_dir() or (folder / SETTINGS).exists():
        return
    foreign = sorted(path.name for path in folder.iterdir() if not is_unfinished(path))
    if foreign:
        raise UsageError(
            f"the output folder {str(folder)!r} holds files that are no predictions ({', '.join(foreign[:5])}). Name "
            "another with --output."
        )


def open_prediction_folder(folder: Path, settings: Mapping, *, overwrite: bool = False) -> None:
    """Prepares `folder` for predictions with `settings`, new or continued.

    Args:
        folder: folder that exists, locked by this process.
        settings: ready for JSON; those of the folder must be equal.
        overwrite: remove predictions that are there, of these settings or others.

    Raises:
        UsageError: the folder holds predictions with other settings, or links, through which nothing is written.
    """
    file = folder / SETTINGS
    if file.exists() and overwrite:
        # The settings go last: without them the rest would pass for files of another program.
        for pattern in (*_OWN, *(writer.path for writer in writers().values()), SETTINGS):
            for path in folder.glob(pattern):
                remove(path)
    links = [name for name in (MAPS, MASKS, OVERLAYS) if (folder / name).is_symlink()]
    if links:
        raise UsageError(
            f"{str(folder / links[0])!r} is a link, through which no predictions are written. Remove it, or take "
            "--overwrite."
        )
    remove_unfinished(folder)
    if not file.exists():
        write_json_atomic(file, dict(settings))
        return
    try:
        found = read_json_object(file, "the settings of predictions")
    except FileProblem as error:
        raise UsageError(f"{error} Or name another folder with --output, or replace it with --overwrite.") from error
    found = _NOT_IN_EARLIER | found
    wanted = _NOT_IN_EARLIER | json.loads(json.dumps(dict(settings)))
    if found != wanted:
        names = [name for name in wanted | found if wanted.get(name) != found.get(name)]
        shown = "; ".join(f"{name} {_short(found.get(name))} there, {_short(wanted.get(name))} here" for name in names)
        raise UsageError(
            f"the output folder {str(folder)!r} holds predictions with other settings ({shown}). Name another with "
            "--output, or replace them with --overwrite."
        )


def _short(value: object) -> str:
    text = shown(value) if isinstance(value, dict | list) else repr(value)
    return text if len(text) <= 80 else f"{text[:20]}...{text[-57:]}"
