"""Plain single-frame DICOM series: which files belong together, in which order, and where they lie.

Conventions: index order (i, j, k) = (column, row, slice); slices are ordered by ImagePositionPatient along the normal
of ImageOrientationPatient, never by file name, InstanceNumber or SliceLocation. DICOM's millimetres are LPS+ (PS3.3
C.7.6.2.1.1); they leave here as RAS+. The distance between slices is measured between positions: SliceThickness is
not a distance. Values are rescaled slice by slice (each has its own slope on Philips MR) in float64, kept as float32.

What does not make one regular stack is refused with the numbers. Not taken yet, and refused as such: multi-frame
objects, colour, a tilted gantry. No name, date or UID of a header enters a message or a `Scan`.
"""

from __future__ import annotations

import logging
import os
import struct
import warnings
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pydicom
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.multival import MultiValue
from pydicom.pixels.processing import apply_modality_lut

from ...store.errors import UnreadableFile, UnusableVoxels
from .base import Affine, Scan
from .nifti import grid_of_affine
from .slice_stack import ORIENTATION_TOLERANCE, DoubledPositionsError, SliceHeader, stack

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy.typing as npt

__all__ = ["RefusedFiles", "Series", "find_series", "is_dicom", "read_series"]

# What pydicom raises on damaged or foreign files, and its decoders on damaged or unknown pixel data.
_DAMAGE = (
    AttributeError,
    EOFError,
    InvalidDicomError,
    KeyError,
    NotImplementedError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    struct.error,
)

# All that is read of a header before the pixels: nothing that describes a person leaves this module.
_HEADER_TAGS = [
    "DirectoryRecordSequence",
    "SOPClassUID",
    "SOPInstanceUID",
    "SeriesInstanceUID",
    "SeriesNumber",
    "PatientID",
    "Modality",
    "InstanceNumber",
    "ImageType",
    "AcquisitionNumber",
    "EchoTime",
    "TemporalPositionIdentifier",
    "DiffusionBValue",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelSpacing",
    "SliceThickness",
    "SpacingBetweenSlices",
    "Rows",
    "Columns",
    "NumberOfFrames",
    "SamplesPerPixel",
    "PhotometricInterpretation",
]
_TELLING_TAGS = ("EchoTime", "TemporalPositionIdentifier", "DiffusionBValue", "AcquisitionNumber", "ImageType")
_SUFFIXES_WITHOUT_PREAMBLE = (".dcm", ".ima")  # old exports leave the 128 bytes out; then only the name tells

# Headers round PixelSpacing differently within a series, at the sixth digit.
_SPACING_TOLERANCE_MM = 1e-4

_NO_SCANS = ("SEG", "RTDOSE", "REG")  # made from scans; SEG has rows and columns but belongs to a scan as its label


