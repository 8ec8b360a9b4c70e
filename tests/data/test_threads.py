"""Work of threads: in order, bounded, with the errors of the work, and stopped with its reader."""

import threading
import time
from contextlib import closing

import pytest

from sat_peft.data.threads import in_order


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_results_are_in_the_order_of_the_items(workers):
    def slow_at_first(item: int) -> int:
        time.sleep(0.02 if item == 0 else 0)
        return item * item

    assert list(in_order(slow_at_first, range(20), workers=workers, ahead=4)) == [n * n for n in range(20)]


def test_threads_work_at_once():
    both = threading.Barrier(2, timeout=20)
    assert sorted(in_order(lambda item: both.wait(), range(2), workers=2, ahead=2)) == [0, 1]


def test_no_more_is_read_than_may_wait():
    read = []

    def items():
        for number in range(100):
            read.append(number)
            yield number

    with closing(in_order(str, items(), workers=2, ahead=3)) as results:
        assert next(results) == "0"
        assert read == [0, 1, 2, 3]


@pytest.mark.parametrize("workers", [0, 2])
def test_error_of_the_work_is_raised_in_its_place(workers):
    results = in_order(lambda item: 1 // item, [1, 0, 1], workers=workers, ahead=3)
    assert next(results) == 1
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_closed_early_it_starts_nothing_more():
    started, release = [], threading.Event()

    def wait(item: int) -> None:
        started.append(item)
        if item > 0:
            release.wait(20)

    results = in_order(wait, range(9), workers=1, ahead=5)
    next(results)
    threading.Timer(0.2, release.set).start()
    results.close()
    assert started in ([0], [0, 1])
