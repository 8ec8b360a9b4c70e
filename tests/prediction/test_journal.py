"""The journal holds what is done, whatever happened to the process that wrote it."""

import json
import resource

import pytest

from sat_peft.data.writing import Prediction
from sat_peft.errors import UsageError
from sat_peft.prediction.journal import Journal, JournalWriter, repair


def prediction(image_id: str, score: float = 0.5) -> Prediction:
    return Prediction(image_id, (20, 10), "größe", 1, score, [[0.0, 1.0, 2.0, 3.0]])


def append(folder, predictions=(), failures=None, process: int = 0) -> None:
    with JournalWriter(folder, process) as writer:
        writer.write(predictions, failures or {})


def test_predictions_come_back_in_the_wanted_order(tmp_path):
    append(tmp_path, [prediction("b"), prediction("d")])
    append(tmp_path, [prediction("a"), prediction("c")], process=1)
    append(tmp_path, [prediction("e")])
    journal = Journal(tmp_path)
    assert list(journal.predictions("abcdef")) == [prediction(name) for name in "abcde"]
    assert "a" in journal
    assert "f" not in journal


def test_last_line_of_an_image_counts(tmp_path):
    append(tmp_path, [prediction("a", 0.1)], {"b": "broken"})
    assert Journal(tmp_path).failures == {"b": "broken"}
    assert "b" not in Journal(tmp_path)
    append(tmp_path, [prediction("b"), prediction("a", 0.9)])
    journal = Journal(tmp_path)
    assert journal.failures == {}
    assert [found.score for found in journal.predictions("ab")] == [0.9, 0.5]


@pytest.mark.parametrize("cut", [1, 2, 40, 60])
def test_line_without_its_end_is_cut_off_and_the_others_stay(tmp_path, cut):
    append(tmp_path, [prediction("a"), prediction("b")])
    file = tmp_path / "journal-0.jsonl"
    file.write_bytes(file.read_bytes()[:-cut])
    repair(tmp_path)
    append(tmp_path, [prediction("c")])
    journal = Journal(tmp_path)
    assert "b" not in journal
    assert list(journal.predictions("abc")) == [prediction("a"), prediction("c")]


def test_only_line_may_be_cut_and_whole_files_are_left_alone(tmp_path):
    append(tmp_path, [prediction("a" * 200_000)])
    file = tmp_path / "journal-0.jsonl"
    whole = file.read_bytes()
    repair(tmp_path)
    assert file.read_bytes() == whole
    file.write_bytes(whole[:-1])
    repair(tmp_path)
    assert file.read_bytes() == b""
    assert list(Journal(tmp_path).predictions("a")) == []


def test_disk_that_fills_while_a_batch_is_written_loses_that_batch_at_most(tmp_path):
    append(tmp_path, [prediction("a")])
    size = (tmp_path / "journal-0.jsonl").stat().st_size
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + size // 2, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            append(tmp_path, [prediction("b")])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (tmp_path / "journal-0.jsonl").stat().st_size == size + size // 2
    repair(tmp_path)
    assert list(Journal(tmp_path).predictions("ab")) == [prediction("a")]


@pytest.mark.parametrize("line", [b"garbage\n", b"[]\n", b"{}\n", b'{"image_id": "\xff"}\n', b"\n"])
def test_damaged_line_is_named(tmp_path, line):
    append(tmp_path, [prediction("a")])
    with (tmp_path / "journal-0.jsonl").open("ab") as file:
        file.write(line)
    with pytest.raises(UsageError, match=r"journal-0\.jsonl, line 2: the line is damaged .*Remove it"):
        Journal(tmp_path)


def test_line_with_a_field_of_another_name_is_damaged(tmp_path):
    """Even where the field that it lacks need not be there."""
    append(tmp_path, [prediction("a")])
    file = tmp_path / "journal-0.jsonl"
    row = json.loads(file.read_text())
    row["colour"] = row.pop("predicted_label")
    file.write_text(json.dumps(row) + "\n")
    with pytest.raises(UsageError, match=r"journal-0\.jsonl, line 1: the line is damaged"):
        Journal(tmp_path)
