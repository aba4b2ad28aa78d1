"""Triage of a DICOM folder: which files make one volume each, and why the others do not. By headers, not by pixels.

Files are grouped by SeriesInstanceUID (with study and patient: some anonymisers write one UID for all) and, within, by
what else makes one grid: modality, matrix, orientation, pixel spacing, colour. Each group becomes a `Finding`: a
`Series`, which is the plan for reading it, or the reason for which it is refused, with numbers. Of several volumes in
one grid the user chooses one (`dicom_volumes`). No name, date or UID of a header enters a reason or a note; a reason
may name a file.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from pydicom.uid import UID

from ...store.errors import UnreadableFile
from .base import Matrix
from .dicom_headers import (
    DAMAGE,
    LFS_POINTER,
    SUFFIXES,
    DecompressionBombError,
    FrameHeader,
    Header,
    begins_as_dicom,
    files_under,
    frames_of,
    quietly,
    read_header,
    shown_name,
)
from .dicom_volumes import (
    VolumeChoice,
    has_marks,
    one_volume,
    pixel_digest,
    shared_marks,
    told_of_copies,
    without_copies,
    without_place,
)
from .slice_stack import NEAR_ORIENTATION, ORIENTATION_TOLERANCE, SliceHeader, clusters, stack

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterator, Mapping

__all__ = [
    "DicomFolder",
    "Finding",
    "Frame",
    "Held",
    "LabelObject",
    "ReadHeaders",
    "RefusedFiles",
    "Series",
    "VolumeChoice",
    "read_headers",
    "triage",
]

# Headers round PixelSpacing differently within a series, at the fifth digit: a tenth of a voxel over 512.
_SPACING_TOLERANCE = 2e-4  # of itself

# One picture a file, without a place in the patient: a volume of one slice each.
_PROJECTIONS = frozenset({"CR", "DX", "MG", "RG", "IO", "PX", "XA", "RF", "US", "XC", "OP", "GM", "ES", "DG", "DMS"})
_SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
_CAPTURES = frozenset({_SECONDARY_CAPTURE, *(f"{_SECONDARY_CAPTURE}.{kind}" for kind in (1, 2, 3, 4))})  # multi-frame
_LABEL_OBJECTS = {
    "SEG": "dicom-seg",
    "RTSTRUCT": "rtstruct",
    "1.2.840.10008.5.1.4.1.1.66.4": "dicom-seg",
    "1.2.840.10008.5.1.4.1.1.66.7": "dicom-seg",  # label maps
    "1.2.840.10008.5.1.4.1.1.481.3": "rtstruct",
}
"""By Modality, or by SOP class where that is missing."""
_SURFACES = "1.2.840.10008.5.1.4.1.1.66.5"

# What a value of ImageType makes of a slice: anatomy is in the magnitude.
_PARTS_OF_COMPLEX = {
    "phase": {"P", "PHASE", "PHASE MAP", "VELOCITY", "VELOCITY MAP"},
    "real": {"R", "REAL"},
    "imaginary": {"I", "IMAGINARY"},
}
# A scout, a bolus-timing image, a stray slice: fewer slices are no volume where the study holds one.
_FEW_SLICES = 3
# So many orientations of a slice or two each are made by a camera that goes round, or by radial planes.
_MANY_ORIENTATIONS = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class Frame:
    """One plane of a series: a file, or one frame of a multi-frame file."""

    path: Path
    index: int = 0
    """Which frame of the file, from 0."""
    position_mm: tuple[float, ...] | None
    """ImagePositionPatient: the centre of the first voxel, LPS+; None where the file has no geometry."""
    slope: float = 1.0
    """RescaleSlope of this frame."""
    intercept: float = 0.0
    """RescaleIntercept of this frame."""
    offset: int | None = None
    """Where its pixels begin in the file, where they can be read as they lie; None: they need decoding."""
    sop_uid: str = field(default="", repr=False)
    """SOPInstanceUID of its file; for matching references only."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Series:
    """The frames of one regular stack, in order, and where they lie: all that is needed to read the pixels."""

    frames: tuple[Frame, ...]
    """First to last along the normal."""
    shape: tuple[int, int, int]
    """(columns, rows, slices), as `Scan.values`."""
    affine: Matrix | None
    """(column, row, slice) to RAS+ millimetres; None for a radiograph and other files without geometry."""
    samples: int = 1
    """3 for colour."""
    allocated: int = 16
    """BitsAllocated, the most of all frames."""
    bits: int = 16
    """BitsStored, the most of all frames."""
    signed: bool = True
    """PixelRepresentation."""
    table: bool = False
    """Whether a Modality LUT takes the place of slope and intercept."""
    compressed: bool = False
    """Whether a codec is needed for the pixels."""
    padding: tuple[int, int] | None = None
    """Stored values that mean "not measured", first and last."""
    inverted: bool = False
    """MONOCHROME1: high is dark."""
    modality: str | None
    number: int | None
    """SeriesNumber."""
    notes: tuple[str, ...] = ()
    chosen: tuple[tuple[str, int | float], ...] = ()
    """Which of the user's `VolumeChoice` it took to choose it of a 4-D series, by name; empty for a 3-D one."""
    uid: str = field(repr=False)
    """What names this volume: its patient, study and series, and what all of its slices share (see `_name_of_stack`).
    It depends neither on what else is there nor on the names of files. For hashing only."""
    patient_id: str = field(default="", repr=False)
    """PatientID, possibly empty. For hashing only."""
    series_uid: str = field(default="", repr=False)
    """SeriesInstanceUID, possibly empty; for matching references only."""
    frame_of_reference_uid: str = field(default="", repr=False)
    """FrameOfReferenceUID, possibly empty; for matching references only."""
    study_uid: str = field(default="", repr=False)
    """StudyInstanceUID, possibly empty; for matching references only."""

    @property
    def paths(self) -> tuple[Path, ...]:
        """The files, each once, in the order of the frames."""
        return tuple(dict.fromkeys(frame.path for frame in self.frames))


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One series (or the part of one that could be a grid), taken or refused."""

    paths: tuple[Path, ...]
    """In the order of the folder."""
    modality: str
    """As the header says; "?" where it does not."""
    number: int | None
    """SeriesNumber."""
    frames: int
    rows: int
    columns: int
    series: Series | None
    """None where it is refused."""
    reason: str | None
    """Why it is refused."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelObject:
    """A DICOM file that holds labels: a segmentation or a structure set."""

    path: Path
    reader: str
    """``dicom-seg`` or ``rtstruct``."""


