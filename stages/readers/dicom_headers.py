"""DICOM headers: what is read of them, and nothing more. One file gives one header a frame.

Only the attributes listed here are ever looked at: geometry, rescaling, what tells the volumes of a mixed series apart,
and identifiers for hashing and for matching references. No name, date, institution, description or private text is
read, so none can reach a workspace, a message or a log. Of coded strings (Modality, PhotometricInterpretation) only the
terms that DICOM defines are kept: a careless tool may have put anything there. pydicom's own warnings quote header
values; they are silenced.
"""

from __future__ import annotations

import logging
import math
import os
import re
import stat
import struct
import warnings
import zlib
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import pydicom
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.filereader import read_dataset, read_preamble
from pydicom.multival import MultiValue
from pydicom.sequence import Sequence as DicomSequence
from pydicom.tag import BaseTag, Tag
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)
from pydicom.valuerep import VR
from pydicom.values import convert_value

from .folders import walk

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

__all__ = [
    "CODECS",
    "DAMAGE",
    "LFS_POINTER",
    "SUFFIXES",
    "DecompressionBombError",
    "FrameHeader",
    "FrameTimes",
    "Header",
    "PixelPlace",
    "begins_as_dicom",
    "files_under",
    "frames_of",
    "is_dicom",
    "numbers",
    "quietly",
    "read_header",
    "shown_name",
    "text",
    "whole",
]

#: What pydicom raises on damaged or foreign files, and its decoders on damaged or unknown pixel data.
DAMAGE = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    BytesLengthException,
    EOFError,
    InvalidDicomError,
    LookupError,
    NotImplementedError,
    OSError,
    RecursionError,
    RuntimeError,
    TypeError,
    ValueError,
    struct.error,
    zlib.error,
)

#: By transfer syntax: which of pydicom's decoders reads it. Never left to pydicom, which tries one after the other:
#: over a damaged stream GDCM ends the process (JPEG 2000, JPEG-LS), and pylibjpeg-rle raises what is no `Exception`.
CODECS: Mapping[str, str] = {
    JPEGBaseline8Bit: "pillow",
    JPEGExtended12Bit: "pillow",
    JPEGLossless: "gdcm",
    JPEGLosslessSV1: "gdcm",
    JPEGLSLossless: "pyjpegls",
    JPEGLSNearLossless: "pyjpegls",
    JPEG2000Lossless: "pylibjpeg",
    JPEG2000: "pylibjpeg",
    HTJ2KLossless: "pylibjpeg",
    HTJ2KLosslessRPCL: "pylibjpeg",
    HTJ2K: "pylibjpeg",
    RLELossless: "pydicom",
}
_UNCOMPRESSED = frozenset(
    {ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian}
)

# The allow-list. StudyDate only tells apart the series of files whose UIDs were blanked, times only order volumes,
# BodyPartExamined only whether to warn of a face: none of them leaves this folder.
_KEYWORDS = (
    "DirectoryRecordSequence",
    "SOPClassUID",
    "SOPInstanceUID",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "FrameOfReferenceUID",
    "StudyDate",
    "SeriesNumber",
    "PatientID",
    "Modality",
    "InstanceNumber",
    "ImageType",
    "BurnedInAnnotation",
    "BodyPartExamined",
    "AcquisitionNumber",
    "AcquisitionTime",
    "ContentTime",
    "TriggerTime",
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
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "PixelPaddingValue",
    "PixelPaddingRangeLimit",
    "RescaleSlope",
    "RescaleIntercept",
    "RescaleType",
    "ModalityLUTSequence",
    "DetectorInformationSequence",
    "SliceVector",
    "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence",
)
# By tag: its keyword, and its VR for files that leave that out. The sign of pixel padding follows from the pixels'.
_ALLOWED: Mapping[int, tuple[str, str]] = {
    Tag(keyword): (keyword, dictionary_VR(keyword).removesuffix(" or SS")) for keyword in _KEYWORDS
}

# b-values that were written before DICOM had an attribute for them, by private creator: the element itself, then the
# creator's name, which is only compared. GE's first number may carry a billion on top.
_PRIVATE_B_VALUES: Mapping[str, tuple[BaseTag, BaseTag]] = {
    "SIEMENS MR HEADER": (Tag(0x0019, 0x100C), Tag(0x0019, 0x0010)),
    "GEMS_PARM_01": (Tag(0x0043, 0x1039), Tag(0x0043, 0x0010)),
    "PHILIPS IMAGING DD 001": (Tag(0x2001, 0x1003), Tag(0x2001, 0x0010)),
}
_GE_OFFSET = 1e9
_PRIVATE = frozenset(tag for pair in _PRIVATE_B_VALUES.values() for tag in pair)
_READ: list[BaseTag | int] = [*_ALLOWED, *_PRIVATE]

