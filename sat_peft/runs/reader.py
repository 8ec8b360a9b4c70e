"""Reads what a run left in its folder; see `sat_peft.runs.folder` for the files."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from sat_peft.errors import UsageError
from sat_peft.files import FileProblem, check_values, is_file, parse_json, read_json_object
from sat_peft.files.readers import open_file
from sat_peft.files.shared_paths import with_recorded_paths
from sat_peft.options.choices import TtaName

# Command lines ask how far a run is, so what imports torch or OpenCV is imported where it is needed.
if TYPE_CHECKING:
    from sat_peft.localization import ThresholdChoice

# What is told of results.json; earlier versions wrote no `tta`, `health` or `standing`.
_RESULTS = {
    "protocol": str,
    "threshold": float,
    "threshold_source": str,
    "tta": TtaName | None,
    "methods": dict[str, dict[str, float | None]],
    "training_images": int,
    "test_images": int | None,
    "health": dict | None,
    "standing": str | None,
}


def _no_number(name: str) -> None:
    """NaN and infinity, which Python writes to JSON and browsers do not read, count as not measured."""


class RunReader:
    """The files of a run folder. One that is missing is empty, or None.

    Args:
        folder: run folder, or one that recipes/evaluate.py wrote.
        tolerant: damaged files are noted in `damaged` and count as missing, in place of a `FileProblem`.
    """

    def __init__(self, folder: str | Path, *, tolerant: bool = False):
        self.folder = Path(folder)
        self.tolerant = tolerant
        self.damaged: list[str] = []

    @property
    def adapter(self) -> Path:
        return self.folder / "adapter"

    def has(self, name: str) -> bool:
        """Whether the folder holds a file of that name."""
        return is_file(self.folder / name)

    @property
    def has_adapter(self) -> bool:
        return is_file(self.adapter / "adapter_config.json")

    def json(self, name: str, what: str = "a record of a run", fields: dict | None = None) -> dict:
        """The object in a JSON file, of which `fields` are of these types where it has them.

        Raises:
            FileProblem: the file is damaged, and the reader is not tolerant.
        """
        file = self.folder / name
        if not is_file(file):
            return {}
        try:
            values = read_json_object(file, what, **({"parse_constant": _no_number} if self.tolerant else {}))
            check_values(file, values, fields or {})
        except FileProblem:
            if not self.tolerant:
                raise
            self.damaged.append(name)
            return {}
        return values

    def lines(self, name: str) -> Iterator[dict]:
        """The objects of a JSONL file up to a damaged one. A run that was killed may leave its last line unfinished."""
        path = self.folder / name
        if not is_file(path):
            return
        with io.TextIOWrapper(open_file(path), encoding="utf-8", errors="replace") as file:
            for line in file:
                try:
                    row = parse_json(line, path, parse_constant=_no_number)
                except FileProblem:
                    row = None
                if isinstance(row, dict):
                    yield row
                elif line.endswith("\n"):
                    self.damaged.append(name)
                    return

    @contextmanager
    def reading(self, name: str) -> Iterator[None]:
        """Values of other types than a run writes, or none at all, are those of a damaged file too."""
        try:
            yield
        except (KeyError, TypeError, ValueError, AttributeError, IndexError, ZeroDivisionError, OverflowError):
            self.damaged.append(name)

    def status(self) -> str | None:
        """How far the run has come, as its status.json tells; None where there is none."""
        if not os.path.lexists(self.folder / "status.json"):
            return None
        values = {"status": None} | read_json_object(self.folder / "status.json", "the status of a run")
        check_values(self.folder / "status.json", values, {"status": str})
        return values["status"]

    def config(self) -> dict:
        """The full configuration, with the paths that paths.json keeps."""
        return with_recorded_paths(self.json("config.json", "the configuration of a run"), self.folder / "config.json")

    def results(self) -> dict:
        """The figures of results.json."""
        return self.json("results.json", "the results of a run", _RESULTS)

    def threshold(self, protocol: str) -> ThresholdChoice:
        """The threshold that the run chose for maps under `protocol`; the protocol's own where it chose none.

        Raises:
            UsageError: results.json is damaged, or tells no threshold that could be one.
        """
        from sat_peft.localization import ThresholdChoice, choose_threshold

        if not self.has("results.json"):
            return choose_threshold("fixed", protocol=protocol)
        file = self.folder / "results.json"
        try:
            fields = {"protocol": str, "threshold": float, "threshold_source": str}
            found = dict.fromkeys(fields) | self.json("results.json", "the results of a run")
            check_values(file, found, fields)
            # A threshold holds for maps as its protocol normalises them.
            if found["protocol"] != protocol:
                return choose_threshold("fixed", protocol=protocol)
            return ThresholdChoice(choose_threshold("fixed", value=found["threshold"]).value, found["threshold_source"])
        except UsageError as error:
            raise UsageError(f"{file} tells no threshold ({error}); give one with --threshold.") from error

    def baselines(self) -> dict[str, Path]:
        """Files of the baselines that the run trained, by name."""
        return {file.stem: file for file in sorted((self.folder / "baselines").glob("*.safetensors"))}

    def set_aside(self) -> dict[str, list[str]]:
        """`image_id`s that were set aside from the training images, by the split that they stand for."""
        return self._mapping("set_aside.json", "the shares of a run", list[str])

    def display_names(self) -> dict[str, str]:
        """Names of the class folders of the run's data."""
        return self._mapping("classes.json", "the names of classes", str)

    def _mapping(self, name: str, what: str, kind: type) -> dict:
        values = self.json(name, what)
        field = name.removesuffix(".json")
        check_values(self.folder / name, {field: values}, {field: dict[str, kind]})
        return values
