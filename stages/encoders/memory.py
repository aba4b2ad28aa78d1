"""Memory that encoders work in: kept between slices, counted, and what is said when it runs out."""

from __future__ import annotations

import contextlib
import ctypes
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import torch

from ...store.errors import DeviceError

# glibc's malloc.h. Blocks as large as activations are otherwise mapped and unmapped for every layer.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
_KEPT_BYTES = (1 << 31) - 1
_LARGEST_BLOCK = 1 << 30
_CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")
# What torch says where it has no exception of its own: of a processor's memory, and of Metal's.
_SAYINGS = ("not enough memory", "can't allocate memory", "out of memory")


def keep_freed_memory() -> bool:
    """Let this process keep the memory it has freed, instead of handing it back and asking for it again.

    An encoder frees and takes hundreds of megabytes in every block. By default glibc returns them to the system, which
    zeroes each page before it is used again: SAM's ViT-B in bfloat16 at 1024 px took 1.3 times as long for it. The
    setting is one of the process's allocator, for all that runs in it, and nothing takes it back; samkit's commands and
    workers make it, `import samkit` does not.

    Threads that start later share the memory of the process's first one. By default glibc gives each an arena of its
    own, whose heaps are of 64 MB: what is larger is mapped and unmapped again, and the same encoder in a thread took
    8 % longer for it.

    Returns
    -------
    bool
        False where the allocator is not glibc's: other systems, musl, or one that was loaded in its place, which sees
        to it by itself.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    wanted = {_M_MMAP_THRESHOLD: _LARGEST_BLOCK, _M_TRIM_THRESHOLD: _KEPT_BYTES, _M_ARENA_MAX: 1}
    return all(mallopt(option, value) for option, value in wanted.items())


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether memory ran out: torch has a type for it on GPUs, and a saying on processors."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(saying in str(error) for saying in _SAYINGS)


def free_memory_bytes(device: torch.device) -> int:
    """Return how much memory of a device, or of this machine, can be had."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        # What torch keeps for itself is free too.
        return int(free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device))
    free = int(psutil.virtual_memory().available)
    if _CGROUP_LIMIT.exists() and (limit := _CGROUP_LIMIT.read_text().strip()).isdecimal():
        # Inside a container the machine's memory is not ours.
        free = min(free, int(limit) - psutil.Process().memory_info().rss)
    return max(0, free)


def total_memory_bytes(device: torch.device) -> int:
    """Return how much memory a device, or this machine, has."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[1])
    return int(psutil.virtual_memory().total)


@contextmanager
def telling_of_memory(device: torch.device, what: str, remedy: str) -> Iterator[None]:
    """Turn memory that runs out inside the block into `DeviceError`.

    Parameters
    ----------
    device
        Whose memory it is.
    what
        Was being done: "fitting cnn".
    remedy
        What to type next.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        message = f"{what}: the memory of {memory_now(device)} ran out. {remedy}"
        raise DeviceError(message) from error


LESS_MEMORY = "Free some (who uses it?), or give another --device, or a smaller encoder."
"""What helps where an encoder does not fit."""


def memory_now(device: torch.device) -> str:
    """Tell whose memory there is and how much is free, for a message: ``cuda:0 (0.3 GB free of 8.4 GB)``."""
    free, total = (amount / 1e9 for amount in (free_memory_bytes(device), total_memory_bytes(device)))
    where = "this machine" if device.type == "cpu" else str(device)
    return f"{where} ({free:.1f} GB free of {total:.1f} GB)"


def forget_peak_memory() -> None:
    """Let `peak_memory_bytes` begin anew with what this process has now, on Linux; elsewhere it cannot."""
    with contextlib.suppress(OSError):  # not Linux, or a container that hides it
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def peak_memory_bytes() -> int:
    """Return the largest resident size this process has had, since `forget_peak_memory` where that works."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Linux counts in KiB, macOS in bytes.
    return peak if sys.platform == "darwin" else peak * 1024
