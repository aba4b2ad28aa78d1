"""NRRD and MetaImage through SimpleITK: images and labels in, label maps out.

    .nrrd, .nhdr    NRRD, whole or with its voxels in another file; Slicer's .seg.nrrd is one with named segments
    .mha, .mhd      MetaImage, the same two forms

Conventions: index order (i, j, k) as stored. ITK's world is LPS+ (x to the patient's left, y to posterior), ours RAS+:
the first two rows of an affine change their sign. Integers of 8 and 16 bits stay what they are, everything else is
float32. Only geometry and the names of segments leave the header.

Sources: NRRD, https://teem.sourceforge.net/nrrd/format.html; MetaImage, https://docs.itk.org (MetaIO); segments,
https://slicer.readthedocs.io (developer guide, "Segmentations", file format).
"""

from __future__ import annotations

import os
import re
import zlib
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ...store.errors import GeometryMismatch, UnreadableFile, UnusableVoxels, UsageError
from .base import Affine, LabelMap, Scan, SourceGrid, Structures
from .geometry import is_sheared, straightened
from .labels import check_mask, whole_labels
from .nifti import grid_of_affine
from .packed_masks import PackedMasks

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

__all__ = ["is_itk", "open_header", "read_itk_image", "read_itk_label", "write_label_nrrd"]

_IMAGE_IO = {".nrrd": "NrrdImageIO", ".nhdr": "NrrdImageIO", ".mha": "MetaImageIO", ".mhd": "MetaImageIO"}

_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])

# A header may hold much text (Slicer writes a terminology for every segment); its geometry comes early.
_LONGEST_HEADER_BYTES = 1 << 20

# The fields that say how large a voxel is or how the axes lie.
_GEOMETRY_FIELDS = frozenset(
    {"spacings", "space directions", "ElementSpacing", "ElementSize", "TransformMatrix", "Rotation", "Orientation"}
)
_DATA_FILE = "ElementDataFile"
_MOST_AXES = 10
_BLOCK_BYTES = 1 << 16  # of zlib, which makes at most a thousand times as many

_VALUE_SCALE_FIELDS = frozenset({"ElementToIntensityFunctionSlope", "ElementToIntensityFunctionOffset"})

# Off-diagonal entries of the axes' Gram matrix (cosines between axes) up to which ITK takes them for orthonormal.
_ORTHONORMAL = 1e-4

# 3D Slicer writes a segmentation as large as its segments, and here where that begins in the image. What counts is the
# affine; but whoever writes this means background beyond.
_EXTENT = "Segmentation_ReferenceImageExtentOffset"
_SEGMENT = re.compile(r"Segment(\d+)_(Name|LabelValue|Layer)")


def is_itk(path: Path) -> bool:
    """Tell by its ending whether a file is NRRD or MetaImage."""
    return path.suffix.lower() in _IMAGE_IO


def read_itk_image(path: Path, *, modality: str | None = None, volume_index: int | None = None) -> Scan:
    """Read an NRRD or MetaImage image.

    Parameters
    ----------
    path
        A ``.nrrd``, ``.nhdr``, ``.mha`` or ``.mhd`` file of two to four dimensions.
    modality
        What the layout knows; the modality field of a MetaImage is seldom set and not read.
    volume_index
        Which volume, from 0, of a file that holds several: a fourth axis, or several numbers a voxel.

    Returns
    -------
    Scan
        ``values`` (i, j, k), or (i, j, k, 3) where each voxel has three bytes (colour). Integers up to 16 bits as
        stored, else float32. A 2-D image has k = 1 and a slice thickness of 1 mm.
        ``affine`` None where the header states neither spacing nor orientation.

    Raises
    ------
    UnreadableFile
        Missing, truncated, not of its format, or with a geometry that cannot be inverted.
    UnusableVoxels
        Complex; more than four dimensions; several volumes and none chosen, or one chosen that is not there.
    """
    header = _header(path)
    values = _chosen_volume(header, volume_index)
    if values.dtype.kind not in "ui" or values.dtype.itemsize > 2:
        with np.errstate(over="ignore"):  # beyond float32 is infinite, and counted with the rest
            values = values.astype(np.float32)
    i, j, k = values.shape[:3]
    grid = grid_of_affine((i, j, k), header.affine)
    if header.dimensions == 2:
        grid = replace(grid, stored_shape=(i, j))
    return Scan(values=values, affine=header.affine, modality=modality, grid=grid, notes=header.notes)


