"""Threads of a process on the CPU."""

import os
import subprocess
import sys
from pathlib import Path

import accelerate
import pytest
import torch

from sat_peft import cpu
from sat_peft.cpu import (
    join_processes,
    keep_freed_memory,
    prepare_cpu,
    release_freed_memory,
    set_cpu_threads,
)


@pytest.fixture(autouse=True)
def restored_threads():
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def test_given_number_is_set():
    assert set_cpu_threads(3) == torch.get_num_threads() == 3


# Cores that the process may use, processes of the launch, threads of each.
@pytest.mark.parametrize(("cores", "processes", "threads"), [(8, None, 8), (8, "2", 4), (7, "2", 3), (1, "4", 1)])
def test_cores_are_shared_among_the_processes_of_the_launch(monkeypatch, cores, processes, threads):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(cores)), raising=False)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    if processes:
        monkeypatch.setenv("LOCAL_WORLD_SIZE", processes)
    assert set_cpu_threads() == torch.get_num_threads() == threads


def test_without_affinity_all_cores_count(monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert set_cpu_threads() == 3


def test_allocator_is_left_alone_elsewhere_than_on_linux(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    assert keep_freed_memory() is False


@pytest.mark.parametrize(("kept", "lines"), [(True, 0), (False, 1)])
def test_user_is_told_where_the_allocator_cannot_be_set(monkeypatch, kept, lines, said):
    monkeypatch.setattr(cpu, "keep_freed_memory", lambda: kept)
    prepare_cpu(2)
    assert torch.get_num_threads() == 2
    assert len(said.messages) == lines
    assert all("jemalloc" in line for line in said.messages)


@pytest.mark.parametrize(
    ("processes", "device", "use_cpu", "joined"),
    [
        (None, None, None, False),
        ("1", None, None, False),
        ("2", None, None, True),
        ("2", "mps", None, True),
        ("2", "cuda", None, False),
        ("2", "cuda", "true", True),
    ],
)
def test_processes_without_a_gpu_join_each_other(monkeypatch, processes, device, use_cpu, joined):
    for name, value in (("WORLD_SIZE", processes), ("ACCELERATE_USE_CPU", use_cpu)):
        monkeypatch.delenv(name, raising=False)
        if value is not None:
            monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: device is not None)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device(device))
    asked = []
    monkeypatch.setattr(accelerate, "PartialState", lambda **options: asked.append(options))
    join_processes()
    assert asked == ([{"cpu": True}] if joined else [])


HOLES = """
import psutil
from sat_peft.cpu import keep_freed_memory, release_freed_memory

if not keep_freed_memory():
    raise SystemExit("no glibc")
blocks = [bytearray(2**20) for _ in range(100)]
blocks = blocks[::2]  # what is freed lies between what is kept
before = psutil.Process().memory_info().rss
release_freed_memory()
print((before - psutil.Process().memory_info().rss) / 2**20)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="of glibc")
def test_freed_memory_between_what_is_in_use_is_released():
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", HOLES], env=environment, capture_output=True, text=True, check=False)
    if "no glibc" in done.stderr:
        pytest.skip("no glibc")
    assert done.returncode == 0, done.stderr
    assert 40 < float(done.stdout) < 60


def test_there_is_nothing_to_release_elsewhere(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(cpu.ctypes, "CDLL", lambda name: pytest.fail("asked for the C library"))
    release_freed_memory()
