"""RTSTRUCT: the contours of a structure set as masks on the grid of their image.

A voxel belongs to a structure where its centre lies within its contours, by the even-odd rule over all the closed
contours of one plane: so one inside another is a hole, and keyhole contours come out as they were meant (PS3.3
C.8.8.6.3). A centre that lies on a contour belongs to it too, as the same section says: contours traced along pixel
centres (rt-utils, OpenCV) give back the mask they were traced from.

Contours are continuous within a plane, but a plane belongs to one slice: up to 0.01 slice off (decimals) nothing is
said, up to 0.1 it is noted (positions rounded to a tenth of a millimetre), and beyond, contours were drawn on other
slices. To round them to the nearest slice, as many tools do, leaves slices empty and merges others: it has to be asked
for.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pydicom

from ...store.errors import GeometryMismatch, UnreadableFile
from .base import Structures
from .dicom_headers import DAMAGE, numbers, quietly, text, whole
from .label_planes import (
    NOTED_VOXELS,
    SILENT_VOXELS,
    SPARSE_SLICES,
    Described,
    between_slices_mm,
    gaps_between,
    inverse,
    items,
    nearest_planes,
    referenced,
    slice_normal,
    sparse_note,
    to_ras,
    unique,
    unique_names,
)
from .packed_masks import PackedMasks

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

    import numpy.typing as npt
    from pydicom.dataset import Dataset

    from .base import Affine

__all__ = ["describe_rtstruct", "lies_on", "read_rtstruct"]

# All that is looked at; the rest of the header may name a person.
_TAGS = [
    "FrameOfReferenceUID",
    "ReferencedFrameOfReferenceSequence",
    "StructureSetROISequence",
    "ROIContourSequence",
]
_CLOSED = ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR")  # points and open lines enclose nothing

_ON_CONTOUR_VOXELS = 0.01  # a centre this close to a contour lies on it: coordinates are rounded decimals


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Roi:
    """One structure."""

    number: int
    """ROINumber."""
    name: str
    closed: list[Dataset]
    """Its contours that enclose something."""
    others: int
    """How many contours enclose nothing: points, open lines."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Contour:
    """One closed contour among the voxels of an image."""

    points: npt.NDArray[np.float64]
    """(i, j, k) of its corners, shape (corners, 3); a whole number is a voxel's centre."""
    height: float
    """The slice index of its plane, not rounded."""
    exclusive: bool
    """Whether a copy of it takes it away (CLOSEDPLANAR_XOR)."""

    @property
    def slant(self) -> float:
        """How far its corners leave its plane, in slices."""
        return float(np.abs(self.points[:, 2] - self.height).max())

    @property
    def displacement(self) -> float:
        """How far its farthest corner lies from the nearest slice, in slices."""
        return float(np.abs(self.points[:, 2] - np.rint(self.height)).max())

    def within(self, shape: tuple[int, int, int]) -> bool:
        """Tell whether any of it lies in the image, the outer halves of the border voxels included."""
        low, high = self.points.min(axis=0), self.points.max(axis=0)
        low[2] = high[2] = self.height
        return bool((high >= -0.5).all() and (low <= np.array(shape) - 0.5).all())

    def cut(self, shape: tuple[int, int, int]) -> bool:
        """Tell whether a part of it lies beyond the edge of the slice."""
        edge = np.array(shape[:2]) - 0.5
        return bool((self.points[:, :2] < -0.5).any() or (self.points[:, :2] > edge).any())


