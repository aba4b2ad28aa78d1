"""NIfTI files: images and labels in, masks out.

Conventions: index order (i, j, k) as stored; the affine is nibabel's (sform if its code is positive, else qform, else
pixdim), in RAS+ and brought to millimetres where the header says metres or microns. Integers of 8 and 16 bits that are
not rescaled stay what they are; all else is rescaled by scl_slope and scl_inter in float64 and kept as float32, so that
a scan gives the same numbers as NIfTI and as DICOM. Files are read plane by plane, of a 4-D file the bytes of one
volume, so that the result is all that is ever held.
Only geometry leaves the header: no description, but that a mask was predicted, and no extensions.
"""

from __future__ import annotations

import os
import zlib
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
from nibabel.filebasedimages import ImageFileError
from nibabel.openers import ImageOpener
from nibabel.spatialimages import HeaderDataError

from ...store.errors import GeometryMismatch, InputError, UnreadableFile, UnusableVoxels, UsageError
from .base import Affine, LabelMap, Scan, SourceGrid
from .geometry import fit_label, is_sheared, spacing_mm
from .index_space import INDEX_SPACE, write_affine_beside
from .labels import check_mask, whole_planes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .dicom_series import Series

__all__ = [
    "affine_mm",
    "grid_of_affine",
    "grid_of_series",
    "read_nifti_image",
    "read_nifti_label",
    "why_label_is_refused",
    "write_label_nifti",
    "write_label_nifti_index_space",
    "write_probabilities_nifti",
]

# What nibabel and gzip raise on damaged files. OverflowError: an infinite offset in the header.
_DAMAGE = (EOFError, HeaderDataError, ImageFileError, OSError, OverflowError, ValueError, zlib.error)

_METRES, _MILLIMETRES, _MICRONS = 1, 2, 3  # NIFTI_UNITS_METER, _MM, _MICRON
_SPATIAL_UNITS = 0b111  # of xyzt_units; above it are those of time
# What says nothing (0) is taken as millimetres, as every tool takes it.
_IN_MM = {_METRES: 1000.0, _MICRONS: 0.001}
_SCANNER = 1  # NIFTI_XFORM_SCANNER_ANAT
_NIFTI1_LARGEST = 32_767  # dim[] of NIfTI-1 is int16

# In the header's description of a mask, so that it is not taken for a reference later.
_PREDICTED = b"mask by samkit predict"
_PROBABILITIES = b"probabilities by samkit predict"

_KEPT_TYPES = frozenset(np.dtype(name) for name in ("int8", "uint8", "int16", "uint16"))
# Deflate makes at most 258 bytes of 2 bits (RFC 1951): a header that promises more than that of its file lies.
_LARGEST_COMPRESSION = 1032


def read_nifti_image(path: Path, *, modality: str | None = None, volume_index: int | None = None) -> Scan:
    """Read a NIfTI image.

    Parameters
    ----------
    path
        A ``.nii`` or ``.nii.gz`` file, of two to four dimensions (trailing ones do not count).
    modality
        What the layout knows; NIfTI itself does not say.
    volume_index
        Which volume of a 4-D file, from 0; None for a file of one volume.

    Returns
    -------
    Scan
        ``values`` (i, j, k): int8, uint8, int16 or uint16 as stored where nothing is rescaled, else float32; a 2-D
        image has k = 1. Colour (RGB24, RGBA32 without its transparency) is (i, j, k, 3) uint8.

    Raises
    ------
    UnreadableFile
        Missing, truncated, not NIfTI, or with a geometry that cannot be inverted.
    UnusableVoxels
        4-D without a choice of volume, or a choice that it does not have; vectors (5-D); complex.
    """
    stored = _open(path, volume_index)
    notes = _notes(stored)
    if stored.dtype.names:
        values: npt.NDArray[Any] = _colours(_read_raw(stored))
        notes += ("colour with transparency: the transparency was left out",) if "A" in stored.dtype.names else ()
    elif stored.as_stored and stored.dtype.newbyteorder("=") in _KEPT_TYPES:
        values = _read_raw(stored)
    else:
        values = np.empty(stored.shape, dtype=np.float32, order="F")
        with np.errstate(over="ignore"):  # beyond float32: infinite, and counted as such later
            for k, plane in enumerate(_rescaled_planes(stored)):
                values[:, :, k] = plane
    return Scan(
        values=values,
        affine=stored.affine,
        modality=modality,
        grid=_grid(stored.header, stored.shape, stored.affine),
        notes=notes,
    )


