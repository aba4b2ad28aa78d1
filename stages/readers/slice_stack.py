"""Slices of a series: in which order, and where they lie. Pure: numbers of headers in, an affine or a refusal out.

Conventions: positions and directions come in DICOM's LPS+ millimetres (PS3.3 C.7.6.2.1.1); the affine leaves in RAS+,
from (column, row, slice). Slices are ordered by position along their normal. The distance between them is measured
between positions: SliceThickness is not a distance. A tilted gantry gives a sheared affine, and nothing is resampled.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING

import numpy as np

from ...store.errors import UnreadableFile

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

__all__ = [
    "NEAR_ORIENTATION",
    "ORIENTATION_TOLERANCE",
    "DoubledPositionsError",
    "SliceHeader",
    "Stack",
    "clusters",
    "normal_of",
    "same_position_mm",
    "stack",
]

# Tolerances, from dicom2nifti (orientation, right angles, increment) and from 17 real series (shear, positions).
ORIENTATION_TOLERANCE = 1e-3
NEAR_ORIENTATION = 5e-3  # a third of a degree: drift of one scan, rather than another one; taken where voxels stay
_LENGTH_TOLERANCE = 0.01  # of a direction
_RIGHT_ANGLE_TOLERANCE = 0.05
_SAME_POSITION_MM = 0.01
_SAME_POSITION_PIXELS = 0.1  # where pixels are smaller than a tenth of a millimetre (micro-CT)
_GAP_REFUSED = 0.05  # of the median distance: a slice is missing, or distances vary
_ROUNDING_MM = 0.1 + 1e-6  # positions of one decimal: taken where no slice is a quarter of a distance off its place
_ROUNDING_SLICES = 0.25
_DRIFT_NOTED_SLICES = 0.1
_DRIFT_REFUSED_SLICES = 0.5  # off its place on an even grid, however small each deviation is
_GAP_NOTED = 0.01
_GAP_NOTED_MM = 0.01
_TILT_VOXELS = 0.1  # over the whole stack, in plane: below it is noise of headers
_CROOKED_VOXELS = 0.1  # in plane, from the straight line between the first slice and the last
_CROOKED_MM = 0.1  # rounding again: up to this much is taken ...
_CROOKED_AT_MOST_VOXELS = 0.5  # ... where it is not half a voxel
_TURNED_VOXELS = 0.5  # at the corner that a slice's own orientation moves most
_FEW_STEPS = 3  # their median may be that of the gaps
_BESIDE = 0.1  # of the widest distance: slices of several volumes that are moved against each other

# Whose weighted sums differ where vectors do: no two in the ratio of small whole numbers.
_WEIGHTS = (1.0, 1.4142136, 1.7320508, 2.2360680, 2.6457513, 3.3166248, 3.6055513, 4.1231056)


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
    matrix: tuple[int, int] = (1, 1)
    """Rows and columns."""


def same_position_mm(spacing_mm: Sequence[float]) -> float:
    """Return how far apart two slices of this pixel spacing lie at one position."""
    return min(_SAME_POSITION_MM, _SAME_POSITION_PIXELS * min(spacing_mm))


def normal_of(orientation: Sequence[float]) -> npt.NDArray[np.float64]:
    """Return the unit normal of a slice, LPS+, of the directions of growing column index and of growing row index."""
    normal = np.cross(orientation[:3], orientation[3:])
    return normal / np.linalg.norm(normal)


def clusters(vectors: Sequence[tuple[float, ...]]) -> list[list[int]]:
    """Group vectors that lie within 1 of the first of their group, in every component.

    In n log n steps for what headers hold: candidates are found by a weighted sum of the components.

    Parameters
    ----------
    vectors
        All of one length, at most 8, each component in units of its tolerance.

    Returns
    -------
    list
        Of each group, the indices of its vectors, in order; groups in the order of their first vectors.
    """
    groups: list[list[int]] = []
    firsts: list[tuple[float, int]] = []  # of each group, the weighted sum of its first vector; sorted
    known: dict[tuple[float, ...], int] = {}
    for index, vector in enumerate(vectors):
        home = known.get(vector)
        if home is None:
            weights = _WEIGHTS[: len(vector)]
            weighted, reach = sum(w * x for w, x in zip(weights, vector, strict=True)), sum(weights)
            near = firsts[bisect_left(firsts, (weighted - reach,)) : bisect_right(firsts, (weighted + reach, inf))]
            homes = [
                group
                for _, group in near
                if all(abs(a - b) <= 1 for a, b in zip(vectors[groups[group][0]], vector, strict=True))
            ]
            if homes:
                home = min(homes)
            else:
                home = len(groups)
                groups.append([])
                insort(firsts, (weighted, home))
            known[vector] = home
        groups[home].append(index)
    return groups


def stack(slices: Sequence[SliceHeader]) -> Stack:
    """Order slices along their normal and place them, or say with numbers why they are no regular stack.

    Column k of the affine is (last - first) / (N - 1), which agrees with dcm2niix within 0.002 mm at the far corner.
    A tilt is measured as the in-plane way of the slices (an arccos of cosines rounded to four
    decimals reports a false half degree on real series), and kept: the affine is sheared then.

    Parameters
    ----------
    slices
        At least one, in any order.

    Raises
    ------
    UnreadableFile
        Orientations differ or are not at right angles; two slices at one position; distances that differ by more than
        5 % of their median (and by more than rounding positions to a decimal makes); slices that lie more than 0.1
        voxel beside the line from the first to the last, or half a distance off their place on it.
    """
    (row_direction, column_direction, normal), turned = _directions(slices)
    between_rows, between_columns = slices[0].spacing_mm
    positions = np.array([one.position_mm for one in slices], dtype=np.float64)
    along = positions @ normal
    order = np.argsort(along, kind="stable")
    positions, along = positions[order], along[order]
    ordered = [slices[index] for index in order]
    notes = turned
    if len(slices) > 1:
        steps = np.diff(along)
        _require_distinct(ordered, steps, same_position_mm(slices[0].spacing_mm))
        offsets = positions - positions[0]
        shear_mm = np.stack([offsets @ row_direction, offsets @ column_direction], axis=1)
        notes += _check_steps(ordered, steps)
        notes += _check_line(ordered, shear_mm, (between_columns, between_rows), along - along[0])
        between = (positions[-1] - positions[0]) / (len(slices) - 1)
    else:
        between = normal * (slices[0].between_slices_mm or 1.0)
        if slices[0].between_slices_mm is None:
            notes += ("a single slice that states no thickness: 1 mm is assumed",)
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


def _directions(
    slices: Sequence[SliceHeader],
) -> tuple[tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.float64]], tuple[str, ...]]:
    """Return the directions of growing column and row index (as stored) and the normal; and notes.

    Unit vectors in LPS+. They are those of the first slice; of the middle one, where slices differ by more than the
    tolerance.
    """
    stored = np.array([one.orientation for one in slices], dtype=np.float64).reshape(-1, 2, 3)
    lengths = np.linalg.norm(stored, axis=2)
    off_length = np.abs(lengths - 1).max(axis=1)
    off_square = np.abs((stored[:, 0] * stored[:, 1]).sum(axis=1))
    crooked = (off_length > _LENGTH_TOLERANCE) | (off_square > _RIGHT_ANGLE_TOLERANCE)
    if crooked.any():
        message = (
            f"ImageOrientationPatient is {_cosines(stored[int(crooked.argmax())])}: not two unit vectors at right "
            f"angles. The header is damaged; export the series again."
        )
        raise UnreadableFile(message)
    cosines = stored / lengths[:, :, None]
    notes: tuple[str, ...] = ()
    reference = 0
    if np.abs(cosines - cosines[0]).max() > ORIENTATION_TOLERANCE:
        reference = int(np.abs(cosines - np.median(cosines, axis=0)).sum(axis=(1, 2)).argmin())
        notes = _check_turns(slices, cosines, reference)
    row_direction, column_direction = cosines[reference]
    return (row_direction, column_direction, normal_of((*row_direction, *column_direction))), notes


def _check_turns(slices: Sequence[SliceHeader], cosines: npt.NDArray[np.float64], reference: int) -> tuple[str, ...]:
    """Refuse slices whose own orientation puts a corner elsewhere than that of the reference; note smaller turns."""
    turned = cosines - cosines[reference]
    other = int(np.abs(turned).max(axis=(1, 2)).argmax())
    message = (
        f"the slices have several orientations: {slices[reference].place} has {_cosines(cosines[reference])}, "
        f"{slices[other].place} has {_cosines(cosines[other])}"
    )
    if np.abs(turned).max() > NEAR_ORIENTATION:
        message += ". It is a localizer, or two scans in one series; give each orientation a folder of its own."
        raise UnreadableFile(message)
    (rows, columns), (between_rows, between_columns) = slices[reference].matrix, slices[reference].spacing_mm
    along_row, along_column = turned[:, 0] * (columns - 1) * between_columns, turned[:, 1] * (rows - 1) * between_rows
    corners = np.stack([along_row, along_column, along_row + along_column], axis=1)
    voxels = float(np.linalg.norm(corners, axis=2).max()) / min(between_rows, between_columns)
    degrees = float(np.degrees(np.linalg.norm(turned, axis=2).max()))
    drift = f"by up to {degrees:.2g} degrees, {voxels:.2g} voxels at a corner"
    if voxels > _TURNED_VOXELS:
        message += f": they differ {drift} ({_TURNED_VOXELS} is taken). Resample them to one orientation first."
        raise UnreadableFile(message)
    return (f"the orientations of its slices differ {drift}: that of the middle one is taken for all",)


def _require_distinct(ordered: Sequence[SliceHeader], steps: npt.NDArray[np.float64], same_mm: float) -> None:
    doubled = np.flatnonzero(steps < same_mm)
    if doubled.size:
        first = int(doubled[0])
        message = (
            f"{len(ordered)} slices lie at {len(ordered) - doubled.size} position(s); {ordered[first].place} and "
            f"{ordered[first + 1].place} are {steps[first]:.3f} mm apart. Either files are there twice, or the series "
            f"holds several volumes (echoes, time points, directions): give each a folder of its own."
        )
        raise DoubledPositionsError(message)


def _check_line(
    ordered: Sequence[SliceHeader],
    shear_mm: npt.NDArray[np.float64],
    spacing_mm: tuple[float, float],
    height_mm: npt.NDArray[np.float64],
) -> tuple[str, ...]:
    """Refuse slices that leave the line from the first to the last; return a note where that line is tilted.

    Parameters
    ----------
    ordered, shear_mm, spacing_mm, height_mm
        Of each slice: its header, its way in plane from the first slice (slices, 2), which goes with the two
        spacings, and its way along the normal (slices).
    """
    spacing = np.array(spacing_mm)
    line_mm = np.outer(height_mm / height_mm[-1], shear_mm[-1])
    beside = np.linalg.norm((shear_mm - line_mm) / spacing, axis=1)
    worst = int(beside.argmax())
    worst_mm = float(np.linalg.norm(shear_mm[worst] - line_mm[worst]))
    if beside[worst] > _CROOKED_VOXELS and (worst_mm > _CROOKED_MM or beside[worst] > _CROOKED_AT_MOST_VOXELS):
        message = (
            f"the slices are not on one line: {ordered[worst].place} lies {worst_mm:.4g} mm ({beside[worst]:.3g} "
            f"voxels, up to {_CROOKED_VOXELS} is taken) beside the line from the first slice to the last. The table "
            f"or the tilt moved during the scan, or slices of two scans are mixed"
        )
        raise UnreadableFile(message)
    last_mm = float(np.linalg.norm(shear_mm[-1]))
    if np.linalg.norm(shear_mm[-1] / spacing) <= _TILT_VOXELS:
        return ()
    degrees = float(np.degrees(np.arctan2(last_mm, height_mm[-1])))
    return (
        f"tilted gantry ({degrees:.3g} degrees): the last slice lies {last_mm:.4g} mm beside the first, over "
        f"{height_mm[-1]:.4g} mm. Taken with this true, sheared geometry; nothing was resampled",
    )


def _check_steps(ordered: Sequence[SliceHeader], steps: npt.NDArray[np.float64]) -> tuple[str, ...]:
    """Refuse missing slices and varying distances; return a note on small deviations."""
    if (beside := _why_beside(steps)) is not None:
        message = f"the slices are not evenly spaced: {beside} ({len(ordered)} slices)"
        raise UnreadableFile(message)
    median = float(np.median(steps))
    deviation = np.abs(steps - median)
    worst = int(deviation.argmax())
    off_place = np.abs(np.cumsum(steps) - np.arange(1, len(steps) + 1) * steps.mean())
    rounding = deviation[worst] <= _ROUNDING_MM and off_place.max() <= _ROUNDING_SLICES * median
    if deviation[worst] > _GAP_REFUSED * median and not rounding:
        few = len(steps) <= _FEW_STEPS and median > (1 + _GAP_REFUSED) * steps.min()
        usual = float(steps.min()) if few else median
        worst = int(np.abs(steps - usual).argmax())
        message = (
            f"the slices are not evenly spaced: after {ordered[worst].place} the next one follows at "
            f"{steps[worst]:.4g} mm, where the {'smallest' if few else 'median'} distance is {usual:.4g} mm "
            f"({len(ordered)} slices). {_why_uneven(steps, worst, usual)}"
        )
        raise UnreadableFile(message)
    if off_place.max() > _DRIFT_REFUSED_SLICES * median:
        farthest = int(off_place.argmax())
        message = (
            f"the slices are not evenly spaced: their distances drift from {steps.min():.4g} to {steps.max():.4g} mm, "
            f"and {ordered[farthest + 1].place} lies {off_place[farthest]:.4g} mm from where even spacing puts it "
            f"({len(ordered)} slices). Resample it to one distance first."
        )
        raise UnreadableFile(message)
    if deviation[worst] > max(_GAP_NOTED_MM, _GAP_NOTED * median) or off_place.max() > _DRIFT_NOTED_SLICES * median:
        return (
            f"distances between slices differ by up to {deviation[worst]:.3g} mm from {median:.4g} mm; "
            f"evenly spaced slices are assumed, and none lies more than {off_place.max():.3g} mm off its place",
        )
    return ()


def _why_beside(steps: npt.NDArray[np.float64]) -> str | None:
    """Say that slices of several volumes lie close to each other, again and again; None where they do not."""
    beside = steps < _BESIDE * steps.max()
    far = steps[~beside]
    sizes = np.diff(np.flatnonzero(~beside), prepend=-1, append=len(steps))
    if len(far) < 2 or not beside.any() or np.ptp(sizes) > 0 or np.ptp(far) > _BESIDE * far.max():
        return None
    return (
        f"{int(beside.sum())} distances are up to {steps[beside].max():.3g} mm, and the others about "
        f"{np.median(far):.4g} mm: volumes moved by {np.median(steps[beside]):.3g} mm against each other lie in one "
        f"series. Give each a folder of its own"
    )


def _why_uneven(steps: npt.NDArray[np.float64], worst: int, usual: float) -> str:
    missing = steps / usual - 1
    if missing[worst] > len(steps) and worst in (0, len(steps) - 1):
        return "One end of the stack lies far from the rest: a scout or a slice of another scan; move it elsewhere."
    if missing[worst] > 0.5 and abs(missing[worst] - round(missing[worst])) < 0.1:
        gaps = np.flatnonzero(missing > 0.5)
        total = int(np.rint(missing[gaps]).sum())
        where = "there" if len(gaps) == 1 else f"in {len(gaps)} gaps, of which that is the widest"
        return f"{total} slice(s) are probably missing {where}: copy the series again, whole."
    return "The distances vary, or two scans are mixed; resample it to one distance first."


def _cosines(values: npt.NDArray[np.float64]) -> str:
    return "[" + ", ".join(f"{value:.4f}" for value in values.ravel()) + "]"
