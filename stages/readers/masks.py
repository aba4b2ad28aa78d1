"""Labels that come as one mask a structure, or one picture a slice, and take their places from the image.

``mask-series``  a folder of DICOM masks a structure, as 3D-IRCADb has them (MASKS_DICOM/liver/image_0 ...)
``mask-files``   a NIfTI, NRRD or MetaImage file a structure, as TotalSegmentator writes them
``picture-stack`` a PNG a slice beside a DICOM series, as CHAOS has them
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

import numpy as np

from ...store.errors import GeometryMismatch, UnreadableFile
from .base import LabelMap, Structures
from .dicom import decoded_planes
from .dicom_headers import DAMAGE, FrameHeader, frames_of, read_header, shown_name
from .packed_masks import PackedMasks

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    import numpy.typing as npt

    from .base import Affine, SourceGrid
    from .dicom_series import Series

__all__ = ["read_mask_files", "read_mask_series", "read_picture_slices"]

# How far beside an image slice a mask's own position may lie, in slices.
_BESIDE_SLICES = 0.1
_SAME_LATTICE = 1e-4


def read_mask_series(
    structures: Sequence[tuple[str, Sequence[Path]]], series: Series, grid: SourceGrid, *, place: str
) -> Structures:
    """Read masks that are DICOM slices: a voxel belongs to a structure where the stored pixel is above 0.

    A mask's slice is found by its ImagePositionPatient, and, where it has none, by the name of its file, which is then
    that of the image's file. Stored values are taken as they are (0 and 255, or 0 and 1): no rescaling, no window.

    Parameters
    ----------
    structures
        Name and files of each; slices that have no file are empty.
    series, grid
        Of the image.
    place
        The volume's name, for messages.

    Raises
    ------
    UnreadableFile
        A mask's file is damaged.
    GeometryMismatch
        A mask of another matrix, one beside all slices of the image, or two on one slice.
    """
    masks = PackedMasks(series.shape, (name for name, _ in structures))
    notes: tuple[str, ...] = ()
    for name, paths in structures:
        headers = [_mask_header(path) for path in paths]
        by_name = any(header.position_mm is None for header in headers)
        if by_name and not notes:
            notes = ("masks without positions were put on the slices whose files have their names",)
        find = _slices_by_name(series, place) if by_name else _slices_by_position(series, grid, place)
        taken: dict[int, FrameHeader] = {}
        for header in headers:
            k = find(header)
            if k in taken:
                message = (
                    f"{place}: two masks of {name!r} lie on one slice: {shown_name(taken[k].path)} and "
                    f"{shown_name(header.path)}. Remove one."
                )
                raise GeometryMismatch(message)
            taken[k] = header
            masks.put(name, _mask_pixels(header, series, place).T[:, :, None] > 0, (0, 0, k))
    return Structures(masks=masks, affine=grid.affine_array, notes=notes)


def _mask_header(path: Path) -> FrameHeader:
    try:
        header, *_ = frames_of(path, read_header(path))
    except DAMAGE as error:
        message = f"{path}: not readable as DICOM: damaged, or cut short in copying. Copy it again."
        raise UnreadableFile(message) from error
    if header.fault is not None:
        message = f"{path} {header.fault}."
        raise UnreadableFile(message)
    if header.frames > 1:
        message = f"{path}: a mask of {header.frames} frames; one slice a file is taken."
        raise UnreadableFile(message)
    return header


def _slices_by_position(series: Series, grid: SourceGrid, place: str) -> Callable[[FrameHeader], int]:
    """Return what finds the slice on which a mask lies, by both ends of its diagonal."""
    affine = grid.affine_array
    if affine is None:  # an image that lies nowhere has slices by name only
        return _slices_by_name(series, place)
    to_voxels = np.linalg.inv(np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine)
    columns, rows, slices = series.shape

    def find(header: FrameHeader) -> int:
        first = np.array(header.position_mm)
        corners_lps, corners_ij = [first], [(0, 0)]
        if header.orientation is not None and header.spacing_mm is not None:  # else only the corner is known
            between_rows, between_columns = header.spacing_mm
            along_row, along_column = np.reshape(header.orientation, (2, 3))
            corners_lps.append(
                first + along_row * between_columns * (columns - 1) + along_column * between_rows * (rows - 1)
            )
            corners_ij.append((columns - 1, rows - 1))
        found = np.array([(to_voxels @ [*corner, 1.0])[:3] for corner in corners_lps])
        k = round(float(found[0, 2]))
        expected = np.array([(i, j, k) for i, j in corners_ij])
        off = np.abs(found - expected).max()
        if off > _BESIDE_SLICES or not 0 <= k < slices:
            i, j, beside = found[0]
            message = (
                f"{place}: the mask {_shown(header)} begins at voxel ({i:.2f}, {j:.2f}, {beside:.2f}) of the image: "
                f"{off:.3g} voxels off its grid (up to {_BESIDE_SLICES} is taken), or beside its {slices} slices. It "
                f"belongs to another series."
            )
            raise GeometryMismatch(message)
        return k

    return find


def _slices_by_name(series: Series, place: str) -> Callable[[FrameHeader], int]:
    """Return what finds the slice whose file has the name of a mask's file."""
    names: dict[str, list[int]] = defaultdict(list)
    for k, frame in enumerate(series.frames):
        names[frame.path.name].append(k)

    def find(header: FrameHeader) -> int:
        slices = names.get(header.path.name, [])
        if len(slices) != 1:
            message = (
                f"{place}: the mask {_shown(header)} says nowhere where it lies (no ImagePositionPatient), and "
                f"{len(slices) or 'none'} of the image's slices come(s) from a file of its name: one is needed."
            )
            raise GeometryMismatch(message)
        return slices[0]

    return find