@quietly()
def describe_rtstruct(path: Path) -> Described:
    """Describe a structure set; absent or wrong references are no error.

    Raises
    ------
    UnreadableFile
        Missing, damaged, or no structure set.
    """
    header = _read(path, str(path))
    frames = items(header, "ReferencedFrameOfReferenceSequence")
    series = items(
        header, "ReferencedFrameOfReferenceSequence", "RTReferencedStudySequence", "RTReferencedSeriesSequence"
    )
    instances = [
        *(instance for one in series for instance in items(one, "ContourImageSequence")),
        *items(header, "ROIContourSequence", "ContourSequence", "ContourImageSequence"),
    ]
    coordinates = unique(
        [
            *referenced(frames, "FrameOfReferenceUID"),
            *referenced(items(header, "StructureSetROISequence"), "ReferencedFrameOfReferenceUID"),
            text(header, "FrameOfReferenceUID"),
        ]
    )
    return Described(
        names=tuple(roi.name for roi in _rois(header)[0]),
        referenced_series_uids=referenced(series, "SeriesInstanceUID"),
        referenced_sop_uids=referenced(instances, "ReferencedSOPInstanceUID"),
        frame_of_reference_uid=coordinates[0] if coordinates else "",
    )


@quietly()
def lies_on(path: Path, shape: tuple[int, int, int], affine: Affine) -> bool:
    """Tell whether contours were drawn on an image: half of the closed ones or more lie on its slices.

    Parameters
    ----------
    shape
        (i, j, k) of the image.
    affine
        (i, j, k) to RAS+ millimetres.

    Raises
    ------
    UnreadableFile
        Missing, damaged, or no structure set.
    """
    place = str(path)
    rois, _ = _rois(_read(path, place))
    contours = [contour for roi in rois for contour in _contours(roi, inverse(affine), place)]
    lying = [contour.displacement <= NOTED_VOXELS and contour.within(shape) for contour in contours]
    return 2 * sum(lying) >= len(lying) > 0


@quietly()
def read_rtstruct(
    path: Path,
    *,
    shape: tuple[int, int, int],
    affine: Affine,
    names: Collection[str] | None = None,
    resample: bool = False,
    place: str,
) -> Structures:
    """Read the structures of a structure set as masks on the grid of their image.

    Parameters
    ----------
    path
        A DICOM RT Structure Set.
    shape
        (i, j, k) of the image.
    affine
        Of the image: (i, j, k) to RAS+ millimetres. It may be sheared (a tilted gantry).
    names
        Which structures to read, by the names of `describe_rtstruct`; all of them by default.
    resample
        Where contours lie between the slices, give each slice the nearest plane of contours of each structure; a slice
        farther than half the distance of such planes from any stays empty.
    place
        How to call the file in messages.

    Returns
    -------
    Structures
        Boolean masks of the image's shape, by name. Structures without contours are there and empty; those that only
        hold points or open lines are left out, and a note counts them. Where a part of the contours lies outside the
        image, they are cut there, and a note says so.

    Raises
    ------
    UnreadableFile
        Missing, damaged, or no structure set.
    GeometryMismatch
        No contour lies in the image; contours lie more than 0.1 slice off, or across the slices.
    """
    rois, pointless = _rois(_read(path, place))
    wanted = [roi for roi in rois if names is None or roi.name in names]
    to_voxels = inverse(affine)
    contours = {roi.name: _contours(roi, to_voxels, place) for roi in wanted}
    every = [contour for own in contours.values() for contour in own]
    inside = [contour for contour in every if contour.within(shape)]
    _require_slices(every, inside, shape, affine, place)
    displacement = max((contour.displacement for contour in inside), default=0.0)
    if displacement > NOTED_VOXELS and not resample:
        raise GeometryMismatch(_between_slices(inside, affine, place))
    gaps = gaps_between(contour.height for contour in every)
    sparse = len(gaps) > 1 and gaps[0] > SPARSE_SLICES
    nearest = resample and (sparse or displacement > NOTED_VOXELS)
    # Contours that lie on the image's slices stand for these alone; others for half the way to the next plane.
    gap = (gaps[0] if gaps else 1.0) if nearest else None
    drift = _drift(affine, to_voxels)
    masks = PackedMasks(shape, contours)
    repeated = 0
    for name, own in contours.items():
        for k, here in _by_slice(own, shape[2], gap).items():
            distinct = _without_copies(here)
            repeated += len(here) - len(distinct)
            corners = [contour.points[:, :2] + (k - contour.height) * drift for contour in distinct]
            masks.put(name, _rasterised(corners, shape[:2])[:, :, None], (0, 0, k))
    return Structures(
        masks=masks,
        affine=np.array(affine, dtype=np.float64),
        notes=_notes(
            [
                (pointless, "structure(s) hold only points or open lines, and are left out"),
                (sum(roi.others for roi in wanted), "point(s) and open line(s) enclose nothing, and are left out"),
                (
                    len(every) - len(inside),
                    f"of {len(every)} contours lie beyond the outer slices or beside the image, and are left out",
                ),
                (
                    sum(contour.cut(shape) for contour in inside),
                    f"of {len(every)} contours reach beyond the image's edge, and are cut there",
                ),
                (repeated, "contour(s) are exact copies of another one, and count once"),
            ],
            displacement,
            sparse=gaps[0] if sparse else None,
            nearest=nearest,
        ),
    )