def read_nifti_label(
    path: Path, *, volume_index: int | None = None, threshold: float | None = None, units: int = 0
) -> LabelMap:
    """Read a NIfTI label map; see `whole_labels` for which values are taken.

    Parameters
    ----------
    path
        As for `read_nifti_image`.
    volume_index
        Which volume of a 4-D file, from 0.
    threshold
        From where on a voxel of a soft label counts.
    units
        ``xyzt_units`` of its image: they count where the label's own header says none, as nibabel writes it by default.

    Raises
    ------
    UnreadableFile
        Missing, truncated or not NIfTI.
    UnusableLabel
        Values that are not whole numbers from 0 on.
    UnusableVoxels
        4-D without a choice of volume, or a choice that it does not have; vectors (5-D); colour or complex.
    """
    stored = _open(path, volume_index, units=units)
    if stored.dtype.names:
        message = (
            f"{path}: the voxels of this label are colours (RGB); one whole number a voxel is taken. Write the number "
            f"of its class for each colour."
        )
        raise UnusableVoxels(message)
    values = whole_planes(_rescaled_planes(stored), stored.shape, place=str(path), threshold=threshold)
    predicted = stored.header["descrip"].item() == _PREDICTED
    notes = ("this label was written by samkit predict: no reference, unless somebody has corrected it",)
    return LabelMap(values=values, affine=stored.affine, notes=notes if predicted else ())


def why_label_is_refused(
    image: Path, label: Path, *, volume_index: int | None = None, label_volume_index: int | None = None, place: str
) -> str | None:
    """Say from the headers of two NIfTI files why a label cannot be taken for its image, before a voxel is read.

    Parameters
    ----------
    image, label
        As for `read_nifti_image`.
    volume_index, label_volume_index
        Which volumes of 4-D files, from 0.
    place
        The image's name, for messages.

    Returns
    -------
    str or None
        What `read_nifti_label` or `fit_label` says of them; None where the headers are in order.
    """
    try:
        on = _open(image, volume_index)
        stored = _open(label, label_volume_index, units=int(on.header["xyzt_units"]))
        fit_label(np.broadcast_to(np.uint8(0), stored.shape), stored.affine, on.shape, on.affine, place=place)
    except InputError as error:
        return str(error)
    return None


def affine_mm(image: Any, *, units: int = 0) -> Affine:  # noqa: ANN401 (of nibabel)
    """Return the affine of a NIfTI image in RAS+ millimetres: nibabel's is in the units of the header.

    Parameters
    ----------
    image
        As nibabel loaded it.
    units
        NIfTI's byte of units, where the header says none.
    """
    stated = int(image.header["xyzt_units"]) & _SPATIAL_UNITS
    scale = _IN_MM.get(stated or units & _SPATIAL_UNITS, 1.0)
    affine = np.array(image.affine, dtype=np.float64)
    affine[:3] *= scale
    return affine


def grid_of_affine(shape: tuple[int, int, int], affine: Affine | None) -> SourceGrid:
    """Return the grid of a source that is not NIfTI.

    Parameters
    ----------
    shape
        (i, j, k).
    affine
        (i, j, k) to RAS+ millimetres: written as sform and qform of code 1 (scanner); a sheared one as sform alone,
        because tools that prefer a qform would misplace the mask in silence. None: identity, codes 0.
    """
    if affine is None:
        return SourceGrid(shape=shape, stored_shape=shape, affine=None)
    header = nib.Nifti2Header() if max(shape) > _NIFTI1_LARGEST else nib.Nifti1Header()
    header.set_data_shape(shape)
    header.set_sform(affine, code=_SCANNER)
    # A quaternion cannot hold shear; the sform does. Without a code it is there for its spacing only.
    header.set_qform(affine, code=0 if is_sheared(affine, shape) else _SCANNER, strip_shears=True)
    header["xyzt_units"] = _MILLIMETRES
    return _grid(header, shape, affine)


