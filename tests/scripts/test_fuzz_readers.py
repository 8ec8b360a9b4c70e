"""Damaged files of every kind lead to a `UsageError` or to a result, whatever the damage is."""

import random
import runpy
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"
with pytest.MonkeyPatch.context() as patch:
    # As Python has it where the script is started.
    patch.setattr(sys, "path", [str(SCRIPTS), *sys.path])
    SCRIPT = runpy.run_path(str(SCRIPTS / "fuzz_readers.py"))
READERS = SCRIPT["READERS"]
# Of the quickest readers; the others take their share.
COUNT = 120


@pytest.mark.parametrize("name", READERS)
def test_damage_is_a_usage_error(name, tmp_path):
    failures = list(SCRIPT["fuzz"](name, max(3, COUNT // READERS[name].cost), 0, tmp_path))
    assert failures == []


@pytest.mark.parametrize("name", READERS)
def test_sound_files_are_read(name, tmp_path):
    READERS[name].make(tmp_path)
    READERS[name].read(tmp_path, random.Random(0))


def test_what_is_no_usage_error_is_found(tmp_path):
    """With a reader that has no guard."""
    import json

    def read(root: Path, draw: random.Random) -> None:
        json.loads((root / "a.json").read_text())

    unguarded = SCRIPT["Reader"](lambda root: (root / "a.json").write_text('{"a": [1, 2]}'), read)
    READERS["unguarded"] = unguarded
    try:
        assert list(SCRIPT["fuzz"]("unguarded", 50, 0, tmp_path))
    finally:
        del READERS["unguarded"]
