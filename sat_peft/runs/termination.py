"""SIGTERM, which batch systems send some seconds before they kill, as an interruption that loses nothing."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Terminated(KeyboardInterrupt):
    """SIGTERM came; like Ctrl-C it ends what is running, and leaves it so that it can go on."""


class _State:
    # Training is in the middle of a step, at whose end it saves what it has and stops by itself.
    waits = False
    requested = False


def heed_sigterm() -> None:
    """From now on SIGTERM raises `Terminated` in the main thread, at once or at the end of a training step."""
    if threading.current_thread() is not threading.main_thread():
        return  # Python lets nobody else set handlers

    def handle(number: int, frame: object) -> None:
        _State.requested = True
        if not _State.waits:
            raise Terminated

    _State.waits = _State.requested = False
    signal.signal(signal.SIGTERM, handle)


@contextmanager
def termination_waits() -> Iterator[None]:
    """SIGTERM is remembered in the context, and raises `Terminated` at its end if it came meanwhile."""
    outer, came, _State.waits = _State.waits, _State.requested, True
    try:
        yield
    finally:
        _State.waits = outer
    if _State.requested and not (came or outer):
        raise Terminated


def is_terminating() -> bool:
    """Whether SIGTERM came."""
    return _State.requested