def _shown(header: FrameHeader) -> str:
    return f"{shown_name(header.path.parent)}/{shown_name(header.path)}"


def _mask_pixels(header: FrameHeader, series: Series, place: str) -> npt.NDArray[np.number]:
    columns, rows, _ = series.shape
    pixels: npt.NDArray[np.number] = next(decoded_planes(header.path))
    if pixels.shape != (rows, columns):
        message = (
            f"{place}: the mask {_shown(header)} has the shape {pixels.shape}, the image's slices have ({rows}, "
            f"{columns}) rows and columns."
        )
        raise GeometryMismatch(message)
    return pixels


def read_mask_files(
    structures: Sequence[tuple[str, Sequence[Path]]], *, threshold: float | None, units: int = 0, place: str
) -> Structures:
    """Read one volume file a structure: a voxel belongs to it where the value is above 0.

    Parameters
    ----------
    structures
        Name and file of each.
    threshold, units
        As of `nifti.read_nifti_label`.
    place
        The volume's name, for messages.

    Raises
    ------
    UnreadableFile
        A file is missing or damaged.
    UnusableLabel
        Values that are not whole, and no ``threshold``.
    GeometryMismatch
        The masks lie on several lattices.
    """
    masks = PackedMasks(())
    affine: Affine | None = None
    for name, (path, *_) in structures:
        label = _read_volume_label(path, threshold, units)
        if not masks:
            masks = PackedMasks(label.values.shape)
        elif label.values.shape != masks.shape or not _same_lattice(label.affine, affine):
            message = (
                f"{place}: the masks lie on several lattices: {name!r} on another one than {next(iter(masks))!r}. "
                f"Write them on the image's grid."
            )
            raise GeometryMismatch(message)
        affine = label.affine
        masks.put(name, label.values > 0)
    return Structures(masks=masks, affine=affine)


def _read_volume_label(path: Path, threshold: float | None, units: int) -> LabelMap:
    if path.name.lower().endswith((".nii", ".nii.gz")):
        from .nifti import read_nifti_label

        return read_nifti_label(path, threshold=threshold, units=units)
    from .itk import read_itk_label

    label = read_itk_label(path, threshold=threshold)
    if not isinstance(label, LabelMap):
        message = f"{path}: a segmentation of several layers; one mask a file is taken here."
        raise UnreadableFile(message)
    return label


def _same_lattice(one: Affine | None, other: Affine | None) -> bool:
    if one is None or other is None:
        return one is other
    return bool(np.allclose(one, other, rtol=0, atol=_SAME_LATTICE))


def read_picture_slices(paths: Sequence[Path], grid: SourceGrid, *, threshold: float | None) -> LabelMap:
    """Read one picture a slice, in the order of the image's slices; they lie where these lie.

    Raises
    ------
    UnreadableFile
        A picture is damaged.
    GeometryMismatch
        Another number of pictures than slices, or of another size.
    """
    from .picture import read_picture_stack

    slices = grid.shape[2]
    if len(paths) != slices:
        message = f"{paths[0].parent}: {len(paths)} pictures for {slices} slices; one a slice is needed."
        raise GeometryMismatch(message)
    stacked = read_picture_stack(paths, threshold=threshold)
    if stacked.values.shape != grid.shape:
        message = (
            f"{paths[0].parent}: the pictures have {stacked.values.shape[0]} columns x {stacked.values.shape[1]} rows, "
            f"the image's slices {grid.shape[0]} x {grid.shape[1]}. They belong to another series, or were resized."
        )
        raise GeometryMismatch(message)
    return LabelMap(values=stacked.values, affine=grid.affine_array, names=stacked.names, notes=stacked.notes)