def read_itk_label(
    path: Path, *, volume_index: int | None = None, threshold: float | None = None
) -> LabelMap | Structures:
    """Read a label map, or a segmentation of 3D Slicer.

    Parameters
    ----------
    path
        As for `read_itk_image`.
    volume_index
        Which volume, from 0, of a file that holds several; for a segmentation, which layer.
    threshold
        For soft labels; see `whole_labels`.

    Returns
    -------
    LabelMap
        ``names`` as the segments are called, where the file says so.
    Structures
        Of a segmentation in several layers, whose segments may overlap.

    Raises
    ------
    UnreadableFile
        As for `read_itk_image`.
    UnusableLabel
        Values that are not whole numbers from 0 on.
    UnusableVoxels
        As for `read_itk_image`; colour.
    """
    header = _header(path)
    segments = _segments(header)
    if segments and header.volumes > 1 and volume_index is None:
        return _structures(header, segments, threshold)
    values = _chosen_volume(replace(header, is_colour=False), volume_index)
    layer = volume_index or 0
    return LabelMap(
        values=whole_labels(values, place=str(path), threshold=threshold),
        affine=header.affine,
        names={segment.value: segment.name for segment in segments if segment.layer == layer},
        may_be_cut_out=header.is_segmentation,
        notes=header.notes,
    )


def write_label_nrrd(path: Path, values_ijk: npt.NDArray[Any], grid: SourceGrid) -> None:
    """Write a mask on the grid of its source as compressed NRRD, whole or not at all.

    Parameters
    ----------
    path
        Ends in ``.nrrd``; replaced if it exists. The folder must exist.
    values_ijk
        Integers of shape ``grid.shape``, in the source's index order.
    grid
        Its affine is written as directions and origin in LPS+; a grid without geometry gets 1 mm and no orientation,
        a 2-D source a 2-D mask. Axes that are nearly at right angles, as rounded headers have them, are made so: ITK
        and others invert directions by transposing them. No voxel moves by more than `is_sheared` lets pass.

    Raises
    ------
    GeometryMismatch
        The mask has another shape than the grid; the grid's axes are not at right angles.
    UnusableLabel
        The mask is not of an integer type.
    UsageError
        The name is not that of an NRRD file.
    """
    if path.suffix != ".nrrd":
        message = f"{path}: this mask is written as NRRD. Give it a name that ends in .nrrd."
        raise UsageError(message)
    check_mask(path, values_ijk, grid.shape)
    import SimpleITK

    dimensions = len(grid.stored_shape) if len(grid.stored_shape) < 3 else 3
    affine = np.eye(4) if grid.affine_array is None else _LPS_TO_RAS @ grid.affine_array
    skew = _skew(affine)
    if is_sheared(affine, grid.shape):
        message = (
            f"{path}: the axes of the source's grid are not at right angles (off by {np.degrees(np.arcsin(skew)):.2f} "
            f"degrees, as of a CT with a tilted gantry), and readers of NRRD take them to be. Write this mask as "
            f"DICOM-SEG, or in index space with the affine beside it."
        )
        raise GeometryMismatch(message)
    if skew >= _ORTHONORMAL:
        affine = straightened(affine)
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    direction = affine[:3, :3] / spacing
    values_kji = np.ascontiguousarray(values_ijk.T)
    image = SimpleITK.GetImageFromArray(values_kji[0] if dimensions == 2 else values_kji)
    image.SetSpacing(spacing[:dimensions].tolist())
    image.SetOrigin(affine[:dimensions, 3].tolist())
    image.SetDirection(direction[:dimensions, :dimensions].ravel().tolist())
    part = path.with_name(f".{os.getpid()}.{path.name}")  # the ending chooses the format, so that stays
    try:
        try:
            SimpleITK.WriteImage(image, str(part), useCompression=True)
        except RuntimeError as error:
            message = f"{path}: the mask could not be written. Is the disk full, or the folder read-only?"
            raise OSError(message) from error
        with part.open("rb") as file:
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _skew(affine: Affine) -> float:
    """Return the largest cosine between two axes."""
    directions = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    return float(np.abs(directions.T @ directions - np.eye(3)).max())


@dataclass(frozen=True, kw_only=True, slots=True)
class _Header:
    """What is known of a file before its voxels are read."""

    path: Path
    reader: Any
    """The ImageFileReader that has read the header."""
    shape: tuple[int, ...]
    """(i, j, k), k = 1 of a 2-D image; then the size of a fourth axis, where that is above 1."""
    dimensions: int
    components: int
    """Numbers a voxel."""
    is_colour: bool
    affine: Affine | None
    metadata: Mapping[str, str]
    notes: tuple[str, ...]

    @property
    def is_segmentation(self) -> bool:
        """Whether the header has what only 3D Slicer's segmentations have."""
        return any(key == _EXTENT or _SEGMENT.fullmatch(key) for key in self.metadata)

    @property
    def volumes(self) -> int:
        """How many volumes there are to choose from."""
        if len(self.shape) == 4:
            return self.shape[3]
        return 1 if self.is_colour else self.components