Held: TypeAlias = list[FrameHeader] | LabelObject | str | None
"""What one file holds: the planes of an image, labels, nothing of use and why, or no DICOM at all."""

ReadHeaders: TypeAlias = Callable[[Sequence[Path]], Iterable[Held]]
"""Reads the headers of files and tells what each holds, in their order: `read_headers`, or the same by processes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RefusedFiles:
    """DICOM files that hold neither images nor labels, or cannot be read."""

    paths: tuple[Path, ...]
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class DicomFolder:
    """All the DICOM under a folder."""

    findings: list[Finding]
    """By path."""
    label_objects: list[LabelObject]
    refused: list[RefusedFiles]

    @property
    def empty(self) -> bool:
        """Whether there is no DICOM at all."""
        return not (self.findings or self.label_objects or self.refused)


def triage(
    folder: Path | Iterable[Path], choice: VolumeChoice | None = None, *, read: ReadHeaders | None = None
) -> DicomFolder:
    """Sort the DICOM files under a folder into volumes, label objects and what is refused, from headers alone.

    Parameters
    ----------
    folder
        Searched with its subfolders; hidden files and what is not DICOM are skipped, whatever its ending. A single file
        is taken too, and so is a list of files.
    choice
        Which volume of a 4-D series; it is ignored for series that have only one.
    read
        Where headers are read: in this process, one after the other, by default.

    Returns
    -------
    DicomFolder
        A series without UID (anonymised away) is told by its folder, StudyDate, SeriesNumber and frame of reference,
        and a note says so.
    """
    choice = choice or VolumeChoice()
    groups: dict[_Group, list[FrameHeader]] = {}
    labels: list[LabelObject] = []
    refused: dict[tuple[Path, str], list[Path]] = defaultdict(list)
    paths = list(files_under(folder) if isinstance(folder, Path) else folder)
    for path, held in zip(paths, (read or read_headers)(paths), strict=True):
        match held:
            case None:
                continue
            case str(reason):
                refused[path.parent, reason].append(path)
            case LabelObject():
                labels.append(held)
            case frames:
                for frame in frames:
                    groups.setdefault(_group_of(frame), []).append(frame)
    names = _names(groups)
    findings = [finding for group, frames in groups.items() for finding in _findings(names[group], frames, choice)]
    findings.sort(key=lambda one: one.paths)
    return DicomFolder(
        findings=_with_own_uids(_without_scouts(findings, choice)),
        label_objects=labels,
        refused=sorted(
            (RefusedFiles(paths=tuple(paths), reason=reason) for (_, reason), paths in refused.items()),
            key=lambda one: one.paths,
        ),
    )


# -- files -----------------------------------------------------------------------------------------


def read_headers(paths: Iterable[Path]) -> Iterator[Held]:
    """Read the headers of files, one after the other; pydicom is silent until the last one was taken."""
    with quietly():
        for path in paths:
            yield _held(path)


def _held(path: Path) -> Held:
    header = _read(path)
    if header is None or isinstance(header, str):
        return header
    if "DirectoryRecordSequence" in header.values:
        return None  # a DICOMDIR lists the files that are found anyway
    if (reader := _label_reader(header)) is not None:
        return LabelObject(path=path, reader=reader)
    return _why_no_image(header) or frames_of(path, header)


def _read(path: Path) -> Header | str | None:
    """Return a file's header, why it cannot be read, or None where it is no DICOM."""
    try:
        if not begins_as_dicom(path):
            return None
    except OSError as error:
        if path.is_symlink() and isinstance(error, FileNotFoundError):
            return "a link to a file that is not there: fetch the file (git-annex: `git annex get`)"
        return f"cannot be opened ({error.strerror or type(error).__name__})"
    try:
        header = read_header(path)
    except DecompressionBombError as error:
        return str(error)
    except (*DAMAGE, MemoryError):  # a length of gigabytes, where a byte was turned over
        return _why_unreadable(path)
    known = ("SOPClassUID", "Rows", "DirectoryRecordSequence")
    if any(keyword in header.values for keyword in known):
        return header
    whole = header.syntax and header.values
    return "no image, and its header does not say what else it is" if whole else _why_unreadable(path)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Group:
    """What the frames of one series share."""

    series_uid: str
    study_uid: str = ""
    patient_id: str = ""
    folder: str = ""
    """Only where the series has no UID; then it, the date, the number and the frame of reference stand for that."""
    date: str = ""
    number: str = ""
    frame_of_reference: str = ""


