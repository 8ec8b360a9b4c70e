"""Turns, memory and exponents of the benchmarks."""

import time

import numpy as np
import pytest

from benchmark.measure import MemoryPeak, Times, exponent, take_turns
from sat_peft.errors import UsageError


def test_contestants_take_turns_in_rotating_order_and_warm_up_is_not_timed():
    called = []
    contestants = {name: (lambda name=name: called.append(name)) for name in "abc"}
    times = take_turns(contestants, 3, warm_up=1)
    assert "".join(called) == "cab" + "abc" + "bca" + "cab"
    assert {name: len(value.clock) for name, value in times.items()} == {"a": 3, "b": 3, "c": 3}


def test_clock_counts_sleep_and_processor_time_does_not():
    times = take_turns({"sleep": lambda: time.sleep(0.05), "work": lambda: sum(range(500_000))}, 2, warm_up=0)
    assert min(times["sleep"].clock) >= 0.05
    assert max(times["sleep"].processor) < 0.05
    assert min(times["work"].processor) > 0


def test_the_device_is_waited_for_before_and_after_every_turn():
    events = []
    take_turns({"step": lambda: events.append("step")}, 1, warm_up=1, synchronize=lambda: events.append("wait"))
    assert events == ["wait", "step", "wait"] * 2


def test_medians():
    times = Times(clock=[3.0, 1.0, 2.0], processor=[5.0, 9.0, 1.0])
    assert (times.median_clock, times.median_processor) == (2.0, 5.0)


@pytest.mark.parametrize(("rounds", "warm_up"), [(0, 1), (1, -1)])
def test_numbers_of_rounds_out_of_range_are_refused(rounds, warm_up):
    with pytest.raises(UsageError, match=f"got {rounds} and {warm_up}"):
        take_turns({"a": lambda: None}, rounds, warm_up=warm_up)


def test_memory_that_is_freed_before_the_end_counts():
    with MemoryPeak() as memory:
        block = np.ones(50 * 2**20 // 8)
        time.sleep(0.1)
        del block
    assert 45 * 2**20 < memory.growth < 80 * 2**20


@pytest.mark.parametrize("power", [0.5, 1, 2])
def test_exponent_of_a_power_law(power):
    sizes = [1, 2, 5, 8]
    assert exponent(sizes, [3 * size**power for size in sizes]) == pytest.approx(power)


@pytest.mark.parametrize(("sizes", "costs"), [([2, 2], [1, 2]), ([1, 2], [0, 2]), ([0, 1], [1, 2])])
def test_exponents_that_cannot_be_are_refused(sizes, costs):
    with pytest.raises(UsageError, match="two different positive sizes"):
        exponent(sizes, costs)
