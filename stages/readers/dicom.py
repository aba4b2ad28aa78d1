"""The pixels of a DICOM series: from the plan that `dicom_series.triage` made to a `Scan`.

Conventions: index order (i, j, k) = (column, row, slice). Values are rescaled slice by slice, each with its own slope
(Philips MR, PET), in floating point; where all values are whole numbers that fit 16 bits they are kept as such.
Uncompressed frames are read as they lie. All others are decoded by pydicom, each transfer syntax by the one codec that
`dicom_headers.CODECS` names.
"""

from __future__ import annotations

import struct
from collections import defaultdict
from dataclasses import replace
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar

import numpy as np
import pydicom
from pydicom.encaps import encapsulate, generate_frames
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.processing import apply_modality_lut
from pydicom.pixels.utils import iter_pixels
from pydicom.uid import (
    UID,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000TransferSyntaxes,
    JPEGLSTransferSyntaxes,
    JPEGTransferSyntaxes,
)

from ...store.errors import UnreadableFile
from .base import Affine, Scan
from .dicom_headers import CODECS, DAMAGE, quietly, shown_name
from .nifti import grid_of_affine

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    import numpy.typing as npt
    from pydicom.dataset import Dataset

    from .dicom_series import Frame, Series

__all__ = ["decoded_planes", "read_series"]

_T = TypeVar("_T")

_PIXEL_DATA = b"\xe0\x7f\x10\x00"
_JPEG_2000 = b"\xff\x4f\xff\x51"  # begin of the stream, begin of its size
_MARKER = 0xFF
_SIGNED = frozenset({*JPEGLSTransferSyntaxes, *JPEG2000TransferSyntaxes})  # whose sign pydicom corrects
_STREAMS = frozenset({*JPEGTransferSyntaxes, *_SIGNED})
# What begins a frame: SOF0 to SOF15 without the three that are none (ITU T.81 B.1.1.3), and that of JPEG-LS.
_FRAMES = frozenset({*range(0xC0, 0xD0), 0xF7}) - {0xC4, 0xC8, 0xCC}
# JPEG streams end with this marker, in what pads the frame at most this far before its end.
_END_OF_IMAGE = b"\xff\xd9"
_PADDED_BYTES = 64
# A plane of one value takes less than this as JPEG 2000, for any codec.
_CONSTANT_BYTES = 1024
_CONSTANT_PIXELS_A_BYTE = 64


@quietly()
def read_series(series: Series) -> Scan:
    """Read the slices of one series as a volume.

    Parameters
    ----------
    series
        The plan, from `dicom_series.triage`.

    Returns
    -------
    Scan
        ``values`` (column, row, slice), for colour (column, row, slice, 3), rescaled (Hounsfield units for CT).
        MONOCHROME1, where high is dark, is left as it is, and `Scan.inverted` says so.

    Raises
    ------
    UnreadableFile
        A file is missing, damaged, compressed in a way no codec reads, or not as its header said.
    """
    padding = _padding(series)
    if padding is None:  # nobody is told of it, so it is stored like any other value
        series = replace(series, padding=None)
    columns, rows, slices = series.shape
    shape = (columns, rows, slices) if series.samples == 1 else (columns, rows, slices, series.samples)
    kind = _kind_of_values(series)
    try:
        values = np.empty(shape, dtype=kind, order="F")
    except (MemoryError, ValueError) as error:
        message = (
            f"{shown_name(series.frames[0].path)}: its header asks for {' x '.join(map(str, shape))} voxels, more than "
            f"the memory there is. If that is not its size it is damaged: copy the series again."
        )
        raise UnreadableFile(message) from error
    for k, stored in _stored_planes(series):
        frame = series.frames[k]
        if kind.kind in "iu" and not _holds(kind, stored, frame.intercept):
            kind = np.dtype(np.float32)
            values = values.astype(kind)
        values[:, :, k] = _rescaled(stored, frame, series, kind).swapaxes(0, 1)
    affine: Affine | None = None if series.affine is None else np.asarray(series.affine, dtype=np.float64)
    return Scan(
        values=values,
        affine=affine,
        modality=series.modality,
        grid=grid_of_affine(series.shape, affine),
        padding=padding,
        inverted=series.inverted,
        notes=series.notes,
    )


def missing_codecs() -> list[str]:
    """Return the names of the transfer syntaxes whose codec is not installed, or does not load."""
    return sorted(
        UID(syntax).name
        for syntax, plugin in CODECS.items()
        if plugin not in get_decoder(UID(syntax)).available_plugins
    )