def _read(path: Path, place: str) -> Dataset:
    """Read what is looked at; refuse what is no structure set."""
    try:
        header = pydicom.dcmread(path, force=True, specific_tags=list(_TAGS))
        known = "StructureSetROISequence" in header or "ROIContourSequence" in header
        broken = known and not (items(header, "StructureSetROISequence") or items(header, "ROIContourSequence"))
    except FileNotFoundError as error:
        message = f"{place}: there is no such file; it was there when the folder was listed."
        raise UnreadableFile(message) from error
    except DAMAGE as error:
        message = f"{place}: not readable as DICOM: damaged, or cut short in copying. Copy it again."
        raise UnreadableFile(message) from error
    if not known or broken:
        message = (
            f"{place}: not a structure set (RTSTRUCT): it has no structures and no contours. It is damaged, cut short "
            f"in copying, or another kind of object: copy it again."
        )
        raise UnreadableFile(message)
    return header


def _rois(header: Dataset) -> tuple[list[_Roi], int]:
    """Return the structures that have a mask, and how many have none, holding only points and open lines."""
    contours: dict[int, list[Dataset]] = defaultdict(list)
    for item in items(header, "ROIContourSequence"):
        number = whole(item, "ReferencedROINumber")
        if number is not None:
            contours[number] += items(item, "ContourSequence")
    named = {
        number: text(item, "ROIName")
        for item in items(header, "StructureSetROISequence")
        if (number := whole(item, "ROINumber")) is not None
    }
    found: list[tuple[int, list[Dataset], int]] = []
    pointless = 0
    for number in [*named, *(number for number in contours if number not in named)]:
        own = contours.get(number, [])
        closed = [contour for contour in own if text(contour, "ContourGeometricType").upper() in _CLOSED]
        if own and not closed:
            pointless += 1
        else:
            found.append((number, closed, len(own) - len(closed)))
    distinct = unique_names([named.get(number) or f"ROI {number}" for number, _, _ in found])
    rois = [
        _Roi(number=number, name=name, closed=closed, others=others)
        for (number, closed, others), name in zip(found, distinct, strict=True)
    ]
    return rois, pointless


def _contours(roi: _Roi, to_voxels: Affine, place: str) -> list[_Contour]:
    """Return the closed contours of a structure among the voxels of an image; those without corners are none."""
    found = []
    for index, contour in enumerate(roi.closed):
        try:
            points = _decimals(contour, "ContourData").reshape(-1, 3)
        except DAMAGE as error:
            raise UnreadableFile(_broken(index, roi, place)) from error
        if not len(points):
            continue
        # Added to every corner where it is present (PS3.3 C.8.8.6.2).
        points = points + (numbers(contour, "ContourOffsetVector", 3) or (0.0, 0.0, 0.0))
        voxels = to_ras(points) @ to_voxels[:3, :3].T + to_voxels[:3, 3]
        if not np.isfinite(voxels).all():
            raise UnreadableFile(_broken(index, roi, place))
        found.append(
            _Contour(
                points=voxels,
                height=float(np.median(voxels[:, 2])),
                exclusive=text(contour, "ContourGeometricType").upper() == "CLOSEDPLANAR_XOR",
            )
        )
    return found