@dataclass(frozen=True, kw_only=True, slots=True)
class _Segment:
    name: str
    value: int
    layer: int


@contextmanager
def _without_warnings() -> Iterator[None]:
    """Keep ITK from writing its warnings to stderr; what matters of them is said in notes."""
    import SimpleITK

    shown = SimpleITK.ProcessObject.GetGlobalWarningDisplay()
    SimpleITK.ProcessObject.SetGlobalWarningDisplay(False)  # noqa: FBT003 (the library takes no keyword)
    try:
        yield
    finally:
        SimpleITK.ProcessObject.SetGlobalWarningDisplay(shown)


def open_header(path: Path) -> Any:  # noqa: ANN401 (of SimpleITK)
    """Return SimpleITK's reader of a NRRD or MetaImage file, its header read and no voxel.

    Raises
    ------
    UnreadableFile
        The header is damaged, or claims more axes than ITK's reader of MetaImage survives: it writes past its arrays
        (seen in ITK 5.4).
    """
    import SimpleITK

    if not _is_nrrd(path):
        axes = _stated_fields(path)[0].get("NDims", "3")
        if not (axes.isdecimal() and 1 <= int(axes) <= _MOST_AXES):
            raise UnreadableFile(_damaged(path))
    reader = SimpleITK.ImageFileReader()
    reader.SetFileName(str(path))
    reader.SetImageIO(_IMAGE_IO[path.suffix.lower()])
    try:
        with _without_warnings():
            reader.ReadImageInformation()
    except RuntimeError as error:
        raise UnreadableFile(_damaged(path)) from error
    return reader


def _header(path: Path) -> _Header:
    """Read the header, and refuse what has no real numbers in two to four dimensions."""
    import SimpleITK

    if path.suffix.lower() not in _IMAGE_IO:
        message = f"{path}: not the name of an NRRD or MetaImage file; {', '.join(_IMAGE_IO)} are taken here."
        raise UnreadableFile(message)
    if not path.exists():
        message = f"{path}: there is no such file. Is it a link to something that was never downloaded?"
        raise UnreadableFile(message)
    stated, header_bytes = _stated_fields(path)
    if not _is_nrrd(path):
        _check_compressed(path, stated, header_bytes)
    reader = open_header(path)
    size, components = tuple(reader.GetSize()), reader.GetNumberOfComponents()
    # A fourth axis of one is no axis; ITK keeps it.
    shape = (*size, 1)[:3] if len(size) < 3 or size[3:] == (1,) else size
    if len(shape) > 4 or len(size) < 2 or 0 in size or (len(shape) == 4 and components > 1):
        several = f" of {components} numbers a voxel" if components > 1 else ""
        message = (
            f"{path}: an image of shape {size}{several}; 2-D, 3-D and 4-D images are taken. "
            f"Save each 3-D volume in a file of its own."
        )
        raise UnusableVoxels(message)
    if "complex" in SimpleITK.GetPixelIDValueAsString(reader.GetPixelID()):
        message = f"{path}: the voxels are complex numbers; one real number a voxel is taken. Save the magnitude first."
        raise UnusableVoxels(message)
    # Only these: the others are anybody's text, in any encoding.
    metadata = {
        key: reader.GetMetaData(key).encode("utf-8", "surrogateescape").decode("utf-8", "replace")
        for key in reader.GetMetaDataKeys()
        if key in {"NRRD_kinds[pixel]", "NRRD_space", _EXTENT} or _SEGMENT.fullmatch(key)
    }
    has_geometry = not _GEOMETRY_FIELDS.isdisjoint(stated)
    return _Header(
        path=path,
        reader=reader,
        shape=shape,
        dimensions=len(size),
        components=components,
        # Colour is only told from three separate maps by what the axis is called, and MetaImage does not call it.
        is_colour=components == 3
        and reader.GetPixelID() == SimpleITK.sitkVectorUInt8
        and metadata.get("NRRD_kinds[pixel]") != "list",
        affine=_affine(path, reader) if has_geometry else None,
        metadata=metadata,
        notes=tuple(_notes(path, metadata, stated, dimensions=len(size), has_geometry=has_geometry)),
    )