def _rescaled(stored: npt.NDArray[Any], frame: Frame, series: Series, kind: np.dtype[Any]) -> npt.NDArray[Any]:
    if series.samples > 1 or series.table or (frame.slope, frame.intercept) == (1.0, 0.0):
        return stored
    if kind.kind in "iu":  # whole numbers in a type that holds them: no detour by floating point
        shifted: npt.NDArray[Any] = stored.astype(kind) + kind.type(frame.intercept)
        return shifted
    with np.errstate(over="ignore", invalid="ignore"):  # a damaged slope; infinities are told of later
        rescaled: npt.NDArray[Any] = (stored * np.float64(frame.slope) + np.float64(frame.intercept)).astype(kind)
    return rescaled


def _kind_of_values(series: Series) -> np.dtype[Any]:
    """Return the smallest type that is likely to hold every value of a series exactly: 8 or 16 bits, else float32.

    By what BitsStored allows a CT of 16 bits with an intercept of -1024 would need more than 16; its values hardly ever
    do. Each plane is looked at before it is put in.
    """
    if series.samples > 1:
        return np.dtype(np.uint8 if series.bits <= 8 else np.uint16)
    whole = all(frame.slope == 1.0 and frame.intercept.is_integer() for frame in series.frames)
    if series.table or series.bits > 16 or not whole:
        return np.dtype(np.float32)
    if series.signed or any(frame.intercept < 0 for frame in series.frames):
        return np.dtype(np.int16)
    shifted = any(frame.intercept > 0 for frame in series.frames)
    return np.dtype(np.uint16 if series.bits > 8 or shifted else np.uint8)


def _holds(kind: np.dtype[Any], stored: npt.NDArray[Any], intercept: float) -> bool:
    """Tell whether a type holds a plane before and after its intercept is added."""
    if stored.dtype.kind not in "iub":
        return False
    if stored.dtype == kind and not intercept:
        return True
    limits = np.iinfo(kind)
    return limits.min <= int(stored.min()) + min(0, int(intercept)) and (
        int(stored.max()) + max(0, int(intercept)) <= limits.max
    )


def _padding(series: Series) -> tuple[float, float] | None:
    """Return the range of padding in rescaled values; None where slices are rescaled differently."""
    scales = {(frame.slope, frame.intercept) for frame in series.frames}
    if series.padding is None or series.table or len(scales) > 1 or series.samples > 1:
        return None
    slope, intercept = scales.pop()
    # As `_rescaled` rounds them.
    kind = np.float64 if (slope, intercept) == (1.0, 0.0) else np.float32
    ends = sorted(float(kind(value * slope + intercept)) for value in series.padding)
    return ends[0], ends[1]


# -- planes as they are stored ---------------------------------------------------------------------


def _stored_planes(series: Series) -> Iterator[tuple[int, npt.NDArray[Any]]]:
    """Yield (which slice, its plane of (rows, columns[, samples])), not rescaled, file by file.

    A Modality LUT, where there is one, is applied.
    """
    columns, rows, _ = series.shape
    by_file: dict[Path, dict[int, int]] = defaultdict(dict)
    for k, frame in enumerate(series.frames):
        by_file[frame.path][frame.index] = k
    for path, slices in by_file.items():
        for index, plane in _planes(path, slices, series):
            if plane.shape[:2] != (rows, columns):
                message = (
                    f"{shown_name(path)}: its pixels are {plane.shape[0]} x {plane.shape[1]}, its header says {rows} x "
                    f"{columns}. The file is damaged: copy it again"
                )
                raise UnreadableFile(message)
            yield slices[index], plane


def _planes(path: Path, slices: Mapping[int, int], series: Series) -> Iterator[tuple[int, npt.NDArray[Any]]]:
    frames = [series.frames[slices[index]] for index in sorted(slices)]
    if series.table or any(frame.offset is None for frame in frames):
        planes = decoded_planes(path, sorted(slices), table=series.table, padding=series.padding)
    else:
        planes = _guarded(path, _as_they_lie(path, frames, series))
    return zip(sorted(slices), planes, strict=True)