SUFFIXES = (".dcm", ".ima", ".dicom", ".dic")  # files called so that are none are told of, not passed over
_PREAMBLE_BYTES = 128
LFS_POINTER = b"version https://git-lfs"
_VALUE_REPRESENTATIONS = frozenset(vr.value.encode() for vr in VR if len(vr.value) == 2)
# Of a first element without its VR: longer ones do not open a header.
_FIRST_ELEMENT_BYTES = 256

# What a deflated data set may inflate to, whatever its size in the file; beyond, so many times that. Slices shrink to a
# third or so, label maps to a hundredth, and what was made to fill the memory to a thousandth.
_INFLATED_BYTES = 256 << 20
_INFLATED_RATIO = 100
# What of it is kept to read the header; that of a multi-frame file takes some kilobytes a frame.
_INFLATED_HEADER_BYTES = 32 << 20
_BLOCK_BYTES = 1 << 20

# What a compressed frame takes at least: the tag and the length of its item.
_ITEM_BYTES = 8
# Beyond, a count of frames that no functional groups confirm is not believed.
_MOST_FRAMES = 1 << 16
# A kilometre, and 10 m a voxel: beyond, numbers are damage, and their squares overflow.
_FARTHEST_MM = 1e6
_WIDEST_MM = 1e4
_NARROWEST_MM = 1e-6
_LONGEST_DIRECTION = 10.0  # cosines; that they have unit length is checked where slices are stacked
_LARGEST_NUMBER = 1 << 31  # of an Integer String

# PS3.3 C.7.3.1.1.1, retired terms included.
_MODALITIES = frozenset(
    {
        "ANN", "AR", "AS", "ASMT", "AU", "BDUS", "BI", "BMD", "CD", "CF", "CFM", "CP", "CR", "CS", "CT",
        "CTPROTOCOL", "DD", "DF", "DG", "DM", "DMS", "DOC", "DS", "DX", "EC", "ECG", "EEG", "EMG", "EOG", "EPS",
        "ES", "FA", "FID", "FS", "GM", "HC", "HD", "IO", "IOL", "IVOCT", "IVUS", "KER", "KO", "LEN", "LP", "LS",
        "M3D", "MA", "MG", "MR", "MS", "NM", "OAM", "OCT", "OP", "OPM", "OPR", "OPT", "OPTBSV", "OPTENF", "OPV",
        "OSS", "OT", "PA", "PLAN", "POS", "PR", "PT", "PX", "REG", "RESP", "RF", "RG", "RTDOSE", "RTIMAGE",
        "RTINTENT", "RTPLAN", "RTRAD", "RTRECORD", "RTSEGANN", "RTSTRUCT", "RWV", "SEG", "SM", "SMR", "SR", "SRF",
        "ST", "STAIN", "TEXTUREMAP", "TG", "TH", "US", "VA", "VF", "XA", "XAPROTOCOL", "XC",
    }
)  # fmt: skip
# PS3.3 C.7.6.3.1.2, retired terms included.
_PHOTOMETRIC = frozenset(
    {
        "MONOCHROME1", "MONOCHROME2", "RGB", "HSV", "ARGB", "CMYK", "XYB", "YBR_FULL", "YBR_FULL_422",
        "YBR_PARTIAL_422", "YBR_PARTIAL_420", "YBR_ICT", "YBR_RCT",
        "PALETTE COLOR",
    }
)  # fmt: skip
# PS3.3 C.11.1.1.2: what rescaled values are.
_RESCALE_TYPES = frozenset({"OD", "HU", "US", "MGML", "Z_EFF", "ED", "EDW", "HU_MOD", "PCT"})
_HEAD = frozenset(
    {"HEAD", "BRAIN", "SKULL", "FACE", "HEADNECK", "ORBIT", "ORBITS", "SINUS", "SINUSES", "JAW", "EAR", "NOSE"}
)


