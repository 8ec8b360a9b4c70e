"""Threads of a process on the CPU."""

import os
import sys

import pytest
import torch

from sat_peft.cpu import keep_freed_memory, set_cpu_threads


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