def grid_of_series(series: Series) -> SourceGrid:
    """Return the grid of a DICOM series, as its headers say it."""
    return grid_of_affine(series.shape, None if series.affine is None else np.asarray(series.affine, dtype=np.float64))


def write_label_nifti(path: Path, values_ijk: npt.NDArray[Any], grid: SourceGrid) -> None:
    """Write a mask on the grid of its source, whole or not at all.

    Parameters
    ----------
    path
        Ends in ``.nii`` or ``.nii.gz``; replaced if it exists. The folder must exist.
    values_ijk
        Integers of shape ``grid.shape``, in the source's index order.
    grid
        Shape, affine, qform, sform, their codes and units are written as they are here.

    Raises
    ------
    GeometryMismatch
        The mask has another shape than the grid.
    UnusableLabel
        The mask is not of an integer type.
    UsageError
        The name is not that of a NIfTI file.
    """
    _check_mask(path, values_ijk, grid)
    _save(path, values_ijk.reshape(grid.stored_shape), grid, what=_PREDICTED)


def write_label_nifti_index_space(path: Path, values_ijk: npt.NDArray[Any], grid: SourceGrid) -> Path:
    """Write a mask by voxel index, without a place in patient space, and the true affine beside it.

    For sheared grids, which readers built on ITK (SimpleITK, 3D Slicer, ITK-SNAP) do not open as NIfTI, or put in a
    wrong place in silence. The file has spacing and no more: qform and sform have code 0.

    Parameters
    ----------
    path
        Ends in ``.nii`` or ``.nii.gz`` and contains ``.index-space.``, so that nobody takes it for patient space;
        replaced if it exists. The folder must exist.
    values_ijk
        Integers of shape ``grid.shape``, in the source's index order.
    grid
        With its affine, sheared or not.

    Returns
    -------
    Path
        The JSON file beside it, written first: see `index_space.write_affine_beside`.

    Raises
    ------
    GeometryMismatch
        The mask has another shape than the grid, or the grid has no affine.
    UnusableLabel
        The mask is not of an integer type.
    UsageError
        The name does not say what it is.
    """
    _check_mask(path, values_ijk, grid)
    if f"{INDEX_SPACE}." not in path.name:
        message = (
            f"{path}: a mask in index space has to say so in its name, or it will be taken for patient space. Call it "
            f"{path.name.removesuffix('.gz').removesuffix('.nii')}{INDEX_SPACE}.nii.gz"
        )
        raise UsageError(message)
    beside = write_affine_beside(path, grid)
    _save(path, values_ijk.reshape(grid.stored_shape), grid, what=_PREDICTED, in_index_space=True)
    return beside


def write_probabilities_nifti(
    path: Path, values_ijkc: npt.NDArray[np.float32], grid: SourceGrid, *, in_index_space: bool
) -> None:
    """Write what a head says of each class on the grid of its source, whole or not at all, in one 4-D file.

    Parameters
    ----------
    path
        Ends in ``.nii.gz``; replaced if it exists. The folder must exist.
    values_ijkc
        0 to 1, of shape ``grid.shape`` and classes, in the source's index order.
    grid
        Of the source; its fourth and later axes of one entry each are left out.
    in_index_space
        Whether the file claims no place in patient space, see `write_label_nifti_index_space`.

    Raises
    ------
    GeometryMismatch
        They have another shape than the grid, or, in index space, the grid has no affine.
    """
    if values_ijkc.shape[:3] != grid.shape:
        message = (
            f"{path}: probabilities of shape {values_ijkc.shape[:3]}, and the grid of their source is {grid.shape}"
        )
        raise GeometryMismatch(message)
    if in_index_space:
        write_affine_beside(path, grid)
    _save(path, values_ijkc, grid, what=_PROBABILITIES, in_index_space=in_index_space)