def _chosen_volume(header: _Header, volume_index: int | None) -> npt.NDArray[Any]:
    """Return (i, j, k), or (i, j, k, 3) for colour; memory of its own, i fastest as in the file."""
    index = _checked_index(header, volume_index)
    if header.components == 1 or header.is_colour:
        return _voxels(header, along_fourth=index)
    return np.copy(_voxels(header)[..., index], order="K")


def _checked_index(header: _Header, volume_index: int | None) -> int:
    count = header.volumes
    if volume_index is None and count > 1:
        what = "a fourth axis" if len(header.shape) == 4 else "several numbers a voxel"
        message = (
            f"{header.path}: the file holds {count} volumes ({what}). Choose one with --time-index N, "
            f"N from 0 to {count - 1}."
        )
        raise UnusableVoxels(message)
    if volume_index is not None and not 0 <= volume_index < count:
        holds = f"{count} volumes, 0 to {count - 1}" if count > 1 else "one volume, 0"
        message = f"{header.path}: --time-index {volume_index} is not there; the file holds {holds}."
        raise UnusableVoxels(message)
    return volume_index or 0


def _voxels(header: _Header, *, along_fourth: int = 0) -> npt.NDArray[Any]:
    """Read, and turn ITK's (k, j, i) or (k, j, i, components) round."""
    import SimpleITK

    if header.dimensions == 4:
        header.reader.SetExtractSize([*header.shape[:3], 0])  # 0: an axis that is left out
        header.reader.SetExtractIndex([0, 0, 0, along_fourth])
    try:
        with _without_warnings():
            image = header.reader.Execute()
    except RuntimeError as error:
        raise UnreadableFile(_damaged(header.path)) from error
    voxels: npt.NDArray[Any] = SimpleITK.GetArrayFromImage(image)
    if header.dimensions == 2:
        voxels = voxels[np.newaxis]
    return voxels.transpose(2, 1, 0, *range(3, voxels.ndim))


def _affine(path: Path, reader: Any) -> Affine:  # noqa: ANN401 (SimpleITK's types are not checked)
    """Return (i, j, k) to RAS+ millimetres; 1 mm along the axis that a 2-D image does not have."""
    dimensions = min(reader.GetDimension(), 3)
    direction = np.array(reader.GetDirection(), dtype=np.float64).reshape(reader.GetDimension(), -1)
    lps = np.eye(4)
    lps[:dimensions, :dimensions] = direction[:dimensions, :dimensions] * np.array(reader.GetSpacing()[:dimensions])
    lps[:dimensions, 3] = reader.GetOrigin()[:dimensions]
    if not np.isfinite(lps).all() or abs(np.linalg.det(lps[:3, :3])) < 1e-12:
        rows = np.array2string(lps[:3], precision=3, separator=", ").replace("\n", "")
        message = (
            f"{path}: the geometry of its header cannot be inverted (LPS: {rows}). The tool that wrote it left it "
            f"incomplete; take it from the original, e.g. with SimpleITK image.CopyInformation(original)."
        )
        raise UnreadableFile(message)
    return _LPS_TO_RAS @ lps


def _stated_fields(path: Path) -> tuple[dict[str, str], int]:
    """Return what the header says, as text, and its length in bytes.

    ITK fills in 1 mm where a header says nothing, and does not tell.
    """
    try:
        with path.open("rb") as file:
            head = file.read(_LONGEST_HEADER_BYTES)
    except OSError as error:
        raise UnreadableFile(_damaged(path)) from error
    fields: dict[str, str] = {}
    length = 0
    for line in head.split(b"\n"):
        length += len(line) + 1
        text = line.rstrip(b"\r").decode("latin-1")
        name, separator, value = text.partition(": " if _is_nrrd(path) else "=")
        if separator:  # not so in `key:=value`, which in NRRD is the user's own text
            fields[name.strip()] = value.strip()
        if not text or name.strip() == _DATA_FILE:  # what ends a header of NRRD, and of MetaImage
            break
    return fields, length


def _check_compressed(path: Path, stated: Mapping[str, str], header_bytes: int) -> None:
    """Refuse a damaged zlib stream, from which ITK's reader of MetaImage never returns (seen in ITK 5.4)."""
    if stated.get("CompressedData", "")[:1].lower() not in {"t", "1"}:
        return
    voxels = stated.get(_DATA_FILE, "")
    if voxels.startswith("LIST") or "%" in voxels:  # one file a slice
        return
    beside = path.parent / voxels
    start, file_of_voxels = (header_bytes, path) if voxels.lower() == "local" else (0, beside)
    try:
        with file_of_voxels.open("rb") as file:
            file.seek(start)
            stream = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)  # zlib or gzip, as it says itself
            while not stream.eof and (block := file.read(_BLOCK_BYTES)):
                stream.decompress(block)
    except (OSError, ValueError, zlib.error) as error:
        raise UnreadableFile(_damaged(path)) from error
    if not stream.eof:
        raise UnreadableFile(_damaged(path))


