"""NIfTI files: images and labels in, masks out.

Conventions: index order (i, j, k) as stored; the affine is nibabel's (sform if its code is positive, else qform, else
pixdim), in RAS+ millimetres. Values are rescaled by scl_slope and scl_inter in float64 and kept as float32, so that a
scan gives the same numbers as NIfTI and as DICOM. Only geometry leaves the header: no description, no extensions.
"""

from __future__ import annotations

import os
import zlib
from typing import TYPE_CHECKING, Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError

from ...store.errors import GeometryMismatch, UnreadableFile, UnusableLabel, UnusableVoxels, UsageError
from .base import Affine, LabelMap, Scan, SourceGrid

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["grid_of_affine", "read_nifti_image", "read_nifti_label", "whole_labels", "write_label_nifti"]

# What nibabel and gzip raise on damaged files. ValueError: a memory map longer than its file.
_DAMAGE = (EOFError, HeaderDataError, ImageFileError, OSError, ValueError, zlib.error)

# A label stored with scl_slope comes back as 2.00007 or 6.9999 (TorchIO#220, nibabel#1001): round, and check.
WHOLE_TOLERANCE = 1e-3

_MILLIMETRES = 2  # NIFTI_UNITS_MM
_SCANNER = 1  # NIFTI_XFORM_SCANNER_ANAT
_NIFTI1_LARGEST = 32_767  # dim[] of NIfTI-1 is int16


def read_nifti_image(path: Path, *, modality: str | None = None) -> Scan:
    """Read a NIfTI image.

    Parameters
    ----------
    path
        A ``.nii`` or ``.nii.gz`` file, of two or three dimensions (trailing ones do not count).
    modality
        What the layout knows; NIfTI itself does not say.

    Returns
    -------
    Scan
        ``values`` (i, j, k) float32, rescaled; a 2-D image has k = 1.

    Raises
    ------
    UnreadableFile
        Missing, truncated, not NIfTI, or with a geometry that cannot be inverted.
    UnusableVoxels
        4-D, colour or complex.
    """
    image = _open(path)
    stored, slope, intercept = _stored_values(path, image)
    values = np.empty(stored.shape, dtype=np.float32, order="F")
    for k in range(stored.shape[2]):  # plane by plane: a float64 copy of a whole CT is 1.7 GB
        plane = stored[:, :, k]
        values[:, :, k] = plane if (slope, intercept) == (1.0, 0.0) else plane.astype(np.float64) * slope + intercept
    affine = _affine(path, image)
    return Scan(
        values=values,
        affine=affine,
        modality=modality,
        grid=_grid(image.header, values.shape, affine),
        notes=_notes(image.header),
    )


def read_nifti_label(path: Path) -> LabelMap:
    """Read a NIfTI label map; see `whole_labels` for which values are taken.

    Raises
    ------
    UnreadableFile
        Missing, truncated or not NIfTI.
    UnusableLabel
        Values that are not whole numbers from 0 on.
    UnusableVoxels
        4-D, colour or complex.
    """
    image = _open(path)
    stored, slope, intercept = _stored_values(path, image)
    rescaled = stored if (slope, intercept) == (1.0, 0.0) else stored.astype(np.float64) * slope + intercept
    return LabelMap(values=whole_labels(rescaled, place=str(path)), affine=_affine(path, image))


