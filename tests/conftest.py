"""Settings that every test wants, made before torch or the hub's client is imported."""

import os

import pytest

# Tests run side by side: one thread each keeps them from waiting for each other's cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Nothing is fetched in tests; without this, every look-up would be retried for a minute on a machine without network.
os.environ["HF_HUB_OFFLINE"] = "1"


@pytest.fixture(scope="module")
def threads():
    """Puts the number of threads back, which recipes and commands set in this process."""
    import torch

    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)