def _group_of(frame: FrameHeader) -> _Group:
    group = _Group(series_uid=frame.series_uid, study_uid=frame.study_uid, patient_id=frame.patient_id)
    if frame.series_uid:
        return group
    folder = str(frame.path.parent.resolve())
    return replace(
        group,
        folder=folder,
        date=frame.study_date,
        number=str(frame.series_number),
        frame_of_reference=frame.frame_of_reference_uid,
    )


def _names(groups: Iterable[_Group]) -> Mapping[_Group, str]:
    """Name each group by all that tells it from others, whether or not others are there.

    Careless anonymisers write one SeriesInstanceUID into the files of many patients, who need not lie in one folder.
    """
    return {
        group: "\n".join(
            [group.series_uid, group.study_uid, group.patient_id]
            + ([] if group.series_uid else [group.folder, group.date, group.number, group.frame_of_reference])
        )
        for group in groups
    }


# Made from scans, and no scans themselves, though some have rows and columns.
_NO_SCANS = {
    "RTDOSE": "a dose distribution (RTDOSE), no scan",
    "RTPLAN": "a treatment plan (RTPLAN), no scan",
    "REG": "a registration (REG), no scan",
    "SR": "a report (SR), no scan",
    "PR": "a presentation state (PR), no scan",
    "KO": "a list of key images (KO), no scan",
    "DOC": "a document (DOC), no scan",
    "PLAN": "a plan, no scan",
}


def _label_reader(header: Header) -> str | None:
    sop_class = header.text("SOPClassUID")
    if sop_class == _SURFACES:
        return None
    return _LABEL_OBJECTS.get(header.modality) or _LABEL_OBJECTS.get(sop_class)


def _why_no_image(header: Header) -> str | None:
    """Say why a file holds no scan, by its kind; None for an image."""
    if (reason := _NO_SCANS.get(header.modality)) is not None:
        return reason
    if header.text("SOPClassUID") == _SURFACES:
        return "a segmentation by surfaces (meshes): export it as voxels (DICOM-SEG, NIfTI, NRRD)"
    if "Rows" in header.values and "Columns" in header.values:
        return None
    sop_class = UID(header.text("SOPClassUID"))
    unknown = not header.modality and sop_class.name == sop_class
    if header.pixels is None and (unknown or "Image Storage" in sop_class.name):
        return "its header ends before the image: cut short in copying. Copy it again, and compare sizes"
    return f"no image (modality {header.modality or 'unknown'})"