@dataclass(frozen=True, kw_only=True, slots=True)
class PixelPlace:
    """Where in its file the value of the pixel data is; of a deflated data set, in what that inflates to."""

    keyword: str
    """PixelData, FloatPixelData or DoubleFloatPixelData."""
    start: int
    """Its first byte."""
    length: int | None
    """In bytes, as stated; None: undefined, as compressed pixels have it."""
    available: int
    """How many bytes there are from the start to the end."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Header:
    """What is kept of the header of one file."""

    values: Mapping[str, Any]
    """By keyword, of the allow-list; what could not be converted is left out."""
    syntax: str
    """TransferSyntaxUID; empty where the file does not say."""
    little_endian: bool
    pixels: PixelPlace | None
    """None where there are none."""

    def text(self, keyword: str) -> str:
        """Return an attribute as text, empty where it is absent."""
        return _text(self.values.get(keyword))

    def whole(self, keyword: str) -> int | None:
        """Return a whole number, or None."""
        return _whole(self.values.get(keyword))

    def numbers(self, keyword: str, count: int) -> tuple[float, ...] | None:
        """Return ``count`` finite numbers, or None."""
        return _numbers(self.values.get(keyword), count)

    def items(self, keyword: str) -> list[Dataset]:
        """Return the items of a sequence; none where it is absent."""
        value = self.values.get(keyword)
        return list(value) if isinstance(value, DicomSequence) else []

    @property
    def modality(self) -> str:
        """Modality, where it is a term that DICOM defines; else empty."""
        return _known(self.text("Modality"), _MODALITIES)


@dataclass(frozen=True, kw_only=True, slots=True)
class FrameTimes:
    """What tells the volumes of a 4-D series apart; None or empty where the header does not say."""

    echo_ms: float | None = None
    """EchoTime."""
    b_value: float | None = None
    """Diffusion weighting in s/mm2."""
    temporal_position: int | None = None
    acquisition: int | None = None
    trigger_ms: float | None = None
    """TriggerTime, since the R peak."""
    clock: str = field(default="", repr=False)
    """FrameAcquisitionDateTime, else AcquisitionTime, else ContentTime: digits that sort by time of day."""
    dimensions: tuple[int, ...] = ()
    """DimensionIndexValues of a multi-frame file: sorts the frames of one position."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FrameHeader:
    """One plane as its header describes it: a single-frame file, or one frame of a multi-frame one."""

    path: Path
    index: int
    """Which frame of the file, from 0."""
    frames: int
    """How many the file has."""
    modality: str
    """A term of DICOM's, or empty."""
    image_type: tuple[str, ...]
    rows: int
    columns: int
    samples: int
    photometric: str
    """A term of DICOM's; "?" where the header has something else, empty where it has nothing."""
    position_mm: tuple[float, ...] | None
    """ImagePositionPatient: the centre of the first voxel, LPS+."""
    orientation: tuple[float, ...] | None
    """ImageOrientationPatient: direction of growing column index, then of growing row index."""
    spacing_mm: tuple[float, ...] | None
    """PixelSpacing, positive: between rows, then between columns."""
    between_slices_mm: float | None
    """SpacingBetweenSlices, else SliceThickness; used where there is a single slice."""
    slope: float
    intercept: float
    rescale_type: str
    """What rescaled values are, as a term of DICOM's ("HU"), or empty."""
    compressed: bool
    """Whether a codec is needed for the pixels."""
    table: bool
    """Whether a lookup table (Modality LUT) takes the place of slope and intercept."""
    allocated: int
    """BitsAllocated; 0 where the header does not say."""
    bits: int
    """BitsStored."""
    signed: bool
    offset: int | None
    """Where the frame begins in its file, where it can be read as it lies: uncompressed, little-endian, one sample of 8
    or 16 bits; else None."""
    fault: str | None
    """Why the pixels cannot be read, as far as the header tells, as a sentence without a subject."""
    padding: tuple[int, int] | None
    """Stored values from PixelPaddingValue to PixelPaddingRangeLimit, in order."""
    times: FrameTimes
    number: int | None
    """InstanceNumber."""
    series_number: int | None
    burned_in: bool
    """BurnedInAnnotation is YES."""
    head: bool
    """BodyPartExamined names the head, brain, skull or face."""
    sop_class: str = field(repr=False)
    sop_uid: str = field(repr=False)
    study_uid: str = field(repr=False)
    series_uid: str = field(repr=False)
    frame_of_reference_uid: str = field(repr=False)
    patient_id: str = field(repr=False)
    study_date: str = field(repr=False)

    @property
    def told(self) -> str:
        """How to call the plane in a refusal: its file, and its instance number or which frame it is."""
        name = shown_name(self.path)
        if self.frames > 1:
            return f"frame {self.index + 1} of {name}"
        return name if self.number is None else f"{name} (instance {self.number})"


class DecompressionBombError(ValueError):
    """A deflated data set that is too large for its file; the message says so as a reason for refusing it."""


def shown_name(path: Path) -> str:
    """Return a file's name as a terminal can print it: bytes that are no UTF-8, and control characters, replaced."""
    name = os.fsencode(path.name).decode("utf-8", "replace")
    return "".join(letter if letter.isprintable() else "?" for letter in name)


# -- files -----------------------------------------------------------------------------------------


def is_dicom(path: Path) -> bool:
    """Tell whether a file is DICOM by its first bytes, or is called so; False where it cannot be opened."""
    try:
        return begins_as_dicom(path)
    except OSError:
        return False


def begins_as_dicom(path: Path) -> bool:
    """Tell whether a file is DICOM by its first bytes, or is called so.

    Without the preamble that Part 10 of the standard asks for, old exports begin with group 0008 (or 0002) at once. A
    Git LFS pointer without an ending stands for a file of which nobody knows what it is; it is taken for DICOM.

    Raises
    ------
    OSError
        It cannot be opened. What is no file (a folder, a pipe) is no DICOM.
    """
    if not stat.S_ISREG(path.stat().st_mode):  # opening a pipe would wait for ever
        return False
    if path.suffix.lower() in SUFFIXES:
        return True
    with path.open("rb") as file:
        start = file.read(_PREAMBLE_BYTES + 4)
    pointer = not path.suffix and start.startswith(LFS_POINTER)
    return start[_PREAMBLE_BYTES:] == b"DICM" or pointer or _begins_bare(start)


