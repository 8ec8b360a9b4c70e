"""Process settings on a CPU: which processes belong together, and what decides the speed of training."""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import sys

logger = logging.getLogger(__name__)

# Parameters of glibc's mallopt(3).
_M_TRIM_THRESHOLD = -1
_M_MMAP_MAX = -4
_INT_MAX = 2**31 - 1
# Set to the number of processes by torchrun and `accelerate launch`, and by the launchers of MPI.
_WORLD_SIZES = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")


def join_processes() -> None:
    """Makes this process one of those that it was launched with, if they run on CPUs.

    Left alone, Accelerate takes processes that find no GPU for runs of their own: each would train on all images, and
    write into the folder of the others. To be called before anything else of Accelerate. Where there is one process, or
    a GPU and no ACCELERATE_USE_CPU, there is nothing to do.
    """
    if all(int(os.environ.get(name, "1")) == 1 for name in _WORLD_SIZES):
        return
    import torch
    from accelerate import PartialState
    from accelerate.utils import parse_flag_from_env

    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if device is None or device.type == "mps" or parse_flag_from_env("ACCELERATE_USE_CPU"):
        PartialState(cpu=True)


def prepare_cpu(threads: int | None) -> None:
    """Gives a process on a CPU its threads and the memory settings that make it fast, or warns of what is missing.

    Args:
        threads: see `set_cpu_threads`.
    """
    set_cpu_threads(threads)
    if not keep_freed_memory():
        logger.warning(
            "The memory allocator of this system cannot be told to keep freed memory (that takes glibc), which may "
            "slow training down several times. On Linux, preload jemalloc or mimalloc (LD_PRELOAD) instead."
        )


def keep_freed_memory() -> bool:
    """Tells glibc's allocator to keep large freed blocks for reuse.

    By default every activation above the mmap threshold is mapped, zeroed page by page and unmapped again in each
    step, which costs a ViT on the CPU up to several times its training time. Returns whether the allocator took the
    setting; elsewhere than on glibc there is nothing to set.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # musl has no mallopt
        return False
    return bool(mallopt(_M_MMAP_MAX, 0)) and bool(mallopt(_M_TRIM_THRESHOLD, _INT_MAX))


def release_freed_memory() -> None:
    """Gives freed memory back to the system, where it lies between what is still in use as well.

    A long loop that keeps a little of every batch and frees the rest would, with memory that is kept, grow with the
    number of batches: what it keeps makes the holes too small for the next batch. Elsewhere than on glibc nothing is
    done.
    """
    if sys.platform.startswith("linux"):
        with contextlib.suppress(OSError, AttributeError):  # musl has no malloc_trim
            ctypes.CDLL(None).malloc_trim(ctypes.c_size_t(0))


def set_cpu_threads(threads: int | None = None) -> int:
    """Sets the number of threads of torch's operations, and returns it.

    `accelerate launch` exports OMP_NUM_THREADS=1 when it is not told otherwise, which would leave all cores but one
    idle. Without `threads`, the cores that this process may use are shared among the local processes of the launch.
    """
    import torch

    if threads is None:
        local_processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        threads = max(1, len(os.sched_getaffinity(0)) // local_processes) if hasattr(os, "sched_getaffinity") else 0
        threads = threads or max(1, (os.cpu_count() or 1) // local_processes)
    torch.set_num_threads(threads)
    return threads