def _check_mask(path: Path, values_ijk: npt.NDArray[Any], grid: SourceGrid) -> None:
    if not path.name.endswith((".nii", ".nii.gz")):
        message = f"{path}: a mask is written as NIfTI. Give it a name that ends in .nii.gz (or .nii)."
        raise UsageError(message)
    check_mask(path, values_ijk, grid.shape)


def _save(path: Path, values: npt.NDArray[Any], grid: SourceGrid, *, what: bytes, in_index_space: bool = False) -> None:
    """Write a file whole or not at all, its geometry the source's own fields or, in index space, spacing alone."""
    header: Any = nib.Nifti2Header() if grid.nifti_version == 2 else nib.Nifti1Header()
    header.set_data_dtype(values.dtype)
    header.set_data_shape(values.shape)
    header["descrip"] = what
    if in_index_space:
        header["pixdim"][:4] = (1.0, *spacing_mm(np.asarray(grid.affine_array)))
        header["qform_code"] = header["sform_code"] = 0
        header["xyzt_units"] = _MILLIMETRES
    else:
        header["pixdim"][:4] = grid.pixdim
        header["quatern_b"], header["quatern_c"], header["quatern_d"] = grid.quaternion
        header["qoffset_x"], header["qoffset_y"], header["qoffset_z"] = grid.quaternion_offset
        header["srow_x"], header["srow_y"], header["srow_z"] = grid.sform
        header["qform_code"], header["sform_code"] = grid.qform_code, grid.sform_code
        header["xyzt_units"] = grid.xyzt_units
    image_class: Any = nib.Nifti2Image if grid.nifti_version == 2 else nib.Nifti1Image
    # No affine argument: nibabel would write its own idea of qform, sform and codes over the fields of the header.
    image = image_class(values, None, header)
    part = path.with_name(f".{os.getpid()}.{path.name}")  # nibabel compresses by the ending, so that stays
    try:
        nib.save(image, part)
        with part.open("rb") as file:
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


# -- reading ---------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Stored:
    """One volume in a file, not read yet."""

    path: Path
    header: Any
    """Of nibabel, whose types are not checked."""
    affine: Affine
    """(i, j, k) to RAS+ millimetres."""
    shape: tuple[int, int, int]
    volume: int
    """Which one, from 0."""
    volumes: int
    """How many the file has."""
    dtype: np.dtype[Any]
    """As stored, with its byte order."""
    slope: float
    intercept: float
    data: Any
    """The file that holds the voxels, for `ImageOpener`."""
    offset: int
    """Of the volume's first byte, uncompressed."""

    @property
    def as_stored(self) -> bool:
        """Whether values are not rescaled."""
        return (self.slope, self.intercept) == (1.0, 0.0)


def _open(path: Path, volume_index: int | None, *, units: int = 0) -> _Stored:
    """Read the header, and refuse what is not NIfTI, what has no real numbers, and what cannot be in the file.

    Parameters
    ----------
    units
        As of `affine_mm`.
    """
    if not path.exists():
        message = f"{path}: there is no such file. Is it a link to something that was never downloaded?"
        raise UnreadableFile(message)
    with _damage_named(path):
        image: Any = nib.load(path)
    if not isinstance(image, nib.Nifti1Pair):
        message = f"{path}: read as {type(image).__name__}, not as NIfTI. Convert it to .nii.gz first."
        raise UnreadableFile(message)
    proxy: Any = image.dataobj
    dtype = np.dtype(proxy.dtype)
    if not dtype.names and dtype.kind not in "uif":
        message = (
            f"{path}: the voxels are {dtype}; one real number a voxel, or a colour, is taken. Write the magnitude of a "
            f"complex image (numpy.abs) first."
        )
        raise UnusableVoxels(message)
    shape, volume, volumes = _volume(path, image.shape, volume_index)
    size = int(np.prod(shape, dtype=object)) * dtype.itemsize
    offset = int(proxy.offset) + volume * size
    data = proxy.file_like
    _check_size(path, data, offset + size)
    return _Stored(
        path=path,
        header=image.header,
        affine=_affine(path, image, units),
        shape=shape,
        volume=volume,
        volumes=volumes,
        dtype=dtype,
        slope=float(proxy.slope),
        intercept=float(proxy.inter),
        data=data,
        offset=offset,
    )