def _begins_bare(start: bytes) -> bool:
    """Tell whether bytes could be the first element of a data set without preamble."""
    if len(start) < _PREAMBLE_BYTES:
        return False
    group, element, vr, _ = struct.unpack_from("<HH2sH", start)
    if group == 0x0800:  # 0008, big-endian, where the VR is always explicit
        return vr in _VALUE_REPRESENTATIONS
    if group not in (0x0002, 0x0008):
        return False
    (length,) = struct.unpack_from("<I", start, 4)
    return vr in _VALUE_REPRESENTATIONS or (element <= 0x0018 and length <= _FIRST_ELEMENT_BYTES and length % 2 == 0)


def files_under(folder: Path) -> Iterator[Path]:
    """Yield the files under a folder in sorted order, hidden ones (``.DS_Store``, macOS ``._x``) left out.

    A file is yielded itself, and so is a folder that may not be listed. Links to folders are followed, see `walk`.
    """
    if not folder.is_dir():
        yield folder
        return
    closed: list[Path] = []
    for directory, _, names in walk(folder, onerror=lambda error: closed.append(Path(error.filename))):
        yield from (directory / name for name in names)
    yield from closed


def read_header(path: Path) -> Header:
    """Read the attributes of the allow-list; one whose value cannot be converted is as good as absent.

    Raises
    ------
    DecompressionBombError
        It is deflated, and inflates to more than is taken; no more than that was inflated.
    OSError, ValueError, ...
        One of `DAMAGE`, for what is not DICOM.
    """
    with quietly(), path.open("rb") as file:
        read_preamble(file, force=True)
        meta = read_dataset(file, is_implicit_VR=False, is_little_endian=True, stop_when=_follows_meta)
        if _text(_get(meta, "TransferSyntaxUID")) == DeflatedExplicitVRLittleEndian:
            return _deflated_header(file)
        file.seek(0)
        # force: without a preamble; is_dicom has looked at the first bytes
        dataset = pydicom.dcmread(file, stop_before_pixels=True, force=True, specific_tags=_READ)
        little_endian = dataset.original_encoding[1] is not False
        size = os.fstat(file.fileno()).st_size
        return Header(
            values=_converted(dataset),
            syntax=_text(dataset.file_meta.get("TransferSyntaxUID")),
            little_endian=little_endian,
            pixels=_pixel_place(file.read(12), file.tell(), size, little_endian=little_endian),
        )


def _follows_meta(tag: BaseTag, vr: str | None, length: int) -> bool:  # noqa: ARG001 (pydicom asks with all three)
    return tag >> 16 != 0x0002


def _is_pixels(tag: BaseTag, vr: str | None, length: int) -> bool:  # noqa: ARG001 (as above)
    return tag >> 16 == _PIXEL_GROUP and tag & 0xFFFF in _PIXEL_KEYWORDS


def _deflated_header(file: BinaryIO) -> Header:
    """Read the header of a deflated data set, which the file stands before (PS3.5 A.5); its pixels are only counted.

    pydicom would inflate all of it into memory, of whatever size.
    """
    stream, size = _inflated(file)
    dataset = read_dataset(
        stream, is_implicit_VR=False, is_little_endian=True, stop_when=_is_pixels, specific_tags=_READ
    )
    return Header(
        values=_converted(dataset),
        syntax=DeflatedExplicitVRLittleEndian,
        little_endian=True,
        pixels=_pixel_place(stream.read(12), stream.tell(), size, little_endian=True),
    )


def _inflated(file: BinaryIO) -> tuple[BytesIO, int]:
    """Inflate the rest of a file; return the first of it, for a header, and how many bytes all of it makes."""
    packed_bytes = os.fstat(file.fileno()).st_size - file.tell()
    limit = max(_INFLATED_BYTES, _INFLATED_RATIO * packed_bytes)
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    start, size = BytesIO(), 0
    while not inflater.eof:
        packed = inflater.unconsumed_tail or file.read(_BLOCK_BYTES)
        block = inflater.decompress(packed, _BLOCK_BYTES)
        if not packed and not block:
            message = "a deflated data set without an end"
            raise EOFError(message)
        start.write(block[: max(0, _INFLATED_HEADER_BYTES - size)])
        size += len(block)
        if size > limit:
            message = (
                f"deflated, and inflates to more than {_INFLATED_BYTES >> 20} MB and {_INFLATED_RATIO} times its size, "
                f"as a decompression bomb does. If you trust it, inflate it: `dcmconv +te IN OUT`"
            )
            raise DecompressionBombError(message)
    start.seek(0)
    return start, size