def _why_unreadable(path: Path) -> str | None:
    """Say what is wrong with a file that looked like DICOM and is not; None where it probably never was."""
    try:
        with path.open("rb") as file:
            start = file.read(132)
    except OSError as error:
        return f"cannot be opened ({error.strerror or type(error).__name__})"
    if not start:
        return "an empty file"
    if start.startswith(LFS_POINTER):
        return "a Git LFS pointer, not the file itself: `git lfs pull` fetches it"
    if start[128:] != b"DICM" and path.suffix.lower() not in SUFFIXES:
        return None
    return "not readable as DICOM: damaged, or cut short in copying. Copy it again, and compare sizes"


# -- one series ------------------------------------------------------------------------------------


def _findings(base: str, frames: list[FrameHeader], choice: VolumeChoice) -> list[Finding]:
    """Split one series into what could be grids, and judge each."""
    kinds = _kinds_of_slice(frames)
    scans = [kind for kind in kinds if not _role(kind[0])]  # others are refused
    orientations = len(clusters([_scaled(kind[0].orientation) for kind in scans if kind[0].orientation is not None]))
    found = []
    if orientations >= _MANY_ORIENTATIONS and all(len(kind) < _FEW_SLICES for kind in scans):
        reason = (
            f"{sum(map(len, scans))} slices in {orientations} orientations: a rotating projection (MIP), planes "
            f"around an axis, or a localizer. They make no stack"
        )
        found.append(_refusal([frame for kind in scans for frame in kind], reason))
        kinds = [kind for kind in kinds if _role(kind[0])]
    stacks = []
    for members in kinds:
        for part, alike in _parts_of_complex(members).items():
            if part not in ("all", _MAGNITUDE):
                found.append(
                    _refusal(alike, f"{part} images beside the magnitude in one series: anatomy is in the latter")
                )
            elif orientations > 1 and len(alike) < _FEW_SLICES and not _role(alike[0]):
                reason = (
                    f"mixed orientations: one series holds {len(frames)} slices in {len(kinds)} orientations or sizes, "
                    f"and only {len(alike)} of them lie{'s' if len(alike) == 1 else ''} in this one: a localizer"
                )
                found.append(_refusal(alike, reason))
            else:
                judged = _judged(base, alike, choice)
                stacks += [alike[0]] * any(one.series is not None and one.series.affine is not None for one in judged)
                found += judged
    return found if len(stacks) < 2 else [_noted(one, _what_tells_apart(stacks)) for one in found]


def _what_tells_apart(stacks: Sequence[FrameHeader]) -> str:
    """Tell of the stacks into which a series falls, by the first slice of each."""
    differing = {
        "modality": len({one.modality for one in stacks}),
        "matrix": len({(one.rows, one.columns) for one in stacks}),
        "orientation": len(clusters([_scaled(one.orientation) for one in stacks])),
        "pixel spacing": len(clusters([_scaled_spacing(one.spacing_mm) for one in stacks])),
    }
    names = ", ".join(name for name, count in differing.items() if count > 1) or "kind of pixels"
    return f"one of {len(stacks)} stacks in one series, which differ in {names}"


def _noted(finding: Finding, note: str) -> Finding:
    series = finding.series
    return finding if series is None else replace(finding, series=replace(series, notes=(*series.notes, note)))


def _judged(base: str, frames: list[FrameHeader], choice: VolumeChoice) -> list[Finding]:
    """Return a series that makes one volume, the refusal of one that does not, or one volume a radiograph."""
    first = frames[0]
    if (reason := _what_it_is_not(frames)) is not None:
        return [_refusal(frames, reason)]
    lacking = _lacking_geometry(frames)
    if lacking is not None:
        if first.modality in _PROJECTIONS and all(frame.frames == 1 for frame in frames):
            return _pictures(base, frames)
        return [_refusal(frames, lacking)]
    try:
        volume = one_volume(frames, choice)
        slices = sorted(volume.frames, key=_place)  # so that rounding is that of one slice, whatever files are called
        stacked = stack([_slice_header(frame) for frame in slices])
    except UnreadableFile as error:
        return [_refusal(frames, str(error))]
    ordered = [slices[index] for index in stacked.order]
    name = _name_of_stack(base, ordered)
    if any(has_marks(rival, shared_marks(ordered)) for rival in volume.rivals):
        name += f"\n{_instance(ordered[0], _bearers([*ordered, *volume.rivals]))}"
    taken = _taken(name, ordered, stacked.affine, (*volume.notes, *stacked.notes), chosen=volume.chosen)
    return [replace(taken, paths=_paths(frames))]


