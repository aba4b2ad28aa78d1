"""Triage of a DICOM folder: which files make one volume each, and why the others do not. By headers, not by pixels.

Files are grouped by SeriesInstanceUID (with study and patient: some anonymisers write one UID for all) and, within, by
what else makes one grid: matrix, orientation, pixel spacing, colour. Each group becomes a `Finding`: a `Series`, which
is the plan for reading it, or the reason for which it is refused, with numbers. Where a position holds several slices
(echoes, time points, b-values) the user chooses the volume (`VolumeChoice`); nothing is chosen in silence. No name,
date or UID of a header enters a reason or a note; a reason may name a file.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections import Counter, defaultdict
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import pydicom
from pydicom.uid import UID

from ...store.errors import UnreadableFile
from .base import Matrix
from .dicom_headers import (
    DAMAGE,
    LFS_POINTER,
    SUFFIXES,
    FrameHeader,
    Header,
    begins_as_dicom,
    files_under,
    frames_of,
    quietly,
    read_header,
    shown_name,
)
from .slice_stack import ORIENTATION_TOLERANCE, SliceHeader, clusters, same_position_mm, stack

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Mapping, Sequence

__all__ = ["DicomFolder", "Finding", "Frame", "LabelObject", "RefusedFiles", "Series", "VolumeChoice", "triage"]

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
_LISTED = 12
_B_VALUE_TOLERANCE = 1.0  # s/mm2: scanners write 999.9998
_ECHO_DECIMALS = 2  # of milliseconds


@dataclass(frozen=True, kw_only=True, slots=True)
class VolumeChoice:
    """Which volume to take of a 4-D series, and how many slices make one."""

    time_index: int | None = None
    """The n-th of the volumes that are left, from 0."""
    b_value: float | None = None
    """s/mm2."""
    echo: int | None = None
    """The n-th echo time, from 1."""
    min_slices: int | None = None
    """Fewer are refused; None: fewer than 3 are, where the same study holds a larger series."""


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
    uid: str = field(repr=False)
    """What names this stack: SeriesInstanceUID, and what else tells it from others of one UID. For hashing only."""
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


def triage(folder: Path | Iterable[Path], choice: VolumeChoice | None = None) -> DicomFolder:
    """Sort the DICOM files under a folder into volumes, label objects and what is refused, from headers alone.

    Parameters
    ----------
    folder
        Searched with its subfolders; hidden files and what is not DICOM are skipped, whatever its ending. A single file
        is taken too, and so is a list of files.
    choice
        Which volume of a 4-D series; it is ignored for series that have only one.

    Returns
    -------
    DicomFolder
        A series without UID (anonymised away) is told by its folder, StudyDate and SeriesNumber, and a note says so.
    """
    choice = choice or VolumeChoice()
    groups: dict[_Group, list[FrameHeader]] = {}
    labels: list[LabelObject] = []
    refused: dict[tuple[Path, str], list[Path]] = defaultdict(list)
    with quietly():
        for path in files_under(_searched(folder)) if isinstance(folder, Path) else folder:
            header = _read(path)
            if isinstance(header, str):
                refused[path.parent, header].append(path)
            elif header is None or "DirectoryRecordSequence" in header.values:
                continue  # no DICOM; a DICOMDIR lists the files that are found anyway
            elif (reader := _label_reader(header)) is not None:
                labels.append(LabelObject(path=path, reader=reader))
            elif (reason := _why_no_image(header)) is not None:
                refused[path.parent, reason].append(path)
            else:
                for frame in frames_of(path, header):
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


def _searched(folder: Path) -> Path:
    """Return where to look: beside a DICOMDIR, which names what lies there."""
    return folder.parent if folder.name.upper() == "DICOMDIR" and folder.is_file() else folder


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
    """Only where the UID is blank; then it, the date and the number stand for it."""
    date: str = ""
    number: str = ""


def _group_of(frame: FrameHeader) -> _Group:
    if frame.series_uid:
        return _Group(series_uid=frame.series_uid, study_uid=frame.study_uid, patient_id=frame.patient_id)
    return _Group(
        series_uid="",
        folder=str(frame.path.parent.resolve()),
        date=frame.study_date,
        number=str(frame.series_number),
    )


def _names(groups: Iterable[_Group]) -> Mapping[_Group, str]:
    """Name each group by its SeriesInstanceUID, and by more only where several have the same."""
    bearers = Counter(group.series_uid for group in groups)
    return {group: _name(group, alone=bearers[group.series_uid] == 1) for group in groups}


def _name(group: _Group, *, alone: bool) -> str:
    if not group.series_uid:
        return "\n".join(["", group.folder, group.date, group.number])
    return group.series_uid if alone else "\n".join([group.series_uid, group.study_uid, group.patient_id])


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
    scans = [kind for kind in kinds if not _role(kind[0])]  # others are refused, and need no name
    several_orientations = len(scans) > 1 and len(clusters([_scaled(kind[0].orientation) for kind in scans])) > 1
    found = []
    for members in kinds:
        name = base if len(scans) <= 1 else f"{base}\n{_kind_name(members[0])}"
        for part, alike in _parts_of_complex(members).items():
            uid = name if part in ("all", "magnitude") else f"{name}\n{part}"
            if part not in ("all", "magnitude"):
                found.append(
                    _refusal(alike, f"{part} images beside the magnitude in one series: anatomy is in the latter")
                )
            elif several_orientations and len(alike) < _FEW_SLICES and not _role(alike[0]):
                reason = (
                    f"mixed orientations: one series holds {len(frames)} slices in {len(kinds)} orientations or sizes, "
                    f"and only {len(alike)} of them lie{'s' if len(alike) == 1 else ''} in this one: a localizer"
                )
                found.append(_refusal(alike, reason))
            else:
                found += _judged(uid, alike, choice)
    return found


def _judged(uid: str, frames: list[FrameHeader], choice: VolumeChoice) -> list[Finding]:
    """Return a series that makes one volume, the refusal of one that does not, or one volume a radiograph."""
    first = frames[0]
    if (reason := _what_it_is_not(frames)) is not None:
        return [_refusal(frames, reason)]
    lacking = _lacking_geometry(frames)
    if lacking is not None:
        if first.modality in _PROJECTIONS and all(frame.frames == 1 for frame in frames):
            return [
                _taken(f"{uid}\n{frame.sop_uid or frame.path.name}" if len(frames) > 1 else uid, [frame], None, ())
                for frame in frames
            ]
        return [_refusal(frames, lacking)]
    try:
        chosen, notes, tag = _one_volume(frames, choice)
        slices = [_slice_header(frame) for frame in chosen]
        stacked = stack(slices)
    except UnreadableFile as error:
        return [_refusal(frames, str(error))]
    ordered = [chosen[index] for index in stacked.order]
    return [replace(_taken(f"{uid}{tag}", ordered, stacked.affine, (*notes, *stacked.notes)), paths=_paths(frames))]


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
            return (
                f"{frame.told}: the header lacks {', '.join(lacking)} (or it is no usable number), so nobody knows "
                f"where the slice lies. Screen shots, cine loops and some anonymised exports are like that; export it "
                f"again with geometry"
            )
    return None


def _kinds_of_slice(frames: Sequence[FrameHeader]) -> list[list[FrameHeader]]:
    """Group slices of one role, matrix, orientation, spacing and colour, in the order of their first ones.

    Orientation and spacing are compared within tolerances: rounding to fixed decimals would tear series whose cosines
    sit on a border. A slice that lacks one of them goes with the others of its matrix: what it lacks is their trouble.
    """
    exact: dict[Hashable, list[FrameHeader]] = defaultdict(list)
    for frame in frames:
        inverted = frame.photometric == "MONOCHROME1"
        exact[_role(frame), frame.rows, frame.columns, frame.samples, inverted].append(frame)
    kinds: list[list[FrameHeader]] = []
    for alike in exact.values():
        whole = [frame for frame in alike if frame.orientation is not None and frame.spacing_mm is not None]
        places = clusters([_scaled(frame.orientation) + _scaled_spacing(frame.spacing_mm) for frame in whole])
        first, *others = [[whole[index] for index in group] for group in places] or [[]]
        lacking = [frame for frame in alike if frame.orientation is None or frame.spacing_mm is None]
        kinds += [first + lacking, *others]
    places_of = {id(frame): place for place, frame in enumerate(frames)}
    return sorted(kinds, key=lambda kind: places_of[id(kind[0])])


def _scaled(orientation: Sequence[float] | None) -> tuple[float, ...]:
    return tuple(cosine / ORIENTATION_TOLERANCE for cosine in orientation or ())


def _scaled_spacing(spacing_mm: Sequence[float] | None) -> tuple[float, ...]:
    return tuple(math.log(spacing) / _SPACING_TOLERANCE for spacing in spacing_mm or ())


def _rounded(values: Sequence[float] | None) -> tuple[float, ...]:
    """Round so that it survives rounding noise: two decimals, and no negative zero."""
    return tuple(round(value, 2) + 0.0 for value in values or ())


def _kind_name(frame: FrameHeader) -> str:
    values = (frame.rows, frame.columns, *_rounded(frame.orientation), *_rounded(frame.spacing_mm))
    colour = f" {frame.photometric}" if frame.photometric == "MONOCHROME1" or frame.samples != 1 else ""
    return " ".join([*(f"{value:g}" for value in values), *filter(None, [_role(frame)])]) + colour


def _parts_of_complex(frames: list[FrameHeader]) -> dict[str, list[FrameHeader]]:
    """Tell phase, real and imaginary images from the magnitude, where a series mixes them."""
    parts: dict[str, list[FrameHeader]] = defaultdict(list)
    for frame in frames:
        further = set(frame.image_type[2:])
        parts[next((name for name, words in _PARTS_OF_COMPLEX.items() if further & words), "magnitude")].append(frame)
    return dict(parts) if len(parts) > 1 and "magnitude" in parts else {"all": frames}


# -- several volumes in one series -----------------------------------------------------------------


def _one_volume(frames: list[FrameHeader], choice: VolumeChoice) -> tuple[list[FrameHeader], tuple[str, ...], str]:
    """Choose the slices of one volume.

    Returns
    -------
    list
        One slice a position.
    tuple of str
        What to tell of the choice.
    str
        What tells this volume from the others of the series, for its identity; empty for a 3-D series.

    Raises
    ------
    UnreadableFile
        Positions hold unlike numbers of slices, or several volumes and no choice; the choices are listed.
    """
    positions = _by_position(frames)
    counts = Counter(len(members) for members in positions)
    if set(counts) == {1}:
        return frames, (), ""
    frames, notes = _without_copies(frames)
    positions = _by_position(frames)
    if {len(members) for members in positions} == {1}:
        return frames, notes, ""
    copies = [(frame.sop_uid, frame.index) for frame in frames if frame.sop_uid]
    if len(copies) == len(frames) and 1 < len(set(copies)) < len(copies):
        message = (
            f"duplicate positions: {len(frames)} slices lie at {len(positions)} position(s), and some are unlike "
            f"copies of each other (one SOPInstanceUID, other pixels or another header): keep one of each"
        )
        raise UnreadableFile(message)
    if len(positions) == 1:
        message = (
            f"duplicate positions, not a volume: all {len(frames)} slices lie at one position{_what_differs(frames)}: "
            f"bolus timing, perfusion or a cine loop"
        )
        raise UnreadableFile(message)
    left, told, tag = frames, [], ""
    echoes = _echoes(frames)
    if choice.echo is not None and len(echoes) > 1:
        if not 1 <= choice.echo <= len(echoes):
            message = f"--echo {choice.echo}: there are {len(echoes)} echo times: {_echo_choices(echoes)}"
            raise UnreadableFile(message)
        wanted = echoes[choice.echo - 1]
        left = [frame for frame in left if _echoes([frame]) == [wanted]]
        told.append(f"echo {choice.echo} of {len(echoes)} ({wanted:g} ms)")
        tag += f"\necho {choice.echo}"
    b_values = _b_values(left)
    if choice.b_value is not None and len(b_values) > 1:
        near = [
            frame
            for frame in left
            if frame.times.b_value is not None and abs(frame.times.b_value - choice.b_value) <= _B_VALUE_TOLERANCE
        ]
        if not near:
            message = f"--b-value {choice.b_value:g}: the b-values of this series are {_listed(b_values)} s/mm2"
            raise UnreadableFile(message)
        left = near
        told.append(f"b-value {choice.b_value:g} s/mm2 of {_listed(b_values)}")
        tag += f"\nb {choice.b_value:g}"
    positions = _by_position(left)
    volumes = {len(members) for members in positions}
    if volumes != {1}:
        if len(volumes) > 1:
            usual, _ = Counter(len(members) for members in positions).most_common(1)[0]
            odd = next(members for members in positions if len(members) != usual)
            message = (
                f"duplicate positions: {len(positions)} positions hold between {min(volumes)} and {max(volumes)} "
                f"slices; {odd[0].told} lies where {len(odd)} do, most positions hold {usual}. Slices are missing, or "
                f"two scans are mixed{_what_differs(left)}"
            )
            raise UnreadableFile(message)
        (count,) = volumes
        if choice.time_index is None:
            raise UnreadableFile(_choices(left, count, len(positions)))
        if not 0 <= choice.time_index < count:
            message = f"--time-index {choice.time_index}: there are {count} volumes, 0 to {count - 1}"
            raise UnreadableFile(message)
        left = [sorted(members, key=_order_in_time)[choice.time_index] for members in positions]
        told.append(f"volume {choice.time_index} of {count}")
        tag += f"\nvolume {choice.time_index}"
        _require_one_weighting(left)
    return left, (*notes, f"4-D: {', '.join(told)} taken"), tag


def _echoes(frames: Iterable[FrameHeader]) -> list[float]:
    """Return the echo times, in ms, ascending."""
    return sorted({round(frame.times.echo_ms, _ECHO_DECIMALS) for frame in frames if frame.times.echo_ms is not None})


def _b_values(frames: Iterable[FrameHeader]) -> list[int]:
    """Return the b-values, in s/mm2, ascending."""
    return sorted({round(frame.times.b_value) for frame in frames if frame.times.b_value is not None})


def _require_one_weighting(frames: Sequence[FrameHeader]) -> None:
    """Refuse a volume whose slices are of several echoes or b-values: then positions do not hold the same ones."""
    echoes, b_values = _echoes(frames), _b_values(frames)
    one_b_value = not b_values or b_values[-1] - b_values[0] <= 2 * _B_VALUE_TOLERANCE
    for name, option, count in (("echo times", "--echo", len(echoes)), ("b-values", "--b-value", len(b_values))):
        if count > 1 and not (name == "b-values" and one_b_value):
            message = (
                f"4-D, and the slices of that volume have {count} {name}: slices are missing, or two scans are mixed. "
                f"Choose by {option} too"
            )
            raise UnreadableFile(message)


def _without_copies(frames: list[FrameHeader]) -> tuple[list[FrameHeader], tuple[str, ...]]:
    """Leave out frames that are there twice: one header, the same pixels."""
    alike: dict[FrameHeader, list[FrameHeader]] = defaultdict(list)
    for frame in frames:
        alike[replace(frame, path=Path(), offset=None)].append(frame)
    digests: dict[Path, bytes] = {}
    kept: dict[tuple[FrameHeader, bytes], FrameHeader] = {}
    for header, rivals in alike.items():
        for frame in rivals:
            if len(rivals) > 1 and frame.path not in digests:
                digests[frame.path] = _pixel_digest(frame.path)
            kept.setdefault((header, digests.get(frame.path, b"")), frame)
    first = set(kept.values())
    surplus = {frame.path for frame in frames if frame not in first}
    notes = (f"{len(surplus)} file(s) are copies of others and were left out",) if surplus else ()
    return [frame for frame in frames if frame in first], notes


def _pixel_digest(path: Path) -> bytes:
    """Return a hash of a file's pixels as stored; of what cannot be read, one that no other file has."""
    try:
        with quietly():
            pixels = pydicom.dcmread(path, force=True, specific_tags=["PixelData"]).PixelData
    except DAMAGE:
        pixels = os.fsencode(path)
    return hashlib.sha256(pixels).digest()


