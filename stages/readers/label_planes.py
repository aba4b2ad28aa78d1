"""Where the planes of a label object lie among the slices of an image, and what its structures are called.

What DICOM-SEG and RTSTRUCT have in common: both hold planes, each with a position of its own, for an image that may
have other slices. Pure functions. Points are RAS+ millimetres, affines go from (i, j, k) to RAS+ millimetres.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from .dicom_headers import DAMAGE, text

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import numpy.typing as npt
    from pydicom.dataset import Dataset

    from .base import Affine

__all__ = [
    "NOTED_VOXELS",
    "SILENT_VOXELS",
    "SPARSE_SLICES",
    "Described",
    "between_slices_mm",
    "gaps_between",
    "inverse",
    "items",
    "nearest_planes",
    "referenced",
    "slice_normal",
    "sparse_note",
    "to_ras",
    "unique",
    "unique_names",
]

SILENT_VOXELS = 0.01
"""Up to here a label lies on its image without a word, as for label maps: decimals of a header stay below."""
NOTED_VOXELS = 0.1
"""Up to here it is taken and noted; beyond, half a voxel is not far and a border would move."""

SPARSE_SLICES = 1.5
"""Planes farther apart were not drawn on the image's own slices, though they may lie on some of them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Described:
    """What the header of a label object says: what it holds, and of which image."""

    names: tuple[str, ...]
    """Of its structures, in the order of the file; background is none, and what only holds points is left out."""
    referenced_series_uids: tuple[str, ...] = field(repr=False)
    """SeriesInstanceUID of the images; for matching only."""
    referenced_sop_uids: tuple[str, ...] = field(repr=False)
    """SOPInstanceUID of the images; for matching only."""
    frame_of_reference_uid: str = field(repr=False)
    """Possibly empty; for matching only."""


_TO_RAS: npt.NDArray[np.float64] = np.array([-1.0, -1.0, 1.0])


def to_ras(points_lps: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Turn DICOM's millimetres (LPS+, PS3.3 C.7.6.2.1.1) into RAS+, and back; the last axis holds x, y, z."""
    return np.multiply(points_lps, _TO_RAS, dtype=np.float64)


def inverse(affine: Affine) -> Affine:
    """Return the affine from RAS+ millimetres to (i, j, k)."""
    return np.asarray(np.linalg.inv(affine), dtype=np.float64)


def slice_normal(affine: Affine) -> npt.NDArray[np.float64]:
    """Return the unit normal of an image's slices, shape (3,), towards growing k where the grid is not mirrored.

    Of a tilted stack the third column of the affine is not the normal; this is.
    """
    normal = np.cross(affine[:3, 0], affine[:3, 1])
    return np.asarray(normal / np.linalg.norm(normal), dtype=np.float64)


def between_slices_mm(affine: Affine) -> float:
    """Return the distance of neighbouring slices along their normal; in a tilted stack a step of k is longer."""
    return abs(float(affine[:3, 2] @ slice_normal(affine)))


def gaps_between(heights: Iterable[float]) -> list[float]:
    """Return the distances between neighbouring planes, smallest first; planes within 0.01 slice are one.

    The smallest is how far apart the planes were drawn, since those on which nothing was drawn are left out.

    Parameters
    ----------
    heights
        Along the normal of the slices, in slices, in any order.
    """
    gaps = np.diff(np.sort(np.fromiter(heights, dtype=np.float64)))
    return sorted(gaps[gaps > SILENT_VOXELS].tolist())


def sparse_note(gap: float) -> str:
    """Say that planes are farther apart than slices, so that the slices between stay empty."""
    return (
        f"its planes are {gap:.3g} slices apart, and the slices between them stay empty: if it was drawn on thicker "
        f"slices, --resample-labels gives each slice the nearest plane"
    )


def nearest_planes(
    planes: npt.NDArray[np.float64], slices: npt.NDArray[np.float64], gap: float
) -> npt.NDArray[np.int64]:
    """Return for each slice the index of the plane nearest to it, or -1 where none is within half a gap.

    Parameters
    ----------
    planes, slices
        Positions along one direction, in one unit.
    gap
        The distance between neighbouring planes: each stands for half of it on either side.
    """
    if planes.size == 0:
        return np.full(slices.shape, -1)
    distances = np.abs(slices[:, None] - planes[None, :])
    nearest = distances.argmin(axis=1)
    # A little more than half: a slice midway between two planes belongs to one of them, not to none.
    return np.where(distances.min(axis=1) <= gap * (0.5 + 1e-6), nearest, -1)


def unique_names(names: Sequence[str]) -> list[str]:
    """Return the names with those that came before told apart by a number: ``nodule``, ``nodule 2``, ``nodule 3``."""
    given: set[str] = set()
    result: list[str] = []
    for name in names:
        candidate, number = name, 1
        while candidate in given or (number > 1 and candidate in names):
            number += 1
            candidate = f"{name} {number}"
        given.add(candidate)
        result.append(candidate)
    return result


def unique(texts: Iterable[str]) -> tuple[str, ...]:
    """Return the texts that are not empty, each once, in the order of their first appearance."""
    return tuple(dict.fromkeys(one for one in texts if one))


def items(dataset: Dataset, *names: str) -> list[Dataset]:
    """Return the items of a sequence of sequences of ... ``names``; none where one of them is absent or broken."""
    found = [dataset]
    for name in names:
        found = [item for one in found for item in _items(one, name)]
    return found


def referenced(datasets: Iterable[Dataset], name: str) -> tuple[str, ...]:
    """Return one attribute (a UID) of many items: each value once."""
    return unique(text(dataset, name) for dataset in datasets)


def _items(dataset: Dataset, name: str) -> list[Dataset]:
    try:
        value = dataset.get(name)
        return [] if value is None else list(value)
    except DAMAGE:
        return []
