"""DICOM-SEG: the segments of a segmentation object as masks on the grid of its image.

A segmentation is a stack of planes in any order, with the empty ones left out, and each plane says for itself where it
lies (PS3.3 C.7.6.16.2, C.8.20). So each is mapped through the image's affine, one by one, and never paired by index:
flipped, sparse and reordered stacks and tilted images need no case of their own.

Headers are read as they are; frames are unpacked by highdicom, or decompressed by the codec that `CODECS` names. Its
`Segmentation` is not used: it refuses public collections for what does not matter here (highdicom#344, #370: a spacing
missing in one group, an instance referenced twice). Nor are its lazy readers: they cut one-bit frames short where rows
times columns is no multiple of eight.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pydicom
from pydicom.encaps import encapsulate, generate_frames
from pydicom.pixels.decoders.base import get_decoder
from pydicom.uid import UID, ImplicitVRLittleEndian

from ...store.errors import GeometryMismatch, UnreadableFile, UnusableLabel
from .base import Structures
from .dicom_headers import CODECS, DAMAGE, numbers, quietly, text, whole
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
    unique_names,
)
from .labels import check_threshold
from .packed_masks import PackedMasks

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator
    from pathlib import Path

    import numpy.typing as npt
    from pydicom.dataset import Dataset

    from .base import Affine

__all__ = ["describe_seg", "lies_on", "read_seg"]

# All that is looked at; the rest of the header may name a person.
_TAGS = [
    "FrameOfReferenceUID",
    "Rows",
    "Columns",
    "NumberOfFrames",
    "BitsAllocated",
    "BitsStored",
    "PixelPaddingValue",
    "SegmentationType",
    "MaximumFractionalValue",
    "SegmentSequence",
    "DimensionOrganizationType",
    "TotalPixelMatrixColumns",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelSpacing",
    "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence",
    "ReferencedSeriesSequence",
    "StudiesContainingOtherReferencedInstancesSequence",
    "SourceImageSequence",
]
_POSITION_TOLERANCE_MM = 1e-3  # headers keep three decimals or more


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Plane:
    """One frame: whose it is and where it lies."""

    segment: int | None
    """ReferencedSegmentNumber; None in a label map, whose frames hold all the segments."""
    corner_mm: npt.NDArray[np.float64]
    """Centre of the first pixel, RAS+, shape (3,)."""
    steps_mm: npt.NDArray[np.float64]
    """To the next pixel of a row, and to the next row: shape (3, 2), one step a column."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Stack:
    """The frames of a segmentation: where they lie and what their values mean."""

    path: Path
    place: str
    """How to call it in messages."""
    size: tuple[int, int]
    """(columns, rows) of a frame."""
    planes: list[_Plane]
    """In the order of the file."""
    kind: str
    """BINARY, FRACTIONAL or LABELMAP."""
    maximum: int
    """MaximumFractionalValue; 1 where it does not apply."""
    background: int
    """The value of a label map that is no segment."""
    described: dict[int, str]
    """The names of the segments by their numbers, in the order of the file."""
    between_mm: float | None
    """SpacingBetweenSlices, where the header says so."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Drawn:
    """What one frame shows."""

    index: int
    marked: list[tuple[int, npt.NDArray[np.bool_]]]
    """Segment number and mask (rows, columns) of each segment that is not empty here."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Fit:
    """A frame on the voxels of an image: pixel (column, row) is voxel ``origin + steps @ (column, row)``."""

    origin: npt.NDArray[np.int64]
    """(i, j, k) of the first pixel."""
    steps: npt.NDArray[np.int64]
    """Shape (3, 2): each column has one entry of 1 or -1."""
    displacement_voxels: float
    """How far the farthest corner lies from its voxel; infinite where pixels and voxels do not correspond."""


