"""What the values of a volume are like: extremes, counts, exact percentiles. Read in blocks, never copied whole.

A block is at most `BLOCK_VOXELS` in the order of memory, so a pass needs a few megabytes whatever the volume's size
and layout. Percentiles are a radix selection: the values are counted by the highest 16 bits of an integer that sorts
as they do, then, only where a wanted rank falls, by the next 16. One pass is exact for integers of 8 and 16 bits, two
for float32, whatever the ties and outliers; no bin width is ever chosen.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

__all__ = ["BLOCK_VOXELS", "Extent", "Measured", "Numbers", "blocks_of", "is_padding"]

BLOCK_VOXELS = 1 << 18
"""One plane of 512 x 512."""

_DIGIT_BITS = 16
_DIGITS = 1 << _DIGIT_BITS

Numbers: TypeAlias = npt.NDArray[np.integer[Any] | np.floating[Any]]
"""Whole numbers of 8 to 64 bits, signed or not, or floats of 16 to 64 bits."""


def blocks_of(values: Numbers) -> Iterator[Numbers]:
    """Yield all values as flat blocks of native byte order, in the order of memory; views where that is possible.

    A block is valid until the next one is asked for.
    """
    yield from cast(
        "Iterator[Numbers]",
        np.nditer(
            values,
            flags=["external_loop", "buffered", "zerosize_ok"],
            op_dtypes=[values.dtype.newbyteorder("=")],
            casting="equiv",
            order="K",
            buffersize=BLOCK_VOXELS,
        ),
    )


def is_padding(values: Numbers, padding: tuple[float, float]) -> npt.NDArray[np.bool_]:
    """Tell which values lie in the padding range.

    Parameters
    ----------
    values
        Any shape.
    padding
        Its two ends, both included, in either order; for floats they are rounded to the values' own precision first,
        as the values were when they were rescaled.

    Returns
    -------
    array of bool
        The shape of `values`.
    """
    low, high = sorted(padding)
    if values.dtype.kind == "f":
        kind = values.dtype.type
        return (values >= kind(low)) & (values <= kind(high))
    limits = np.iinfo(cast("np.dtype[np.integer[Any]]", values.dtype))
    low, high = max(low, limits.min), min(high, limits.max)
    if low > high or math.ceil(low) > math.floor(high):
        return np.zeros(values.shape, dtype=np.bool_)
    return (values >= math.ceil(low)) & (values <= math.floor(high))


@dataclass(frozen=True, kw_only=True, slots=True)
class Extent:
    """The range of a volume's measured voxels, and how many voxels are of which kind."""

    lowest: float
    """A whole number of Python for integers; NaN where nothing was measured."""
    highest: float
    measured: int
    """Voxels that are finite and no padding."""
    padded: int
    nan: int
    positive_infinite: int
    negative_infinite: int

    @property
    def not_finite(self) -> int:
        """NaN and infinities together."""
        return self.nan + self.positive_infinite + self.negative_infinite


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Measured:
    """The voxels of a volume that tell something: finite, and outside the padding range."""

    values: Numbers
    """Any shape and order of memory."""
    padding: tuple[float, float] | None = None
    """From and to which value a voxel is padding, both included."""

    def blocks(self) -> Iterator[Numbers]:
        """Yield the measured values as flat blocks, in the order of memory; a block may be empty."""
        for block in blocks_of(self.values):
            yield self._of(block)

    def extent(self) -> Extent:
        """Return range and counts, in one pass."""
        lowest: list[Any] = []
        highest: list[Any] = []
        measured = nan = positive = negative = 0
        for block in blocks_of(self.values):
            kept = self._of(block)
            measured += kept.size
            if kept.size:
                lowest.append(kept.min())
                highest.append(kept.max())
            if kept.size < block.size and block.dtype.kind == "f":
                nan += int(np.count_nonzero(np.isnan(block)))
                positive += int(np.count_nonzero(block == np.inf))
                negative += int(np.count_nonzero(block == -np.inf))
        return Extent(
            # item: whole numbers stay whole, so that they compare exactly with blocks of any kind.
            lowest=min(lowest).item() if lowest else math.nan,
            highest=max(highest).item() if highest else math.nan,
            measured=measured,
            padded=self.values.size - measured - nan - positive - negative,
            nan=nan,
            positive_infinite=positive,
            negative_infinite=negative,
        )

    def whole_numbers(self, most: int) -> tuple[int, ...] | None:
        """Return which values there are, in order; None where one is not whole, or they are more than ``most``.

        Of most images the first block tells.
        """
        there: set[float] = set()
        for block in self.blocks():
            there.update(np.unique(block).tolist())
            if len(there) > most or not all(float(value).is_integer() for value in there):
                return None
        return tuple(sorted(int(value) for value in there))

    def percentiles(
        self, at: Sequence[float], *, above: float | None = None, below: float | None = None
    ) -> tuple[float, ...]:
        """Return percentiles, linear between neighbours, exactly as numpy computes them of the values in float64.

        Parameters
        ----------
        at
            In percent, 0 to 100.
        above, below
            Only values larger than the one and smaller than the other, where given.

        Raises
        ------
        ValueError
            No value is left.
        """

        def chosen() -> Iterator[Numbers]:
            for block in self.blocks():
                kept = block if above is None else block[block > above]
                yield kept if below is None else kept[kept < below]

        # The definition of numpy.percentile, method "linear", on the sorted values x:
        # h = (n - 1) q / 100, between x[floor(h)] and x[floor(h) + 1].
        bits = 8 * self.values.dtype.itemsize
        shifts = range(max(bits - _DIGIT_BITS, 0), -1, -_DIGIT_BITS)
        tallies = _tallies(chosen(), bits, shifts[0], {0})
        count = int(tallies[0].sum())
        if count == 0:
            message = "there are no percentiles of no values"
            raise ValueError(message)
        places = [(count - 1) * (percent / 100) for percent in at]
        ranks = {min(int(place) + step, count - 1) for place in places for step in (0, 1)}
        found = _keys_at(ranks, tallies, shifts, lambda shift, prefixes: _tallies(chosen(), bits, shift, prefixes))
        sorted_at = {rank: _value_of(key, self.values.dtype) for rank, key in found.items()}
        return tuple(
            _between(sorted_at[int(place)], sorted_at[min(int(place) + 1, count - 1)], place - int(place))
            for place in places
        )

    def _of(self, block: Numbers) -> Numbers:
        kept = block if self.padding is None else block[~is_padding(block, self.padding)]
        if kept.dtype.kind != "f":
            return kept
        finite = np.isfinite(kept)
        return kept if finite.all() else kept[finite]


