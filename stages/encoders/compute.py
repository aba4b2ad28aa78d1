"""What rows are computed by: the device and its kind, the implementation, threads and slices at once.

It is decided once a recipe, when its first shard is planned, and kept beside it: within one class equal slices give
bitwise equal rows, so later commands go on by the class that is there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

import torch

from ...store.errors import DeviceError
from .base import Encoder
from .devices import find_device, usable_cores
from .memory import free_memory_bytes, is_out_of_memory, memory_now

# On a processor, batches of SAM at 1024 gain nothing and cost memory; at 256 eight images share the
# per-layer overhead. In between, about the same number of pixels at once.
_CPU_PIXELS_AT_ONCE = 8 * 256 * 256
# On a GPU too a batch gains little beyond some: what hides the launches of kernels is enough.
_GPU_PIXELS_AT_ONCE = 8 * 1024 * 1024
_MOST_SLICES_AT_ONCE = 64
# Metal ends the process where an array is larger (pytorch#149261).
_LARGEST_MPS_ARRAY_BYTES = (1 << 32) - 1
# Of what is free: kernels take workspaces of their own, and somebody else may use the device too.
_MEMORY_SHARE = 0.8


@dataclass(frozen=True, kw_only=True, slots=True)
class ComputeClass:
    """What rows are computed by. Within one class, equal slices give bitwise equal rows."""

    #: "cpu", "cuda" or "mps".
    device: str
    #: Which implementation of the encoder, see `Encoder.kernel_paths`.
    kernel_path: str
    #: Threads of one worker on a processor.
    threads: int
    #: Slices encoded at once; a last, smaller batch is filled up, so that a row never depends on how many follow it.
    micro_batch: int

    def to_json(self) -> dict[str, Any]:
        """Return the class as it is kept in ``compute.json`` and every record."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Read a compute class."""
        return cls(**value)


def device_kind(device: str) -> str:
    """Return "cpu", "cuda" or "mps" of a device's name, ``cuda:1``."""
    return device.split(":", maxsplit=1)[0]


def choose_compute(encoder: Encoder, device: str, workers: int, *, sharing: int = 1) -> ComputeClass:
    """Decide how an encoder's rows are computed, when its first shard is planned; workers share the processor.

    On a GPU one slice is encoded to see what it takes of the memory, of which ``sharing`` workers have each their part.

    Raises
    ------
    DeviceError
        A device whose memory is too small for one slice.
    """
    kind = device_kind(device)
    micro_batch = slices_at_once(encoder.recipe.input_px, kind)
    if kind == "cuda" and micro_batch > 1:
        target = find_device(device)
        slice_bytes = _slice_bytes(encoder, target)
        micro_batch = min(micro_batch, fitting_slices(slice_bytes, free_memory_bytes(target) // sharing))
    return ComputeClass(
        device=kind,
        kernel_path=encoder.kernel_paths[0],
        # A container's share of the processor is not known to torch.
        threads=max(1, min(torch.get_num_threads(), usable_cores()) // workers),
        micro_batch=micro_batch,
    )


def slices_at_once(input_px: int, kind: str) -> int:
    """Return how many slices are worth encoding at once on a kind of device, were memory no matter."""
    pixels = _CPU_PIXELS_AT_ONCE if kind == "cpu" else _GPU_PIXELS_AT_ONCE
    most = _MOST_SLICES_AT_ONCE
    if kind == "mps":
        # Each of some 16 heads holds a number for every two cells of 16 px, where attention is not fused.
        most = min(most, _LARGEST_MPS_ARRAY_BYTES // (16 * (input_px // 16) ** 4 * 4))
    return max(1, min(pixels // input_px**2, most))


def fitting_slices(slice_bytes: int, free_bytes: int) -> int:
    """Return how many slices of so many bytes are encoded at once in what is free: a power of two, at least 1.

    >>> fitting_slices(slice_bytes=1 << 30, free_bytes=7 << 30)
    4
    """
    fitting = int(free_bytes * _MEMORY_SHARE) // max(1, slice_bytes)
    return 1 << max(0, fitting.bit_length() - 1)


def _slice_bytes(encoder: Encoder, device: torch.device) -> int:
    """Return the memory that encoding one slice takes on a GPU, the encoder apart."""
    side = encoder.recipe.input_px
    try:
        # Once beforehand: with the first slice come a copy of the weights in another precision, and kernels.
        encoder.encode(torch.zeros(1, 3, side, side, device=device))
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        encoder.encode(torch.zeros(1, 3, side, side, device=device))
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise too_small(encoder, device) from error
    return int(torch.cuda.max_memory_allocated(device)) - before


def too_small(encoder: Encoder, device: torch.device) -> DeviceError:
    """Return the error of a device whose memory does not hold one slice at work, with numbers and what to do."""
    # Half as many cells, whole ones: sizes are multiples of a cell.
    _, _, cells = encoder.embedding_shape
    smaller = encoder.recipe.input_px // cells * max(cells // 2, 1)
    instead = "" if device.type == "cpu" else "--device cpu, "
    return DeviceError(
        f"{encoder.recipe.encoder} at {encoder.recipe.input_px} px: the memory of {memory_now(device)} does not hold "
        f"one slice at a time. What was finished is kept. Free some (who uses it?), or give "
        f"{instead}a smaller encoder, or --size {smaller}."
    )
