"""Which device an encoder runs on, and in which precision."""

from __future__ import annotations

import torch

from ...store.errors import DeviceError, UsageError

PRECISIONS = ("float32", "bfloat16", "auto")


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
            message = f"--device {name}: this machine has {count} CUDA devices that torch can use. {_use_cpu()}"
            raise DeviceError(message)
    elif device.type == "mps":
        if not torch.backends.mps.is_available():
            message = f"--device mps: Metal is not available here. {_use_cpu()}"
            raise DeviceError(message)
    elif device.type != "cpu":
        message = f"--device {name}: samkit runs on cpu, cuda and mps."
        raise UsageError(message)
    return device


def gpu_devices(count: int) -> list[str]:
    """Return the names of the first ``count`` GPUs.

    Raises
    ------
    DeviceError
        When there are fewer; the message has both numbers.
    """
    there = torch.cuda.device_count()
    if count > there:
        message = f"--gpus {count}: this machine has {there} CUDA devices that torch can use. {_use_cpu()}"
        raise DeviceError(message)
    return [f"cuda:{index}" for index in range(count)]


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
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    if device.type == "cpu":
        # Without matrix units for it, bfloat16 on a CPU is slower than float32.
        return "bfloat16" if torch.cpu.get_capabilities().get("amx_bf16", False) else "float32"
    return "float32"


def _use_cpu() -> str:
    return "Leave the flag out, or give --device cpu, to run on the processor."
