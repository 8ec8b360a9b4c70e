"""Folders that are written: who may, where, and what is left of a process that was killed."""

import errno
import json
import multiprocessing
import os
import signal
from pathlib import Path

import pytest

from sat_peft.errors import UsageError
from sat_peft.files.outputs import (
    FolderLock,
    check_unlocked,
    check_writable,
    full_place,
    is_disk_full,
    remove,
    remove_unfinished,
    write_json_atomic,
)


def _hold(folder: str, ready, release) -> None:
    with FolderLock(Path(folder)):
        ready.set()
        release.wait(60)


@pytest.fixture
def holder(tmp_path):
    """A process that is writing into `tmp_path`."""
    context = multiprocessing.get_context("spawn")
    ready, release = context.Event(), context.Event()
    process = context.Process(target=_hold, args=(str(tmp_path), ready, release))
    process.start()
    assert ready.wait(60)
    yield process
    if process.is_alive():  # an event waits for ever for a process that was killed
        release.set()
    process.join()


def test_the_second_writer_is_told_who_has_the_folder(holder, tmp_path):
    for ask in (FolderLock, check_unlocked):
        with pytest.raises(UsageError, match=rf"process {holder.pid} on \S+ since 20.*Wait for its end"):
            ask(tmp_path)


def test_a_killed_writer_holds_nothing(holder, tmp_path):
    os.kill(holder.pid, signal.SIGKILL)
    holder.join()
    check_unlocked(tmp_path)
    with FolderLock(tmp_path):
        assert json.loads((tmp_path / ".lock.json").read_text())["process"] == os.getpid()
    assert not list(tmp_path.iterdir())


def test_a_folder_that_does_not_exist_is_not_locked(tmp_path):
    check_unlocked(tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_asking_whether_a_place_can_be_written_leaves_nothing(tmp_path):
    check_writable(tmp_path / "a" / "b")
    assert not list(tmp_path.iterdir())


def test_asking_makes_no_folder_that_another_process_could_find_and_lose(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "mkdir", None)
    check_writable(tmp_path / "a" / "b")


def test_places_that_cannot_be_written_are_told_with_the_way_out(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "dangling").symlink_to(tmp_path / "nothing")
    places = {"file": "is a file", "file/run": "Not a directory", "dangling": "is a link to what does not exist"}
    places |= {"dangling/run": "No such file", "a" * 300: "too long"}
    for place, reason in places.items():
        with pytest.raises(UsageError, match=rf"{reason}.*--output"):
            check_writable(tmp_path / place)
    with pytest.raises(UsageError, match=r"/proc/run.*cannot be written"):
        check_writable(Path("/proc/run"))


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "full"),
        RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"),
    ],
)
def test_a_full_disk_is_known_by_whatever_library_tells_it(error):
    assert is_disk_full(error)
    outer = ValueError("cannot save")
    outer.__cause__ = error
    assert is_disk_full(outer)
    assert not is_disk_full(OSError(errno.EACCES, "no"))


def test_a_file_for_which_no_space_is_left_is_named(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=str(tmp_path / "a.json")) as caught:
        write_json_atomic(tmp_path / "a.json", {})
    assert full_place(caught.value) == repr(str(tmp_path / "a.json"))
    assert not list(tmp_path.iterdir())


def test_links_are_removed_and_replaced_and_never_followed(tmp_path):
    target = tmp_path / "target"
    target.mkdir()
    (target / "precious").write_text("{}")
    (tmp_path / "folder").symlink_to(target)
    (tmp_path / "file.json").symlink_to(target / "precious")
    remove(tmp_path / "folder")
    write_json_atomic(tmp_path / "file.json", [1])
    assert not (tmp_path / "folder").exists()
    assert json.loads((tmp_path / "file.json").read_text()) == [1]
    assert (target / "precious").read_text() == "{}"


def test_what_killed_processes_were_writing_goes(tmp_path):
    (tmp_path / "baselines").mkdir()
    (tmp_path / ".adapter.saving-1a2b").mkdir()
    for name in (".results.json.17.tmp", "baselines/.cam.safetensors.17.tmp", ".adapter.saving-1a2b/x", "kept.json"):
        (tmp_path / name).touch()
    remove_unfinished(tmp_path)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["baselines", "kept.json"]


def test_an_adapter_that_was_out_of_the_way_when_its_process_was_killed_is_put_back(tmp_path):
    for name in (".adapter.replaced-1a", ".other.replaced-2b", "other"):
        (tmp_path / name).mkdir()
    (tmp_path / ".adapter.replaced-1a" / "adapter_config.json").touch()
    remove_unfinished(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter", "other"]
    assert (tmp_path / "adapter" / "adapter_config.json").exists()