def _as_they_lie(path: Path, frames: Iterable[Frame], series: Series) -> Iterator[npt.NDArray[Any]]:
    """Read frames of 8 or 16 bits, little-endian, from where they begin in the file."""
    columns, rows, _ = series.shape
    kind = np.dtype(f"<{'i' if series.signed else 'u'}{series.allocated // 8}")
    with path.open("rb", buffering=0) as file:
        for frame in frames:
            offset = frame.offset or 0
            _require_pixels_at(file, offset - frame.index * rows * columns * kind.itemsize)
            file.seek(offset)
            # Raises where there are too few bytes for the shape.
            plane = np.fromfile(file, dtype=kind, count=rows * columns).reshape(rows, columns)
            _clear_unused(plane, series.bits, series.padding)
            yield plane


def _clear_unused(plane: npt.NDArray[np.integer[Any]], bits: int, padding: tuple[int, int] | None) -> None:
    """Clear the bits above the stored ones, in place: they mean nothing, or are an overlay (PS3.5 8.1.1).

    Whole words of padding that the stored bits cannot hold stay: without their upper bits they would be tissue.
    """
    unused = 8 * plane.dtype.itemsize - bits
    if unused <= 0:
        return
    limits = np.iinfo(plane.dtype)
    low, high = limits.min >> unused, limits.max >> unused
    kept = None
    if padding is not None and not low <= padding[0] <= padding[1] <= high:
        padded = (plane >= padding[0]) & (plane <= padding[1])
        kept = padded, plane[padded]
    plane <<= unused
    plane >>= unused
    if kept is not None:
        plane[kept[0]] = kept[1]


def _require_pixels_at(file: BinaryIO, start: int) -> None:
    """Look for the tag of the pixel data before its value: the file may have changed since its header was read."""
    file.seek(max(0, start - 12))
    before = file.read(12)
    if _PIXEL_DATA not in (before[:4], before[4:8]):  # with explicit or with implicit VR
        message = "the pixels are not where they were"
        raise ValueError(message)


def decoded_planes(
    path: Path, indices: Sequence[int] = (0,), *, table: bool = False, padding: tuple[int, int] | None = None
) -> Iterator[npt.NDArray[Any]]:
    """Yield frames of one file (rows, columns[, samples]), decoded and not rescaled; colour as RGB.

    Parameters
    ----------
    path
        A DICOM file.
    indices
        Which frames, from 0, ascending.
    table
        Whether a Modality LUT is applied where the file has one.
    padding
        Stored values that mean "not measured", first and last: they are kept where BitsStored has no room for them, as
        far as the transfer syntax has.

    Raises
    ------
    UnreadableFile
        The file is missing or damaged, or no codec reads it.
    """
    return _guarded(path, _decoded(path, indices, table=table, padding=padding))


def _decoded(
    path: Path, indices: Sequence[int], *, table: bool, padding: tuple[int, int] | None
) -> Iterator[npt.NDArray[Any]]:
    dataset = pydicom.dcmread(path, force=True)
    syntax = _completed(dataset)
    planes = _decompressed(dataset, indices, syntax) if syntax.is_encapsulated else _pixels(dataset, syntax, indices)
    for plane in planes:
        if _has_whole_words(dataset, syntax):
            _clear_unused(plane, int(dataset.BitsStored), padding)
        yield apply_modality_lut(plane, dataset) if table else plane


def _pixels(dataset: Dataset, syntax: UID, indices: Sequence[int]) -> Iterator[npt.NDArray[Any]]:
    return iter_pixels(
        dataset,
        indices=list(indices),
        decoding_plugin=CODECS.get(syntax, ""),
        # As its own choice is, but where words are whole.
        correct_unused_bits=syntax not in _SIGNED and not _has_whole_words(dataset, syntax),
    )


def _has_whole_words(dataset: Dataset, syntax: UID) -> bool:
    """Tell whether decoded values have the bits above the stored ones too, for `_clear_unused` to see to."""
    return syntax not in _STREAMS and "PixelData" in dataset


def _decompressed(dataset: Dataset, indices: Sequence[int], syntax: UID) -> Iterator[npt.NDArray[Any]]:
    """Decompress frames one by one, each as if it were a file's only one.

    pydicom would look for each from the beginning of a file, if that has no table of them; and what is looked at here
    is what is decoded.
    """
    wanted = set(indices)
    for index, stream in enumerate(_streams(dataset)):
        if index not in wanted:
            continue
        wanted.remove(index)
        if syntax in _STREAMS:
            _require_sound(stream, dataset, syntax)
        dataset.PixelData = encapsulate([stream], has_bot=False)
        plane = next(_pixels(dataset, syntax, [0]))
        if syntax in JPEG2000TransferSyntaxes:
            _require_content(plane, stream)
        yield plane
        if not wanted:
            return
    message = f"{len(wanted)} frames too few"
    raise ValueError(message)