def _pictures(base: str, frames: list[FrameHeader]) -> list[Finding]:
    """Return one volume a radiograph, copies left out."""
    kept, _ = without_copies(frames)
    copies: dict[FrameHeader, list[FrameHeader]] = defaultdict(list)
    for frame in set(frames) - set(kept):
        copies[without_place(frame)].append(frame)
    bearers = _bearers(kept)
    found = []
    for frame in kept:
        left_out = copies.pop(without_place(frame), [])
        name = f"{_name_of_stack(base, [frame])}\n{_instance(frame, bearers)}"
        taken = _taken(name, [frame], None, told_of_copies(len(left_out)))
        found.append(replace(taken, paths=_paths([frame, *left_out])))
    return found


def _place(frame: FrameHeader) -> tuple[float, ...]:
    return frame.position_mm or ()


_ROLES = {"LOCALIZER": "localizer", "SCOUT": "localizer", "MOSAIC": "mosaic", "SCREEN SAVE": "screen save"}


def _role(frame: FrameHeader) -> str:
    """Return what ImageType calls a slice that is no part of a scan; empty for one that may be."""
    return next((_ROLES[value] for value in frame.image_type if value in _ROLES), "")


def _what_it_is_not(frames: Sequence[FrameHeader]) -> str | None:
    """Say why a series is no scan whatever its slices' places; None where nothing speaks against it."""
    first = frames[0]
    role = _role(first)
    if role == "localizer":
        return f"a localizer (scout) of {len(frames)} slice(s)"
    if role == "mosaic":
        return (
            "a Siemens mosaic: the slices of a volume as tiles of one picture, and its private header says how. "
            "Unfold it first, e.g. `dcm2niix -z y FOLDER`"
        )
    captured = first.sop_class in _CAPTURES and _lacking_geometry(frames) is not None
    if captured or role == "screen save":
        return "secondary capture (a screen shot, a scanned page): no scan"
    if first.rows <= 0 or first.columns <= 0:
        return f"an image of {first.rows} x {first.columns} pixels"
    return next(filter(None, map(_unusual_pixels, frames)), None) or _faulty(frames)


def _unusual_pixels(frame: FrameHeader) -> str | None:
    if frame.photometric == "PALETTE COLOR":
        return (
            "painted by a table (PALETTE COLOR), as colour maps are: take the series of grey values that it was made "
            "from, or convert it to RGB"
        )
    if frame.samples not in (1, 3):
        return f"{frame.samples} samples a pixel; 1 (grey) or 3 (colour) are taken"
    taken = _GREY if frame.samples == 1 else _COLOUR
    if frame.photometric not in taken:
        kind = {"": "that is not stated", "?": "that DICOM does not define"}.get(frame.photometric, frame.photometric)
        return (
            f"pixels of {frame.samples} sample(s) and a kind (PhotometricInterpretation) {kind}; taken are "
            f"{', '.join(sorted(filter(None, taken)))}"
        )
    return None


_GREY = frozenset({"MONOCHROME1", "MONOCHROME2", ""})
_COLOUR = frozenset({"RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT"})


def _faulty(frames: Sequence[FrameHeader]) -> str | None:
    """Name the file whose pixels cannot be read, as far as headers tell; None where there is none."""
    faulty = {frame.path: frame.fault for frame in frames if frame.fault is not None}
    for path, fault in faulty.items():
        more = f" ({len(faulty) - 1} more of its files are like that)" if len(faulty) > 1 else ""
        return f"{shown_name(path)} {fault}{more}"
    return None


def _lacking_geometry(frames: Sequence[FrameHeader]) -> str | None:
    """Name what a slice lacks to have a place; None where all have one."""
    for frame in frames:
        lacking = [
            name
            for name, value in (
                ("ImagePositionPatient", frame.position_mm),
                ("ImageOrientationPatient", frame.orientation),
                ("PixelSpacing", frame.spacing_mm),
            )
            if value is None
        ]
        if lacking:
            loop = frame.frames > 1 and frame.modality in _PROJECTIONS
            alike = "Tomosyntheses, cine loops and other" if loop else "Screen shots, cine loops and some anonymised"
            return (
                f"{frame.told}: the header lacks {', '.join(lacking)} (or it is no usable number), so nobody knows "
                f"where the slice lies. {alike} exports are like that; export it again with geometry"
            )
    return None


