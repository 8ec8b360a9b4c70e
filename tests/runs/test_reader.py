"""What a run left, read back: types that nobody writes are refused, what is missing is empty."""

import json

import pytest
from tiny_run import THRESHOLD, write_run

from sat_peft.errors import UsageError
from sat_peft.runs.reader import RunReader


@pytest.fixture
def run(tmp_path):
    return write_run(tmp_path)


def change(run, **values):
    file = run / "results.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def test_threshold_is_the_runs_under_its_protocol_and_otherwise_the_protocols(run):
    assert RunReader(run).threshold("original").value == THRESHOLD
    assert RunReader(run).threshold("wsol").value != THRESHOLD
    (run / "results.json").unlink()
    assert RunReader(run).threshold("original").source != "validation: best"


@pytest.mark.parametrize(
    ("name", "value"),
    [("methods", None), ("methods", {"sat": 3}), ("threshold", "high"), ("health", "good"), ("standing", 1)],
)
def test_results_of_other_types_are_named_or_noted(run, name, value):
    change(run, **{name: value})
    with pytest.raises(UsageError, match=f"results.json.*{name!r}"):
        RunReader(run).results()
    reader = RunReader(run, tolerant=True)
    assert reader.results() == {}
    assert reader.damaged == ["results.json"]


def test_a_threshold_that_cannot_be_one_asks_for_another(run):
    change(run, threshold=1.5)
    with pytest.raises(UsageError, match="give one with --threshold"):
        RunReader(run).threshold("original")


def test_what_a_folder_does_not_hold_is_empty(tmp_path):
    reader = RunReader(tmp_path)
    assert reader.status() is None
    assert not reader.has_adapter
    assert (reader.config(), reader.results(), reader.baselines(), reader.set_aside()) == ({}, {}, {}, {})
    assert list(reader.lines("metrics.jsonl")) == []