def _is_nrrd(path: Path) -> bool:
    return _IMAGE_IO[path.suffix.lower()] == "NrrdImageIO"


def _notes(
    path: Path, metadata: Mapping[str, str], stated: Mapping[str, str], *, dimensions: int, has_geometry: bool
) -> Iterator[str]:
    if not has_geometry:
        yield "the header states neither spacing nor orientation: millimetres are unknown, voxels are taken as stored"
    elif dimensions == 2:
        yield "a 2-D image: its slice counts as 1 mm thick"
    elif _is_nrrd(path) and not metadata.get("NRRD_space", "").startswith("left-posterior-superior"):
        # ITK turns RAS and LAS into LPS and says LPS; of any other space, or none, it takes the axes as they are.
        yield "the header does not name a patient space: its axes are taken as left, posterior, superior, as ITK does"
    if not _VALUE_SCALE_FIELDS.isdisjoint(stated):
        yield "the header's ElementToIntensityFunction is not applied, as ITK does not: values are as stored"


def _segments(header: _Header) -> list[_Segment]:
    """Return what a .seg.nrrd calls its segments, in its order; empty for any other file."""
    fields: dict[int, dict[str, str]] = {}
    for key, text in header.metadata.items():
        if found := _SEGMENT.fullmatch(key):
            fields.setdefault(int(found[1]), {})[found[2]] = text.strip()
    numbers = sorted(number for number, said in fields.items() if "Name" in said)
    try:
        return [
            _Segment(
                name=fields[number]["Name"],
                # Slicer before 4.11 wrote neither: one binary layer a segment.
                value=int(fields[number].get("LabelValue", 1)),
                layer=int(fields[number].get("Layer", 0 if header.volumes == 1 else number)),
            )
            for number in numbers
        ]
    except ValueError as error:
        message = (
            f"{header.path}: the header gives a segment a label value or a layer that is no whole number. "
            f"Open the segmentation in 3D Slicer and save it again."
        )
        raise UnreadableFile(message) from error


def _structures(header: _Header, segments: list[_Segment], threshold: float | None) -> Structures:
    """Return every segment as a mask of its own; those of one layer cannot overlap, those of two can."""
    layers = _layers(header)
    masks = PackedMasks(layers[0].shape)
    notes = list(header.notes)
    unnamed = 0
    for index, layer in enumerate(layers):
        values = whole_labels(layer, place=f"{header.path}, layer {index}", threshold=threshold)
        named = [segment for segment in segments if segment.layer == index]
        for segment in named:
            if segment.name in masks:
                notes.append("two segments of one name were joined")
            masks.put(segment.name, values == segment.value)
        unnamed += int(np.count_nonzero(~np.isin(values, [0, *(segment.value for segment in named)])))
    missing = [segment for segment in segments if segment.layer >= len(layers)]
    if missing:
        message = (
            f"{header.path}: the header puts {len(missing)} of {len(segments)} segments into layers that the file does "
            f"not have (it has {len(layers)}). Open the segmentation in 3D Slicer and save it again."
        )
        raise UnreadableFile(message)
    if unnamed:
        notes.append(f"{unnamed} labelled voxels belong to no segment of the header and were left out")
    return Structures(
        masks=masks,
        affine=header.affine,
        may_be_cut_out=header.is_segmentation,
        notes=tuple(dict.fromkeys(notes)),
    )


def _layers(header: _Header) -> list[npt.NDArray[Any]]:
    if len(header.shape) == 4:
        return [_chosen_volume(header, index) for index in range(header.volumes)]
    voxels = _voxels(header)
    return [voxels[..., index] for index in range(header.components)]


def _damaged(path: Path) -> str:
    kind = "NRRD" if _is_nrrd(path) else "MetaImage"
    beside = (
        " Its voxels lie in another file, which its header names: is that beside it, under that name?"
        if path.suffix.lower() in {".nhdr", ".mhd"}
        else ""
    )
    return (
        f"{path}: the file is truncated, damaged, not {kind} or of a form that ITK does not read "
        f"({path.stat().st_size} bytes). A download or copy that stopped early is the usual cause: copy it again, and "
        f"compare sizes.{beside}"
    )
