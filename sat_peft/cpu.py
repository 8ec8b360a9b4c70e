"""Process settings that decide the speed of training on a CPU."""

from __future__ import annotations

import ctypes
import os
import sys

# Parameters of glibc's mallopt(3).
_M_TRIM_THRESHOLD = -1
_M_MMAP_MAX = -4
_INT_MAX = 2**31 - 1


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