def _broken(index: int, roi: _Roi, place: str) -> str:
    return (
        f"{place}: contour {index + 1} of structure number {roi.number} is no list of points (x, y, z). The file is "
        f"damaged, or cut short in copying: copy it again, or export the structure set again."
    )


def _decimals(contour: Dataset, name: str) -> npt.NDArray[np.float64]:
    """Return decimal strings as an array, from the bytes of the file: pydicom makes an object of each, 15 times slower.

    Longer than 65 534 bytes they come as UN in an explicit encoding, which pydicom leaves as bytes anyway.
    """
    element = contour.get_item(name) if name in contour else None
    value = b"" if element is None else element.value
    if isinstance(value, bytes):
        stripped = value.strip(b" \0")
        value = stripped.split(b"\\") if stripped else ()
    return np.array([float(one) for one in value or ()], dtype=np.float64)


def _require_slices(
    every: list[_Contour], inside: list[_Contour], shape: tuple[int, int, int], affine: Affine, place: str
) -> None:
    """Refuse contours of another image, and such as run across the slices."""
    if every and not inside:
        heights = [contour.height for contour in every]
        message = (
            f"{place}: none of the {len(every)} contours lies in the image: they lie at slices {min(heights):.4g} to "
            f"{max(heights):.4g} of its grid, which has 0 to {shape[2] - 1}, or beside it. They were drawn on another "
            f"image: give the one that they belong to."
        )
        raise GeometryMismatch(message)
    slanted = [contour for contour in inside if contour.slant > NOTED_VOXELS]
    if slanted:
        slant = max(contour.slant for contour in slanted)
        message = (
            f"{place}: {len(slanted)} of {len(every)} contours run across the slices of the image: their corners lie "
            f"up to {slant:.3g} slices ({slant * between_slices_mm(affine):.3g} mm) from their plane, up to "
            f"{NOTED_VOXELS} is taken. They were drawn on slices of another direction: give that series."
        )
        raise GeometryMismatch(message)


def _between_slices(inside: list[_Contour], affine: Affine, place: str) -> str:
    astray = [contour.displacement for contour in inside if contour.displacement > NOTED_VOXELS]
    return (
        f"{place}: {len(astray)} of {len(inside)} contours lie between the slices of the image: up to "
        f"{max(astray):.3g} slices ({max(astray) * between_slices_mm(affine):.3g} mm) from the nearest one, up to "
        f"{NOTED_VOXELS} is taken. They were drawn on another series, with other slices: give that series, or let each "
        f"slice take the nearest contours with --resample-labels."
    )


def _drift(affine: Affine, to_voxels: Affine) -> npt.NDArray[np.float64]:
    """Return by how many voxels (i, j) a point moves on its way to the next slice along the normal: 0 unless tilted."""
    along = to_voxels[:3, :3] @ slice_normal(affine)
    return np.asarray(along[:2] / along[2], dtype=np.float64)


def _by_slice(contours: list[_Contour], slices: int, gap: float | None) -> dict[int, list[_Contour]]:
    """Return the contours that make up each slice of a structure; with a ``gap``, those of the nearest plane."""
    if gap is None:
        found: dict[int, list[_Contour]] = defaultdict(list)
        for contour in contours:
            found[round(contour.height)].append(contour)
        return {k: here for k, here in found.items() if 0 <= k < slices}
    planes: list[list[_Contour]] = []
    for contour in sorted(contours, key=lambda one: one.height):
        if planes and contour.height - planes[-1][0].height <= SILENT_VOXELS:
            planes[-1].append(contour)
        else:
            planes.append([contour])
    heights = np.array([plane[0].height for plane in planes])
    nearest = nearest_planes(heights, np.arange(slices, dtype=np.float64), gap)
    return {k: planes[plane] for k, plane in enumerate(nearest.tolist()) if plane >= 0}


