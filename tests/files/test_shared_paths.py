"""What is told of paths in files for sharing, and how a run finds its data and weights all the same."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import pytest

from sat_peft.commands.command_line import read_config
from sat_peft.data.options import DataOptions, with_absolute_paths
from sat_peft.errors import UsageError
from sat_peft.files.shared_paths import without_absolute_paths
from sat_peft.runs.folder import RunFolder


def test_absolute_paths_are_shortened_wherever_they_stand(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    told = without_absolute_paths(
        {
            "below": str(tmp_path / "here" / "a" / ".." / "photos"),
            "elsewhere": tmp_path / "other" / "photos",
            "list": [tmp_path / "x.json", 3, None],
            "reason": f"the file '{tmp_path}/b/1.jpg' is empty\nFile \"{tmp_path}/c/run.py\", line 3",
            "where": f"{tmp_path}/b/metadata.jsonl, line 2",
            "hub": f"hub:{tmp_path}/birds",
        }
    )
    assert told == {
        "below": "photos",
        "elsewhere": "photos",
        "list": ["x.json", 3, None],
        "reason": "the file '1.jpg' is empty\nFile \"run.py\", line 3",
        "where": "metadata.jsonl, line 2",
        "hub": "hub:birds",
    }


@pytest.mark.parametrize(
    "text", ["part_scenes", "and/or", "a/b.jpg", "../x/y", "hub:someone/birds", "3 / 4", "https://a.b/c/d"]
)
def test_everything_else_stays(text):
    assert without_absolute_paths(text) == text


@dataclass(frozen=True)
class Config(DataOptions):
    weights: Path | None = None
    output: Path | None = None


@pytest.fixture
def run(tmp_path, monkeypatch) -> Path:
    """The folder of a run whose data and weights were named from the working directory, which is then left."""
    (tmp_path / "src").mkdir()
    (tmp_path / "photos").mkdir()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "src")
    options = with_absolute_paths(Config(data="../photos", weights=Path("w.safetensors"), output=Path("run")))
    with RunFolder("run", asdict(options)):
        pass
    monkeypatch.chdir(tmp_path / "elsewhere")
    return tmp_path / "src" / "run"


def test_configuration_is_for_sharing_and_the_run_finds_its_data_from_elsewhere(run, tmp_path):
    shared = json.loads((run / "config.json").read_text())
    assert (shared["data"], shared["weights"], shared["output"]) == ("photos", "w.safetensors", "run")
    assert str(tmp_path) not in (run / "config.json").read_text()
    found = read_config(run, Config)
    assert (found["data"], found["weights"]) == (str(tmp_path / "photos"), tmp_path / "src" / "w.safetensors")
    assert read_config(run / "config.json", Config) == found


def test_shared_run_without_its_paths_is_read(run):
    (run / "paths.json").unlink()
    assert read_config(run, Config)["data"] == "photos"


def test_configuration_that_was_changed_by_hand_counts(run, tmp_path):
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps(config | {"data": "others"}))
    assert read_config(run, Config)["data"] == "others"
    assert read_config(run, Config)["weights"] == tmp_path / "src" / "w.safetensors"


@pytest.mark.parametrize("content", ["{", '["data"]', "3"])
def test_damaged_paths_are_named(run, content):
    (run / "paths.json").write_text(content)
    with pytest.raises(UsageError, match=r"paths\.json: it is no.* Repair or replace the file"):
        read_config(run, Config)