def _converted(dataset: Dataset) -> dict[str, Any]:
    """Return the values of the allow-list by keyword.

    pydicom's `Dataset` would convert them too, and take three times as long: that was most of the time of triage.
    """
    values: dict[str, Any] = {}
    private = False
    for tag, element in dataset.items():
        if tag not in _ALLOWED:
            private |= tag in _PRIVATE
            continue
        keyword, vr = _ALLOWED[tag]
        try:
            if isinstance(element, DataElement):
                values[keyword] = element.value
            else:
                stated = element.VR if element.VR not in (None, "UN") else vr
                values[keyword] = convert_value(stated, element, dataset.original_character_set)
        except DAMAGE:
            continue
    if private and "DiffusionBValue" not in values and (b_value := _private_b_value(dataset)) is not None:
        values["DiffusionBValue"] = b_value
    return values


_PIXEL_GROUP = 0x7FE0
_PIXEL_KEYWORDS = {0x0010: "PixelData", 0x0008: "FloatPixelData", 0x0009: "DoubleFloatPixelData"}
_UNDEFINED_LENGTH = 0xFFFFFFFF


def _pixel_place(start: bytes, end_of_start: int, size: int, *, little_endian: bool) -> PixelPlace | None:
    """Understand the beginning of the element at which reading stopped."""
    order = "<" if little_endian else ">"
    if len(start) < 12:
        return None
    group, element = struct.unpack_from(f"{order}HH", start)
    if group != _PIXEL_GROUP or element not in _PIXEL_KEYWORDS:
        return None
    # Whatever the transfer syntax says, for some writers mix them. As a length, each of these would be odd.
    explicit = start[4:6] in (b"OB", b"OW", b"UN", b"OF", b"OD")
    (length,) = struct.unpack_from(f"{order}I", start, 8 if explicit else 4)
    first = end_of_start - (0 if explicit else 4)
    return PixelPlace(
        keyword=_PIXEL_KEYWORDS[element],
        start=first,
        length=None if length == _UNDEFINED_LENGTH else length,
        available=max(0, size - first),
    )


def _private_b_value(dataset: Dataset) -> float | None:
    for creator, (tag, creator_tag) in _PRIVATE_B_VALUES.items():
        try:
            value = dataset[tag].value if tag in dataset else None
            stated = _text(dataset[creator_tag].value).upper() if creator_tag in dataset else ""
        except DAMAGE:
            continue
        if stated not in ("", creator):  # another vendor's element of this number
            continue
        if isinstance(value, bytes):  # an unknown private element of an implicit file
            value = value.decode("ascii", "ignore").strip("\0 ").split("\\")
        first = value[0] if isinstance(value, MultiValue | list | tuple) and len(value) else value
        found = _numbers(first, 1)
        if found is not None and found[0] >= 0:
            return found[0] % _GE_OFFSET
    return None


# -- frames ----------------------------------------------------------------------------------------


def frames_of(path: Path, header: Header) -> list[FrameHeader]:
    """Return the planes of a file, one a frame; of one with a fault that the header tells of the first alone.

    Of a multi-frame object (PS3.3 C.7.6.16) an attribute is taken from the frame's own functional groups, else from the
    shared ones, else from the header itself, as some vendors leave shared groups empty. The slices of a reconstructed
    nuclear medicine object (C.8.4.15) follow the first one at SpacingBetweenSlices, whose sign counts.
    """
    count = max(1, header.whole("NumberOfFrames") or 1)
    shared = next(iter(header.items("SharedFunctionalGroupsSequence")), None)
    own = header.items("PerFrameFunctionalGroupsSequence")
    if len(own) != count:
        own = []  # torn: then nobody knows which group is which frame's
    claimed, count = count, count if own else min(count, _MOST_FRAMES)
    root = _root(path, header, count)
    if claimed > count:
        root = replace(root, fault=f"has {claimed} frames, it says, and describes none of them")
    size = _frame_bytes(root)
    if root.fault is not None or size == 0:  # frames that are not there would take memory too
        count = 1
    frames = [root] if count == 1 else [replace(root, index=index) for index in range(count)]
    if root.offset is not None and count > 1:
        frames = [replace(frame, offset=root.offset + frame.index * size) for frame in frames]
    if own or shared is not None:
        return [_with_groups(frame, own[frame.index] if own else None, shared) for frame in frames]
    return _nuclear(header, frames) if count > 1 else frames