def _kinds_of_slice(frames: Sequence[FrameHeader]) -> list[list[FrameHeader]]:
    """Group slices of one modality, role, matrix, orientation, spacing and colour, in the order of their first ones.

    Orientation and spacing are compared within tolerances: rounding to fixed decimals would tear series whose cosines
    sit on a border. Orientations that drift farther are one where the slices make one stack. A slice that lacks one of
    them goes with the others of its matrix (with most of them, where they are of several kinds): what it lacks is their
    trouble.
    """
    exact: dict[Hashable, list[FrameHeader]] = defaultdict(list)
    for frame in frames:
        inverted = frame.photometric == "MONOCHROME1"
        exact[frame.modality, _role(frame), frame.rows, frame.columns, frame.samples, inverted].append(frame)
    kinds: list[list[FrameHeader]] = []
    for alike in exact.values():
        whole = [frame for frame in alike if frame.orientation is not None and frame.spacing_mm is not None]
        groups = _grouped([_scaled(frame.orientation) + _scaled_spacing(frame.spacing_mm) for frame in whole])
        largest, *others = _rejoined([[whole[index] for index in group] for group in groups]) or [[]]
        lacking = [frame for frame in alike if frame.orientation is None or frame.spacing_mm is None]
        kinds += [largest + lacking, *others]
    places_of = {id(frame): place for place, frame in enumerate(frames)}
    return sorted(kinds, key=lambda kind: places_of[id(kind[0])])


def _grouped(vectors: Sequence[tuple[float, ...]]) -> list[list[int]]:
    """Return the `clusters` of vectors, the largest first: the same for any order of them.

    Groups grow around what most slices say, then around what is nearest to the middle.
    """
    said = Counter(vectors)
    if len(said) <= 1:
        return clusters(vectors)
    middle = np.median(np.array(vectors), axis=0)
    far = {vector: float(np.abs(np.array(vector) - middle).sum()) for vector in said}
    order = sorted(range(len(vectors)), key=lambda index: (-said[vectors[index]], far[vectors[index]], vectors[index]))
    groups = [sorted(order[index] for index in group) for group in clusters([vectors[index] for index in order])]
    return sorted(groups, key=len, reverse=True)  # stable: of two large ones, that of the more usual vector


def _rejoined(groups: list[list[FrameHeader]]) -> list[list[FrameHeader]]:
    """Join groups, the largest first, whose orientations differ by little more than the tolerance.

    Where together they make one stack; and where one of them is only a few slices, which nobody scans for themselves:
    then what is wrong with the whole is told.
    """
    joined: list[list[FrameHeader]] = []
    for group in groups:
        near = (one for one in joined if _are_near(one[0], group[0]))
        home = next((one for one in near if len(group) < _FEW_SLICES or _make_one_stack([*one, *group])), None)
        if home is None:
            joined.append(list(group))
        else:
            home.extend(group)
    return joined


def _are_near(one: FrameHeader, other: FrameHeader) -> bool:
    turns = [abs(a - b) for a, b in zip(one.orientation or (), other.orientation or (), strict=True)]
    spacings = zip(_scaled_spacing(one.spacing_mm), _scaled_spacing(other.spacing_mm), strict=True)
    return max(turns) <= NEAR_ORIENTATION and all(abs(a - b) <= 1 for a, b in spacings)


def _make_one_stack(frames: Sequence[FrameHeader]) -> bool:
    if any(frame.position_mm is None for frame in frames):
        return False
    try:
        stack([_slice_header(frame) for frame in frames])
    except UnreadableFile:
        return False
    return True


def _scaled(orientation: Sequence[float] | None) -> tuple[float, ...]:
    return tuple(cosine / ORIENTATION_TOLERANCE for cosine in orientation or ())


def _scaled_spacing(spacing_mm: Sequence[float] | None) -> tuple[float, ...]:
    return tuple(math.log(spacing) / _SPACING_TOLERANCE for spacing in spacing_mm or ())


_MAGNITUDE = "magnitude"


def _part_of_complex(frame: FrameHeader) -> str:
    further = set(frame.image_type[2:])
    return next((name for name, words in _PARTS_OF_COMPLEX.items() if further & words), _MAGNITUDE)


