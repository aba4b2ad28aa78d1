"""What every reader gives back, and the one place that chooses a reader.

Conventions: ``values`` are indexed (i, j, k) in the order of the file (NIfTI as stored; DICOM column, row, slice;
h5 ``[Z, H, W]`` turned into W, H, Z). Affines are float64 4x4, from (i, j, k) to millimetres in RAS+; None where the
file knows no geometry. Nothing here holds free text of a header: whatever leaves a reader may enter a workspace.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from pathlib import Path

__all__ = [
    "Affine",
    "LabelMap",
    "Matrix",
    "ReaderName",
    "Scan",
    "SourceFiles",
    "SourceGrid",
    "read_image",
    "read_label",
]

ReaderName = Literal["nifti", "hdf5", "dicom"]

Affine: TypeAlias = npt.NDArray[np.float64]
"""Shape (4, 4)."""

Matrix: TypeAlias = tuple[tuple[float, ...], ...]
"""Rows of a matrix, as a value that compares and hashes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceGrid:
    """The grid of a source file, complete enough to write a NIfTI that lies on it exactly.

    The geometry fields of the NIfTI header are kept as they stand and not as matrices: a qform that is turned into a
    matrix and back differs in its last bits, and then a mask no longer has the identical grid.
    Field meanings: https://nifti.nimh.nih.gov/pub/dist/src/niftilib/nifti1.h
    """

    shape: tuple[int, int, int]
    """(i, j, k), as `Scan.values`."""
    stored_shape: tuple[int, ...]
    """The shape as the file has it: a 2-D image has two entries, a 3-D one may have trailing ones."""
    affine: Matrix | None
    """(i, j, k) to RAS+ millimetres, 4x4; None where the source has no geometry."""
    pixdim: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 1.0)
    """qfac (1 or -1), then the spacing along i, j, k in `xyzt_units`."""
    quaternion: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """quatern_b, quatern_c, quatern_d of the qform."""
    quaternion_offset: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """qoffset_x, qoffset_y, qoffset_z of the qform."""
    qform_code: int = 0
    sform: Matrix = ((1.0, 0.0, 0.0, 0.0), (0.0, 1.0, 0.0, 0.0), (0.0, 0.0, 1.0, 0.0))
    """srow_x, srow_y, srow_z: 3x4."""
    sform_code: int = 0
    xyzt_units: int = 0
    """NIfTI's byte of units: 0 unknown, 2 millimetres, 10 millimetres and seconds."""
    nifti_version: int = 1
    """2 keeps float64 geometry and more than 32 767 voxels along an axis."""

    @property
    def affine_array(self) -> Affine | None:
        """`affine` as an array."""
        return None if self.affine is None else np.asarray(self.affine, dtype=np.float64)

    def to_json(self) -> dict[str, Any]:
        """Return plain lists and numbers; `from_json` gives an equal grid, to the last bit."""
        return {
            "shape": list(self.shape),
            "stored_shape": list(self.stored_shape),
            "affine": None if self.affine is None else [list(row) for row in self.affine],
            "pixdim": list(self.pixdim),
            "quaternion": list(self.quaternion),
            "quaternion_offset": list(self.quaternion_offset),
            "qform_code": self.qform_code,
            "sform": [list(row) for row in self.sform],
            "sform_code": self.sform_code,
            "xyzt_units": self.xyzt_units,
            "nifti_version": self.nifti_version,
        }

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> SourceGrid:
        """Return the grid that `to_json` described."""
        i, j, k = stored["shape"]
        qfac, spacing_i, spacing_j, spacing_k = stored["pixdim"]
        b, c, d = stored["quaternion"]
        x, y, z = stored["quaternion_offset"]
        return cls(
            shape=(i, j, k),
            stored_shape=tuple(stored["stored_shape"]),
            affine=None if stored["affine"] is None else tuple(tuple(row) for row in stored["affine"]),
            pixdim=(qfac, spacing_i, spacing_j, spacing_k),
            quaternion=(b, c, d),
            quaternion_offset=(x, y, z),
            qform_code=stored["qform_code"],
            sform=tuple(tuple(row) for row in stored["sform"]),
            sform_code=stored["sform_code"],
            xyzt_units=stored["xyzt_units"],
            nifti_version=stored["nifti_version"],
        )


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Scan:
    """One image, as its file has it: no window, no resampling, no reorientation."""

    values: npt.NDArray[np.float32]
    """(i, j, k), rescaled as the file says: Hounsfield units for CT, arbitrary units for MR. May hold NaN."""
    affine: Affine | None
    """(i, j, k) to RAS+ millimetres; None where unknown."""
    modality: str | None
    """As DICOM calls it ("CT", "MR", "PT"), where the source says."""
    grid: SourceGrid
    notes: tuple[str, ...] = ()
    """What the reader did that the user should know, one sentence each; no names, dates or UIDs."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class LabelMap:
    """One label map, as its file has it."""

    values: npt.NDArray[np.unsignedinteger[Any]]
    """(i, j, k), in the smallest unsigned type that holds the largest value; 0 is background."""
    affine: Affine | None
    """(i, j, k) to RAS+ millimetres; None where unknown."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceFiles:
    """One volume to be, as a layout found it."""

    id: str
    """The volume's id, final: the file's stem in named research layouts, a keyed hash elsewhere."""
    subject: str
    """The patient it belongs to, final: never a name or an identifier from a header."""
    image: tuple[Path, ...]
    """One file, or the files of a DICOM series in any order."""
    label: Path | None
    """None where there is no label; the image's own file for an h5 that holds both."""
    reader: ReaderName
    modality: str | None
    """What the layout knows of the modality ("CT", "MR", "PT"); a reader that knows better wins."""
    identity: str
    """Which source this is, as a keyed hash: equal exactly for the same file or series."""
    shown: str = field(compare=False)
    """The path for the terminal, relative to what the user typed. Never stored."""


def read_image(source: SourceFiles) -> Scan:
    """Read the image of one source.

    Parameters
    ----------
    source
        As a layout found it.

    Returns
    -------
    Scan
        In the file's own index order; `modality` from the file, else from the layout.

    Raises
    ------
    UnreadableFile
        A file is missing, damaged or not of its format; a DICOM series does not make one regular stack.
    UnusableVoxels
        More than three dimensions, colour, or complex values.
    """
    if source.reader == "nifti":
        from .nifti import read_nifti_image

        return read_nifti_image(source.image[0], modality=source.modality)
    if source.reader == "hdf5":
        from .hdf5 import read_hdf5_image

        return read_hdf5_image(source.image[0], modality=source.modality)
    from .dicom import read_series

    return read_series(source.image)


def read_label(source: SourceFiles) -> LabelMap | None:
    """Read the label map of one source, or return None where it has none.

    Raises
    ------
    UnreadableFile
        The file is missing, damaged or not of its format.
    UnusableLabel
        Values that are not whole (by more than 0.001), negative, or not finite.
    UnusableVoxels
        More than three dimensions, or colour.
    """
    if source.label is None:
        return None
    if source.reader == "hdf5":
        from .hdf5 import read_hdf5_label

        return read_hdf5_label(source.label)
    # Label maps of a DICOM series (SEG, RTSTRUCT) are not read yet; a layout may pair a series with a NIfTI mask.
    from .nifti import read_nifti_label

    return read_nifti_label(source.label)
