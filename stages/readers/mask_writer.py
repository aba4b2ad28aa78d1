"""The formats of masks, and the one place that chooses a writer.

    format      file             fits
    nifti       NAME.nii.gz      every source
    nrrd        NAME.nrrd        every source
    dicom-seg   NAME.seg.dcm     DICOM series that can be referred to, see `seg_writer`
    png         NAME.png         one slice without geometry: pictures

Probabilities, where they are asked for, are ``NAME.probabilities.nii.gz`` beside a mask of any format.

A mask on a grid whose axes are not at right angles (a tilted gantry) is written in index space,
``NAME.index-space.nii.gz``, with the true affine beside it: see `index_space`. The exception is a
source that is a sheared NIfTI itself: its user has tools that read it, and the mask has the identical header.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from ...store.errors import InputError, SamkitError
from .geometry import is_sheared, spacing_mm
from .index_space import INDEX_SPACE, affine_beside, write_affine_beside
from .nifti import (
    grid_of_affine,
    read_nifti_image,
    write_label_nifti,
    write_label_nifti_index_space,
    write_probabilities_nifti,
)

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from .base import SourceGrid
    from .dicom_series import Series
    from .seg_writer import Algorithm

__all__ = ["MASK_FORMATS", "MaskFile", "MaskFormat", "mask_file", "read_mask", "write_mask", "write_probabilities"]

MaskFormat = Literal["nifti", "nrrd", "dicom-seg", "png"]

MASK_FORMATS: tuple[MaskFormat, ...] = get_args(MaskFormat)
"""The default first."""

_ENDINGS: dict[MaskFormat, str] = {"nifti": ".nii.gz", "nrrd": ".nrrd", "dicom-seg": ".seg.dcm", "png": ".png"}
_PROBABILITIES = ".probabilities"
# Two quaternions of one orientation: float32 of matrices that were computed on two machines.
_QUATERNION_TOLERANCE = 1e-5


@dataclass(frozen=True, kw_only=True, slots=True)
class MaskFile:
    """Where a mask goes, and as what."""

    path: Path
    name: str
    """Of the file, without an ending."""
    format: MaskFormat
    in_index_space: bool = False
    """Whether the file itself says nothing true of where it lies."""
    probabilities: MaskFile | None = None
    """Where what the head says of each class goes, if that is wanted."""

    @property
    def files(self) -> tuple[Path, ...]:
        """Everything that is written: the mask, the affine beside it, and the probabilities with theirs."""
        own = (self.path, affine_beside(self.path)) if self.in_index_space else (self.path,)
        return own if self.probabilities is None else (*own, *self.probabilities.files)


def mask_file(
    folder: Path, name: str, mask_format: MaskFormat, grid: SourceGrid | None, *, with_probabilities: bool = False
) -> MaskFile:
    """Return where a mask goes.

    Parameters
    ----------
    folder
        Of the masks.
    name
        Without an ending.
    mask_format
        How it is written.
    grid
        Of the source; None where it is not known yet, and then taken to be straight.
    with_probabilities
        Whether they are written too.
    """
    sheared = grid is not None and _only_in_index_space(grid, mask_format)
    marked = INDEX_SPACE if sheared else ""
    return MaskFile(
        path=folder / f"{name}{marked}{_ENDINGS[mask_format]}",
        name=name,
        format=mask_format,
        in_index_space=sheared,
        probabilities=mask_file(folder, f"{name}{_PROBABILITIES}", "nifti", grid) if with_probabilities else None,
    )


def write_mask(
    mask: MaskFile,
    values_ijk: npt.NDArray[np.unsignedinteger[Any]],
    grid: SourceGrid,
    *,
    series: Series | None,
    label_names: Mapping[int, str],
    algorithm: Algorithm,
) -> None:
    """Write a mask, whole or not at all.

    Parameters
    ----------
    mask
        Where and as what, from `mask_file` with the same grid. The folder must exist.
    values_ijk
        Label values of shape ``grid.shape``, in the source's index order.
    grid
        Of the source.
    series
        The plan of the source, for a DICOM-SEG.
    label_names, algorithm
        For a DICOM-SEG: see `seg_writer.write_label_seg`.

    Raises
    ------
    InputError
        The format does not fit the source; see each writer.
    """
    if mask.format == "dicom-seg":
        from .seg_writer import write_label_seg

        if series is None:
            message = f"{mask.path}: a DICOM-SEG refers to a DICOM series, and this source is none. --format nifti"
            raise InputError(message)
        write_label_seg(mask.path, values_ijk, series, label_names, algorithm=algorithm)
    elif mask.format == "nrrd":
        from .itk import write_label_nrrd

        if mask.in_index_space:
            write_affine_beside(mask.path, grid)
        write_label_nrrd(mask.path, values_ijk, _index_grid(grid) if mask.in_index_space else grid)
    elif mask.format == "png":
        from .picture import write_label_png

        write_label_png(mask.path, values_ijk)
    elif mask.in_index_space:
        write_label_nifti_index_space(mask.path, values_ijk, grid)
    else:
        write_label_nifti(mask.path, values_ijk, grid)


def write_probabilities(mask: MaskFile, values_ijkc: npt.NDArray[np.float32], grid: SourceGrid) -> None:
    """Write what a head says of each class, in one file, whole or not at all.

    Parameters
    ----------
    mask
        Of which they are, from `mask_file` with the same grid and probabilities. The folder must exist.
    values_ijkc
        0 to 1, of shape ``grid.shape`` and classes, background first, in the source's index order.
    grid
        Of the source.
    """
    assert mask.probabilities is not None
    place = mask.probabilities
    write_probabilities_nifti(place.path, values_ijkc, grid, in_index_space=place.in_index_space)


def read_mask(path: Path) -> npt.NDArray[Any] | None:
    """Return the voxels (i, j, k) of a file that may be a mask, or None where it is none that samkit reads."""
    try:
        if path.name.endswith(_ENDINGS["nifti"]):
            return read_nifti_image(path).values
        if path.name.endswith(_ENDINGS["nrrd"]):
            from .itk import read_itk_image

            return read_itk_image(path).values
        if path.name.endswith(_ENDINGS["png"]):
            from .picture import read_picture_image

            return read_picture_image(path).values
    except SamkitError:
        return None
    return None


def _index_grid(grid: SourceGrid) -> SourceGrid:
    """Return the grid of an array by its indices, for NRRD: spacing, and axes as ITK has them by default (LPS+)."""
    affine = np.eye(4) if grid.affine_array is None else grid.affine_array
    i, j, k = spacing_mm(affine)
    return grid_of_affine(grid.shape, np.diag([-i, -j, k, 1.0]))


def _only_in_index_space(grid: SourceGrid, mask_format: MaskFormat) -> bool:
    affine = grid.affine_array
    if mask_format not in ("nifti", "nrrd") or affine is None or not is_sheared(affine, grid.shape):
        return False
    return mask_format == "nrrd" or not _has_own_header(grid)


def _has_own_header(grid: SourceGrid) -> bool:
    """Tell whether a grid's header fields are a NIfTI file's, and not made of an affine by `grid_of_affine`."""
    made = grid_of_affine(grid.shape, grid.affine_array)
    return replace(grid, quaternion=made.quaternion) != made or not np.allclose(
        grid.quaternion, made.quaternion, atol=_QUATERNION_TOLERANCE
    )