@quietly()
def describe_seg(path: Path) -> Described:
    """Describe a segmentation from its header alone.

    Raises
    ------
    UnreadableFile
        Missing, damaged, or no segmentation.
    """
    header = _read(path, str(path))
    series = [
        *items(header, "ReferencedSeriesSequence"),
        *items(header, "StudiesContainingOtherReferencedInstancesSequence", "ReferencedSeriesSequence"),
    ]
    instances = [instance for one in series for instance in items(one, "ReferencedInstanceSequence")]
    if not instances:  # else they only repeat, thousands of times
        groups = [
            header,
            *items(header, "SharedFunctionalGroupsSequence", "DerivationImageSequence"),
            *items(header, "PerFrameFunctionalGroupsSequence", "DerivationImageSequence"),
        ]
        instances = [instance for group in groups for instance in items(group, "SourceImageSequence")]
    return Described(
        names=tuple(_described(header).values()),
        referenced_series_uids=referenced(series, "SeriesInstanceUID"),
        referenced_sop_uids=referenced(instances, "ReferencedSOPInstanceUID"),
        frame_of_reference_uid=text(header, "FrameOfReferenceUID"),
    )


@quietly()
def lies_on(path: Path, shape: tuple[int, int, int], affine: Affine) -> bool:
    """Tell from the header whether a segmentation was drawn on an image: half of its frames or more lie on its voxels.

    Parameters
    ----------
    shape
        (i, j, k) of the image.
    affine
        (i, j, k) to RAS+ millimetres.

    Raises
    ------
    UnreadableFile
        Missing, damaged, or no segmentation.
    """
    try:
        stack = _stack(_read(path, str(path)), path, str(path))
    except _NoPlaceError:
        return False
    fits = _fits(stack, affine)
    lying = [fit.displacement_voxels <= NOTED_VOXELS and _overlaps(fit, stack.size, shape) for fit in fits]
    return 2 * sum(lying) >= len(lying)


@quietly()
def read_seg(
    path: Path,
    *,
    shape: tuple[int, int, int],
    affine: Affine,
    threshold: float | None = None,
    names: Collection[str] | None = None,
    resample: bool = False,
    place: str,
) -> Structures:
    """Read the segments of a segmentation as masks on the grid of its image.

    Parameters
    ----------
    path
        A DICOM segmentation: BINARY, FRACTIONAL or LABELMAP.
    shape
        (i, j, k) of the image.
    affine
        Of the image: (i, j, k) to RAS+ millimetres. It may be sheared (a tilted gantry).
    threshold
        Above which share of MaximumFractionalValue a voxel belongs to a segment. Needed for a FRACTIONAL segmentation
        that holds anything between 0 and its maximum.
    names
        Which segments to read, by the names of `describe_seg`; all of them by default.
    resample
        Take for each voxel the nearest pixel of the nearest plane where the two lattices differ. The planes have to be
        parallel to the image's slices; a slice farther than half their distance from any stays empty.
    place
        How to call the file in messages.

    Returns
    -------
    Structures
        Boolean masks of the image's shape, by name; frames that the file leaves out are empty.

    Raises
    ------
    UnreadableFile
        Missing, damaged, compressed in an unknown way, without positions, or of a microscope's slide.
    UnusableLabel
        Fractional without a threshold, several frames of one segment in one place (4-D), or pixel values that no
        segment describes.
    GeometryMismatch
        A frame that is not empty lies more than 0.1 voxel off the image's lattice, or reaches outside the image.
    UsageError
        A threshold that is no share.
    """
    check_threshold(threshold)
    stack = _stack(_read(path, place), path, place)
    _require_one_frame_a_place(stack)
    wanted = {number: name for number, name in stack.described.items() if names is None or name in names}
    masks = PackedMasks(shape, wanted.values())
    drawn = _drawn(stack, wanted, threshold)
    fits = _fits(stack, affine)
    gap, sure = _gap(stack, affine)
    sparse = sure and gap > SPARSE_SLICES and not any(fit.steps[2].any() for fit in fits)
    if resample and (sparse or any(fit.displacement_voxels > NOTED_VOXELS for fit in fits)):
        notes = _fill_nearest(masks, drawn, stack, affine, gap)
    else:
        notes = _fill_exactly(masks, drawn, stack, fits, cut=resample)
        notes += (f"segmentation: {sparse_note(gap)}",) if sparse else ()
    return Structures(
        masks=masks,
        affine=np.array(affine, dtype=np.float64),
        notes=notes,
    )


class _NoPlaceError(UnreadableFile):
    """Frames that do not say where they lie."""