def _root(path: Path, header: Header, count: int) -> FrameHeader:
    """Describe the first frame by what stands at the top level."""
    samples = header.whole("SamplesPerPixel") or 1
    allocated = header.whole("BitsAllocated") or 0
    bits = header.whole("BitsStored") or allocated or 16
    signed = header.whole("PixelRepresentation") == 1
    photometric = header.text("PhotometricInterpretation").upper()
    distances = (_distance(header.numbers(keyword, 1)) for keyword in _DISTANCES)
    body = set(re.split(r"[^A-Z]+", header.text("BodyPartExamined").upper()))
    root = FrameHeader(
        path=path,
        index=0,
        frames=count,
        modality=header.modality,
        image_type=_texts(header.values.get("ImageType")),
        rows=header.whole("Rows") or 0,
        columns=header.whole("Columns") or 0,
        samples=samples,
        photometric=_known(photometric, _PHOTOMETRIC) or ("?" if photometric else ""),
        position_mm=_position(header.numbers("ImagePositionPatient", 3)),
        orientation=_directions(header.numbers("ImageOrientationPatient", 6)),
        spacing_mm=_spacing(header.numbers("PixelSpacing", 2)),
        between_slices_mm=next(filter(None, distances), None),
        slope=_slope(header.numbers("RescaleSlope", 1)),
        intercept=_first(header.numbers("RescaleIntercept", 1)) or 0.0,
        rescale_type=_known(header.text("RescaleType").upper(), _RESCALE_TYPES),
        compressed=bool(header.syntax) and header.syntax not in _UNCOMPRESSED,
        table=len(header.items("ModalityLUTSequence")) > 0,
        allocated=allocated,
        bits=bits,
        signed=signed,
        offset=None,
        fault=None,
        padding=_padding(header, allocated, signed=signed),
        times=FrameTimes(
            echo_ms=_first(header.numbers("EchoTime", 1)),
            b_value=_first(header.numbers("DiffusionBValue", 1)),
            temporal_position=header.whole("TemporalPositionIdentifier"),
            acquisition=header.whole("AcquisitionNumber"),
            trigger_ms=_first(header.numbers("TriggerTime", 1)),
            clock=header.text("AcquisitionTime") or header.text("ContentTime"),
        ),
        number=header.whole("InstanceNumber"),
        series_number=header.whole("SeriesNumber"),
        burned_in=header.text("BurnedInAnnotation").upper() == "YES",
        head=bool(body & _HEAD),
        sop_class=header.text("SOPClassUID"),
        sop_uid=header.text("SOPInstanceUID"),
        study_uid=header.text("StudyInstanceUID"),
        series_uid=header.text("SeriesInstanceUID"),
        frame_of_reference_uid=header.text("FrameOfReferenceUID"),
        patient_id=header.text("PatientID"),
        study_date=header.text("StudyDate"),
    )
    fault = _fault(root, header)
    return replace(root, fault=fault, offset=None if fault else _offset(root, header))


def _frame_bytes(frame: FrameHeader) -> int:
    """Return how many bytes a frame takes uncompressed, rounded up (bits of several frames share a byte)."""
    colour = frame.samples * frame.rows * frame.columns
    if frame.photometric == "YBR_FULL_422":
        colour = colour * 2 // 3
    return math.ceil(colour * frame.allocated / 8)


def _fault(root: FrameHeader, header: Header) -> str | None:
    place = header.pixels
    if root.compressed:
        if header.syntax not in CODECS:
            name = UID(header.syntax).name
            known = (
                name if header.syntax.startswith("1.2.840.10008.1.2") and name != header.syntax else "an unknown one"
            )
            return f"is compressed in a way that no installed codec reads ({known}): `gdcmconv --raw IN OUT` may"
        if header.syntax == JPEGExtended12Bit and root.bits > 8:
            return "is a JPEG of 12 bits, which no installed codec reads: `gdcmconv --raw IN OUT` may"
        if place is None or not place.available:
            return "has no pixels: it was cut short, or a header alone was exported. Copy it again"
        if place.available < root.frames * _ITEM_BYTES:
            return f"is cut short: {place.available} bytes of pixels are there, for {root.frames} frames. Copy it again"
        return _unusual_bits(header) if header.syntax == RLELossless else None
    if place is None:
        return "has no pixels: it was cut short, or a header alone was exported. Copy it again"
    if place.keyword == "PixelData" and (not root.allocated or header.whole("PixelRepresentation") is None):
        return "does not say how its pixels are stored (BitsAllocated, PixelRepresentation). Export it again"
    if place.length is None:
        return "is compressed, but its header (TransferSyntaxUID) does not say so. Export it again"
    needed = root.frames * root.samples * root.rows * root.columns * root.allocated / 8
    if root.photometric == "YBR_FULL_422":
        needed *= 2 / 3
    there = min(place.length, place.available)
    if there < math.floor(needed):
        return f"is cut short: {there} of {math.ceil(needed)} bytes of pixels are there. Copy it again"
    return _unusual_bits(header) if place.keyword == "PixelData" else None


def _unusual_bits(header: Header) -> str | None:
    """Say that values do not lie in the lowest bits, as old scanners had it (PS3.5 D) and no decoder minds."""
    stored, high = header.whole("BitsStored"), header.whole("HighBit")
    if stored is None or high is None or high == stored - 1:
        return None
    return (
        f"has values of {stored} bits (BitsStored) that end at bit {high} (HighBit); only such as end at bit "
        f"{stored - 1} are read. Export it again"
    )


