"""SIGTERM as an interruption that waits where something must not be cut in two."""

import signal

import pytest

from sat_peft.runs.folder import RunFolder
from sat_peft.runs.termination import Terminated, heed_sigterm, is_terminating, termination_waits


@pytest.fixture(autouse=True)
def handler():
    before = signal.getsignal(signal.SIGTERM)
    heed_sigterm()
    yield
    heed_sigterm()  # forgets what came
    signal.signal(signal.SIGTERM, before)


def test_it_interrupts_at_once():
    with pytest.raises(Terminated):
        signal.raise_signal(signal.SIGTERM)
    assert is_terminating()


def test_it_waits_for_the_end_of_the_outermost_context():
    done = []

    def work():
        with termination_waits():
            with termination_waits():
                signal.raise_signal(signal.SIGTERM)
                done.append("inner")
            done.append("outer")

    with pytest.raises(Terminated):
        work()
    assert done == ["inner", "outer"]


def test_what_ends_because_of_it_is_not_interrupted_again(tmp_path):
    run = RunFolder(tmp_path, {})
    write = run.write_json

    def write_twice_signalled(name, value):
        signal.raise_signal(signal.SIGTERM)
        write(name, value)

    run.write_json = write_twice_signalled
    with pytest.raises(Terminated), run:
        signal.raise_signal(signal.SIGTERM)
    assert (tmp_path / "status.json").read_text() == '{\n  "status": "interrupted"\n}\n'