def _read(path: Path, place: str, *, pixels: bool = False) -> Dataset:
    """Read the header, with the pixels where asked for; refuse what is no segmentation."""
    try:
        tags = [*_TAGS, "PixelData"]
        header = pydicom.dcmread(path, stop_before_pixels=not pixels, force=True, specific_tags=tags)
        segments = items(header, "SegmentSequence")
    except FileNotFoundError as error:
        message = f"{place}: there is no such file; it was there when the folder was listed."
        raise UnreadableFile(message) from error
    except DAMAGE as error:
        raise UnreadableFile(_damaged(place)) from error
    if not segments or (whole(header, "Rows") or 0) < 1 or (whole(header, "Columns") or 0) < 1:
        message = (
            f"{place}: not a DICOM segmentation: its header has no segments, or no rows and columns. "
            f"It is damaged, cut short in copying, or another kind of object: copy it again."
        )
        raise UnreadableFile(message)
    return header


def _damaged(place: str) -> str:
    return f"{place}: not readable as DICOM: damaged, or cut short in copying. Copy it again."


def _size(header: Dataset) -> tuple[int, int]:
    """Return (columns, rows) of a frame."""
    return whole(header, "Columns") or 0, whole(header, "Rows") or 0


def _kind(header: Dataset) -> str:
    kind = text(header, "SegmentationType").upper()
    return "BINARY" if not kind and whole(header, "BitsAllocated") == 1 else kind


def _background(header: Dataset) -> int:
    """Return the value that is no segment: what a label map says, else 0."""
    value = whole(header, "PixelPaddingValue") if _kind(header) == "LABELMAP" else None
    return 0 if value is None else value


def _described(header: Dataset) -> dict[int, str]:
    """Return the names of the segments by their numbers, in the order of the file."""
    found = [
        (number, text(item, "SegmentLabel") or f"segment {number}")
        for item in items(header, "SegmentSequence")
        if (number := whole(item, "SegmentNumber")) is not None
        # Label maps may describe their background as if it were a segment.
        and not (_kind(header) == "LABELMAP" and number == _background(header))
    ]
    distinct = unique_names([name for _, name in found])
    return {number: name for (number, _), name in zip(found, distinct, strict=True)}


def _stack(header: Dataset, path: Path, place: str) -> _Stack:
    """Return what a header says of the frames; refuse what has no meaning or no place."""
    kind, bits = _kind(header), whole(header, "BitsAllocated")
    maximum = whole(header, "MaximumFractionalValue") if kind == "FRACTIONAL" else 1
    if kind not in {"BINARY", "FRACTIONAL", "LABELMAP"} or not maximum or maximum < 1 or bits not in {1, 8, 16}:
        message = (
            f"{place}: SegmentationType, BitsAllocated or MaximumFractionalValue is absent, or a value that DICOM does "
            f"not know, so nobody knows what the pixels mean. The file is damaged, or its tool wrote it wrong: export "
            f"the segmentation again."
        )
        raise UnreadableFile(message)
    described = _described(header)
    groups = [
        *items(header, "PerFrameFunctionalGroupsSequence")[:1],
        *items(header, "SharedFunctionalGroupsSequence")[:1],
    ]
    between = _value(groups, header, "PixelMeasuresSequence.SpacingBetweenSlices", 1)
    return _Stack(
        path=path,
        place=place,
        size=_size(header),
        planes=_planes(header, None if kind == "LABELMAP" else described, place),
        kind=kind,
        maximum=maximum,
        background=_background(header),
        described=described,
        between_mm=abs(between[0]) if between and between[0] else None,
    )