def _by_position(frames: Sequence[FrameHeader]) -> list[list[FrameHeader]]:
    """Group slices of one kind that lie at one place."""
    same_mm = same_position_mm(frames[0].spacing_mm or (1.0,))
    places = [tuple(x / same_mm for x in frame.position_mm or ()) for frame in frames]
    return [[frames[index] for index in group] for group in clusters(places)]


def _order_in_time(frame: FrameHeader) -> tuple[object, ...]:
    times = frame.times
    absent = -1.0
    return (
        frame.image_type,
        absent if times.echo_ms is None else times.echo_ms,
        absent if times.temporal_position is None else times.temporal_position,
        absent if times.b_value is None else times.b_value,
        absent if times.trigger_ms is None else times.trigger_ms,
        absent if times.acquisition is None else times.acquisition,
        times.clock,
        times.dimensions,
        absent if frame.number is None else frame.number,
        frame.index,
        frame.path,
    )


def _choices(frames: Sequence[FrameHeader], count: int, positions: int) -> str:
    """List what may be typed to choose one of several volumes."""
    echoes, b_values = _echoes(frames), _b_values(frames)
    choices = [f"--echo {_echo_choices(echoes)}"] if len(echoes) > 1 else []
    choices += [f"--b-value {_listed(b_values)}"] if len(b_values) > 1 else []
    choices.append(f"--time-index 0 to {count - 1}")
    return (
        f"4-D: {count} volumes of {positions} slices in one series{_what_differs(frames)}. Choose one: "
        f"{', or '.join(choices)}"
    )


