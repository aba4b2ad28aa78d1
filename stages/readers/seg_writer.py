"""Masks as DICOM-SEG, for the archive that the series came from.

A DICOM Segmentation (PS3.3 A.51, C.8.20) has one binary frame a segment and plane, each with its own position, so
a tilted gantry or a missing slice changes nothing, and each refers to the source instance (and frame) that it was drawn
on. highdicom builds it; it copies the patient and the study from the source, because a segmentation that names another
patient, or none, cannot be filed. That makes it the one thing samkit writes that carries an identity: it goes where the
user says and never into a workspace.
"""

from __future__ import annotations

import colorsys
import hashlib
import logging
import os
from collections import defaultdict
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pydicom
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid
from pydicom.valuerep import DSfloat

from ...store.errors import InputError, UnreadableFile, UnusableLabel
from .dicom_headers import DAMAGE, FrameHeader, frames_of, numbers, quietly, read_header
from .labels import check_mask

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from .dicom_series import Frame, Series

__all__ = ["Algorithm", "seg_obstacle", "write_label_seg"]

_LONGEST_TEXT = 64  # of DICOM's LO, in characters
_SERIES_NUMBERS_AFTER = 1000  # scanners count their series from 1: a segmentation's number shall not be one of those
_UTF8 = "ISO_IR 192"
# What highdicom parses, and refuses where a date or sex is not as the standard has it. It is given none, and the
# source's own are put back afterwards as they stand.
_VERBATIM = ("PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "SpecificCharacterSet")
# What highdicom needs to be there, empty or not.
_REQUIRED = ("PatientID", "PatientName", "AccessionNumber", "StudyID", "ReferringPhysicianName")
# What the source image says of itself as a whole, and a plane says of itself or not at all.
_NOT_OF_A_PLANE = frozenset(
    {
        "FrameOfReferenceUID",
        "ImageCenterPointCoordinatesSequence",
        "ImageOrientationPatient",
        "ImageOrientationSlide",
        "ImagePositionPatient",
        "NumberOfFrames",
        "PerFrameFunctionalGroupsSequence",
        "PixelSpacing",
        "SharedFunctionalGroupsSequence",
        "SliceThickness",
        "SpacingBetweenSlices",
        "TotalPixelMatrixColumns",
        "TotalPixelMatrixRows",
    }
)
# The golden ratio's turns of the colour wheel: neighbouring segments differ, however many there are.
_TURN = 0.618034


@dataclass(frozen=True, kw_only=True, slots=True)
class Algorithm:
    """What made a mask, for whoever finds it in an archive."""

    version: str
    """samkit's."""
    parameters: Mapping[str, str] = field(default_factory=dict)
    """Run, head, encoder, ...: no text from a header, no path."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Source:
    """What a frame is called in a reference."""

    sop_class: str
    sop_uid: str
    frame_number: int | None
    """From 1; None for a single-frame instance."""
    frames: int
    """How many the instance has."""


def seg_obstacle(series: Series) -> str | None:
    """Return why no DICOM-SEG can refer to a series, or None where one can. Reads the header of its first file.

    Parameters
    ----------
    series
        The plan of its frames.

    Returns
    -------
    str or None
        A phrase that continues "its files ...", for a message that names the series and another format.

    Raises
    ------
    UnreadableFile
        The first file cannot be read any more.
    """
    if series.affine is None and len(series.frames) > 1:
        return "say nothing of where their frames lie"
    if series.affine is not None and not series.frame_of_reference_uid:
        return "have no FrameOfReferenceUID"
    if not series.series_uid:
        return "have no SeriesInstanceUID"
    if not all(frame.sop_uid for frame in series.frames):
        return "have no SOPInstanceUID"
    if not series.study_uid:
        return "have no StudyInstanceUID"
    if not _headers_of(series.frames[:1])[0].sop_class:
        return "have no SOPClassUID"
    return None


def write_label_seg(
    path: Path,
    values_ijk: npt.NDArray[np.unsignedinteger[Any]],
    series: Series,
    label_names: Mapping[int, str],
    *,
    algorithm: Algorithm,
) -> None:
    """Write a mask as a binary DICOM-SEG that refers to its source instances, whole or not at all.

    Parameters
    ----------
    path
        Replaced if it exists. The folder must exist.
    values_ijk
        Integers of shape (columns, rows, slices); slice k is drawn on ``series.frames[k]``.
    series
        The frames of the source. Their files are read for the patient and the study, and must be there.
    label_names
        The name of every label value but 0, background. Each is a segment, numbered from 1 in the order of the values,
        whether it occurs or not: that a structure was looked for and not found is a finding.
    algorithm
        What made the mask.

    Raises
    ------
    GeometryMismatch
        The mask has another shape than the series.
    InputError
        The series cannot be referred to, see `seg_obstacle`; or highdicom cannot describe it.
    UnreadableFile
        A file of the series is gone, damaged, or another one than it was.
    UnusableLabel
        The mask is not of an integer type, or has a value without a name.

    Notes
    -----
    Frames without a voxel are left out; of a mask without any, one empty plane is written for each segment, since an
    image has to have a frame. UIDs follow from the source's, the mask, the names and the algorithm: an equal mask that
    is sent twice is one instance in the archive. Codes for what a segment is are the general ones (tissue); the name
    is in its label.
    """
    _check(path, values_ijk, series, label_names)
    headers = _headers_of(series.frames)
    for frame, header in zip(series.frames, headers, strict=True):
        if header.sop_uid != frame.sop_uid:
            message = f"{frame.path}: not the file that it was when the series was found. Run the command again."
            raise UnreadableFile(message)
    with _quietly():
        written = _segmentation(values_ijk, series, headers, label_names, algorithm)
        part = path.with_name(f".{os.getpid()}.{path.name}")
        try:
            written.save_as(part, enforce_file_format=True)
            with part.open("rb") as file:
                os.fsync(file.fileno())
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)


def _check(path: Path, values: npt.NDArray[Any], series: Series, label_names: Mapping[int, str]) -> None:
    check_mask(path, values, series.shape)
    nameless = sorted({int(value) for value in np.unique(values)} - {0, *label_names})
    if nameless or not set(label_names) - {0}:
        message = (
            f"{path}: a segment of a DICOM-SEG has a name, and the mask's value(s) "
            f"{', '.join(map(str, nameless)) or 'other than 0'} have none. Name them in label_names."
        )
        raise UnusableLabel(message)
    obstacle = seg_obstacle(series)
    if obstacle is not None:
        message = (
            f"{path}: a DICOM-SEG refers to the images that it was drawn on, and these files {obstacle}. "
            f"Write another format: --format nifti"
        )
        raise InputError(message)


def _headers_of(frames: Sequence[Frame]) -> list[FrameHeader]:
    """Return the header of each frame; every file is read once."""
    by_file: dict[Path, list[FrameHeader]] = {}
    for frame in frames:
        if frame.path in by_file:
            continue
        try:
            by_file[frame.path] = frames_of(frame.path, read_header(frame.path))
        except DAMAGE as error:
            raise UnreadableFile(_gone(frame.path)) from error
    try:
        return [by_file[frame.path][frame.index] for frame in frames]
    except IndexError as error:
        raise UnreadableFile(_gone(frames[0].path)) from error


def _gone(path: Path) -> str:
    return f"{path}: gone, or not the file that it was when the series was found. Run the command again."


def _segmentation(
    values: npt.NDArray[np.unsignedinteger[Any]],
    series: Series,
    headers: Sequence[FrameHeader],
    label_names: Mapping[int, str],
    algorithm: Algorithm,
) -> Dataset:
    """Build the segmentation in memory."""
    from highdicom.content import PlanePositionSequence
    from highdicom.enum import CoordinateSystemNames
    from highdicom.seg import Segmentation

    names = {value: label_names[value] for value in sorted(label_names) if value != 0}
    identity = _identity(values, series, names, algorithm)
    patient = _patient_header(series.frames[0].path)
    original = {name: patient[name] for name in _VERBATIM if name in patient}
    planes = [_plane(patient, series, headers, number) for number in range(len(series.frames))]
    segments = np.zeros(int(max(values.max(initial=0), *names)) + 1, np.min_scalar_type(len(names)))
    segments[list(names)] = range(1, len(names) + 1)
    columns, rows, slices = series.shape
    pixels = np.empty((slices, rows, columns), segments.dtype)
    for plane, drawn in zip(pixels, np.moveaxis(values, 2, 0), strict=True):
        plane[:] = segments[drawn.T]
    positions = None
    empty = not pixels.any()
    if empty and series.affine is not None:
        pixels = pixels[:1]
        positions = [PlanePositionSequence(CoordinateSystemNames.PATIENT, planes[0].ImagePositionPatient)]
    try:
        written: Dataset = Segmentation(
            planes,
            pixels,
            segmentation_type="BINARY",
            segment_descriptions=_descriptions(list(names.values()), algorithm),
            series_instance_uid=generate_uid(entropy_srcs=[identity, "series"]),
            series_number=_SERIES_NUMBERS_AFTER + max(0, series.number or 0),
            sop_instance_uid=generate_uid(entropy_srcs=[identity, "instance"]),
            instance_number=1,
            manufacturer="samkit",
            manufacturer_model_name="samkit",
            software_versions=algorithm.version,
            device_serial_number="none",
            transfer_syntax_uid=ExplicitVRLittleEndian,
            plane_positions=positions,
            omit_empty_frames=not empty,
            content_label="SAMKIT",
            content_description=_text(_told(algorithm)),
            series_description=_text(f"samkit {algorithm.parameters.get('run', 'segmentation')}"),
        )
    except DAMAGE as error:
        # Without highdicom's own words: they may quote the header.
        message = (
            f"{series.frames[0].path}: highdicom cannot describe this series as the source of a DICOM-SEG "
            f"({type(error).__name__}); its header lacks something, or says it in a way of its own. "
            f"Write another format: --format nifti"
        )
        raise InputError(message) from None
    for element in original.values():
        written.add(element)
    if not all(name.isascii() for name in names.values()):
        written.SpecificCharacterSet = _UTF8
    dimensions = generate_uid(entropy_srcs=[identity, "dimensions"])
    for item in (*written.DimensionOrganizationSequence, *written.DimensionIndexSequence):
        item.DimensionOrganizationUID = dimensions
    _refer_to_frames(written, [_source(header) for header in headers], series.series_uid)
    return written


def _identity(
    values: npt.NDArray[np.unsignedinteger[Any]], series: Series, names: Mapping[int, str], algorithm: Algorithm
) -> str:
    """Return a hash of everything that makes this segmentation what it is."""
    digest = hashlib.blake2b(digest_size=32)
    frames = [(frame.sop_uid, frame.index) for frame in series.frames]
    told = (series.series_uid, frames, sorted(names.items()), algorithm.version, sorted(algorithm.parameters.items()))
    digest.update(repr(told).encode("utf-8", "surrogateescape"))
    for plane in values.T:  # slice by slice: no second copy of the whole
        digest.update(plane.astype(np.uint32).tobytes())
    return digest.hexdigest()


def _patient_header(path: Path) -> Dataset:
    """Read what the segmentation takes over: patient, study, equipment. Attributes that cannot be converted are not."""
    try:
        header = pydicom.dcmread(path, stop_before_pixels=True, force=True)
    except DAMAGE as error:
        raise UnreadableFile(_gone(path)) from error
    for tag in list(header.keys()):
        try:
            header[tag]  # pydicom converts a value when it is first asked for
        except DAMAGE:
            del header[tag]
    return header


def _plane(patient: Dataset, series: Series, headers: Sequence[FrameHeader], number: int) -> Dataset:
    """Describe one frame to highdicom as an image of its own.

    highdicom takes single-frame images of one orientation, to the last bit, or all the frames of one multi-frame file.
    A series may have noise in its orientations, be chosen from a 4-D file, or come in several multi-frame ones. So
    every frame is a plane with the orientation and spacing of the first, and `_refer_to_frames` puts right what it is
    called.
    """
    plane = Dataset()
    if number == 0:  # patient, study and equipment are taken from the first image
        for element in patient:
            if element.keyword not in _NOT_OF_A_PLANE and element.keyword not in _VERBATIM:
                plane.add(element)
        for name in (*_VERBATIM, *_REQUIRED):
            if name not in plane:
                setattr(plane, name, None)
    plane.SOPClassUID = SecondaryCaptureImageStorage
    plane.SOPInstanceUID = f"2.25.{number + 1}"
    plane.StudyInstanceUID = series.study_uid
    plane.SeriesInstanceUID = series.series_uid
    plane.Columns, plane.Rows, _ = series.shape
    if series.affine is not None:
        _place(plane, patient, series, headers, number)
    return plane


def _place(plane: Dataset, patient: Dataset, series: Series, headers: Sequence[FrameHeader], number: int) -> None:
    """Say where a plane lies: its own position, the orientation and spacing of the first."""
    plane.FrameOfReferenceUID = series.frame_of_reference_uid
    plane.ImagePositionPatient = _decimals(series.frames[number].position_mm or ())
    plane.ImageOrientationPatient = _decimals(headers[0].orientation or ())
    plane.PixelSpacing = _decimals(headers[0].spacing_mm or ())
    between = _between_slices_mm(series)
    if between is not None:
        plane.SpacingBetweenSlices = _decimals([between])[0]
    thickness = numbers(patient, "SliceThickness", 1) or (headers[0].between_slices_mm or between,)
    plane.SliceThickness = None if thickness[0] is None else _decimals([thickness[0]])[0]


def _between_slices_mm(series: Series) -> float | None:
    """Return the distance of neighbouring planes along their normal, which in a tilted stack is not the stack's."""
    if series.affine is None or len(series.frames) == 1:
        return None
    along_columns, along_rows, along_slices = np.asarray(series.affine, dtype=np.float64)[:3, :3].T
    normal = np.cross(along_columns, along_rows)
    return float(abs(along_slices @ normal) / np.linalg.norm(normal))


def _descriptions(names: Sequence[str], algorithm: Algorithm) -> list[Any]:
    """Return a description for each segment."""
    from highdicom.color import CIELabColor
    from highdicom.content import AlgorithmIdentificationSequence
    from highdicom.seg import SegmentDescription
    from pydicom.sr.codedict import codes

    made_by = AlgorithmIdentificationSequence(
        name="samkit",
        family=codes.DCM.ArtificialIntelligence,
        version=algorithm.version,
        parameters=dict(algorithm.parameters) or None,
    )
    return [
        SegmentDescription(
            segment_number=number,
            segment_label=_text(name),
            segmented_property_category=codes.SCT.Tissue,
            segmented_property_type=codes.SCT.Tissue,
            algorithm_type="AUTOMATIC",
            algorithm_identification=made_by,
            display_color=CIELabColor.from_rgb(
                *(255 * part for part in colorsys.hsv_to_rgb(number * _TURN % 1, 0.7, 0.95))
            ),
        )
        for number, name in enumerate(names, start=1)
    ]


def _source(header: FrameHeader) -> _Source:
    number = header.index + 1 if header.frames > 1 else None
    return _Source(sop_class=header.sop_class, sop_uid=header.sop_uid, frame_number=number, frames=header.frames)


def _refer_to_frames(written: Dataset, sources: Sequence[_Source], series_uid: str) -> None:
    """Replace the planes that highdicom was told of, in all references, by the instances and frames that they are."""
    # Each once: the frames of one plane, a segment each, share theirs.
    derived_from = {
        id(reference): reference
        for frame in written.PerFrameFunctionalGroupsSequence
        for derivation in frame.DerivationImageSequence
        for reference in derivation.SourceImageSequence
    }
    for reference in derived_from.values():
        source = sources[int(reference.ReferencedSOPInstanceUID.rpartition(".")[2]) - 1]
        reference.ReferencedSOPClassUID = source.sop_class
        reference.ReferencedSOPInstanceUID = source.sop_uid
        if source.frame_number is not None:
            reference.ReferencedFrameNumber = source.frame_number
    instances: dict[str, list[_Source]] = defaultdict(list)
    for source in sources:
        instances[source.sop_uid].append(source)
    written.SourceImageSequence = [_reference(frames, of_frames=True) for frames in instances.values()]
    series = Dataset()
    series.SeriesInstanceUID = series_uid
    series.ReferencedInstanceSequence = [_reference(frames, of_frames=False) for frames in instances.values()]
    written.ReferencedSeriesSequence = [series]


def _reference(frames: Sequence[_Source], *, of_frames: bool) -> Dataset:
    """Return a reference to an instance; ``of_frames``, to those of its frames that were used, where not all were."""
    reference = Dataset()
    reference.ReferencedSOPClassUID = frames[0].sop_class
    reference.ReferencedSOPInstanceUID = frames[0].sop_uid
    if of_frames and len(frames) < frames[0].frames:
        reference.ReferencedFrameNumber = [source.frame_number for source in frames]
    return reference


def _decimals(values: Iterable[float]) -> list[DSfloat]:
    """Return numbers as DICOM's decimal strings of up to 16 characters."""
    return [DSfloat(float(value), auto_format=True) for value in values]


def _text(text: str) -> str:
    """Return text that DICOM takes as LO: no backslash, which separates values, and 64 characters."""
    return text.replace("\\", "/")[:_LONGEST_TEXT]


def _told(algorithm: Algorithm) -> str:
    return ", ".join(("samkit", *(f"{name} {value}" for name, value in algorithm.parameters.items())))


@contextmanager
def _quietly() -> Iterator[None]:
    """Keep highdicom's warnings and logs from the terminal as well as pydicom's: they quote names."""
    logger = logging.getLogger("highdicom")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with quietly():
            yield
    finally:
        logger.setLevel(level)