def _planes(header: Dataset, described: Collection[int] | None, place: str) -> list[_Plane]:
    """Return the frames, each with its place; ``described`` is None for a label map."""
    if text(header, "DimensionOrganizationType").startswith("TILED") or "TotalPixelMatrixColumns" in header:
        message = (
            f"{place}: a tiled segmentation, of a microscope's slide: its frames are tiles of one plane, and lie in no "
            f"patient. Segmentations of scans are taken."
        )
        raise _NoPlaceError(message)
    per_frame = items(header, "PerFrameFunctionalGroupsSequence")
    announced = whole(header, "NumberOfFrames") or 1
    if announced != max(1, len(per_frame)):
        message = (
            f"{place}: the header announces {announced} frames and describes {len(per_frame)}, so nobody knows which "
            f"is which. It is damaged, or cut short in copying: copy it again."
        )
        raise UnreadableFile(message)
    shared = items(header, "SharedFunctionalGroupsSequence")[:1]
    planes: list[_Plane] = []
    lacking: Counter[str] = Counter()
    for own in per_frame or [pydicom.Dataset()]:
        groups = [own, *shared]
        position = _value(groups, header, "PlanePositionSequence.ImagePositionPatient", 3)
        orientation = _value(groups, header, "PlaneOrientationSequence.ImageOrientationPatient", 6)
        spacing = _value(groups, header, "PixelMeasuresSequence.PixelSpacing", 2)
        segment = _value(groups, header, "SegmentIdentificationSequence.ReferencedSegmentNumber", 1)
        if described is None:
            segment = None
        elif segment is None and len(described) == 1:
            segment = (float(next(iter(described))),)
        missing = {
            "ImagePositionPatient": position is None,
            "ImageOrientationPatient": orientation is None,
            "PixelSpacing": spacing is None or min(spacing) <= 0,
            "ReferencedSegmentNumber": described is not None and segment is None,
        }
        lacking.update(name for name, lacks in missing.items() if lacks)
        if position is None or orientation is None or spacing is None or lacking:
            continue
        along_row, along_column = to_ras(np.reshape(orientation, (2, 3)))
        planes.append(
            _Plane(
                segment=None if segment is None else int(segment[0]),
                corner_mm=to_ras(position),
                # PixelSpacing is between rows, then between columns (PS3.3 10.7.1.3).
                steps_mm=np.stack([along_row * spacing[1], along_column * spacing[0]], axis=1),
            )
        )
    if lacking:
        listed = ", ".join(f"{name} ({count} of {announced} frames)" for name, count in lacking.items())
        cure = (
            "The file is damaged, or cut short in copying: copy it again."
            if planes
            else "Segmentations of radiographs are like that: write the mask as an image file beside its image instead."
        )
        message = f"{place}: the header lacks {listed}, so nobody knows where the frames lie. {cure}"
        raise _NoPlaceError(message)
    return planes


def _value(groups: list[Dataset], header: Dataset, name: str, count: int) -> tuple[float, ...] | None:
    """Return numbers of a functional group: the frame's own, else the shared ones, else the header's."""
    sequence, _, attribute = name.partition(".")
    holders = [*(item for group in groups for item in items(group, sequence)), header]
    found = (numbers(holder, attribute, count) for holder in holders)
    return next((values for values in found if values is not None), None)


def _require_one_frame_a_place(stack: _Stack) -> None:
    """Refuse 4-D segmentations: several frames of one segment in one place."""
    places = Counter(
        (plane.segment, *np.rint(plane.corner_mm / _POSITION_TOLERANCE_MM).tolist()) for plane in stack.planes
    )
    most = max(places.values())
    if most > 1:
        message = (
            f"{stack.place}: {most} frames of one segment lie in one place ({len(stack.planes)} frames in "
            f"{len(places)} places): a segmentation of several moments or echoes. Export one of them by itself."
        )
        raise UnusableLabel(message)


def _drawn(stack: _Stack, wanted: Collection[int], threshold: float | None) -> Iterator[_Drawn]:
    """Yield the frames that show something of the wanted segments, one at a time."""
    dataset = _read(stack.path, stack.place, pixels=True)
    for index, (plane, encoded) in enumerate(zip(stack.planes, _encoded(dataset, stack), strict=True)):
        if plane.segment is not None and plane.segment not in stack.described:
            raise UnusableLabel(_undescribed([plane.segment], stack.place))
        if plane.segment is None or plane.segment in wanted:
            marked = _marked(_decoded(encoded, dataset, index, stack.place), plane, stack, threshold)
            shown = [(number, mask) for number, mask in marked if number in wanted and mask.any()]
            if shown:
                yield _Drawn(index=index, marked=shown)