def _echo_choices(echoes: Sequence[float]) -> str:
    return ", ".join(f"{number} ({echo:g} ms)" for number, echo in enumerate(echoes[:_LISTED], start=1))


def _listed(values: Sequence[int]) -> str:
    more = f", ... ({len(values)} in all)" if len(values) > _LISTED else ""
    return ", ".join(str(value) for value in values[:_LISTED]) + more


def _what_differs(frames: Sequence[FrameHeader]) -> str:
    """Name the header fields (not their values) that tell the volumes of a mixed series apart."""
    fields: dict[str, set[object]] = {
        "ImageType": {frame.image_type for frame in frames},
        "EchoTime": {frame.times.echo_ms for frame in frames},
        "b-value": {frame.times.b_value for frame in frames},
        "TemporalPosition": {frame.times.temporal_position for frame in frames},
        "TriggerTime": {frame.times.trigger_ms for frame in frames},
        "AcquisitionNumber": {frame.times.acquisition for frame in frames},
    }
    differing = [name for name, values in fields.items() if len(values) > 1]
    return f" (what differs: {', '.join(differing)})" if differing else ""


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
    )


def _taken(uid: str, frames: Sequence[FrameHeader], affine: Matrix | None, notes: tuple[str, ...]) -> Finding:
    """Return the plan for reading slices that are in order."""
    first = frames[0]
    inverted = first.photometric == "MONOCHROME1"
    told = [*notes, *_notes_on_values(frames)]
    if not first.series_uid:
        told.append("its UIDs are blank: told from other series by folder, study date and series number")
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
    """Tell apart the series whose names, rounded as they are, came out the same."""
    seen: Counter[str] = Counter()
    named = []
    for finding in findings:
        series = finding.series
        if series is not None:
            seen[series.uid] += 1
            if seen[series.uid] > 1:
                series = replace(series, uid=f"{series.uid}\n{seen[series.uid]}")
        named.append(replace(finding, series=series))
    return named


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
