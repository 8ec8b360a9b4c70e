"""Time in turns, memory above a level, and how cost grows with size."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import psutil

from sat_peft.cpu import release_freed_memory
from sat_peft.errors import UsageError

_SAMPLED_EVERY = 0.005  # seconds


@dataclass(frozen=True)
class Times:
    """Seconds of every turn by the clock, and of processors: user and system time of all threads of this process."""

    clock: list[float] = field(default_factory=list)
    processor: list[float] = field(default_factory=list)

    @property
    def median_clock(self) -> float:
        return statistics.median(self.clock)

    @property
    def median_processor(self) -> float:
        return statistics.median(self.processor)


def take_turns(
    contestants: Mapping[str, Callable[[], object]],
    rounds: int,
    *,
    warm_up: int = 1,
    synchronize: Callable[[], None] = lambda: None,
) -> dict[str, Times]:
    """Times the contestants one after the other in every round, in rotating order.

    Changes in the machine's speed thus meet all of them alike, and none is always the one after a certain other.

    Args:
        contestants: what to call, by name.
        rounds: turns that are timed.
        warm_up: rounds before these, in which memory is allocated and kernels are chosen.
        synchronize: waits for the device, before and after every turn.

    Raises:
        UsageError: fewer than one round.
    """
    if rounds < 1 or warm_up < 0:
        raise UsageError(f"rounds must be at least 1 and warm_up at least 0, got {rounds} and {warm_up}.")
    names = list(contestants)
    times = {name: Times() for name in names}
    for turn in range(-warm_up, rounds):
        shift = turn % len(names)
        for name in names[shift:] + names[:shift]:
            synchronize()
            clock, processor = time.perf_counter(), time.process_time()
            contestants[name]()
            synchronize()
            if turn >= 0:
                times[name].clock.append(time.perf_counter() - clock)
                times[name].processor.append(time.process_time() - processor)
    return times


class MemoryPeak:
    """Samples the resident memory of this process while the context lasts.

    Attributes:
        growth: the largest, in bytes, above that at the start.
    """

    def __enter__(self) -> MemoryPeak:
        # Freed memory that the process has kept would be taken again without a trace.
        release_freed_memory()
        self._process = psutil.Process()
        self._start = self._peak = self._process.memory_info().rss
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()
        return self

    def _sample(self) -> None:
        while not self._stop.wait(_SAMPLED_EVERY):
            self._peak = max(self._peak, self._process.memory_info().rss)

    def __exit__(self, *_) -> None:
        self._stop.set()
        self._thread.join()
        self._peak = max(self._peak, self._process.memory_info().rss)

    @property
    def growth(self) -> int:
        return self._peak - self._start


def exponent(sizes: Sequence[float], costs: Sequence[float]) -> float:
    """p of the cost ~ size ** p that fits best: the slope of log cost over log size, by least squares.

    Raises:
        UsageError: fewer than two different sizes, or anything that has no logarithm.
    """
    if len(set(sizes)) < 2 or min(*sizes, *costs) <= 0:
        raise UsageError(f"an exponent needs two different positive sizes and positive costs, got {sizes} and {costs}.")
    return float(np.polyfit(np.log(sizes), np.log(costs), 1)[0])