def _encoded(dataset: Dataset, stack: _Stack) -> Iterable[bytes]:
    """Return the bytes of each frame, as the file has them; uncompressed ones are copied one by one."""
    frames = len(stack.planes)
    columns, rows = stack.size
    bits = rows * columns * (whole(dataset, "BitsAllocated") or 1)
    try:
        stored: bytes = dataset.PixelData
        if _syntax(dataset).is_encapsulated:
            found = list(generate_frames(stored, number_of_frames=frames))
        else:
            # One-bit frames follow each other without a gap (PS3.5 8.1.1), so one may begin within a byte.
            return (stored[index * bits // 8 : ((index + 1) * bits + 7) // 8] for index in range(frames))
    except DAMAGE as error:
        raise UnreadableFile(_undecodable(error, stack.place)) from error
    if len(found) != frames:
        message = f"{stack.place}: the header announces {frames} frames, the file holds {len(found)}. Copy it again."
        raise UnreadableFile(message)
    return found


def _decoded(encoded: bytes, dataset: Dataset, index: int, place: str) -> npt.NDArray[np.integer[Any]]:
    """Return the stored values of a frame, (rows, columns)."""
    from highdicom.frame import decode_frame

    columns, rows = _size(dataset)
    bits = whole(dataset, "BitsAllocated") or 1
    syntax = _syntax(dataset)
    frame: dict[str, Any] = {
        "rows": rows,
        "columns": columns,
        "samples_per_pixel": 1,
        "bits_allocated": bits,
        "bits_stored": whole(dataset, "BitsStored") or bits,
        "photometric_interpretation": "MONOCHROME2",  # the values, not the colours of a palette
        "pixel_representation": 0,
    }
    try:
        if not syntax.is_encapsulated:
            return np.asarray(decode_frame(encoded, transfer_syntax_uid=syntax, index=index, **frame))
        codec = CODECS[syntax]  # highdicom would leave the choice to pydicom
        options: dict[str, Any] = {**frame, "number_of_frames": 1, "pixel_keyword": "PixelData"}
        values, _ = get_decoder(syntax).as_array(
            encapsulate([encoded], has_bot=False), decoding_plugin=codec, **options
        )
    except DAMAGE as error:
        raise UnreadableFile(_undecodable(error, place)) from error
    return np.asarray(values)


def _syntax(dataset: Dataset) -> UID:
    # Without a preamble there is no group 2, and then it is DICOM's default.
    return UID(text(getattr(dataset, "file_meta", pydicom.Dataset()), "TransferSyntaxUID") or ImplicitVRLittleEndian)


def _undecodable(error: Exception, place: str) -> str:
    return (
        f"{place}: the pixels cannot be decoded ({type(error).__name__}). The file is cut short, or compressed in a "
        f"way no installed codec reads: copy it again, or decompress it with `gdcmconv --raw IN OUT`."
    )


def _undescribed(values: list[int], place: str) -> str:
    listed = ", ".join(str(value) for value in values[:8])
    return (
        f"{place}: the frames hold segment number(s) {listed}, which the header does not describe, so they have no "
        f"name. Export the segmentation again with all of its segments."
    )


def _marked(
    frame: npt.NDArray[np.integer[Any]], plane: _Plane, stack: _Stack, threshold: float | None
) -> list[tuple[int, npt.NDArray[np.bool_]]]:
    """Return segment number and mask (rows, columns) of each segment in a frame."""
    if plane.segment is None:
        present = [value for value in np.flatnonzero(np.bincount(frame.ravel())).tolist() if value != stack.background]
        if unknown := [value for value in present if value not in stack.described]:
            raise UnusableLabel(_undescribed(unknown, stack.place))
        return [(value, frame == value) for value in present]
    if stack.kind == "FRACTIONAL" and threshold is not None:
        return [(plane.segment, frame > threshold * stack.maximum)]
    between = frame[(frame != 0) & (frame != stack.maximum)] if stack.kind == "FRACTIONAL" else frame[:0]
    if between.size:
        message = (
            f"{stack.place}: a fractional segmentation, with shares such as {between[0] / stack.maximum:.3g} between 0 "
            f"and 1. Say above which share a voxel belongs to a segment: --label-threshold 0.5"
        )
        raise UnusableLabel(message)
    return [(plane.segment, frame != 0)]


def _fits(stack: _Stack, affine: Affine) -> list[_Fit]:
    """Lay each frame on the voxels of an image; permuted and flipped axes are whole steps too."""
    to_voxels = inverse(affine)
    extent = np.array(stack.size) - 1
    corners = np.array([[0, 1, 0, 1], [0, 0, 1, 1]]) * extent[:, None]
    fits = []
    for plane in stack.planes:
        origin = to_voxels[:3, :3] @ plane.corner_mm + to_voxels[:3, 3]
        steps = to_voxels[:3, :3] @ plane.steps_mm
        whole_origin, whole_steps = np.rint(origin), np.rint(steps)
        moved = (origin - whole_origin)[:, None] + (steps - whole_steps) @ corners
        # Two different axes, one step each: else the pixels have another size, or the plane lies at an angle.
        corresponding = np.array_equal(np.abs(whole_steps).T @ np.abs(whole_steps), np.eye(2))
        fits.append(
            _Fit(
                origin=whole_origin.astype(np.int64),
                steps=whole_steps.astype(np.int64),
                displacement_voxels=float(np.linalg.norm(moved, axis=0).max()) if corresponding else float("inf"),
            )
        )
    return fits


def _overlaps(fit: _Fit, size: tuple[int, int], shape: tuple[int, int, int]) -> bool:
    """Tell whether any pixel of a frame lies in the image."""
    last = fit.origin + fit.steps @ (np.array(size) - 1)
    return bool((np.maximum(fit.origin, last) >= 0).all() and (np.minimum(fit.origin, last) < shape).all())


def _fill_exactly(
    masks: PackedMasks, drawn: Iterator[_Drawn], stack: _Stack, fits: list[_Fit], *, cut: bool
) -> tuple[str, ...]:
    """Put each pixel on its voxel; return the notes. With ``cut``, what lies outside the image is left out."""
    misfits: list[int] = []
    outside_frames = outside_pixels = 0
    farthest = 0.0
    for frame in drawn:
        fit = fits[frame.index]
        if fit.displacement_voxels > NOTED_VOXELS:
            misfits.append(frame.index)
            continue
        farthest = max(farthest, fit.displacement_voxels)
        outside = 0
        for number, marked in frame.marked:
            outside += _put(masks, stack.described[number], marked, fit)
        outside_frames += outside > 0
        outside_pixels += outside
    if misfits:
        raise GeometryMismatch(_misfit(misfits, stack, fits))
    notes: list[str] = []
    if outside_frames:
        found = f"{outside_pixels} marked pixel(s) in {outside_frames} of {len(fits)} frames lie outside the image"
        if not cut:
            message = (
                f"{stack.place}: {found}. The segmentation was drawn on a longer or wider scan, or files of the series "
                f"are missing: give the series it belongs to, whole, or cut it to the image with --resample-labels."
            )
            raise GeometryMismatch(message)
        notes.append(f"segmentation: {found}, and are left out")
    if farthest > SILENT_VOXELS:
        notes.append(
            f"segmentation: the farthest corner lies {farthest:.3f} voxel off the image's lattice (up to "
            f"{NOTED_VOXELS} is taken); pixels are put on the nearest voxel"
        )
    return tuple(notes)


def _put(masks: PackedMasks, name: str, marked: npt.NDArray[np.bool_], fit: _Fit) -> int:
    """Mark the voxels (i, j, k) of a frame's pixels (rows, columns); return how many pixels lie outside."""
    along_row, along_column = (int(axis) for axis in np.abs(fit.steps).argmax(axis=0))
    backwards = fit.steps[[along_row, along_column], [0, 1]] < 0
    block = np.flip(marked.T, tuple(np.flatnonzero(backwards).tolist()))
    if along_row > along_column:
        block = block.T
    block = np.expand_dims(block, 3 - along_row - along_column)  # one voxel thick across the frame
    start = np.minimum(fit.origin, fit.origin + fit.steps @ (np.array(marked.shape[::-1]) - 1))
    low, high = np.maximum(start, 0), np.minimum(start + block.shape, masks.shape)
    if (low >= high).any():
        return int(marked.sum())
    inside = block[tuple(slice(a, b) for a, b in zip(low - start, high - start, strict=True))]
    masks.put(name, inside, (int(low[0]), int(low[1]), int(low[2])))
    return int(marked.sum()) - int(inside.sum())


def _misfit(misfits: list[int], stack: _Stack, fits: list[_Fit]) -> str:
    finite = [fits[index].displacement_voxels for index in misfits if np.isfinite(fits[index].displacement_voxels)]
    how = (
        f"the farthest corner is {max(finite):.3g} voxels off, up to {NOTED_VOXELS} is taken"
        if finite
        else "their pixels have another size than its voxels, or their planes another direction than its axes"
    )
    pixel = " x ".join(f"{size:.4g}" for size in np.linalg.norm(stack.planes[misfits[0]].steps_mm, axis=0))
    return (
        f"{stack.place}: {len(misfits)} of {len(fits)} frames do not lie on the voxels of the image: {how} (pixels of "
        f"the segmentation: {pixel} mm). It was probably drawn on another series, or on a resampled copy: give the "
        f"series it belongs to, or take the nearest pixels with --resample-labels."
    )


def _fill_nearest(
    masks: PackedMasks, drawn: Iterator[_Drawn], stack: _Stack, affine: Affine, gap: float
) -> tuple[str, ...]:
    """Give each voxel the nearest pixel of the nearest plane; return the notes."""
    _require_parallel(stack, affine)
    slices_of = _slices_of_planes(stack, masks.shape[2], affine, gap)
    for frame in drawn:
        for k in slices_of[frame.index]:
            column, row = _nearest_pixels(stack.planes[frame.index], masks.shape[:2], k, affine)
            inside = (column >= 0) & (column < stack.size[0]) & (row >= 0) & (row < stack.size[1])
            for number, marked in frame.marked:
                plane = np.zeros((*masks.shape[:2], 1), dtype=np.bool_)
                plane[inside, 0] = marked[row[inside], column[inside]]
                masks.put(stack.described[number], plane, (0, 0, k))
    return (
        "segmentation: it lies on another lattice than the image; each voxel took the nearest pixel of the nearest "
        "plane",
    )


def _require_parallel(stack: _Stack, affine: Affine) -> None:
    normal, between_mm = slice_normal(affine), between_slices_mm(affine)
    slant_mm = max(float(np.abs(normal @ plane.steps_mm) @ (np.array(stack.size) - 1)) for plane in stack.planes)
    if slant_mm > between_mm / 2:
        message = (
            f"{stack.place}: the planes of the segmentation are not parallel to the slices of the image "
            f"({slant_mm:.3g} mm from corner to corner, where slices are {between_mm:.3g} mm apart), and "
            f"--resample-labels takes parallel ones. Give the series it was drawn on, or resample it, e.g. in 3D "
            f"Slicer with the image as reference geometry."
        )
        raise GeometryMismatch(message)


def _heights(stack: _Stack, affine: Affine) -> npt.NDArray[np.float64]:
    """Return where each frame lies along the normal of the slices, in slices from the first one."""
    # The middle of a plane, as a slight slant moves its corner away.
    middle = (np.array(stack.size) - 1) / 2
    centres = np.array([plane.corner_mm + plane.steps_mm @ middle for plane in stack.planes])
    normal = slice_normal(affine)
    return np.asarray((centres - affine[:3, 3]) @ normal / (affine[:3, 2] @ normal), dtype=np.float64)


def _gap(stack: _Stack, affine: Affine) -> tuple[float, bool]:
    """Return how far apart planes are, in slices, and whether that is sure: said by the header, or seen twice."""
    if stack.between_mm is not None:
        return stack.between_mm / between_slices_mm(affine), True
    gaps = gaps_between(_heights(stack, affine))
    return (gaps[0] if gaps else 1.0), len(gaps) > 1


def _slices_of_planes(stack: _Stack, slices: int, affine: Affine, gap: float) -> list[list[int]]:
    """Return for each frame the slices of the image to which no other frame of its segment is nearer."""
    heights = _heights(stack, affine)
    result: list[list[int]] = [[] for _ in stack.planes]
    for segment in {plane.segment for plane in stack.planes}:
        own = np.array([index for index, plane in enumerate(stack.planes) if plane.segment == segment])
        nearest = nearest_planes(heights[own], np.arange(slices, dtype=np.float64), gap)
        for k, plane in enumerate(nearest.tolist()):
            if plane >= 0:
                result[own[plane]].append(k)
    return result


def _nearest_pixels(
    plane: _Plane, shape: tuple[int, ...], k: int, affine: Affine
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return column and row of the pixel nearest to each voxel (i, j) of slice k; some lie outside the frame."""
    to_pixels = np.linalg.pinv(plane.steps_mm)  # of a point only what lies in the plane counts, not its height above
    start = to_pixels @ (affine[:3, 3] + k * affine[:3, 2] - plane.corner_mm)
    per_i, per_j = to_pixels @ affine[:3, 0], to_pixels @ affine[:3, 1]
    i, j = np.arange(shape[0])[:, None], np.arange(shape[1])[None, :]
    column, row = (np.rint(start[axis] + i * per_i[axis] + j * per_j[axis]).astype(np.int64) for axis in (0, 1))
    return column, row