def _parts_of_complex(frames: list[FrameHeader]) -> dict[str, list[FrameHeader]]:
    """Tell phase, real and imaginary images from the magnitude, where a series mixes them."""
    parts: dict[str, list[FrameHeader]] = defaultdict(list)
    for frame in frames:
        parts[_part_of_complex(frame)].append(frame)
    return dict(parts) if len(parts) > 1 and _MAGNITUDE in parts else {"all": frames}


# -- what names a volume ---------------------------------------------------------------------------


def _name_of_stack(base: str, frames: Sequence[FrameHeader]) -> str:
    """Name a volume by its series, its grid in plane, and what all of its slices say of echo, weighting and time.

    Of the slices themselves nothing but what they share: neither a stray slice beside them, nor a file's name, nor the
    option by which they were chosen, nor a slice that is copied later gives the volume another name; and another stack,
    echo or moment of the series has another one, wherever it lies.
    """
    first = frames[0]
    values = [first.modality, f"{first.rows} {first.columns}"]
    if first.orientation is not None and first.spacing_mm is not None:
        # The middle one, rounded, survives the noise of headers.
        cosines = np.median([frame.orientation or () for frame in frames], axis=0)
        spacing_mm = np.median([frame.spacing_mm or () for frame in frames], axis=0)
        values += [" ".join(f"{round(float(cosine), 2) + 0.0:g}" for cosine in cosines)]  # + 0.0: no negative zero
        values += [" ".join(f"{float(one):.3g}" for one in spacing_mm)]
    values += [f"{first.samples} samples"] if first.samples != 1 else []
    values += ["inverted"] if first.photometric == "MONOCHROME1" else []
    parts = {_part_of_complex(frame) for frame in frames}
    values += parts if len(parts) == 1 and _MAGNITUDE not in parts else []
    values += [f"{name} {value:g}" for name, value in shared_marks(frames).items()]
    return "\n".join([base, *values])


def _bearers(frames: Iterable[Frame | FrameHeader]) -> Counter[tuple[str, int]]:
    """Count how many frames bear each SOPInstanceUID and number."""
    return Counter((frame.sop_uid, frame.index) for frame in frames)


def _instance(frame: Frame | FrameHeader, bearers: Mapping[tuple[str, int], int]) -> str:
    """Name a frame by its SOPInstanceUID; by its pixels, where it has none, or not for itself alone."""
    alone = frame.sop_uid and bearers[frame.sop_uid, frame.index] == 1
    return f"{frame.sop_uid if alone else pixel_digest(frame.path).hex()} {frame.index}"


# -- what becomes of it ----------------------------------------------------------------------------


def _without_scouts(findings: list[Finding], choice: VolumeChoice) -> list[Finding]:
    """Refuse stacks of too few slices: fewer than the user asks for, or than 3 where the study holds a volume."""
    largest: dict[str, int] = defaultdict(int)
    for finding in findings:
        if finding.series is not None:
            largest[_study(finding.series)] = max(largest[_study(finding.series)], len(finding.series.frames))
    judged = []
    for finding in findings:
        series = finding.series
        reason = None
        if series is not None and series.affine is not None:
            slices = len(series.frames)
            if choice.min_slices is not None and slices < choice.min_slices:
                reason = f"too few slices: {slices}, and --min-slices asks for {choice.min_slices}"
            elif choice.min_slices is None and slices < _FEW_SLICES <= largest[_study(series)]:
                reason = (
                    f"too few slices: {slices}, beside a series of {largest[_study(series)]} in the same study: a "
                    f"scout or a timing image. --min-slices {slices} takes it"
                )
        judged.append(finding if reason is None else replace(finding, series=None, reason=reason))
    return judged


def _study(series: Series) -> str:
    return series.study_uid or str(series.frames[0].path.parent)


def _slice_header(frame: FrameHeader) -> SliceHeader:
    x, y, z = frame.position_mm or (0.0, 0.0, 0.0)
    between_rows, between_columns = frame.spacing_mm or (1.0, 1.0)
    return SliceHeader(
        place=frame.told,
        position_mm=(x, y, z),
        orientation=frame.orientation or (),
        spacing_mm=(between_rows, between_columns),
        between_slices_mm=frame.between_slices_mm,
        matrix=(frame.rows, frame.columns),
    )


