"""Settings that every test wants, made before torch or the hub's client is imported."""

import logging
import os

import pytest

# Tests run side by side: with one thread each, on cores of their own, they do not wait for each other's cores. What a
# test starts or sets to "all cores" stays on them too.
os.environ.setdefault("OMP_NUM_THREADS", "1")
if "PYTEST_XDIST_WORKER" in os.environ and hasattr(os, "sched_setaffinity"):
    number = int(os.environ["PYTEST_XDIST_WORKER"].removeprefix("gw"))
    workers, cores = int(os.environ["PYTEST_XDIST_WORKER_COUNT"]), sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, cores[number::workers] or {cores[number % len(cores)]})
# Nothing is fetched in tests; without this, every look-up would be retried for a minute on a machine without network.
os.environ["HF_HUB_OFFLINE"] = "1"


@pytest.fixture(scope="module")
def threads():
    """Puts the number of threads back, which recipes and commands set in this process."""
    import torch

    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def said(caplog):
    """What the package tells on its way: `messages` so far."""
    caplog.set_level(logging.INFO, "sat_peft")
    return caplog