def _offset(root: FrameHeader, header: Header) -> int | None:
    place = header.pixels
    plain = (
        not root.compressed
        and header.syntax != DeflatedExplicitVRLittleEndian
        and header.little_endian
        and root.samples == 1
        and root.allocated in (8, 16)
        and 0 < root.bits <= root.allocated
    )
    return place.start if plain and place is not None and place.keyword == "PixelData" else None


def _with_groups(frame: FrameHeader, own: Dataset | None, shared: Dataset | None) -> FrameHeader:
    """Put what a frame's functional groups say in the place of what the top level says."""

    def group(name: str) -> Dataset | None:
        for holder in (own, shared):
            items = [] if holder is None else _items(holder, name)
            if items and len(items[0]):
                return items[0]
        return None

    def of(item: Dataset | None, name: str, count: int = 1) -> tuple[float, ...] | None:
        return None if item is None else numbers(item, name, count)

    content, measures, rescale = (
        group(name) for name in ("FrameContentSequence", "PixelMeasuresSequence", "PixelValueTransformationSequence")
    )
    frame_type = next((found for found in map(group, _FRAME_TYPES) if found is not None), None)
    image_type = frame.image_type
    if frame_type is not None:
        image_type = _texts(_get(frame_type, "FrameType")) or image_type
        # Phase, real and imaginary parts are told here, whatever the third value of FrameType is.
        image_type += _texts(_get(frame_type, "ComplexImageComponent"))
    distances = (_distance(of(measures, keyword)) for keyword in _DISTANCES)
    slope, intercept = of(rescale, "RescaleSlope"), of(rescale, "RescaleIntercept")
    return replace(
        frame,
        image_type=image_type,
        position_mm=_position(of(group("PlanePositionSequence"), "ImagePositionPatient", 3)) or frame.position_mm,
        orientation=_directions(of(group("PlaneOrientationSequence"), "ImageOrientationPatient", 6))
        or frame.orientation,
        spacing_mm=_spacing(of(measures, "PixelSpacing", 2)) or frame.spacing_mm,
        between_slices_mm=next(filter(None, distances), frame.between_slices_mm),
        slope=frame.slope if slope is None else _slope(slope),
        intercept=frame.intercept if intercept is None else intercept[0],
        rescale_type=(_known(text(rescale, "RescaleType").upper(), _RESCALE_TYPES) if rescale is not None else "")
        or frame.rescale_type,
        times=_times(frame.times, group, content),
    )


_DISTANCES = ("SpacingBetweenSlices", "SliceThickness")
_FRAME_TYPES = ("MRImageFrameTypeSequence", "CTImageFrameTypeSequence", "PETFrameTypeSequence")


def _times(root: FrameTimes, group: Callable[[str], Dataset | None], content: Dataset | None) -> FrameTimes:
    def first(name: str, attribute: str, otherwise: float | None) -> float | None:
        item = group(name)
        found = None if item is None else numbers(item, attribute, 1)
        return otherwise if found is None else found[0]

    diffusion = group("MRDiffusionSequence")
    b_value = first("MRDiffusionSequence", "DiffusionBValue", root.b_value)
    if b_value is None and diffusion is not None and text(diffusion, "DiffusionDirectionality") == "NONE":
        b_value = 0.0  # the standard lets the number be left out then
    content = content or Dataset()
    position, acquisition = whole(content, "TemporalPositionIndex"), whole(content, "FrameAcquisitionNumber")
    return FrameTimes(
        echo_ms=first("MREchoSequence", "EffectiveEchoTime", root.echo_ms),
        b_value=b_value,
        temporal_position=root.temporal_position if position is None else position,
        acquisition=root.acquisition if acquisition is None else acquisition,
        trigger_ms=first("CardiacSynchronizationSequence", "NominalCardiacTriggerDelayTime", root.trigger_ms),
        clock=text(content, "FrameAcquisitionDateTime") or root.clock,
        dimensions=_wholes(_get(content, "DimensionIndexValues")),
    )


def _nuclear(header: Header, frames: list[FrameHeader]) -> list[FrameHeader]:
    """Place the slices of a reconstructed nuclear medicine object; other frames are left as they are."""
    detector = next(iter(header.items("DetectorInformationSequence")), None)
    numbered = _wholes(header.values.get("SliceVector"))
    between = header.numbers("SpacingBetweenSlices", 1)
    if detector is None or len(numbered) != len(frames) or between is None:
        return frames
    position = _position(numbers(detector, "ImagePositionPatient", 3)) or frames[0].position_mm
    orientation = _directions(numbers(detector, "ImageOrientationPatient", 6)) or frames[0].orientation
    if position is None or orientation is None:
        return frames
    step = np.cross(orientation[:3], orientation[3:]) * between[0]
    return [
        replace(
            frame,
            position_mm=_position(tuple(float(x) for x in np.array(position) + step * (number - 1))),
            orientation=orientation,
        )
        for frame, number in zip(frames, numbered, strict=True)
    ]


