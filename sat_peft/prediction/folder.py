"""The output folder of a prediction.

prediction.json    the settings, which every image of the folder shares
journal-N.jsonl    what is done, written by process N; see `journal.py`
predictions.jsonl, coco.json, voc/, yolo/, label_studio/, metadata.jsonl    the formats that were asked for
skipped.jsonl      images that could not be read, and why; only where there are some
maps/, overlays/   pictures named after the image, on request
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

from sat_peft.errors import UsageError
from sat_peft.files import FileProblem, read_json_object, shown
from sat_peft.formats import FORMATS
from sat_peft.run import write_json_atomic

SETTINGS = "prediction.json"
SKIPPED = "skipped.jsonl"
MAPS, OVERLAYS = "maps", "overlays"
_OWN = (SETTINGS, SKIPPED, MAPS, OVERLAYS, "journal-*.jsonl", *(fmt.path for fmt in FORMATS.values()))
# What a killed process leaves of files that it was writing.
_UNFINISHED = ".*.tmp"


def check_prediction_folder(folder: Path) -> None:
    """Raises `UsageError` if predictions may not be written to `folder` whatever their settings are."""
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"the output {str(folder)!r} is a file; name a folder with --output.")
    if not folder.is_dir() or (folder / SETTINGS).exists():
        return
    foreign = sorted(path.name for path in folder.iterdir() if not path.match(_UNFINISHED))
    if foreign:
        raise UsageError(
            f"the output folder {str(folder)!r} holds files that are no predictions ({', '.join(foreign[:5])}). Name "
            "another with --output."
        )


def open_prediction_folder(folder: Path, settings: Mapping, *, overwrite: bool = False) -> None:
    """Prepares `folder` for predictions with `settings`, new or continued.

    Args:
        folder: made where it does not exist.
        settings: ready for JSON; those of the folder must be equal.
        overwrite: remove predictions that are there, of these settings or others.

    Raises:
        UsageError: the folder holds predictions with other settings, or other files.
    """
    check_prediction_folder(folder)
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / SETTINGS
    if file.exists() and overwrite:
        # The settings go last: without them the rest would be the files of a stranger.
        for pattern in (*_OWN[1:], SETTINGS):
            for path in folder.glob(pattern):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
    for path in folder.rglob(_UNFINISHED):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    if not file.exists():
        write_json_atomic(file, dict(settings))
        return
    try:
        found = read_json_object(file, "the settings of predictions")
    except FileProblem as error:
        raise UsageError(f"{error} Or name another folder with --output, or replace it with --overwrite.") from error
    wanted = json.loads(json.dumps(dict(settings)))
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
