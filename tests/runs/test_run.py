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
from sat_peft.runs.folder import RunFolder


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


def resumed(folder: Path, config: dict, **options) -> set[str]:
    """Names in a run folder while a run with that configuration is open."""
    with RunFolder(folder, config, **options):
        return {path.name for path in folder.iterdir()} - {".lock", ".lock.json"}


FRESH = {"config.json", "versions.json", "status.json"}


@pytest.mark.parametrize(
    "left",
    [
        {},
        {".status.json.1.tmp": ""},
        {"status.json": '{"status": "starting"}'},
        {"status.json": '{"status": "starting"}', "config.json": '{"seed": 7}', "results.json": "{}"},
        {"status.json": '{"status": "running"}'},  # of earlier versions, which wrote it before the configuration
    ],
)
@pytest.mark.parametrize("options", [{}, {"overwrite": True}])
def test_a_run_that_was_killed_before_it_computed_anything_starts(left, options, tmp_path):
    for name, text in left.items():
        (tmp_path / name).write_text(text)
    assert resumed(tmp_path, {"seed": 0}, **options) == FRESH
    assert read(tmp_path, "config.json") == {"seed": 0}


def test_the_same_configuration_goes_on_with_what_is_there_and_another_does_not(tmp_path):
    with pytest.raises(KeyboardInterrupt), RunFolder(tmp_path, {"seed": 0, "threads": 1}):
        raise KeyboardInterrupt
    (tmp_path / "metrics.jsonl").touch()
    with pytest.raises(UsageError, match=r"already holds a run.*--output.*--overwrite"):
        RunFolder(tmp_path, {"seed": 1, "threads": 1})
    # Threads are of the run and not of the experiment.
    assert "metrics.jsonl" in resumed(tmp_path, {"seed": 0, "threads": 2})
    with pytest.raises(UsageError, match="already holds a run"):
        RunFolder(tmp_path, {"seed": 0, "threads": 1})


@pytest.mark.parametrize("status", ["finished", "running"])
def test_results_whose_configuration_is_gone_are_not_taken_for_nothing(status, tmp_path):
    with RunFolder(tmp_path, {"seed": 0}) as run:
        run.write_json("results.json", {"gt_known": 1})
    (tmp_path / "config.json").unlink()
    write_json_atomic(tmp_path / "status.json", {"status": status})
    with pytest.raises(UsageError, match=r"already holds a run.*--overwrite"):
        RunFolder(tmp_path, {"seed": 0})
    assert read(tmp_path, "results.json") == {"gt_known": 1}


def test_a_run_that_is_replaced_leaves_no_configuration_to_resume(tmp_path, monkeypatch):
    with RunFolder(tmp_path, {"seed": 0}) as run:
        run.write_json("results.json", {})

    def killed(path):
        if path.name == "results.json":
            raise SystemExit
        path.unlink(missing_ok=True)

    monkeypatch.setattr("sat_peft.runs.folder.remove", killed)
    with pytest.raises(SystemExit):
        RunFolder(tmp_path, {"seed": 1}, overwrite=True)
    assert read(tmp_path, "status.json") == {"status": "starting"}
    assert not (tmp_path / "config.json").exists()


def test_a_run_that_is_being_written_is_left_alone(tmp_path):
    with (
        RunFolder(tmp_path, {"seed": 0}),
        pytest.raises(UsageError, match=f"written by process {os.getpid()}"),
    ):
        RunFolder(tmp_path, {"seed": 0}, resume=True)


def test_links_in_a_run_folder_are_told_before_anything_is_computed(tmp_path):
    target = tmp_path / "elsewhere"
    target.mkdir()
    (target / "precious").touch()
    with pytest.raises(KeyboardInterrupt), RunFolder(tmp_path / "run", {}):
        raise KeyboardInterrupt
    (tmp_path / "run" / "checkpoint").symlink_to(target)
    for options in ({}, {"resume": True}, {"resume": True, "overwrite": True}):
        with pytest.raises(UsageError, match=r"checkpoint.*is a link.*--overwrite"):
            RunFolder(tmp_path / "run", {}, **options)
    assert resumed(tmp_path / "run", {}, overwrite=True) == FRESH
    assert (target / "precious").exists()


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(28, "No space left on device"), "no space is left"),
        (RuntimeError("gloo: Connection reset by peer [10.0.0.1]:1234"), "another process of this run has ended"),
    ],
)
def test_full_disks_and_lost_processes_are_told_with_the_way_on(error, words, tmp_path):
    with pytest.raises(UsageError, match=f"{words}.*--resume {tmp_path}") as caught, RunFolder(tmp_path, {}):
        raise error
    assert caught.value.__cause__ is error
    assert read(tmp_path, "status.json") == {"status": "failed", "reason": str(caught.value)}


def test_a_disk_that_is_too_full_for_the_status_hides_no_error(tmp_path, monkeypatch):
    def full(path, value):
        raise OSError(28, "No space left on device")

    run = RunFolder(tmp_path, {})
    monkeypatch.setattr("sat_peft.runs.folder.write_json_atomic", full)
    with pytest.raises(UsageError, match="no space is left"), run:
        raise OSError(28, "No space left on device")
    assert read(tmp_path, "status.json") == {"status": "running"}