def _padding(header: Header, allocated: int, *, signed: bool) -> tuple[int, int] | None:
    """Return the stored values that are padding, with the sign that the pixels have.

    Some scanners write -2000 as the unsigned 63536 beside signed pixels.
    """
    value = header.whole("PixelPaddingValue")
    if value is None:
        return None
    limit = header.whole("PixelPaddingRangeLimit")
    span = 1 << (allocated or 16)
    ends = []
    for end in (value, value if limit is None else limit):
        if signed and end >= span // 2:
            ends.append(end - span)
        else:
            ends.append(end + span if not signed and end < 0 else end)
    return min(ends), max(ends)


# -- values ----------------------------------------------------------------------------------------


def _known(value: str, terms: frozenset[str]) -> str:
    return value if value in terms else ""


def _position(values: tuple[float, ...] | None) -> tuple[float, ...] | None:
    return values if values is not None and max(map(abs, values)) < _FARTHEST_MM else None


def _directions(values: tuple[float, ...] | None) -> tuple[float, ...] | None:
    return values if values is not None and max(map(abs, values)) < _LONGEST_DIRECTION else None


def _spacing(values: tuple[float, ...] | None) -> tuple[float, ...] | None:
    return values if values is not None and min(values) > _NARROWEST_MM and max(values) < _WIDEST_MM else None


def _distance(values: tuple[float, ...] | None) -> float | None:
    """Return a distance: signed on some scanners (DICOM allows it for nuclear medicine), zero where "not stated"."""
    size = abs(values[0]) if values is not None else 0.0
    return size if _NARROWEST_MM < size < _WIDEST_MM else None


def _slope(values: tuple[float, ...] | None) -> float:
    # A slope of zero would make every voxel equal: written by tools that meant "none".
    return (values[0] if values is not None else 1.0) or 1.0


def _first(values: tuple[float, ...] | None) -> float | None:
    return None if values is None else values[0]


def _get(dataset: Dataset, name: str) -> object:
    try:
        return dataset.get(name)
    except DAMAGE:
        return None


def _items(dataset: Dataset, name: str) -> list[Dataset]:
    value = _get(dataset, name)
    return list(value) if isinstance(value, DicomSequence) else []


def _numbers(value: object, count: int) -> tuple[float, ...] | None:
    values: list[Any] = list(value) if isinstance(value, MultiValue | list | tuple) else [value]
    if len(values) != count or isinstance(value, bytes):
        return None
    try:
        found = tuple(float(one) for one in values)
    except (TypeError, ValueError):
        return None
    return found if all(map(math.isfinite, found)) else None


def _whole(value: object) -> int | None:
    found = _numbers(value, 1)
    return None if found is None or abs(found[0]) > _LARGEST_NUMBER else int(found[0])


def _wholes(value: object) -> tuple[int, ...]:
    values = list(value) if isinstance(value, MultiValue | list | tuple) else [value]
    found = [_whole(one) for one in values]
    return tuple(one for one in found if one is not None) if None not in found else ()


def _text(value: object) -> str:
    # A damaged header may have a whole sequence, or bytes, where a word belongs.
    if value is None or isinstance(value, bytes | Dataset | DicomSequence):
        return ""
    return str(value).strip().strip("\0")


def _texts(value: object) -> tuple[str, ...]:
    if isinstance(value, DicomSequence):
        return ()
    values = value if isinstance(value, MultiValue | list | tuple) else [] if value is None else [value]
    return tuple(_text(one).upper() for one in values)


def numbers(dataset: Dataset, name: str, count: int) -> tuple[float, ...] | None:
    """Return ``count`` finite numbers of an attribute, or None."""
    return _numbers(_get(dataset, name), count)


def whole(dataset: Dataset, name: str) -> int | None:
    """Return a whole number of an attribute, or None."""
    return _whole(_get(dataset, name))


def text(dataset: Dataset, name: str) -> str:
    """Return an attribute as text, empty where it is absent."""
    return _text(_get(dataset, name))


@contextmanager
def quietly() -> Iterator[None]:
    """Keep pydicom's warnings from terminal and logs: they quote header values, which may be names."""
    settings, logger = pydicom.config.settings, logging.getLogger("pydicom")
    mode, level = settings.reading_validation_mode, logger.level
    if mode == pydicom.config.IGNORE and level == logging.CRITICAL:  # within another `quietly`
        yield
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        settings.reading_validation_mode = pydicom.config.IGNORE
        logger.setLevel(logging.CRITICAL)
        try:
            yield
        finally:
            settings.reading_validation_mode = mode
            logger.setLevel(level)
