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

from ...store.errors import GeometryMismatch

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from pathlib import Path

    from .dicom_series import Series

__all__ = [
    "Affine",
    "LabelFiles",
    "LabelMap",
    "LabelReaderName",
    "Matrix",
    "ReaderName",
    "Scan",
    "SourceFiles",
    "SourceGrid",
    "Structures",
    "read_image",
    "read_label",
]

ReaderName = Literal["nifti", "hdf5", "dicom", "itk", "picture"]
"""``itk``: NRRD and MetaImage, by SimpleITK; ``picture``: PNG, JPEG, TIFF."""

LabelReaderName = Literal[
    "nifti", "hdf5", "itk", "picture", "picture-stack", "mask-files", "mask-series", "dicom-seg", "rtstruct"
]
"""``picture-stack``: a PNG a slice; ``mask-files``, ``mask-series``: a NIfTI file, a DICOM series a structure."""

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
    """qfac (1 or -1), then the spacing along i, j, k in `xyzt_units`, as the quaternion's offset and the sform are."""
    quaternion: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """quatern_b, quatern_c, quatern_d of the qform."""
    quaternion_offset: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """qoffset_x, qoffset_y, qoffset_z of the qform."""
    qform_code: int = 0
    sform: Matrix = ((1.0, 0.0, 0.0, 0.0), (0.0, 1.0, 0.0, 0.0), (0.0, 0.0, 1.0, 0.0))
    """srow_x, srow_y, srow_z: 3x4."""
    sform_code: int = 0
    xyzt_units: int = 0
    """NIfTI's byte of units, of the fields of the header alone: 0 unknown, 2 millimetres, 10 millimetres and seconds,
    3 microns."""
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

    values: npt.NDArray[np.integer[Any] | np.floating[Any]]
    """(i, j, k), or (i, j, k, channels) for colour, rescaled as the file says: Hounsfield units for CT, arbitrary units
    for MR. Integers of 8 or 16 bits where these hold every value exactly (half the memory of a CT), else float32,
    which may hold NaN."""
    affine: Affine | None
    """(i, j, k) to RAS+ millimetres; None where unknown."""
    modality: str | None
    """As DICOM calls it ("CT", "MR", "PT"), where the source says."""
    grid: SourceGrid
    padding: tuple[float, float] | None = None
    """From and to which value (both included, in the units of `values`) a voxel was never measured: DICOM's pixel
    padding. Such voxels are left out of statistics and shown as 0."""
    inverted: bool = False
    """Whether high values are meant to be dark (DICOM's MONOCHROME1): then [0, 1] is turned round for display."""
    notes: tuple[str, ...] = ()
    """What the reader did that the user should know, one sentence each; no names, dates or UIDs."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class LabelMap:
    """One label map, as its file has it: every voxel has one number."""

    values: npt.NDArray[np.unsignedinteger[Any]]
    """(i, j, k), in the smallest unsigned type that holds the largest value; 0 is background."""
    affine: Affine | None
    """(i, j, k) to RAS+ millimetres; None where unknown."""
    names: Mapping[int, str] = field(default_factory=dict)
    """What the file itself calls its values; empty where it does not say."""
    may_be_cut_out: bool = False
    """Whether files of this kind hold only the part of their image's grid around the structures: background beyond."""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Structures:
    """Named masks, which may overlap: the segments of a DICOM-SEG, the contours of an RTSTRUCT, a folder of masks."""

    masks: Mapping[str, npt.NDArray[np.bool_]]
    """By name; each (i, j, k), all on one lattice. A structure that is empty here is present and all False. They may be
    packed: look at one mask at a time, and at each but once."""
    affine: Affine | None
    """(i, j, k) to RAS+ millimetres; None where unknown."""
    may_be_cut_out: bool = False
    """As of `LabelMap`."""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelFiles:
    """The label of one volume to be, as a layout found it."""

    reader: LabelReaderName
    paths: tuple[Path, ...]
    """One file, or all of them: of a stack in the order of the image's slices."""
    structures: tuple[tuple[str, tuple[Path, ...]], ...] = ()
    """For `mask-files` and `mask-series`: the files of each named structure."""
    names: tuple[str, ...] = ()
    """The named structures that it holds, where a header says so; empty for a map of numbers."""
    volume_index: int | None = None
    """Which volume of a 4-D file."""
    series: Series | None = None
    """For `mask-series`: the image's, whose files masks without positions are named after."""
    hashes: tuple[str, ...] = ()
    """Where it lies, as keyed hashes: of its one file, or of the folders of many; so that no mask takes its place."""

    @property
    def holds_structures(self) -> bool:
        """Whether it is of a kind that holds named structures: without names it is empty, and no map of numbers."""
        return self.reader in ("dicom-seg", "rtstruct", "mask-files", "mask-series")


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceFiles:
    """One volume to be, as a layout found it."""

    id: str
    """The volume's id, final: the file's stem in named research layouts, a keyed hash elsewhere."""
    subject: str
    """The patient it belongs to, final: never a name or an identifier from a header."""
    subject_is_typed: bool = False
    """Whether ``--subject`` says so."""
    image: tuple[Path, ...]
    """One file, or the files of a DICOM series in any order."""
    label: LabelFiles | None
    """None where there is no label; the image's own file for an h5 that holds both."""
    reader: ReaderName
    modality: str | None
    """What the layout knows of the modality ("CT", "MR", "PT"); a reader that knows better wins."""
    identity: str
    """Which source this is, as a keyed hash: equal for the same file, or the same volume of a series, wherever its
    files lie and whatever lies beside them."""
    series_hash: str | None = None
    """Keyed hash of the SeriesInstanceUID, which several volumes may share; None for what is not DICOM."""
    called: tuple[str, ...] = ()
    """What it is called, as keyed hashes, where its id is one: so that a label of its name finds it later."""
    volume_index: int | None = None
    """Which volume of a 4-D file; None for a 3-D one."""
    chosen: tuple[tuple[str, int | float], ...] = ()
    """Which options it took to choose this volume among others (time_index, b_value, echo, channel), and their values;
    empty where there was nothing to choose."""
    series: Series | None = None
    """The plan of a DICOM series: which frames, in which order, and where they lie."""
    shown: str = field(compare=False)
    """The path for the terminal, relative to what the user typed. Never stored."""
    notes: tuple[str, ...] = field(default=(), compare=False)
    """How it was found, where that needs telling; for the terminal."""


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
        A file is missing, damaged or not of its format.
    UnusableVoxels
        Several volumes and none chosen, or values that are no real numbers.
    """
    path = source.image[0]
    if source.series is not None:
        from .dicom import read_series

        return read_series(source.series)
    if source.reader == "nifti":
        from .nifti import read_nifti_image

        return read_nifti_image(path, modality=source.modality, volume_index=source.volume_index)
    if source.reader == "hdf5":
        from .hdf5 import read_hdf5_image

        return read_hdf5_image(path, modality=source.modality)
    if source.reader == "itk":
        from .itk import read_itk_image

        return read_itk_image(path, modality=source.modality, volume_index=source.volume_index)
    from .picture import read_picture_image

    return read_picture_image(path)


def read_label(
    source: SourceFiles,
    *,
    grid: SourceGrid | None = None,
    names: Collection[str] | None = None,
    threshold: float | None = None,
    resample: bool = False,
) -> LabelMap | Structures | None:
    """Read the label of one source, or return None where it has none.

    Parameters
    ----------
    source
        As a layout found it.
    grid
        Of its image: needed where the label has no lattice of its own (contours, segments, masks slice by slice).
    names
        The named structures that are wanted: of a segmentation of a hundred organs the others are not read. None: all.
    threshold
        Above which share a soft label is one; None refuses soft labels.
    resample
        Bring segments and contours that lie beside the image's slices to the nearest ones.

    Raises
    ------
    UnreadableFile
        The file is missing, damaged or not of its format.
    UnusableLabel
        Values that are not whole (by more than 0.001), negative, or not finite.
    UnusableVoxels
        Several volumes and none chosen, or colour.
    GeometryMismatch
        Segments, contours or masks that do not lie on the image's slices.
    """
    label = source.label
    if label is None:
        return None
    path = label.paths[0]
    structures = [one for one in label.structures if names is None or one[0] in names]
    if label.reader == "hdf5":
        from .hdf5 import read_hdf5_label

        return read_hdf5_label(path, threshold=threshold)
    if label.reader == "nifti":
        from .nifti import read_nifti_label

        units = 0 if grid is None else grid.xyzt_units
        return read_nifti_label(path, volume_index=label.volume_index, threshold=threshold, units=units)
    if label.reader == "itk":
        from .itk import read_itk_label

        return read_itk_label(path, volume_index=label.volume_index, threshold=threshold)
    if label.reader == "picture":
        from .picture import read_picture_label

        return read_picture_label(path, threshold=threshold)
    if label.reader == "mask-files":
        from .masks import read_mask_files

        units = 0 if grid is None else grid.xyzt_units
        return read_mask_files(structures, threshold=threshold, units=units, place=source.shown)
    if grid is None:
        message = f"{source.shown}: a label of the kind {label.reader} is read on the grid of its image"
        raise ValueError(message)
    if label.reader == "picture-stack":
        from .masks import read_picture_slices

        return read_picture_slices(label.paths, grid, threshold=threshold)
    if label.reader == "mask-series":
        from .masks import read_mask_series

        return read_mask_series(structures, _series_of(source), grid, place=source.shown)
    if label.reader == "dicom-seg":
        from .dicom_seg import read_seg

        return read_seg(
            path,
            shape=grid.shape,
            affine=_affine_of(source, grid),
            threshold=threshold,
            names=names,
            resample=resample,
            place=source.shown,
        )
    from .rtstruct import read_rtstruct

    return read_rtstruct(
        path,
        shape=grid.shape,
        affine=_affine_of(source, grid),
        names=names,
        resample=resample,
        place=source.shown,
    )


def _series_of(source: SourceFiles) -> Series:
    if source.label is not None and source.label.series is not None:
        return source.label.series
    if source.series is None:
        message = f"{source.shown}: masks as DICOM belong to an image as DICOM, and this one is none."
        raise GeometryMismatch(message)
    return source.series


def _affine_of(source: SourceFiles, grid: SourceGrid) -> Affine:
    affine = grid.affine_array
    if affine is None:
        message = f"{source.shown}: its label lies in the patient, and the image says nowhere where it does."
        raise GeometryMismatch(message)
    return affine
