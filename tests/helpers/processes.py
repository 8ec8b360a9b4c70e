"""Several processes as torchrun starts them, forked from one that has imported what they need: in a second, not ten."""

import contextlib
import multiprocessing
import os
import random
import socket
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection, wait

# What takes long to import. A name that cannot be imported is left out.
_PRELOADED = ["sat_peft.training.comparison", "sat_peft.commands.evaluate", "sat_peft.commands.predict", "evaluate"]
_SECONDS = 200
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(_PRELOADED)


class Crash(Exception):
    """A process ended without a result, with `status` as of `Process.exitcode`, or gave none in time: None."""

    def __init__(self, status: int | None):
        super().__init__(f"no result in time, or from a process that ended: status {status}")
        self.status = status


def free_port() -> int:
    """A port below those that systems hand out by themselves, of which another connection may take one meanwhile."""
    while True:
        with socket.socket() as connection, contextlib.suppress(OSError):
            connection.bind(("127.0.0.1", random.SystemRandom().randrange(10_000, 32_000)))
            return connection.getsockname()[1]


def run_processes(function: Callable, *arguments: object, processes: int = 2, group: bool = True) -> list:
    """What `function(*arguments)` returns in each of several processes, in the order of their ranks.

    They have one thread each and, as a `group`, the environment variables of torchrun, of which Accelerate and
    torch.distributed make a process group. The function is one of a module. An exception fails the test, with its
    traceback.

    Raises:
        Crash: a process ended without a result, or none came in time.
    """
    shared = {"WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes, "MASTER_ADDR": "127.0.0.1"}
    shared |= {"MASTER_PORT": free_port(), "ACCELERATE_USE_CPU": "true"}
    started, ends = [], []
    for rank in range(processes):
        ours, theirs = CONTEXT.Pipe(duplex=False)
        named = shared | {"RANK": rank, "LOCAL_RANK": rank} if group else {}
        environment = {name: str(value) for name, value in named.items()}
        process = CONTEXT.Process(target=_run, args=(theirs, environment, function, arguments), daemon=True)
        process.start()
        theirs.close()
        started.append(process)
        ends.append(ours)
    results: dict[int, object] = {}
    try:
        while len(results) < processes:
            # A pipe whose other end is closed is ready too. An error anywhere comes before what waits for that process.
            ready = wait([end for rank, end in enumerate(ends) if rank not in results], timeout=_SECONDS)
            if not ready:
                raise Crash(None)
            for end in ready:
                rank = ends.index(end)
                results[rank] = _result(started[rank], end)
    finally:
        for process in started:
            process.join(5)
            process.kill()
    return [results[rank] for rank in range(processes)]


def _result(process: multiprocessing.Process, end: Connection) -> object:
    try:
        value, error = end.recv()
    except EOFError:
        process.join(5)
        raise Crash(process.exitcode) from None
    assert error is None, error
    return value


def _run(end: Connection, environment: dict, function: Callable, arguments: tuple) -> None:
    import torch

    os.environ.update(environment)
    torch.set_num_threads(1)
    try:
        end.send((function(*arguments), None))
    except BaseException:
        end.send((None, traceback.format_exc()))