@dataclass(frozen=True, kw_only=True, slots=True)
class Series:
    """The files of one series that lie on one kind of slice (orientation, matrix, spacing)."""

    paths: tuple[Path, ...]
    """In the order of the folder."""
    modality: str | None
    number: int | None
    """SeriesNumber."""
    uid: str = field(repr=False)
    """SeriesInstanceUID, with the geometry where one UID holds several kinds of slice. For hashing only."""
    patient_id: str = field(repr=False)
    """PatientID, possibly empty. For hashing only."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RefusedFiles:
    """DICOM files that hold no image series."""

    paths: tuple[Path, ...]
    reason: str


def is_dicom(path: Path) -> bool:
    """Tell whether a file starts as DICOM Part 10 files do, or has no preamble but the name of one."""
    try:
        with path.open("rb") as file:
            start = file.read(132)
    except OSError:
        return False
    return start[128:] == b"DICM" or path.suffix.lower() in _SUFFIXES_WITHOUT_PREAMBLE


def find_series(folder: Path) -> tuple[list[Series], list[RefusedFiles]]:
    """Find the image series under a folder, from headers alone.

    Parameters
    ----------
    folder
        Searched with its subfolders; hidden files and what is not DICOM are skipped, whatever its ending. A single
        file is taken too.

    Returns
    -------
    list of Series
        Grouped by SeriesInstanceUID and, within, by orientation (within 0.001), matrix and pixel spacing: a
        three-plane localizer is three. Without a UID (anonymised away) folder and SeriesNumber stand in. By path.
    list of RefusedFiles
        DICOM files that cannot be read, or hold no image (contours, reports, presentation states).
    """
    groups: dict[tuple[str, ...], list[tuple[Path, Dataset]]] = {}
    imageless: dict[tuple[Path, str], list[Path]] = {}
    refused: list[RefusedFiles] = []
    for path in _files(folder):
        if not is_dicom(path):
            continue
        try:
            header = _read_header(path)
        except _DAMAGE:
            header = Dataset()
        if not any(name in header for name in ("SOPClassUID", "Rows", "DirectoryRecordSequence")):
            reason = "not readable as DICOM: damaged, or cut short in copying"
            refused.append(RefusedFiles(paths=(path,), reason=reason))
            continue
        if "Rows" not in header or "Columns" not in header or _text(header, "Modality") in _NO_SCANS:
            if "DirectoryRecordSequence" not in header:  # a DICOMDIR lists the files that are found anyway
                imageless.setdefault((path.parent, _text(header, "Modality") or "unknown"), []).append(path)
            continue
        uid = _text(header, "SeriesInstanceUID")
        key = (uid,) if uid else (str(path.parent.resolve()), _text(header, "SeriesNumber"))
        groups.setdefault(key, []).append((path, header))
    for (_, modality), paths in imageless.items():
        reason = f"DICOM, but no scan (modality {modality}): masks, contours, doses, reports are not taken yet"
        refused.append(RefusedFiles(paths=tuple(paths), reason=reason))
    series = [one for key, members in groups.items() for one in _split(key, members)]
    return sorted(series, key=lambda one: one.paths), sorted(refused, key=lambda one: one.paths)


def read_series(paths: Sequence[Path]) -> Scan:
    """Read the slices of one series as a volume.

    Parameters
    ----------
    paths
        The files, in any order; one is enough.

    Returns
    -------
    Scan
        ``values`` (column, row, slice) float32, rescaled (Hounsfield units for CT). MONOCHROME1, where high is dark,
        is inverted as (max + min) - value over the volume, and `Scan.notes` says so.

    Raises
    ------
    UnreadableFile
        A file is missing or damaged, or its geometry is missing; slices that are missing, doubled, tilted, or of
        several orientations or sizes. The message has the millimetres and the instance number.
    UnusableVoxels
        Multi-frame, or colour.
    """
    if not paths:
        message = "a DICOM series without files"
        raise UnreadableFile(message)
    headers = [_header_of(path) for path in paths]
    folder = paths[0].parent.name
    for path, header in zip(paths, headers, strict=True):
        _require_plain(path, header)
    _require_equal_matrix(folder, headers)
    slices = [_slice_header(path, header) for path, header in zip(paths, headers, strict=True)]
    try:
        stacked = stack(slices)
    except DoubledPositionsError as error:
        message = f"{folder}: {error}{_what_differs(headers)}"
        raise UnreadableFile(message) from error
    except UnreadableFile as error:
        message = f"{folder}: {error}"
        raise UnreadableFile(message) from error

    columns, rows = int(headers[0].Columns), int(headers[0].Rows)
    values = np.empty((columns, rows, len(paths)), dtype=np.float32, order="F")
    for k, index in enumerate(stacked.order):
        values[:, :, k] = _rescaled_pixels(paths[index]).T
    notes = stacked.notes
    if _inverted(folder, headers):
        np.subtract(values.max() + values.min(), values, out=values)
        notes += ("stored as MONOCHROME1 (high is dark): inverted as (max + min) - value",)
    affine: Affine = np.asarray(stacked.affine, dtype=np.float64)
    return Scan(
        values=values,
        affine=affine,
        modality=_text(headers[0], "Modality") or None,
        grid=grid_of_affine((columns, rows, len(paths)), affine),
        notes=notes,
    )


def _split(key: tuple[str, ...], members: list[tuple[Path, Dataset]]) -> list[Series]:
    """Split the files of one series by kind of slice."""
    kinds: list[tuple[tuple[Any, ...], list[tuple[Path, Dataset]]]] = []
    for path, header in members:
        kind = _kind_of_slice(header)
        for known, alike in kinds:
            if _same_kind(known, kind):
                alike.append((path, header))
                break
        else:
            kinds.append((kind, [(path, header)]))
    base = "\n".join(key)
    return [
        Series(
            paths=tuple(path for path, _ in alike),
            modality=_text(alike[0][1], "Modality") or None,
            number=_whole(alike[0][1], "SeriesNumber"),
            uid=base if len(kinds) == 1 else f"{base}\n{_kind_name(kind)}",
            patient_id=_text(alike[0][1], "PatientID"),
        )
        for kind, alike in kinds
    ]


def _kind_of_slice(header: Dataset) -> tuple[tuple[int | None, int | None], tuple[float, ...], tuple[float, ...]]:
    return (
        (_whole(header, "Rows"), _whole(header, "Columns")),
        _numbers(header, "ImageOrientationPatient", 6) or (),
        _numbers(header, "PixelSpacing", 2) or (),
    )


def _same_kind(one: tuple[Any, ...], other: tuple[Any, ...]) -> bool:
    """Compare within tolerances: rounding to fixed decimals would tear series whose cosines sit on a border."""
    return bool(
        one[0] == other[0]
        and len(one[1]) == len(other[1])
        and np.allclose(one[1], other[1], rtol=0, atol=ORIENTATION_TOLERANCE)
        and len(one[2]) == len(other[2])
        and np.allclose(one[2], other[2], rtol=0, atol=_SPACING_TOLERANCE_MM)
    )


def _kind_name(kind: tuple[Any, ...]) -> str:
    """Name a kind of slice so that it survives rounding noise: two decimals, and no negative zero."""
    return " ".join(f"{round(value or 0, 2) + 0.0:g}" for part in kind for value in part)


def _files(folder: Path) -> Iterator[Path]:
    """Yield the files under a folder in sorted order; hidden ones (``.DS_Store``, macOS ``._x``) left out."""
    if folder.is_file():
        yield folder
        return
    for directory, subfolders, names in os.walk(folder):
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        for name in sorted(names):
            if not name.startswith("."):
                yield Path(directory, name)


def _read_header(path: Path) -> Dataset:
    """Read the fields of `_HEADER_TAGS`; a field whose value cannot be converted is as good as absent."""
    with _quietly():
        # force: without a preamble; is_dicom has looked at the name
        header = pydicom.dcmread(path, stop_before_pixels=True, force=True, specific_tags=list(_HEADER_TAGS))
        for tag in list(header.keys()):
            try:
                header[tag]  # pydicom converts a value when it is first asked for
            except _DAMAGE:
                del header[tag]
    return header


def _header_of(path: Path) -> Dataset:
    try:
        return _read_header(path)
    except FileNotFoundError as error:
        message = f"{path}: there is no such file; it was there when the folder was listed."
        raise UnreadableFile(message) from error
    except _DAMAGE as error:
        message = f"{path}: not readable as DICOM: damaged, or cut short in copying. Copy the series again."
        raise UnreadableFile(message) from error


def _require_plain(path: Path, header: Dataset) -> None:
    frames = _whole(header, "NumberOfFrames") or 1
    if frames > 1:
        message = (
            f"{path.name}: a multi-frame object ({frames} frames); they are not taken yet. "
            f"Convert it first, e.g. `dcm2niix -z y FOLDER`."
        )
        raise UnusableVoxels(message)
    samples = _whole(header, "SamplesPerPixel") or 1
    photometric = _text(header, "PhotometricInterpretation")
    if samples != 1 or photometric not in {"MONOCHROME1", "MONOCHROME2", ""}:
        message = (
            f"{path.name}: a colour image ({photometric}, {samples} samples a pixel); grey images are taken. "
            f"Colour maps and screen shots are no scans: leave the series out."
        )
        raise UnusableVoxels(message)


def _require_equal_matrix(folder: str, headers: Sequence[Dataset]) -> None:
    matrices = sorted({(_whole(header, "Rows") or 0, _whole(header, "Columns") or 0) for header in headers})
    if len(matrices) > 1 or 0 in matrices[0]:
        listed = " and ".join(f"{rows} x {columns}" for rows, columns in matrices)
        message = (
            f"{folder}: the slices have several sizes (rows x columns): {listed}. Two scans are mixed in one series; "
            f"give each a folder of its own."
        )
        raise UnreadableFile(message)


def _slice_header(path: Path, header: Dataset) -> SliceHeader:
    position = _numbers(header, "ImagePositionPatient", 3)
    orientation = _numbers(header, "ImageOrientationPatient", 6)
    spacing = _numbers(header, "PixelSpacing", 2)
    if position is None or orientation is None or spacing is None or min(spacing) <= 0:
        lacking = [
            name
            for name, value in (
                ("ImagePositionPatient", position),
                ("ImageOrientationPatient", orientation),
                ("PixelSpacing", spacing),
            )
            if value is None or (name == "PixelSpacing" and min(value) <= 0)
        ]
        message = (
            f"{path.name}: the header lacks {', '.join(lacking)} (or it is no number), so nobody knows where the slice "
            f"lies. Radiographs, screen shots and some anonymised exports are like that; export it again with geometry."
        )
        raise UnreadableFile(message)
    number = _whole(header, "InstanceNumber")
    between = _numbers(header, "SpacingBetweenSlices", 1) or _numbers(header, "SliceThickness", 1)
    return SliceHeader(
        place=path.name if number is None else f"instance {number}",
        position_mm=(position[0], position[1], position[2]),
        orientation=orientation,
        spacing_mm=(spacing[0], spacing[1]),
        # Signed on some scanners (DICOM allows it for nuclear medicine); a size is meant. Zero means "not stated".
        between_slices_mm=abs(between[0]) if between and between[0] else None,
    )


def _rescaled_pixels(path: Path) -> npt.NDArray[np.float64]:
    """Return one slice (rows, columns) after its modality LUT: slope and intercept, or a table."""
    try:
        with _quietly():
            dataset = pydicom.dcmread(path, force=True)
            return np.asarray(apply_modality_lut(dataset.pixel_array, dataset), dtype=np.float64)
    except _DAMAGE as error:
        message = (
            f"{path.name}: the pixels cannot be decoded ({type(error).__name__}). The file is cut short, or compressed "
            f"in a way no installed codec reads: copy it again, or decompress it with `gdcmconv --raw IN OUT`."
        )
        raise UnreadableFile(message) from error


def _inverted(folder: str, headers: Sequence[Dataset]) -> bool:
    photometric = {_text(header, "PhotometricInterpretation") or "MONOCHROME2" for header in headers}
    if len(photometric) > 1:
        message = f"{folder}: MONOCHROME1 and MONOCHROME2 slices in one series; give each a folder of its own."
        raise UnreadableFile(message)
    return photometric == {"MONOCHROME1"}


def _what_differs(headers: Sequence[Dataset]) -> str:
    """Name the header fields (not their values) that tell the volumes of a mixed series apart."""
    instances = [_text(header, "SOPInstanceUID") for header in headers]
    if all(instances) and len(set(instances)) < len(instances):
        return " Some files are copies of each other (one SOPInstanceUID): remove the copies."
    differing = [tag for tag in _TELLING_TAGS if len({_text(header, tag) for header in headers}) > 1]
    return f" What differs between the slices: {', '.join(differing)}." if differing else ""


def _numbers(header: Dataset, name: str, count: int) -> tuple[float, ...] | None:
    """Return ``count`` finite numbers of a header field, or None."""
    value = header.get(name)
    values = list(value) if isinstance(value, MultiValue | list | tuple) else [value]
    try:
        numbers = tuple(float(one) for one in values)
    except (TypeError, ValueError):
        return None
    return numbers if len(numbers) == count and np.isfinite(numbers).all() else None


def _whole(header: Dataset, name: str) -> int | None:
    numbers = _numbers(header, name, 1)
    return None if numbers is None else int(numbers[0])


def _text(header: Dataset, name: str) -> str:
    value = header.get(name)
    return "" if value is None else str(value).strip()


@contextmanager
def _quietly() -> Iterator[None]:
    """Keep pydicom's warnings from terminal and logs: they quote header values, which may be names."""
    settings, logger = pydicom.config.settings, logging.getLogger("pydicom")
    mode, level = settings.reading_validation_mode, logger.level
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        settings.reading_validation_mode = pydicom.config.IGNORE
        logger.setLevel(logging.CRITICAL)
        try:
            yield
        finally:
            settings.reading_validation_mode = mode
            logger.setLevel(level)
