"""Masks of one image as bits: of a hundred structures only those are held as bytes that somebody looks at."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["PackedMasks"]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Block:
    """A box within a mask, where some of it is set."""

    start: tuple[int, ...]
    """(i, j, k) of its first voxel."""
    shape: tuple[int, ...]
    """How many voxels it has along i, j, k."""
    bits: npt.NDArray[np.uint8]
    """Eight voxels a byte."""


class PackedMasks(Mapping[str, "npt.NDArray[np.bool_]"]):
    """Named masks of one shape, which may overlap. They are made up part by part, and unpacked one by one.

    As bytes, a hundred organs of a CT take 16 GB; as bits, and only where they are, some megabytes. Every look at a
    mask unpacks it anew, so what is needed twice has to be kept.

    Parameters
    ----------
    shape
        (i, j, k) of every mask.
    names
        Masks that are there before anything is put into them, and in which order.
    """

    def __init__(self, shape: tuple[int, ...], names: Iterable[str] = ()) -> None:
        self.shape = shape
        self._blocks: dict[str, list[_Block]] = {name: [] for name in names}

    def put(self, name: str, block: npt.NDArray[np.bool_], start: tuple[int, int, int] = (0, 0, 0)) -> None:
        """Mark voxels of a mask, of a new one if there is none of that name; what was marked before stays.

        Parameters
        ----------
        name
            Of the mask.
        block
            (i, j, k), all of it within the mask; it is copied.
        start
            Where in the mask its first voxel lies.
        """
        blocks = self._blocks.setdefault(name, [])
        if 1 not in block.shape:  # a structure is elsewhere in every slice, and most have none of it
            for k in range(block.shape[2]):
                self.put(name, block[:, :, k : k + 1], (start[0], start[1], start[2] + k))
            return
        sides = []
        for axis in range(3):
            along = np.flatnonzero(block.any(axis=tuple({0, 1, 2} - {axis})))
            if not along.size:
                return
            sides.append(slice(int(along[0]), int(along[-1]) + 1))
        cut = block[tuple(sides)]
        origin = tuple(first + side.start for first, side in zip(start, sides, strict=True))
        blocks.append(_Block(start=origin, shape=cut.shape, bits=np.packbits(cut)))

    def __getitem__(self, name: str) -> npt.NDArray[np.bool_]:
        """Return one mask, in Fortran order."""
        mask = np.zeros(self.shape, dtype=np.bool_, order="F")
        for block in self._blocks[name]:
            marked = np.unpackbits(block.bits, count=math.prod(block.shape)).reshape(block.shape).view(np.bool_)
            box = (slice(first, first + size) for first, size in zip(block.start, block.shape, strict=True))
            mask[tuple(box)] |= marked
        return mask

    def __contains__(self, name: object) -> bool:
        """Tell whether there is a mask of that name, without unpacking it."""
        return name in self._blocks

    def __iter__(self) -> Iterator[str]:
        """Yield the names, in the order of their first mention."""
        return iter(self._blocks)

    def __len__(self) -> int:
        """Return how many masks there are, empty ones included."""
        return len(self._blocks)
