"""Work of threads in order: for reading images, most of which happens in libraries that let other threads run."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor


def in_order(function: Callable, items: Iterable, *, workers: int, ahead: int) -> Iterator:
    """`function` of every item, in the order of the items.

    Args:
        function: raises what it likes; it is raised here, in the place of the result.
        items: read no further than is worked on.
        workers: number of threads; 0 works in this one.
        ahead: how many results may wait for being taken, so that memory does not grow.
    """
    if workers == 0:
        yield from map(function, items)
        return
    pool, running = ThreadPoolExecutor(workers), deque()
    try:
        for item in items:
            running.append(pool.submit(function, item))
            if len(running) > ahead:
                yield running.popleft().result()
        while running:
            yield running.popleft().result()
    finally:
        # Of an iterator that is closed early, nobody wants the rest.
        pool.shutdown(cancel_futures=True)