def _volume(path: Path, shape: tuple[int, ...], volume_index: int | None) -> tuple[tuple[int, int, int], int, int]:
    """Return the shape of one volume, which one it is, and of how many."""
    significant = list(shape)
    while len(significant) > 3 and significant[-1] == 1:
        significant.pop()
    if len(significant) > 4:
        message = (
            f"{path}: the image has {len(significant)} dimensions, {shape}: vectors or tensors at each voxel. Up to "
            f"four are taken; write the component that you need to a 3-D file."
        )
        raise UnusableVoxels(message)
    if len(significant) < 2 or min(significant) < 1:
        message = f"{path}: an image of shape {shape} has no slices. Two to four dimensions are taken."
        raise UnusableVoxels(message)
    i, j, k, volumes = (*significant, 1, 1)[:4] if len(significant) < 4 else significant
    choice = (
        f"Choose one, from 0 to {volumes - 1}: --time-index N, or --channel N where the volumes are channels of one "
        f"image (MR sequences, say)."
    )
    if volume_index is None and volumes > 1:
        message = f"{path}: the file holds {volumes} volumes, shape {shape}, and one is taken at a time. {choice}"
        raise UnusableVoxels(message)
    if volume_index is not None and not 0 <= volume_index < volumes:
        remedy = choice if volumes > 1 else "It is a 3-D file: leave the choice out, or say 0."
        message = f"{path}: the file holds {volumes} volume(s), and there is no number {volume_index}. {remedy}"
        raise UnusableVoxels(message)
    return (i, j, k), volume_index or 0, volumes


def _check_size(path: Path, data: Any, needed: int) -> None:  # noqa: ANN401 (a path, of nibabel)
    """Refuse a header that promises more than its file can hold, before any memory is asked for."""
    with _damage_named(path):
        size = Path(data).stat().st_size
        most = {".nii": size, ".img": size, ".gz": size * _LARGEST_COMPRESSION}.get(Path(data).suffix.lower())
        if most is not None and needed > most:
            message = f"{needed} bytes announced"
            raise EOFError(message)


def _raw_planes(stored: _Stored, into: npt.NDArray[Any] | None = None) -> Iterator[npt.NDArray[Any]]:
    """Yield the planes [:, :, k] in order, as stored but in the machine's byte order.

    Parameters
    ----------
    into
        In Fortran order, of the volume's shape and type: where the planes are to lie. None: each is a new array.
    """
    i, j, k = stored.shape
    native = stored.dtype.newbyteorder("=")
    with _damage_named(stored.path), ImageOpener(stored.data, "rb") as file:
        file.seek(stored.offset)
        for number in range(k):
            plane = np.empty((j, i), dtype=native) if into is None else into.T[number]
            # (j, i) is contiguous, (i, j) its view; as bytes also where it holds colours.
            if file.readinto(plane.view(np.uint8).data) != plane.nbytes:
                message = f"plane {number} of {k} is cut short"
                raise EOFError(message)
            if native != stored.dtype:
                plane.byteswap(inplace=True)
            yield plane.T
        if stored.volume == stored.volumes - 1:
            file.read(1)  # past the end: there gzip compares its checksum


def _read_raw(stored: _Stored) -> npt.NDArray[Any]:
    values = np.empty(stored.shape, dtype=stored.dtype.newbyteorder("="), order="F")
    for _ in _raw_planes(stored, into=values):
        pass
    return values


def _rescaled_planes(stored: _Stored) -> Iterator[npt.NDArray[Any]]:
    """Yield the planes: as stored where nothing is rescaled, else float64."""
    for plane in _raw_planes(stored):
        yield plane if stored.as_stored else plane.astype(np.float64) * stored.slope + stored.intercept