def whole_labels(values: npt.NDArray[Any], *, place: str) -> npt.NDArray[np.unsignedinteger[Any]]:
    """Return label values as the smallest unsigned integers that hold them.

    Parameters
    ----------
    values
        Any shape, any real type; whole within 0.001 and not negative.
    place
        The file, for messages.

    Raises
    ------
    UnusableLabel
        NaN or infinite, negative, or not whole; some of the values are shown.
    """
    if values.size == 0:
        return values.astype(np.uint8)
    if values.dtype == np.bool_:
        return values.astype(np.uint8)
    if values.dtype.kind == "f":
        if not np.isfinite(values).all():
            count = int(np.count_nonzero(~np.isfinite(values)))
            message = (
                f"{place}: {count} of {values.size} label values are NaN or infinite. The label was probably written "
                f"by a resampling tool that marks the outside so; write 0 there, e.g. numpy.nan_to_num(label)."
            )
            raise UnusableLabel(message)
        rounded = np.rint(values)
        broken = np.abs(values - rounded) > WHOLE_TOLERANCE
        if broken.any():
            some = ", ".join(f"{value:.4g}" for value in np.unique(values[broken])[:5])
            message = (
                f"{place}: {int(np.count_nonzero(broken))} of {values.size} label values are not whole numbers "
                f"({some}, ...). It looks like a soft label (a probability), or one resampled with interpolation. Soft "
                f"labels are not taken yet: threshold it (label > 0.5), or resample with nearest neighbour."
            )
            raise UnusableLabel(message)
        values = rounded
    lowest, highest = values.min(), values.max()
    if lowest < 0:
        some = ", ".join(f"{value:g}" for value in np.unique(values[values < 0])[:5])
        message = (
            f"{place}: {int(np.count_nonzero(values < 0))} of {values.size} label values are negative ({some}). "
            f"Labels are whole numbers from 0 (background) on. If negative means 'not annotated', set it to 0."
        )
        raise UnusableLabel(message)
    return values.astype(np.min_scalar_type(int(highest)))


def grid_of_affine(shape: tuple[int, int, int], affine: Affine | None) -> SourceGrid:
    """Return the grid of a source that is not NIfTI.

    Parameters
    ----------
    shape
        (i, j, k).
    affine
        (i, j, k) to RAS+ millimetres: written as sform and qform of code 1 (scanner). None: identity, codes 0.
    """
    if affine is None:
        return SourceGrid(shape=shape, stored_shape=shape, affine=None)
    header = nib.Nifti2Header() if max(shape) > _NIFTI1_LARGEST else nib.Nifti1Header()
    header.set_data_shape(shape)
    header.set_sform(affine, code=_SCANNER)
    header.set_qform(affine, code=_SCANNER, strip_shears=True)  # a quaternion cannot hold shear; the sform does
    header["xyzt_units"] = _MILLIMETRES
    return _grid(header, shape, affine)


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
    if not path.name.endswith((".nii", ".nii.gz")):
        message = f"{path}: a mask is written as NIfTI. Give it a name that ends in .nii.gz (or .nii)."
        raise UsageError(message)
    if values_ijk.shape != grid.shape:
        message = (
            f"{path}: the mask has shape {values_ijk.shape}, the grid of its source {grid.shape}. "
            f"Was the display orientation undone?"
        )
        raise GeometryMismatch(message)
    if values_ijk.dtype.kind not in "ui":
        message = (
            f"{path}: a mask holds integers, not {values_ijk.dtype}. Take the argmax, or threshold, before writing."
        )
        raise UnusableLabel(message)
    image_class: Any = nib.Nifti2Image if grid.nifti_version == 2 else nib.Nifti1Image
    header = image_class.header_class()
    header.set_data_dtype(values_ijk.dtype)
    header.set_data_shape(grid.stored_shape)
    header["pixdim"][:4] = grid.pixdim
    header["quatern_b"], header["quatern_c"], header["quatern_d"] = grid.quaternion
    header["qoffset_x"], header["qoffset_y"], header["qoffset_z"] = grid.quaternion_offset
    header["srow_x"], header["srow_y"], header["srow_z"] = grid.sform
    header["qform_code"], header["sform_code"] = grid.qform_code, grid.sform_code
    header["xyzt_units"] = grid.xyzt_units
    # No affine argument: nibabel would write its own idea of qform, sform and codes over the fields above.
    image = image_class(values_ijk.reshape(grid.stored_shape), None, header)
    part = path.with_name(f".{os.getpid()}.{path.name}")  # nibabel compresses by the ending, so that stays
    try:
        nib.save(image, part)
        with part.open("rb") as file:
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _open(path: Path) -> Any:  # noqa: ANN401 (a nibabel image: its types are not checked)
    """Read the header, and refuse what is not NIfTI or has no real numbers in three dimensions."""
    try:
        image = nib.load(path)
    except FileNotFoundError as error:
        message = f"{path}: there is no such file. Is it a link to something that was never downloaded?"
        raise UnreadableFile(message) from error
    except _DAMAGE as error:
        raise UnreadableFile(_damaged(path)) from error
    if not isinstance(image, nib.Nifti1Pair):
        message = f"{path}: read as {type(image).__name__}, not as NIfTI. Convert it to .nii.gz first."
        raise UnreadableFile(message)
    dtype = image.get_data_dtype()
    if dtype.names or dtype.kind not in "uif":
        kind = "colour (RGB)" if dtype.names else f"{dtype}"
        message = (
            f"{path}: the voxels are {kind}; one real number a voxel is taken. "
            f"Convert it to grey values (or the magnitude of a complex image) first."
        )
        raise UnusableVoxels(message)
    return image


