"""Which device an encoder runs on, and in which precision."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from ...store.errors import DeviceError, UsageError

PRECISIONS = ("float32", "bfloat16", "auto")
#: Instructions of processors that compute in bfloat16.
CPU_BFLOAT16 = ("amx_bf16", "avx512_bf16")


def find_device(name: str) -> torch.device:
    """Return the torch device of a name, after looking whether it is there.

    Raises
    ------
    UsageError
        For a name that is no device's.
    DeviceError
        For a device that this machine does not have.
    """
    try:
        device = torch.device(name)
    except RuntimeError as error:
        message = f"--device {name!r}: not a device. Give cpu, cuda, cuda:1 or mps."
        raise UsageError(message) from error
    if device.type == "cuda":
        count = torch.cuda.device_count()
        if (device.index or 0) >= count:
            message = f"--device {name}: {_gpus_here()} {_use_cpu()}"
            raise DeviceError(message)
    elif device.type == "mps":
        if not torch.backends.mps.is_available():
            message = f"--device mps: Metal is not available here. {_use_cpu()}"
            raise DeviceError(message)
    elif device.type != "cpu":
        message = f"--device {name}: samkit runs on cpu, cuda and mps."
        raise UsageError(message)
    return device


def gpu_devices(asked: str) -> list[str]:
    """Return the names of the GPUs that ``--gpus`` asks for: ``2`` for the first two, ``0,2`` for these.

    Raises
    ------
    UsageError
        When it is neither a number of GPUs nor a list of theirs.
    DeviceError
        When there are fewer; the message has both numbers.
    """
    words = [word.strip() for word in asked.split(",")]
    if not all(word.isascii() and word.isdecimal() for word in words):
        message = f"--gpus {asked}: give how many (2: the first two), or which, numbered from 0 (0,2)."
        raise UsageError(message)
    there = torch.cuda.device_count()
    numbers = [int(word) for word in words]
    if len(numbers) == 1:
        if numbers[0] < 1:
            message = (
                f"--gpus {asked}: a number alone is how many, 1 or more. For the first GPU --gpus 1; for one of them "
                f"by its number, --device cuda:0; for the processor leave the flag out."
            )
            raise UsageError(message)
        numbers = list(range(min(numbers[0], there + 1)))
    elif twice := sorted({number for number in numbers if numbers.count(number) > 1}):
        message = f"--gpus {asked}: names GPU {twice[0]} twice. One worker a GPU keeps it busy: name each once."
        raise UsageError(message)
    if max(numbers) >= there:
        message = f"--gpus {asked}: {_gpus_here()} {_use_cpu()}"
        raise DeviceError(message)
    return [f"cuda:{number}" for number in numbers]


def usable_cores(cgroups: Path = Path("/sys/fs/cgroup")) -> int:
    """Return how many cores this process may use: those it is bound to, and no more than its container's share.

    A job of SLURM is bound to its cores. A container of Kubernetes sees all cores of the machine and gets the time of
    a few (``limits.cpu``): with a thread for each core that it sees, most of them wait.

    Parameters
    ----------
    cgroups
        Where Linux shows limits of groups of processes; a container finds its own at the top.
    """
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.ceil(min(bound, _share_of_cores(cgroups))))


def _share_of_cores(cgroups: Path) -> float:
    """Return the time that a container has, in cores; infinity for no limit. Both versions of cgroups are read."""
    with contextlib.suppress(OSError, ValueError):  # "max 100000" is no limit
        time, period = (cgroups / "cpu.max").read_text().split()
        return int(time) / int(period)
    with contextlib.suppress(OSError, ValueError):
        time, period = ((cgroups / "cpu" / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        return int(time) / int(period) if int(time) > 0 else math.inf
    return math.inf


def resolve_precision(precision: str, device: torch.device) -> str:
    """Return "float32" or "bfloat16": what "auto" means on this device.

    Raises
    ------
    UsageError
        For another word.
    """
    if precision not in PRECISIONS:
        message = f"--precision {precision!r}: there are {', '.join(PRECISIONS)}."
        raise UsageError(message)
    if precision != "auto":
        return precision
    if device.type == "cuda":
        # torch answers for the current GPU, which is the first one.
        with torch.cuda.device(device) if device.index else contextlib.nullcontext():
            return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    if device.type == "cpu":
        # Without instructions for it, bfloat16 on a CPU is slower than float32. With them samkit's forward pass of
        # ViT-B was 3.6 times (AMX) and 2.3 times (AVX-512) as fast as in float32.
        able = torch.cpu.get_capabilities()
        return "bfloat16" if any(able.get(name, False) for name in CPU_BFLOAT16) else "float32"
    return "float32"


@contextmanager
def ieee_convolutions() -> Iterator[None]:
    """Compute float32 convolutions on a GPU in float32 inside the block.

    By default cuDNN rounds their factors to 10 bits (TF32), on GPUs that can. That is for the whole process, and put
    back afterwards.
    """
    convolutions: Any = getattr(torch.backends.cudnn, "conv", None)  # from torch 2.9 on
    holder, name, exact = (
        (torch.backends.cudnn, "allow_tf32", False)
        if convolutions is None
        else (convolutions, "fp32_precision", "ieee")
    )
    before = getattr(holder, name)
    setattr(holder, name, exact)
    try:
        yield
    finally:
        setattr(holder, name, before)


def _gpus_here() -> str:
    """Say how many GPUs there are, and what may hide others."""
    said = f"this machine has {torch.cuda.device_count()} CUDA devices that torch can use."
    if torch.version.cuda is None:
        return f"{said} torch {torch.__version__} was built without CUDA."
    if (visible := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return f"{said} CUDA_VISIBLE_DEVICES is {visible!r}, and they are numbered from 0 among these."
    return said


def _use_cpu() -> str:
    return "Leave the flag out, or give --device cpu, to run on the processor."