def _taken(
    uid: str,
    frames: Sequence[FrameHeader],
    affine: Matrix | None,
    notes: tuple[str, ...],
    *,
    chosen: tuple[tuple[str, int | float], ...] = (),
) -> Finding:
    """Return the plan for reading slices that are in order."""
    first = frames[0]
    inverted = first.photometric == "MONOCHROME1"
    told = [*notes, *_notes_on_values(frames)]
    if not first.series_uid:
        told.append(
            "its UIDs are blank: told from other series by folder, study date, series number and frame of reference"
        )
    parts = {_part_of_complex(frame) for frame in frames} - {_MAGNITUDE}
    if parts:
        told.append(f"{' and '.join(sorted(parts))} images, no magnitude: their values are no anatomy")
    if inverted:
        told.append("stored as MONOCHROME1 (high is dark): inverted for display")
    if first.samples > 1:
        told.append("colour: kept as three channels")
    if first.sop_class in _CAPTURES:
        told.append("secondary capture with geometry: taken as a scan")
    if any(frame.burned_in for frame in frames):
        told.append("BurnedInAnnotation is YES: text in the pixels may name the patient; look at them before sharing")
    if any(frame.head for frame in frames) and first.modality in ("CT", "MR", "PT"):
        told.append("it shows a head: a face can be reconstructed from it; deface before sharing pixels or slices")
    paddings = {frame.padding for frame in frames}
    stored_alike = len({(frame.allocated, frame.bits, frame.signed) for frame in frames}) == 1
    series = Series(
        frames=tuple(
            Frame(
                path=frame.path,
                index=frame.index,
                position_mm=frame.position_mm,
                slope=frame.slope,
                intercept=frame.intercept,
                offset=frame.offset if stored_alike else None,
                sop_uid=frame.sop_uid,
            )
            for frame in frames
        ),
        shape=(first.columns, first.rows, len(frames)),
        affine=affine,
        samples=first.samples,
        allocated=max(frame.allocated for frame in frames),
        bits=max(frame.bits for frame in frames),
        signed=any(frame.signed for frame in frames),
        table=any(frame.table for frame in frames),
        compressed=any(frame.compressed for frame in frames),
        padding=first.padding if len(paddings) == 1 else None,
        inverted=inverted,
        modality=first.modality or None,
        number=first.series_number,
        notes=tuple(told),
        chosen=chosen,
        uid=uid,
        patient_id=first.patient_id,
        series_uid=first.series_uid,
        frame_of_reference_uid=first.frame_of_reference_uid,
        study_uid=first.study_uid,
    )
    return _finding(frames, series=series, reason=None)


def _notes_on_values(frames: Sequence[FrameHeader]) -> list[str]:
    first = frames[0]
    notes = []
    units = {frame.rescale_type for frame in frames} - {"", "HU", "US"}
    if first.modality == "CT" and units:
        notes.append(f"its values are no Hounsfield units (RescaleType {', '.join(sorted(units))})")
    paddings = {frame.padding for frame in frames}
    scales = {(frame.slope, frame.intercept) for frame in frames}
    if paddings != {None} and first.samples == 1 and (len(paddings) > 1 or len(scales) > 1 or first.table):
        notes.append("pixel padding is not the same value in all slices: padded voxels count as measured")
    return notes


def _with_own_uids(findings: Iterable[Finding]) -> list[Finding]:
    """Tell apart stacks of one series whose names, rounded as they are, came out the same: by an instance of each."""
    findings = list(findings)
    names = Counter(finding.series.uid for finding in findings if finding.series is not None)
    alike = [one.series for one in findings if one.series is not None and names[one.series.uid] > 1]
    bearers = _bearers(series.frames[0] for series in alike)
    return [
        replace(one, series=replace(one.series, uid=f"{one.series.uid}\n{_instance(one.series.frames[0], bearers)}"))
        if one.series is not None and names[one.series.uid] > 1
        else one
        for one in findings
    ]


def _refusal(frames: Sequence[FrameHeader], reason: str) -> Finding:
    return _finding(frames, series=None, reason=reason)


def _finding(frames: Sequence[FrameHeader], *, series: Series | None, reason: str | None) -> Finding:
    first = frames[0]
    return Finding(
        paths=_paths(frames),
        modality=first.modality or "?",
        number=first.series_number,
        frames=len(frames),
        rows=first.rows,
        columns=first.columns,
        series=series,
        reason=reason,
    )


def _paths(frames: Iterable[FrameHeader]) -> tuple[Path, ...]:
    return tuple(dict.fromkeys(sorted(frame.path for frame in frames)))