def _stored_values(path: Path, image: Any) -> tuple[npt.NDArray[Any], float, float]:  # noqa: ANN401
    """Return the raw values as (i, j, k), scl_slope and scl_inter."""
    shape = _three_dimensions(path, image.shape)
    try:
        stored = np.asarray(image.dataobj.get_unscaled())
    except _DAMAGE as error:
        raise UnreadableFile(_damaged(path)) from error
    return stored.reshape(shape), float(image.dataobj.slope), float(image.dataobj.inter)


def _three_dimensions(path: Path, shape: tuple[int, ...]) -> tuple[int, int, int]:
    significant = list(shape)
    while len(significant) > 3 and significant[-1] == 1:
        significant.pop()
    if len(significant) > 3:
        message = (
            f"{path}: the image has {len(significant)} dimensions, {shape}; 4-D images (time, channels) are not taken "
            f"yet. Split it into 3-D files, e.g. `fslsplit` or nibabel.four_to_three(nibabel.load(...))."
        )
        raise UnusableVoxels(message)
    if len(significant) < 2 or 0 in significant:
        message = f"{path}: an image of shape {shape} has no slices. Two or three dimensions are taken."
        raise UnusableVoxels(message)
    i, j, k = (*significant, 1)[:3]
    return i, j, k


def _affine(path: Path, image: Any) -> Affine:  # noqa: ANN401
    affine = np.asarray(image.affine, dtype=np.float64)
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-12:
        rows = np.array2string(affine[:3], precision=3, separator=", ").replace("\n", "")
        message = (
            f"{path}: the affine of its header cannot be inverted: {rows}. The tool that wrote it left the geometry "
            f"incomplete; set it from the original, e.g. nibabel.Nifti1Image(data, original.affine)."
        )
        raise UnreadableFile(message)
    return affine


def _grid(header: Any, shape: tuple[int, ...], affine: Affine) -> SourceGrid:  # noqa: ANN401
    i, j, k = shape
    pixdim = [float(value) for value in header["pixdim"][:4]]
    return SourceGrid(
        shape=(i, j, k),
        stored_shape=tuple(int(size) for size in header.get_data_shape()),
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


def _notes(header: Any) -> tuple[str, ...]:  # noqa: ANN401
    if int(header["sform_code"]) > 0 or int(header["qform_code"]) > 0:
        return ()
    return ("neither sform nor qform is set: spacing is from pixdim, left and right are NIfTI's default",)


def _damaged(path: Path) -> str:
    size = path.stat().st_size if path.exists() else 0
    return (
        f"{path}: the file is truncated, damaged or not NIfTI ({size} bytes). A download or copy that stopped early is "
        f"the usual cause: copy it again, and compare sizes (for .nii.gz, `gzip -t` tells)."
    )
