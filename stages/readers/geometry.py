"""Display orientation and the fit of two grids. Pure functions on affines and shapes.

Conventions: an affine maps source indices (i, j, k) to millimetres in RAS+ (x to the patient's right, y to anterior,
z to superior). A display array is (slices, rows, columns). The way from one to the other is a permutation of axes and
flips, nothing else, so it is undone exactly. An oblique scan takes the nearest anatomical axes.

    plane      slices run              rows run                columns run
    axial      inferior to superior    anterior to posterior   right to left
    coronal    anterior to posterior   superior to inferior    right to left
    sagittal   right to left           superior to inferior    anterior to posterior

That is the usual radiological display: the patient's right is on the left of an axial or coronal picture, and the
nose on the left of a sagittal one.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
from nibabel.affines import voxel_sizes
from nibabel.orientations import aff2axcodes, io_orientation

from ...store.errors import GeometryMismatch, UsageError

if TYPE_CHECKING:
    from .base import Affine

__all__ = ["Fit", "Orientation", "Plane", "choose_orientation", "compare_grids", "display_spacing_mm", "spacing_mm"]

Plane = Literal["axial", "coronal", "sagittal", "stored"]
"""``stored``: the file has no geometry, and the array is taken as it is."""

# For each plane, the world axis (0 right, 1 anterior, 2 superior) and the sense along it (+1 towards right, anterior,
# superior) of slices, rows, columns: the table above in numbers.
_DISPLAY: dict[Plane, tuple[tuple[int, int], tuple[int, int], tuple[int, int]]] = {
    "axial": ((2, +1), (1, -1), (0, -1)),
    "coronal": ((1, -1), (2, -1), (0, -1)),
    "sagittal": ((0, -1), (2, -1), (1, -1)),
}

_TIE = 0.01  # spacings within 1 % count as equal: headers round 0.9765625 to 0.977
_SILENT_VOXELS = 0.01  # float32 headers and rounded decimals stay below; nobody should be told
_WARNING_VOXELS = 0.1  # other tools' rounding (LiTS: 3e-4 mm) stays below; half a voxel would shift a border


@dataclass(frozen=True, kw_only=True, slots=True)
class Orientation:
    """The permutation and flips from source (i, j, k) to display (slices, rows, columns), and back."""

    axes: tuple[int, int, int]
    """The source axis that slices, rows and columns run along."""
    flips: tuple[bool, bool, bool]
    """Whether slices, rows and columns run against the source index."""
    plane: Plane
    """What the slices are; ``stored`` where the source has no geometry."""

    def apply(self, array_ijk: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return the display array (slices, rows, columns), a view of the (i, j, k) array."""
        return np.flip(np.transpose(array_ijk, self.axes), self._flipped)

    def undo(self, array_src: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return the source array (i, j, k), a view of the (slices, rows, columns) array: `apply` inverted exactly."""
        return np.transpose(np.flip(array_src, self._flipped), np.argsort(self.axes))

    def affine(self, source_affine: Affine, shape_ijk: tuple[int, int, int]) -> Affine:
        """Return the 4x4 matrix from display indices (column, row, slice) to RAS+ millimetres.

        Parameters
        ----------
        source_affine
            (i, j, k) to RAS+ millimetres.
        shape_ijk
            Of the source array: a flipped index counts from the other end.
        """
        to_source = np.zeros((4, 4))  # from (column, row, slice, 1) to (i, j, k, 1)
        to_source[3, 3] = 1.0
        for display_axis, (source_axis, flipped) in enumerate(zip(self.axes, self.flips, strict=True)):
            column = 2 - display_axis  # matrices take (column, row, slice), arrays (slice, row, column)
            to_source[source_axis, column] = -1.0 if flipped else 1.0
            to_source[source_axis, 3] = shape_ijk[source_axis] - 1 if flipped else 0.0
        return np.asarray(source_affine, dtype=np.float64) @ to_source

    def to_json(self) -> dict[str, Any]:
        """Return plain lists, booleans and text."""
        return {"axes": list(self.axes), "flips": list(self.flips), "plane": self.plane}

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> Orientation:
        """Return the orientation that `to_json` described."""
        slices, rows, columns = stored["axes"]
        flip_slices, flip_rows, flip_columns = stored["flips"]
        return cls(axes=(slices, rows, columns), flips=(flip_slices, flip_rows, flip_columns), plane=stored["plane"])

    @property
    def _flipped(self) -> tuple[int, ...]:
        return tuple(axis for axis, flipped in enumerate(self.flips) if flipped)


@dataclass(frozen=True, kw_only=True, slots=True)
class Fit:
    """How well a label lies on its image, where it does."""

    displacement_voxels: float | None
    """The farthest corner's way from the image's to the label's, in voxels of the image; None: geometry unknown."""
    warning: str | None
    """What to tell the user; None when there is nothing to tell."""


def spacing_mm(affine: Affine) -> tuple[float, float, float]:
    """Return the distance between neighbouring voxels along i, j, k in millimetres (the columns' norms)."""
    i, j, k = (float(size) for size in voxel_sizes(affine))
    return i, j, k


def display_spacing_mm(affine: Affine, orientation: Orientation) -> tuple[float, float, float]:
    """Return the spacing (between slices, between rows, between columns) in millimetres.

    Parameters
    ----------
    affine
        Of the source: (i, j, k) to RAS+ millimetres.
    orientation
        From the source to the display.
    """
    spacing = spacing_mm(affine)
    slices, rows, columns = orientation.axes
    return spacing[slices], spacing[rows], spacing[columns]


def choose_orientation(affine: Affine | None, shape: tuple[int, int, int], axis: str | None) -> Orientation:
    """Choose the slicing axis and the display orientation of a volume.

    Parameters
    ----------
    affine
        (i, j, k) to RAS+ millimetres; None where the file has no geometry.
    shape
        (i, j, k).
    axis
        "axial", "coronal" or "sagittal" to choose the plane. For a file without geometry "0", "1" or "2": the axis of
        the array as the file stores it ([Z, H, W], so "0" is the first, and the default). None: through-plane, the
        axis of the largest spacing; within 1 % of it axial wins, then coronal. A single plane (one axis of size one)
        is sliced along that axis, whatever its spacing.

    Raises
    ------
    UsageError
        An unknown axis, or one that does not go with what the file knows.
    """
    if affine is None:
        return _stored_orientation(axis)
    if axis is not None and axis not in _DISPLAY:
        hint = " Array axes (0, 1, 2) are for files without geometry." if axis in {"0", "1", "2"} else ""
        message = f"--axis {axis}: this volume has geometry, so name its plane: axial, coronal or sagittal.{hint}"
        raise UsageError(message)
    # For each source axis the nearest world axis, and +1 where the index runs towards right, anterior, superior.
    nearest = [(int(world), int(sense)) for world, sense in io_orientation(affine)]
    plane = next((name for name in _DISPLAY if name == axis), None) or _through_plane(affine, shape, nearest)
    source_of_world = {world: source for source, (world, _) in enumerate(nearest)}
    sense_of_world = dict(nearest)
    worlds = _DISPLAY[plane]
    slices, rows, columns = (source_of_world[world] for world, _ in worlds)
    flip_slices, flip_rows, flip_columns = (sense_of_world[world] != wanted for world, wanted in worlds)
    return Orientation(axes=(slices, rows, columns), flips=(flip_slices, flip_rows, flip_columns), plane=plane)


def compare_grids(
    image_shape: tuple[int, ...],
    image_affine: Affine | None,
    label_shape: tuple[int, ...],
    label_affine: Affine | None,
    *,
    place: str = "the label",
) -> Fit:
    """Check that a label lies on the grid of its image.

    The measure is the largest distance, over the eight corner voxels, between where the image's and where the label's
    affine put that corner, in voxels of the image.

    Parameters
    ----------
    image_shape, label_shape
        (i, j, k).
    image_affine, label_affine
        (i, j, k) to RAS+ millimetres; where either is None only the shapes are compared.
    place
        The label's name, for messages.

    Returns
    -------
    Fit
        Up to 0.01 voxel without a word, up to 0.1 with a warning.

    Raises
    ------
    GeometryMismatch
        Another shape, or a corner farther away than 0.1 voxel.
    """
    if image_shape != label_shape:
        cause = (
            "The axes look permuted: was one of the two reoriented?"
            if sorted(image_shape) == sorted(label_shape)
            else "The label was probably drawn on a resampled or cropped copy of the image."
        )
        message = (
            f"{place}: the label has shape {label_shape}, its image {image_shape}. {cause} "
            f"Resample it onto the image with nearest neighbour, e.g. nilearn.image.resample_to_img."
        )
        raise GeometryMismatch(message)
    if image_affine is None or label_affine is None:
        return Fit(displacement_voxels=None, warning=None)
    displacement = _corner_displacement_voxels(image_shape, image_affine, label_affine)
    if displacement <= _SILENT_VOXELS:
        return Fit(displacement_voxels=displacement, warning=None)
    if displacement <= _WARNING_VOXELS:
        warning = (
            f"{place}: the label lies {displacement:.3f} voxel from its image at the farthest corner "
            f"(up to {_WARNING_VOXELS} is taken); voxels are paired by index"
        )
        return Fit(displacement_voxels=displacement, warning=warning)
    raise GeometryMismatch(_mismatch(place, displacement, image_affine, label_affine))


def _stored_orientation(axis: str | None) -> Orientation:
    """Slice an array without geometry along one of its stored axes [Z, H, W], which are k, j, i."""
    if axis in {"axial", "coronal", "sagittal"}:
        message = (
            f"--axis {axis}: the file has no geometry, so nobody knows which of its axes that is. "
            f"Choose an axis of the stored array: --axis 0 (its first, the default), 1 or 2."
        )
        raise UsageError(message)
    if axis not in {None, "0", "1", "2"}:
        message = f"--axis {axis}: unknown. For a file without geometry: 0 (the first axis of the array), 1 or 2."
        raise UsageError(message)
    stored = [2, 1, 0]
    slices = stored.pop(int(axis or 0))
    return Orientation(axes=(slices, stored[0], stored[1]), flips=(False, False, False), plane="stored")


def _through_plane(affine: Affine, shape: tuple[int, int, int], nearest: list[tuple[int, int]]) -> Plane:
    plane_of_world: dict[int, Plane] = {sliced[0]: plane for plane, (sliced, _, _) in _DISPLAY.items()}
    single = [source for source, size in enumerate(shape) if size == 1]
    if len(single) == 1:
        return plane_of_world[nearest[single[0]][0]]
    spacing = spacing_mm(affine)
    tied = {plane_of_world[nearest[axis][0]] for axis in range(3) if spacing[axis] >= max(spacing) * (1 - _TIE)}
    return next(plane for plane in _DISPLAY if plane in tied)  # in the order axial, coronal, sagittal


def _corner_displacement_voxels(shape: tuple[int, ...], image_affine: Affine, label_affine: Affine) -> float:
    corners = np.array([(*corner, 1) for corner in product(*((0, size - 1) for size in shape))], dtype=np.float64)
    moved = corners @ (np.linalg.inv(image_affine) @ label_affine).T
    return float(np.linalg.norm((moved - corners)[:, :3], axis=1).max())


def _mismatch(place: str, displacement: float, image_affine: Affine, label_affine: Affine) -> str:
    image_codes, label_codes = ("".join(aff2axcodes(affine)) for affine in (image_affine, label_affine))
    image_spacing, label_spacing = (
        " x ".join(f"{size:.4g}" for size in spacing_mm(affine)) for affine in (image_affine, label_affine)
    )
    image_origin, label_origin = (
        "({:.2f}, {:.2f}, {:.2f})".format(*affine[:3, 3]) for affine in (image_affine, label_affine)
    )
    if image_codes != label_codes:
        cause = "One of the two was reoriented."
    elif image_spacing != label_spacing:
        cause = "The label was probably drawn on a resampled copy."
    else:
        cause = "The label was probably written with the affine of another file."
    return (
        f"{place}: the label lies {displacement:.3g} voxels from its image at the farthest corner; up to "
        f"{_WARNING_VOXELS} is taken. Image: {image_codes}, {image_spacing} mm, origin {image_origin} mm; label: "
        f"{label_codes}, {label_spacing} mm, origin {label_origin} mm. {cause} If you are sure that the voxels "
        f"correspond, write the label with its image's affine; otherwise resample it with nearest neighbour."
    )
