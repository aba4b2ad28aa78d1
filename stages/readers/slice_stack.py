"""Slices of a series: in which order, and where they lie. Pure: numbers of headers in, an affine or a refusal out.

Conventions: positions and directions come in DICOM's LPS+ millimetres (PS3.3 C.7.6.2.1.1); the affine leaves in RAS+,
from (column, row, slice). Slices are ordered by position along their normal. The distance between them is measured
between positions: SliceThickness is not a distance.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ...store.errors import UnreadableFile

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

__all__ = ["ORIENTATION_TOLERANCE", "DoubledPositionsError", "SliceHeader", "Stack", "stack"]

# Tolerances, from dicom2nifti (orientation, right angles, increment) and from 17 real series (shear, positions).
ORIENTATION_TOLERANCE = 1e-3
_RIGHT_ANGLE_TOLERANCE = 0.05
_SAME_POSITION_MM = 0.01
_GAP_REFUSED = 0.05  # of the median distance: a slice is missing, or distances vary
_GAP_NOTED = 0.01
_GAP_NOTED_MM = 0.01
_SHEAR_REFUSED_VOXELS = 0.1  # over the whole stack, in plane


class DoubledPositionsError(UnreadableFile):
    """Several slices at one position: copies of a file, or several volumes in one series."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Stack:
    """Slices in order, and where they lie."""

    order: tuple[int, ...]
    """Indices into the slices given, first to last along the normal."""
    affine: tuple[tuple[float, ...], ...]
    """(column, row, slice) to RAS+ millimetres, 4x4."""
    notes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class SliceHeader:
    """What the order and the place of a slice depend on."""

    place: str
    """How to call the slice in a message: its instance number."""
    position_mm: tuple[float, float, float]
    """ImagePositionPatient: the centre of the first voxel, LPS+."""
    orientation: tuple[float, ...]
    """ImageOrientationPatient: direction of growing column index, then of growing row index."""
    spacing_mm: tuple[float, float]
    """PixelSpacing: between rows, then between columns."""
    between_slices_mm: float | None = None
    """SpacingBetweenSlices, else SliceThickness; only used where there is a single slice."""


def stack(slices: Sequence[SliceHeader]) -> Stack:
    """Order slices along their normal and place them, or say with numbers why they are no regular stack.

    Column k of the affine is (last - first) / (N - 1), which agrees with dcm2niix within 0.002 mm at the far corner.
    A tilt is measured as the in-plane way of the slices (an arccos of cosines rounded to four
    decimals reports a false half degree on real series).

    Parameters
    ----------
    slices
        At least one, in any order.

    Raises
    ------
    UnreadableFile
        Orientations differ or are not at right angles; two slices at one position; distances that differ by more than
        5 % of their median; more than 0.1 voxel of shear over the stack.
    """
    row_direction, column_direction, normal = _directions(slices)
    between_rows, between_columns = slices[0].spacing_mm
    positions = np.array([one.position_mm for one in slices], dtype=np.float64)
    along = positions @ normal
    order = np.argsort(along, kind="stable")
    positions, along = positions[order], along[order]
    ordered = [slices[index] for index in order]
    notes: tuple[str, ...] = ()
    if len(slices) > 1:
        steps = np.diff(along)
        _require_distinct(ordered, steps)
        offsets = positions - positions[0]
        shear_mm = np.stack([offsets @ row_direction, offsets @ column_direction], axis=1)
        _require_straight(shear_mm, (between_columns, between_rows), along[-1] - along[0])
        notes = _check_steps(ordered, steps)
        between = (positions[-1] - positions[0]) / (len(slices) - 1)
    else:
        between = normal * (slices[0].between_slices_mm or 1.0)
        if slices[0].between_slices_mm is None:
            notes = ("a single slice that states no thickness: 1 mm is assumed",)
    lps = np.eye(4)
    lps[:3, 0] = row_direction * between_columns
    lps[:3, 1] = column_direction * between_rows
    lps[:3, 2] = between
    lps[:3, 3] = positions[0]
    ras = np.diag([-1.0, -1.0, 1.0, 1.0]) @ lps
    return Stack(
        order=tuple(int(index) for index in order),
        affine=tuple(tuple(float(value) for value in row) for row in ras),
        notes=notes,
    )


