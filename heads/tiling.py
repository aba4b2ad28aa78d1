"""Tiles: a plane that is larger than the encoder's input, cut with overlap instead of made smaller.

A radiograph of 4000 x 4000 pixels that is resized to SAM's 1024 loses fifteen of sixteen pixels. Cut into tiles it
keeps them all, and each tile has an embedding of its own: the tile is the third part of a row's key. A plane that
fits is one tile, ``full``, and its row is the same with tiles and without.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import TYPE_CHECKING, Self, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..store.errors import GeometryMismatch, UsageError
from ..store.keys import RowKey

if TYPE_CHECKING:  # reading a tile's name should not take torch
    from ..store.slices import Volume
    from .frame import Frame

DEFAULT_OVERLAP = 0.25
"""The least share of a tile that the next one covers too."""

# Beyond it a plane has a hundred times as many tiles as it needs.
_OVERLAP_LIMIT = 0.9
_FULL = "full"
_NUMBER = "(0|[1-9][0-9]*)"
_TEXT = re.compile(f"rows{_NUMBER}-{_NUMBER}[+]columns{_NUMBER}-{_NUMBER}")

Span: TypeAlias = tuple[int, int]
"""Pixels along one side: the first, and the one after the last."""

_Kind = TypeVar("_Kind", bound=np.generic)


@dataclass(frozen=True, kw_only=True, slots=True)
class Tile:
    """A part of a plane: some rows and some columns of its pixels, or, with neither, the whole of it."""

    rows: Span | None = None
    columns: Span | None = None

    def __post_init__(self) -> None:
        if (self.rows is None) != (self.columns is None) or not all(
            0 <= first < stop for first, stop in (self.rows or (0, 1), self.columns or (0, 1))
        ):
            message = (
                f"a tile has rows {self.rows} and columns {self.columns}: give both as (first, the one after the "
                f"last), at least one pixel each, or neither for the whole plane."
            )
            raise UsageError(message)

    def __str__(self) -> str:
        """Return the text that stands for the tile in a row's key: ``rows0-1024+columns768-1792``, or ``full``."""
        if self.rows is None or self.columns is None:
            return _FULL
        return f"rows{self.rows[0]}-{self.rows[1]}+columns{self.columns[0]}-{self.columns[1]}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a tile from its text, the inverse of ``str(tile)``.

        Raises
        ------
        UsageError
            When the text is of no tile.
        """
        if text == _FULL:
            return cls()
        found = _TEXT.fullmatch(text)
        if found is None:
            message = (
                f"a row's key has the tile {text!r}; known are 'full' and texts like 'rows0-1024+columns768-1792'. "
                f"It was probably written by a later samkit: pip install --upgrade samkit"
            )
            raise UsageError(message)
        first_row, stop_row, first_column, stop_column = map(int, found.groups())
        return cls(rows=(first_row, stop_row), columns=(first_column, stop_column))

    def crop(self, plane: NDArray[_Kind]) -> NDArray[_Kind]:
        """Return the tile's pixels of a plane, without a copy. A tile is cut before a view is applied.

        Parameters
        ----------
        plane
            (..., rows, columns), at its own resolution.

        Raises
        ------
        GeometryMismatch
            When the tile does not lie within the plane.
        """
        if self.rows is None or self.columns is None:
            return plane
        if self.rows[1] > plane.shape[-2] or self.columns[1] > plane.shape[-1]:
            message = (
                f"the tile {self} does not lie within a plane of {plane.shape[-2]} x {plane.shape[-1]} pixels (rows x "
                f"columns). It is of another slice: name tiles by Tiling.tiles(rows, columns)."
            )
            raise GeometryMismatch(message)
        return plane[..., slice(*self.rows), slice(*self.columns)]


@dataclass(frozen=True, kw_only=True, slots=True)
class Tiling:
    """How planes are cut: which tiles a plane has follows from its size alone.

    A side that is longer than the encoder's input is covered by tiles as long as the input, as few as overlap enough,
    spread evenly from end to end. A side that is not is not cut. So all tiles of a plane have one shape, and an encoder
    that keeps the aspect sees them at the plane's own resolution.

    Parameters
    ----------
    input_px
        Side of the encoder's square, `Recipe.input_px`.
    overlap
        The least share of a tile's side that the next one covers too, from 0 to below 0.9. With 0 there is nothing
        to blend, and a prediction may show where tiles meet.

    Raises
    ------
    UsageError
        For numbers outside these ranges.

    Examples
    --------
    >>> Tiling(input_px=1024, overlap=0.25).spans(4000)
    ((0, 1024), (744, 1768), (1488, 2512), (2232, 3256), (2976, 4000))
    >>> [str(tile) for tile in Tiling(input_px=1024).tiles(800, 1500)]
    ['rows0-800+columns0-1024', 'rows0-800+columns476-1500']
    >>> [str(tile) for tile in Tiling(input_px=1024).tiles(800, 1024)]
    ['full']
    """

    input_px: int
    overlap: float = DEFAULT_OVERLAP

    def __post_init__(self) -> None:
        if self.input_px < 1:
            message = f"tiles of {self.input_px} px: give the side of the encoder's input in pixels, 1 or more."
            raise UsageError(message)
        if not 0 <= self.overlap < _OVERLAP_LIMIT:
            message = (
                f"--tile-overlap {self.overlap:g}: give the share of a tile that the next one covers too, 0 or more "
                f"and below {_OVERLAP_LIMIT:g}; without the flag it is {DEFAULT_OVERLAP:g}."
            )
            raise UsageError(message)

    def cuts(self, rows: int, columns: int) -> bool:
        """Tell whether a plane of that size is larger than the encoder's input."""
        return max(rows, columns) > self.input_px

    def spans(self, length: int) -> tuple[Span, ...]:
        """Return what tiles cover of a side of ``length`` pixels, in order; they mirror each other about its middle."""
        if length <= self.input_px:
            return ((0, length),)
        # In whole numbers and with what was typed (0.1, not the binary number next to it): keys must not depend on
        # rounding. At least one pixel of a tile is its own, because 0.9 of it is less than all of it.
        step = max(1, self.input_px - math.ceil(Fraction(str(self.overlap)) * self.input_px))
        room = length - self.input_px
        gaps = -(-room // step)
        # The first half is rounded to the nearest pixel, the second is its mirror image: a flipped plane has flipped
        # tiles. Only a tile in the middle may lie half a pixel off.
        before = [(2 * number * room + gaps) // (2 * gaps) for number in range((gaps + 1) // 2)]
        middle = [room // 2] if gaps % 2 == 0 else []
        starts = [*before, *middle, *(room - start for start in reversed(before))]
        return tuple((start, start + self.input_px) for start in starts)

    def tiles(self, rows: int, columns: int) -> tuple[Tile, ...]:
        """Return the tiles of a plane, row of tiles by row of tiles; `full` alone for one that is not cut."""
        if not self.cuts(rows, columns):
            return (Tile(),)
        return tuple(
            Tile(rows=across_rows, columns=across_columns)
            for across_rows in self.spans(rows)
            for across_columns in self.spans(columns)
        )

    def frame_of_tile(self, frame: Frame) -> Frame:
        """Return how each tile lies in the encoder's square, from how the whole plane would."""
        rows, columns = (min(length, self.input_px) for length in (frame.rows, frame.columns))
        return replace(frame, rows=rows, columns=columns) if self.cuts(frame.rows, frame.columns) else frame


def cover(tiles: Iterable[Tile], rows: int, columns: int) -> bool:
    """Say whether tiles, of whichever overlap, leave no pixel of a plane out.

    Examples
    --------
    >>> cover([Tile(rows=(0, 4), columns=(0, 6)), Tile(rows=(0, 4), columns=(4, 9))], 4, 9)
    True
    >>> cover([Tile(rows=(0, 4), columns=(0, 6))], 4, 9)
    False
    """
    spans = [(tile.rows or (0, rows), tile.columns or (0, columns)) for tile in tiles]
    # Between two edges that follow each other all pixels are under the same tiles: one of them tells.
    first_rows = sorted({0, *(edge for across, _ in spans for edge in across if edge < rows)})
    first_columns = sorted({0, *(edge for _, across in spans for edge in across if edge < columns)})
    return all(
        any(above[0] <= row < above[1] and left[0] <= column < left[1] for above, left in spans)
        for row in first_rows
        for column in first_columns
    )


def row_keys(volume: Volume, tiling: Tiling | None = None, *, view: str = "identity") -> list[RowKey]:
    """Return the keys of a volume's embedding rows: slice by slice, and of a slice the tiles in `Tiling.tiles`' order.

    Parameters
    ----------
    volume
        Its slices share one size, so all have the same tiles.
    tiling
        None for slices that are resized whole, as is every plane that fits.
    view
        Of every row; a tile is cut before its view is applied.
    """
    if tiling is None:
        return volume.row_keys(view)
    _, _, rows, columns = volume.record.shape
    tiles = [str(tile) for tile in tiling.tiles(rows, columns)]
    return [RowKey(slice_digest=digest, view=view, tile=tile) for digest in volume.slice_digests for tile in tiles]


def blend_weights(spans: Sequence[Span]) -> list[NDArray[np.float32]]:
    """Return how much each of the spans that cover a side says at each of its pixels; at a pixel they add up to 1.

    A span's say falls towards both its ends as Hann's window does, sin^2(pi (x + 1/2) / length), and is divided by the
    sum of those that cover the pixel. It so comes down to nothing where the span ends, over the whole of the overlap,
    and where a tile is alone its answer stays as it is. (nnU-Net weighs with a Gaussian, Isensee et al. 2021, which
    ends in a step.)

    Parameters
    ----------
    spans
        As `Tiling.spans` gives them: in order, without gaps.

    Returns
    -------
    list of ndarray
        One of (stop - first,) for each span, above 0 and at most 1.
    """
    tapers = [np.sin(np.pi * (np.arange(stop - first) + 0.5) / (stop - first)) ** 2 for first, stop in spans]
    total = np.zeros(spans[-1][1])
    for (first, stop), taper in zip(spans, tapers, strict=True):
        total[first:stop] += taper
    return [(taper / total[first:stop]).astype(np.float32) for (first, stop), taper in zip(spans, tapers, strict=True)]
