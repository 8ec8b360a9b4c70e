"""The run folder: refuses to mix runs, records how a run ended, and never holds half a file."""

import json
import multiprocessing
import os
import signal
from pathlib import Path

import numpy as np
import pytest

from sat_peft.errors import UsageError
from sat_peft.files.outputs import write_json_atomic, write_text_atomic
from sat_peft.run import RunFolder


def read(folder: Path, name: str):
    return json.loads((folder / name).read_text(encoding="utf-8"))


def test_finished_run_leaves_configuration_versions_status_and_metrics(tmp_path):
    folder = tmp_path / "new" / "run"
    with RunFolder(folder, {"shots": 3, "output": folder}) as run:
        assert read(folder, "status.json") == {"status": "running"}
        run.write_json("results.json", {"gt_known": np.float32(50), "counts": np.arange(2), "name": "Größe"})
        for step in (1, 2):
            run.log(method="SAT", step=step, loss=0.5 / step)
    assert read(folder, "config.json") == {"shots": 3, "output": "run"}
    assert read(folder, "paths.json") == {"output": str(folder)}
    assert read(folder, "status.json") == {"status": "finished"}
    assert read(folder, "results.json") == {"gt_known": 50.0, "counts": [0, 1], "name": "Größe"}
    assert {"python", "torch", "timm", "peft"} <= read(folder, "versions.json").keys()
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert lines == [{"method": "SAT", "step": 1, "loss": 0.5}, {"method": "SAT", "step": 2, "loss": 0.25}]
    assert not list(folder.glob(".*"))


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (UsageError("the box is upside down"), {"status": "failed", "reason": "the box is upside down"}),
        (KeyboardInterrupt(), {"status": "interrupted"}),
    ],
)
def test_mistakes_and_interruptions_are_recorded_and_passed_on(tmp_path, error, status):
    with pytest.raises(type(error)), RunFolder(tmp_path / "run", {}):
        raise error
    assert read(tmp_path / "run", "status.json") == status


def test_unexpected_error_is_recorded_with_its_traceback(tmp_path):
    with pytest.raises(ZeroDivisionError), RunFolder(tmp_path / "run", {}):
        1 / 0  # noqa: B018
    status = read(tmp_path / "run", "status.json")
    assert status["status"] == "failed"
    assert "1 / 0" in status["reason"]
    assert "ZeroDivisionError" in status["reason"]


def test_second_run_in_the_folder_is_refused_with_both_ways_out(tmp_path):
    with RunFolder(tmp_path, {"seed": 0}) as run:
        run.write_json("results.json", {"gt_known": 1})
    with pytest.raises(UsageError, match=r"already holds a run.*--output.*--overwrite"):
        RunFolder(tmp_path, {"seed": 1})
    assert read(tmp_path, "config.json") == {"seed": 0}


def test_overwriting_leaves_nothing_of_the_run_before(tmp_path):
    with RunFolder(tmp_path, {"seed": 0}) as run:
        run.write_json("results.json", {})
        run.write_json("image_ids.json", [])
        run.log(step=1)
        (tmp_path / "examples.png").touch()
        (tmp_path / "adapter").mkdir()
        (tmp_path / "adapter" / "adapter_model.safetensors").touch()
    with RunFolder(tmp_path, {"seed": 1}, overwrite=True):
        pass
    assert {path.name for path in tmp_path.iterdir()} == {"config.json", "versions.json", "status.json"}
    assert read(tmp_path, "config.json") == {"seed": 1}


def test_empty_folder_is_taken(tmp_path):
    RunFolder(tmp_path, {})
    assert read(tmp_path, "status.json") == {"status": "running"}


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("files", [["thesis.tex"], ["config.json", "model.safetensors"]])
def test_folder_with_other_files_is_never_taken(tmp_path, files, overwrite):
    for name in files:
        (tmp_path / name).write_text("mine")
    with pytest.raises(UsageError, match=r"holds files that are no run\. Name another with --output"):
        RunFolder(tmp_path, {}, overwrite=overwrite)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == dict.fromkeys(files, "mine")


def test_file_in_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "run").touch()
    with pytest.raises(UsageError, match="is a file; name a folder with --output"):
        RunFolder(tmp_path / "run", {})


def test_other_processes_write_nothing(tmp_path):
    with RunFolder(tmp_path / "run", {}, main_process=False) as run:
        run.write_json("results.json", {})
        run.log(step=1)
    assert not (tmp_path / "run").exists()


def test_value_without_a_json_form_is_an_error_and_leaves_the_old_file(tmp_path):
    file = tmp_path / "results.json"
    write_json_atomic(file, {"loss": 1})
    with pytest.raises(TypeError, match="a complex has no form in JSON"):
        write_json_atomic(file, {"loss": 1j})
    assert read(tmp_path, "results.json") == {"loss": 1}


def test_failed_write_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    file = tmp_path / "a.txt"
    write_text_atomic(file, "old")

    def full_disk(descriptor: int):
        raise OSError("No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space left"):
        write_text_atomic(file, "new")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"a.txt": "old"}


def test_process_killed_between_write_and_rename_leaves_the_old_file(tmp_path, monkeypatch):
    file = tmp_path / "a.txt"
    write_text_atomic(file, "old")
    monkeypatch.setattr(Path, "replace", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
    process = multiprocessing.get_context("fork").Process(target=write_text_atomic, args=(file, "new"))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert file.read_text() == "old"
    assert [path.read_text() for path in tmp_path.glob(".a.txt.*.tmp")] == ["new"]