def _without_copies(contours: list[_Contour]) -> list[_Contour]:
    """Drop exact copies, which some exports hold and which would take each other away; XOR contours mean just that."""
    distinct: dict[bytes, _Contour] = {}
    for position, contour in enumerate(contours):
        key = str(position).encode() if contour.exclusive else contour.points.tobytes()
        distinct.setdefault(key, contour)
    return list(distinct.values())


def _rasterised(contours: list[npt.NDArray[np.float64]], shape: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """Return the voxels of a plane whose centre lies within its contours (even-odd), or on one of them.

    Parameters
    ----------
    contours
        (i, j) of the corners, each of shape (corners, 2); the last is joined to the first.
    shape
        (i, j) of the plane.
    """
    from matplotlib.path import Path as Polygon

    enclosed, on_contour = np.zeros(shape, dtype=np.bool_), np.zeros(shape, dtype=np.bool_)
    for corners in contours:
        low = np.clip(np.ceil(corners.min(axis=0)), 0, shape).astype(np.int64)
        high = np.clip(np.floor(corners.max(axis=0)), -1, np.array(shape) - 1).astype(np.int64)
        i, j = np.arange(low[0], high[0] + 1), np.arange(low[1], high[1] + 1)
        if i.size and j.size:
            centres = np.stack(np.meshgrid(i, j, indexing="ij"), axis=-1).reshape(-1, 2)
            found = Polygon(corners).contains_points(centres)
            enclosed[low[0] : high[0] + 1, low[1] : high[1] + 1] ^= found.reshape(i.size, j.size)
        touched = _centres_on(corners, shape)
        on_contour[touched[:, 0], touched[:, 1]] = True
    return enclosed | on_contour


def _centres_on(corners: npt.NDArray[np.float64], shape: tuple[int, int]) -> npt.NDArray[np.int64]:
    """Return the voxel centres, shape (centres, 2), that lie on the line through the corners and back to the first.

    Along the longer side of each edge every whole coordinate is looked at, once: as many as the contour is long.
    """
    step = np.roll(corners, -1, axis=0) - corners
    edge = np.arange(len(corners))
    longer = np.abs(step).argmax(axis=1)
    ends = np.sort(np.stack([corners[edge, longer], corners[edge, longer] + step[edge, longer]]), axis=0)
    bounds = np.array(shape)[longer] - 1
    first = np.clip(np.ceil(ends[0] - _ON_CONTOUR_VOXELS), 0, None)
    last = np.minimum(np.floor(ends[1] + _ON_CONTOUR_VOXELS), bounds)
    count = np.maximum(last - first + 1, 0).astype(np.int64)
    edge = np.repeat(edge, count)
    along = first[edge] + np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
    length = step[edge, longer[edge]]
    share = np.divide(along - corners[edge, longer[edge]], length, out=np.zeros_like(along), where=length != 0)
    nearest = corners[edge] + np.clip(share, 0, 1)[:, None] * step[edge]
    centres = np.rint(nearest)
    touched = (np.abs(nearest - centres) <= _ON_CONTOUR_VOXELS).all(axis=1)
    touched &= ((centres >= 0) & (centres < np.array(shape))).all(axis=1)
    return np.asarray(centres[touched], dtype=np.int64)


def _notes(
    counted: list[tuple[int, str]], displacement: float, *, sparse: float | None, nearest: bool
) -> tuple[str, ...]:
    """Return one sentence for each count that is not zero, and for contours that are not quite on the slices."""
    notes = [f"contours: {count} {what}" for count, what in counted if count]
    if nearest:
        notes.append(
            "contours: they lie on other slices than the image's; each slice took the nearest plane of contours"
        )
        return tuple(notes)
    if sparse is not None:
        notes.append(f"contours: {sparse_note(sparse)}")
    if displacement > SILENT_VOXELS:
        notes.append(
            f"contours: they lie up to {displacement:.3f} slices off the image's (up to {NOTED_VOXELS} is taken); each "
            f"is put on the nearest slice"
        )
    return tuple(notes)