# -- radix selection -------------------------------------------------------------------------------


def _keys_at(
    ranks: Iterable[int],
    tallies: dict[int, npt.NDArray[np.int64]],
    shifts: Sequence[int],
    count_again: Callable[[int, set[int]], dict[int, npt.NDArray[np.int64]]],
) -> dict[int, int]:
    """Return the key at each rank (0 is the smallest): digit by digit, the highest first."""
    found = {rank: (0, rank) for rank in ranks}  # the digits known so far, and the rank among the keys that have them
    for position, shift in enumerate(shifts):
        if position:
            tallies = count_again(shift, {prefix for prefix, _ in found.values()})
        ends = {prefix: np.cumsum(tally) for prefix, tally in tallies.items()}
        for rank, (prefix, inside) in found.items():
            digit = int(np.searchsorted(ends[prefix], inside, side="right"))
            before = int(ends[prefix][digit - 1]) if digit else 0
            found[rank] = (prefix << _DIGIT_BITS | digit, inside - before)
    return {rank: key for rank, (key, _) in found.items()}


def _tallies(blocks: Iterable[Numbers], bits: int, shift: int, prefixes: set[int]) -> dict[int, npt.NDArray[np.int64]]:
    """Count the digit at `shift` of the keys, apart for each beginning that the keys may have."""
    tallies = {prefix: np.zeros(_DIGITS, dtype=np.int64) for prefix in prefixes}
    above = shift + _DIGIT_BITS
    for block in blocks:
        keys = _keys_of(block)
        for prefix, tally in tallies.items():
            same = keys if above >= bits else keys[(keys >> above) == prefix]
            counted = np.bincount((same >> shift).astype(np.intp) & (_DIGITS - 1))
            tally[: counted.size] += counted
    return tallies


def _keys_of(block: Numbers) -> npt.NDArray[np.unsignedinteger[Any]]:
    """Return unsigned integers of the same width that sort as the values do; NaN must be gone."""
    if block.dtype.kind == "u":
        return cast("npt.NDArray[np.unsignedinteger[Any]]", block)
    bits = 8 * block.dtype.itemsize
    unsigned = np.dtype(f"u{block.dtype.itemsize}")
    pattern = block.view(unsigned)
    sign = unsigned.type(1 << (bits - 1))
    if block.dtype.kind == "i":  # two's complement: only the sign sorts the wrong way
        return cast("npt.NDArray[np.unsignedinteger[Any]]", pattern ^ sign)
    # Sign and magnitude (IEEE 754): negative numbers sort backwards, so all their bits are turned.
    turned = (block.view(f"i{block.dtype.itemsize}") >> (bits - 1)).view(unsigned) | sign
    return cast("npt.NDArray[np.unsignedinteger[Any]]", pattern ^ turned)


def _value_of(key: int, dtype: np.dtype[Any]) -> float:
    """Return the value that has a key; the inverse of `_keys_of`."""
    if dtype.kind == "u":
        return float(key)
    bits = 8 * dtype.itemsize
    sign = 1 << (bits - 1)
    if dtype.kind == "i":
        return float(key - sign)
    pattern = key ^ sign if key & sign else key ^ ((1 << bits) - 1)
    value = np.array(pattern, dtype=f"u{dtype.itemsize}").view(dtype.newbyteorder("="))
    return float(value) + 0.0  # -0.0 becomes 0.0


def _between(left: float, right: float, weight: float) -> float:
    # From the nearer end, as numpy.percentile does, so that the result has its very bits.
    step = right - left
    return left + step * weight if weight < 0.5 else right - step * (1 - weight)