def _streams(dataset: Dataset) -> Iterator[bytes]:
    """Yield the compressed frames of a file, and make its header that of a file with one frame."""
    for name in ("ExtendedOffsetTable", "ExtendedOffsetTableLengths"):  # not needed: such frames are one fragment each
        if name in dataset:
            delattr(dataset, name)
    count = int(dataset.get("NumberOfFrames") or 1)
    dataset.NumberOfFrames = 1
    return generate_frames(dataset.PixelData, number_of_frames=count)


def _completed(dataset: Dataset) -> UID:
    """Put in what a data set without preamble or from a careless writer lacks; return its transfer syntax."""
    if "TransferSyntaxUID" not in dataset.file_meta:
        implicit, little = dataset.original_encoding
        explicit = ExplicitVRBigEndian if little is False else ExplicitVRLittleEndian
        dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else explicit
    dataset.setdefault("SamplesPerPixel", 1)
    dataset.setdefault("PhotometricInterpretation", "MONOCHROME2")
    dataset.setdefault("PlanarConfiguration", 0)
    dataset.setdefault("BitsStored", dataset.get("BitsAllocated"))
    return UID(dataset.file_meta.TransferSyntaxUID)


def _require_sound(stream: bytes, dataset: Dataset, syntax: UID) -> None:
    """Refuse the frame of a JPEG of any kind that no decoder should be given.

    Raises
    ------
    ValueError
        It has no end: over such a one CharLS (JPEG-LS) never stops, and GDCM (lossless JPEG) invents the rest. Or it is
        of another size than the header says: decoders believe the stream, and ask for as much memory as it wants.
    """
    if syntax not in JPEG2000TransferSyntaxes and _END_OF_IMAGE not in stream[-_PADDED_BYTES:]:
        message = "no end-of-image marker"
        raise ValueError(message)
    if _size_of(stream) not in (None, (dataset.Rows, dataset.Columns)):
        message = "a stream of another size"
        raise ValueError(message)


def _size_of(stream: bytes) -> tuple[int, int] | None:
    """Return the rows and columns that a JPEG, JPEG-LS or JPEG 2000 stream announces; None where it is not found."""
    if (start := stream.find(_JPEG_2000)) >= 0:
        width, height, left, top = struct.unpack_from(">IIII", stream, start + 8)
        return height - top, width - left
    place = 2  # after the marker that begins the image; then segments, each with its length
    while place + 9 <= len(stream) and stream[place] == _MARKER:
        kind, length = stream[place + 1], int.from_bytes(stream[place + 2 : place + 4])
        if kind in _FRAMES:
            rows, columns = struct.unpack_from(">HH", stream, place + 5)
            return (rows, columns) if rows and columns else None  # zero: stated further on
        place += 2 + length
    return None


def _require_content(plane: npt.NDArray[Any], stream: bytes) -> None:
    """Refuse what OpenJPEG makes of packets that it cannot read: zeros, without a word (pydicom#966)."""
    if len(stream) > _CONSTANT_BYTES + plane.size // _CONSTANT_PIXELS_A_BYTE and plane.min() == plane.max():
        message = "a stream of many bytes decodes to one value"
        raise ValueError(message)


def _guarded(path: Path, planes: Iterator[_T]) -> Iterator[_T]:
    """Step through planes in silence, and say of a file what is wrong with it."""
    while True:
        try:
            with quietly():
                plane = next(planes)
        except StopIteration:
            return
        except FileNotFoundError as error:
            message = f"{path}: there is no such file; it was there when the folder was listed."
            raise UnreadableFile(message) from error
        except MemoryError as error:
            message = f"{shown_name(path)}: decoding it takes more memory than there is. It is damaged, or very large."
            raise UnreadableFile(message) from error
        except DAMAGE as error:
            message = (
                f"{shown_name(path)}: the pixels cannot be decoded ({type(error).__name__}). The file is cut short, "
                f"damaged, or compressed in a way no installed codec reads: copy it again, or decompress it with "
                f"`gdcmconv --raw IN OUT`."
            )
            raise UnreadableFile(message) from error
        yield plane