def _directions(slices: Sequence[SliceHeader]) -> tuple[npt.NDArray[np.float64], ...]:
    """Return the directions of growing column and row index (as stored) and the unit normal, in LPS+."""
    cosines = np.array([one.orientation for one in slices], dtype=np.float64)
    differing = np.abs(cosines - cosines[0]).max(axis=1)
    if differing.max() > ORIENTATION_TOLERANCE:
        other = int(differing.argmax())
        message = (
            f"the slices have several orientations: {slices[0].place} has {_cosines(cosines[0])}, "
            f"{slices[other].place} has {_cosines(cosines[other])}. It is a localizer, or two scans in one series; "
            f"give each orientation a folder of its own."
        )
        raise UnreadableFile(message)
    row_direction, column_direction = cosines[0, :3], cosines[0, 3:]
    lengths = np.linalg.norm(row_direction), np.linalg.norm(column_direction)
    if max(abs(length - 1) for length in lengths) > 0.01 or abs(row_direction @ column_direction) > (
        _RIGHT_ANGLE_TOLERANCE
    ):
        message = (
            f"ImageOrientationPatient is {_cosines(cosines[0])}: not two unit vectors at right angles. "
            f"The header is damaged; export the series again."
        )
        raise UnreadableFile(message)
    normal = np.cross(row_direction, column_direction)
    return row_direction, column_direction, normal / np.linalg.norm(normal)


def _require_distinct(ordered: Sequence[SliceHeader], steps: npt.NDArray[np.float64]) -> None:
    doubled = np.flatnonzero(steps < _SAME_POSITION_MM)
    if doubled.size:
        first = int(doubled[0])
        message = (
            f"{len(ordered)} slices lie at {len(ordered) - doubled.size} position(s); {ordered[first].place} and "
            f"{ordered[first + 1].place} are {steps[first]:.3f} mm apart. Either files are there twice, or the series "
            f"holds several volumes (echoes, time points, directions): give each a folder of its own."
        )
        raise DoubledPositionsError(message)


def _require_straight(shear_mm: npt.NDArray[np.float64], spacing_mm: tuple[float, float], height_mm: float) -> None:
    """Refuse slices that move in plane: the columns of ``shear_mm`` (slices, 2) go with those of ``spacing_mm``."""
    voxels = np.linalg.norm(shear_mm / np.array(spacing_mm), axis=1)
    if voxels.max() <= _SHEAR_REFUSED_VOXELS:
        return
    worst = int(voxels.argmax())
    worst_mm = float(np.linalg.norm(shear_mm[worst]))
    last_mm = float(np.linalg.norm(shear_mm[-1]))
    degrees = float(np.degrees(np.arctan2(last_mm, height_mm)))
    message = (
        f"the slices are not stacked at right angles: over {height_mm:.4g} mm they move {worst_mm:.4g} mm in plane "
        f"({voxels[worst]:.3g} voxels, up to {_SHEAR_REFUSED_VOXELS} is taken; {last_mm:.4g} mm at the last slice, a "
        f"tilt of {degrees:.3g} degrees). The gantry was tilted, or slices of two scans are mixed. Tilted stacks are "
        f"not taken yet: resample it first, e.g. `dcm2niix -z y`, and take its *_Tilt_* file."
    )
    raise UnreadableFile(message)


def _check_steps(ordered: Sequence[SliceHeader], steps: npt.NDArray[np.float64]) -> tuple[str, ...]:
    """Refuse missing slices and varying distances; return a note on small deviations."""
    median = float(np.median(steps))
    deviation = np.abs(steps - median)
    worst = int(deviation.argmax())
    if deviation[worst] > _GAP_REFUSED * median:
        missing = steps[worst] / median - 1
        cause = (
            f"{round(missing)} slice(s) are probably missing there: copy the series again, whole."
            if missing > 0.5 and abs(missing - round(missing)) < 0.1
            else "The distances vary, or two scans are mixed; resample it to one distance first."
        )
        message = (
            f"the slices are not evenly spaced: after {ordered[worst].place} the next one follows at "
            f"{steps[worst]:.4g} mm, where the median distance is {median:.4g} mm ({len(ordered)} slices). {cause}"
        )
        raise UnreadableFile(message)
    if deviation[worst] > max(_GAP_NOTED_MM, _GAP_NOTED * median):
        return (
            f"distances between slices differ by up to {deviation[worst]:.3g} mm from {median:.4g} mm; "
            f"evenly spaced slices are assumed",
        )
    return ()


def _cosines(values: npt.NDArray[np.float64]) -> str:
    return "[" + ", ".join(f"{value:.3f}" for value in values) + "]"