def _colours(raw: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """Return (i, j, k) of (R, G, B[, A]) bytes as (i, j, k, 3), without a copy."""
    bytes_kjic = raw.T[..., None].view(np.uint8)
    return bytes_kjic[..., :3].transpose(2, 1, 0, 3)


@contextmanager
def _damage_named(path: Path) -> Iterator[None]:
    """Turn what nibabel and gzip raise on damaged files into one kind of error."""
    try:
        yield
    except _DAMAGE as error:
        raise UnreadableFile(_damaged(path)) from error


def _affine(path: Path, image: Any, units: int) -> Affine:  # noqa: ANN401
    affine = affine_mm(image, units=units)
    # Small voxels are small numbers in one of the units only: a tenth of a micron in mm, of a millimetre in metres.
    if not np.isfinite(affine).all() or max(_determinant(affine), _determinant(image.affine)) < 1e-12:
        rows = np.array2string(affine[:3], precision=3, separator=", ").replace("\n", "")
        message = (
            f"{path}: the affine of its header cannot be inverted: {rows}. The tool that wrote it left the geometry "
            f"incomplete; set it from the original, e.g. nibabel.Nifti1Image(data, original.affine)."
        )
        raise UnreadableFile(message)
    return affine


def _determinant(affine: Affine) -> float:
    return float(abs(np.linalg.det(affine[:3, :3])))


def _grid(header: Any, shape: tuple[int, ...], affine: Affine) -> SourceGrid:  # noqa: ANN401
    i, j, k = shape
    pixdim = [float(value) for value in header["pixdim"][:4]]
    return SourceGrid(
        shape=(i, j, k),
        stored_shape=_stored_shape(header, shape),
        affine=tuple(tuple(float(value) for value in row) for row in affine),
        pixdim=(pixdim[0], pixdim[1], pixdim[2], pixdim[3]),
        quaternion=(float(header["quatern_b"]), float(header["quatern_c"]), float(header["quatern_d"])),
        quaternion_offset=(float(header["qoffset_x"]), float(header["qoffset_y"]), float(header["qoffset_z"])),
        qform_code=int(header["qform_code"]),
        sform=tuple(tuple(float(value) for value in header[f"srow_{axis}"]) for axis in "xyz"),
        sform_code=int(header["sform_code"]),
        xyzt_units=int(header["xyzt_units"]),
        nifti_version=2 if isinstance(header, nib.Nifti2Header) else 1,
    )


def _stored_shape(header: Any, shape: tuple[int, ...]) -> tuple[int, ...]:  # noqa: ANN401 (of nibabel)
    """Return the shape of a mask for this file: the file's own, or one volume of a 4-D one."""
    stored = tuple(int(size) for size in header.get_data_shape())
    return stored if np.prod(stored, dtype=object) == np.prod(shape, dtype=object) else shape


def _notes(stored: _Stored) -> tuple[str, ...]:
    notes = []
    if stored.volumes > 1:
        notes.append(f"a 4-D file: volume {stored.volume} of 0 to {stored.volumes - 1} was taken")
    stated = int(stored.header["xyzt_units"]) & _SPATIAL_UNITS
    if stated in _IN_MM:
        unit = "metres" if stated == _METRES else "microns"
        notes.append(f"its header is in {unit}: distances and volumes are measured in millimetres")
    if int(stored.header["sform_code"]) <= 0 and int(stored.header["qform_code"]) <= 0:
        notes.append("neither sform nor qform is set: spacing is from pixdim, left and right are NIfTI's default")
    return tuple(notes)


def _damaged(path: Path) -> str:
    size = path.stat().st_size if path.exists() else 0
    return (
        f"{path}: the file is truncated, damaged or not NIfTI ({size} bytes). A download or copy that stopped early is "
        f"the usual cause: copy it again, and compare sizes (for .nii.gz, `gzip -t` tells)."
    )
