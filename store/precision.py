"""How a row's numbers are kept: as they are in float32, rounded to float16, or as bytes with a scale a channel.

Shapes: N rows, C channels, h w cells of the embedding's grid.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import xxhash
from numpy.typing import DTypeLike, NDArray

# Of a recipe's field ``storage_precision``.
STORAGE_PRECISIONS = ("float16", "float32", "int8")
# The one that the others can be derived from.
EXACT = "float32"
# -128 is left out, so that the range is symmetric and zero stays zero.
_INT8_STEPS = 127


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class StoredRows:
    """Rows as they lie on disk."""

    #: (N, C, h, w) float16, float32 or int8.
    values: NDArray[np.float16 | np.float32 | np.int8]
    #: (N, C) float32, what a step of int8 is worth; None for the other kinds.
    scales: NDArray[np.float32] | None = None

    def __len__(self) -> int:
        return len(self.values)

    @classmethod
    def empty(cls, shape: tuple[int, ...], dtype: DTypeLike) -> StoredRows:
        """Return rows of undefined numbers, to be filled; ``shape`` is (N, C, h, w)."""
        kind = np.dtype(dtype).newbyteorder("<")
        return cls(values=np.empty(shape, kind), scales=np.empty(shape[:2], "<f4") if kind == np.int8 else None)

    @classmethod
    def of(cls, features: NDArray[np.floating], precision: str) -> StoredRows:
        """Round features (N, C, h, w) to a storage precision.

        For int8 each channel of each row has a scale of its own: its largest magnitude is 127 steps.
        """
        kept = cls.empty(features.shape, precision)
        if kept.scales is None:
            with np.errstate(over="ignore"):  # what is too large for float16 becomes infinite, and is refused by others
                kept.values[...] = features
            return kept
        exact = features.astype(np.float32, copy=False)
        kept.scales[...] = np.abs(exact).max(axis=(2, 3)) / _INT8_STEPS
        # A channel of zeros has the scale 0; any divisor gives its zeros.
        divisor = np.where(kept.scales > 0, kept.scales, 1)[:, :, None, None]
        with np.errstate(invalid="ignore"):  # of what is not finite, which others refuse by its scale
            # A scale among the smallest numbers there are is rounded, and may be too small for its channel: hence clip.
            kept.values[...] = np.clip(np.rint(exact / divisor), -_INT8_STEPS, _INT8_STEPS)
        return kept

    def put(self, first: int, rows: StoredRows) -> None:
        """Fill places from ``first`` on with rows of the same kind."""
        self.values[first : first + len(rows)] = rows.values
        if self.scales is not None and rows.scales is not None:
            self.scales[first : first + len(rows)] = rows.scales

    def take(self, chosen: slice) -> StoredRows:
        """Return some of the rows."""
        return StoredRows(values=self.values[chosen], scales=None if self.scales is None else self.scales[chosen])

    def restore(self, out: NDArray[np.floating]) -> None:
        """Fill ``out`` (N, C, h, w) with the features: float16 for int8, the stored kind otherwise."""
        if self.scales is None:
            out[...] = self.values
        else:
            np.multiply(self.values, self.scales[:, :, None, None], out=out, dtype=np.float32, casting="same_kind")

    def finite(self) -> NDArray[np.bool_]:
        """Return (N,) whether all numbers of each row are finite, as they are read: int8 is read as float16."""
        if self.scales is None:
            return np.asarray(np.isfinite(self.values).all(axis=(1, 2, 3)))
        return np.asarray((self.scales <= np.float32(np.finfo(np.float16).max) / np.float32(_INT8_STEPS)).all(axis=1))

    def checksums(self) -> tuple[int, ...]:
        """Return the XXH3-64 of each row: its bytes, little-endian in C order, then those of its scales."""
        return tuple(
            row_checksum(row, None if self.scales is None else self.scales[number])
            for number, row in enumerate(self.values)
        )


def row_checksum(row: NDArray[np.generic], scales: NDArray[np.float32] | None = None) -> int:
    """Return the XXH3-64 of a row's bytes, little-endian and in C order, and of its scales after them."""
    contiguous = np.ascontiguousarray(row, dtype=row.dtype.newbyteorder("<"))
    if scales is None:
        return int(xxhash.xxh3_64_intdigest(contiguous.data))
    hasher = xxhash.xxh3_64(contiguous.data)
    hasher.update(np.ascontiguousarray(scales, dtype="<f4").data)
    return hasher.intdigest()


def stored_row_bytes(row_shape: tuple[int, int, int], precision: str) -> int:
    """Return what a row (C, h, w) takes on disk, its scales included."""
    channels, height, width = row_shape
    scales = 4 * channels if precision == "int8" else 0
    return channels * height * width * np.dtype(precision).itemsize + scales


def read_dtype(stored: DTypeLike) -> np.dtype[np.floating]:
    """Return the kind of numbers that rows of a stored kind are read as."""
    kind = np.dtype(stored)
    return np.dtype("<f4") if kind == np.float32 else np.dtype("<f2")
