"""Display orientation, the fit of a label to its image, and shear. Pure functions on affines, shapes and arrays.

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
from itertools import permutations, product
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
from nibabel.affines import from_matvec, voxel_sizes
from nibabel.orientations import aff2axcodes, apply_orientation, inv_ornt_aff, io_orientation

from ...store.errors import GeometryMismatch, UsageError
from .labels import count_values

if TYPE_CHECKING:
    from .base import Affine

__all__ = [
    "FittedLabel",
    "Orientation",
    "Plane",
    "choose_orientation",
    "display_spacing_mm",
    "fit_label",
    "is_same_grid",
    "is_sheared",
    "shear_mm",
    "spacing_mm",
    "straightened",
]

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
_SLANT = 1e-4  # of the spacing, that a slant of 0.8 degrees makes: rounded positions stay far below
_SILENT_VOXELS = 0.01  # float32 headers and rounded decimals stay below; nobody should be told
_WARNING_VOXELS = 0.1  # other tools' rounding (LiTS: 3e-4 mm) stays below; half a voxel would shift a border
_TIE_VOXELS = 1e-3  # what lies in the middle between two voxels goes to the upper one, rounding noise or not

# All 48 orders of axes, as nibabel writes them (see `_nearest_order`).
_ORDERS = [
    np.array(list(zip(axes, flips, strict=True)), dtype=np.float64)
    for axes in permutations(range(3))
    for flips in product([1, -1], repeat=3)
]
_AS_STORED = _ORDERS[0]


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
        """Return the display array (slices, rows, columns), a view of (i, j, k); a channel axis stays last."""
        return np.flip(np.transpose(array_ijk, (*self.axes, *range(3, array_ijk.ndim))), self._flipped)

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


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class FittedLabel:
    """A label map on the grid of its image."""

    values: npt.NDArray[np.unsignedinteger[Any]]
    """(i, j, k), of the image's shape; a view of what was given where no voxel had to be computed."""
    warning: str | None = None
    """What to warn the user of; None when there is nothing."""
    notes: tuple[str, ...] = ()
    """What was done to the label, one sentence each."""


def spacing_mm(affine: Affine) -> tuple[float, float, float]:
    """Return the distance between neighbouring voxels along i, j, k in millimetres (the columns' norms)."""
    i, j, k = (float(size) for size in voxel_sizes(affine))
    return i, j, k


def display_spacing_mm(affine: Affine, orientation: Orientation) -> tuple[float, float, float]:
    """Return the spacing (between slices, between rows, between columns) in millimetres.

    Slices of a tilted gantry lie at a slant, each shifted along its plane: between them is the distance of their
    planes, so that the product is the volume of a voxel.

    Parameters
    ----------
    affine
        Of the source: (i, j, k) to RAS+ millimetres.
    orientation
        From the source to the display.
    """
    spacing = spacing_mm(affine)
    slices, rows, columns = orientation.axes
    across = np.cross(affine[:3, rows], affine[:3, columns])
    between = abs(float(affine[:3, slices] @ across)) / float(np.linalg.norm(across))
    slanted = between < spacing[slices] * (1 - _SLANT)
    return between if slanted else spacing[slices], spacing[rows], spacing[columns]


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


def fit_label(
    values: npt.NDArray[np.unsignedinteger[Any]],
    label_affine: Affine | None,
    image_shape: tuple[int, int, int],
    image_affine: Affine | None,
    *,
    resample: bool = False,
    may_be_cut_out: bool = False,
    place: str,
) -> FittedLabel:
    """Bring a label map onto the grid of its image: as it is, by reordering its axes, or by resampling where told.

    The measure is the largest distance, over the eight corner voxels, between where the image's and where the label's
    affine put that corner, in voxels of the image: up to 0.01 is taken in silence, up to 0.1 with a warning.

    Parameters
    ----------
    values
        The label map, (i, j, k).
    image_shape
        (i, j, k).
    label_affine, image_affine
        (i, j, k) to RAS+ millimetres, also sheared ones; where either is None only the shapes are compared.
    resample
        Take a label on any other grid: each voxel of the image gets the label of the nearest voxel, and background
        outside the label's grid. (Whether they belong together then is the user's word.)
    may_be_cut_out
        Take a label on a part of the image's lattice too, a whole number of voxels off: background beyond it.
    place
        The label's name, for messages.

    Returns
    -------
    FittedLabel
        Values of shape `image_shape`. A label whose axes are only permuted or flipped is reordered exactly, whether
        or not `resample` is set, and so is one that is cut out put in its place.

    Raises
    ------
    GeometryMismatch
        The label lies on another grid, and `resample` is not set or not possible.
    """
    shape = values.shape
    if image_affine is None or label_affine is None:
        if shape != image_shape:
            raise GeometryMismatch(_other_shape(place, shape, image_shape))
        return FittedLabel(values=values)
    here, change = _nearest_order(shape, label_affine, image_shape, image_affine)
    if here <= _WARNING_VOXELS and change is not None:
        return FittedLabel(
            values=apply_orientation(values, change),
            warning=_warning_of_distance(place, here),
            notes=_note_of_order(change, label_affine, image_affine),
        )
    if may_be_cut_out:
        fitted = _in_its_place(values, label_affine, image_shape, image_affine, place)
        if fitted is not None:
            return fitted
    if not resample:
        raise GeometryMismatch(_mismatch(place, here, (shape, label_affine), (image_shape, image_affine)))
    to_label = np.linalg.inv(label_affine) @ image_affine
    resampled = _resampled(values, to_label, image_shape)
    note, loss = _told_of_resampling(values, resampled, here, abs(np.linalg.det(to_label)))
    return FittedLabel(values=resampled, warning=None if loss is None else f"{place}: {loss}", notes=(note,))


def is_same_grid(
    shape: tuple[int, int, int],
    affine: Affine | None,
    other_shape: tuple[int, int, int],
    other_affine: Affine | None,
) -> bool:
    """Tell whether two grids put each voxel, by its index, in one place: within what `fit_label` takes in silence.

    Parameters
    ----------
    shape, other_shape
        (i, j, k).
    affine, other_affine
        (i, j, k) to RAS+ millimetres; where both are None only the shapes are compared.
    """
    if shape != other_shape or affine is None or other_affine is None:
        return shape == other_shape and affine is other_affine
    return _corner_displacement_voxels(shape, affine, other_affine, other_shape) <= _SILENT_VOXELS


def shear_mm(affine: Affine, shape: tuple[int, int, int]) -> float:
    """Return how far the last slice lies from where it would be in a stack at right angles, within its plane.

    A gantry tilted by an angle a gives tan(a) times the length of the stack.

    Parameters
    ----------
    affine
        (i, j, k) to RAS+ millimetres, the slices along k.
    shape
        (i, j, k).
    """
    normal = np.cross(affine[:3, 0], affine[:3, 1])
    normal /= np.linalg.norm(normal)
    step = affine[:3, 2]
    return float(np.linalg.norm(step - normal * (normal @ step))) * (shape[2] - 1)


def is_sheared(affine: Affine, shape: tuple[int, int, int]) -> bool:
    """Tell whether no grid with axes at right angles comes within 0.1 voxel of this one, at its farthest corner.

    Such a grid has no NIfTI qform, and no place in patient space for readers built on ITK, which refuse the sform
    alone ("ITK only supports orthonormal direction cosines": the cosine between two axes above 1e-4) and beside a qform
    take that one in silence. Positions rounded to 0.01 mm give such cosines too, on grids that are straight for every
    purpose: hence a tolerance in voxels, and hence the shape.

    Parameters
    ----------
    affine
        (i, j, k) to RAS+ millimetres.
    shape
        (i, j, k).
    """
    return _corner_displacement_voxels(shape, affine, straightened(affine), shape) > _WARNING_VOXELS


def straightened(affine: Affine) -> Affine:
    """Return the affine with axes at right angles that is nearest (as a NIfTI qform would be), spacing and origin kept.

    The nearest rotation is the orthogonal factor of the polar decomposition of the direction cosines.
    """
    spacing = voxel_sizes(affine)
    left, _, right = np.linalg.svd(affine[:3, :3] / spacing)
    straight = np.array(affine, dtype=np.float64)
    straight[:3, :3] = left @ right * spacing
    return straight


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


def _nearest_order(
    label_shape: tuple[int, ...], label_affine: Affine, image_shape: tuple[int, ...], image_affine: Affine
) -> tuple[float, npt.NDArray[Any] | None]:
    """Return how far the label's corners lie from the image's in the order of axes in which they lie nearest.

    With it comes that order (nibabel's "ornt": for each axis of the label, which axis it becomes, and -1 to flip it),
    or None where the label has another shape in all of them. As stored wins over an order that is no nearer, as one
    with a flip along a single plane.
    """
    fitting: list[tuple[float, npt.NDArray[Any]]] = []
    others: list[float] = []
    for change in _ORDERS:
        ordered_shape = tuple(label_shape[int(axis)] for axis in np.argsort(change[:, 0]))
        ordered_affine = label_affine @ inv_ornt_aff(change, label_shape)
        displacement = _corner_displacement_voxels(image_shape, image_affine, ordered_affine, ordered_shape)
        if ordered_shape == image_shape:
            fitting.append((displacement, change))
        others.append(displacement)
    if not fitting:
        return min(others), None
    return min(fitting, key=lambda found: found[0])  # the first of equals, as stored before others


def _warning_of_distance(place: str, displacement: float) -> str | None:
    if displacement <= _SILENT_VOXELS:
        return None
    return (
        f"{place}: the label lies {displacement:.3f} voxel from its image at the farthest corner "
        f"(up to {_WARNING_VOXELS} is taken); voxels are paired by index"
    )


def _note_of_order(change: npt.NDArray[Any], label_affine: Affine, image_affine: Affine) -> tuple[str, ...]:
    if np.array_equal(change, _AS_STORED):
        return ()
    stored, wanted = ("".join(aff2axcodes(affine)) for affine in (label_affine, image_affine))
    return (f"its label is stored in another order of axes ({stored}, the image {wanted}): reordered",)


def _in_its_place(
    values: npt.NDArray[np.unsignedinteger[Any]],
    label_affine: Affine,
    image_shape: tuple[int, int, int],
    image_affine: Affine,
    place: str,
) -> FittedLabel | None:
    """Put a label that is cut out of the image's lattice where it belongs; None where it lies on no part of it."""
    found: list[tuple[float, npt.NDArray[Any], npt.NDArray[np.int64]]] = []
    for change in _ORDERS:
        shape = tuple(values.shape[int(axis)] for axis in np.argsort(change[:, 0]))
        ordered_affine = label_affine @ inv_ornt_aff(change, values.shape)
        offset = np.rint((np.linalg.inv(image_affine) @ ordered_affine)[:3, 3])
        there = image_affine @ from_matvec(np.eye(3), offset)
        found.append((_corner_displacement_voxels(shape, there, ordered_affine, shape), change, offset.astype(int)))
    displacement, change, offset = min(found, key=lambda one: one[0])
    if displacement > _WARNING_VOXELS:
        return None
    ordered = apply_orientation(values, change)
    low, high = np.maximum(offset, 0), np.minimum(offset + ordered.shape, image_shape)
    if (low >= high).any():
        return None
    fitted = np.zeros(image_shape, dtype=values.dtype, order="F")
    inside = ordered[tuple(slice(*ends) for ends in zip(low - offset, high - offset, strict=True))]
    fitted[tuple(slice(*ends) for ends in zip(low, high, strict=True))] = inside
    lost = int(np.count_nonzero(values)) - int(np.count_nonzero(inside))
    beyond = f"{place}: {lost} labelled voxel(s) lie outside its image and are left out" if lost else None
    size, whole = (" x ".join(map(str, shape)) for shape in (ordered.shape, image_shape))
    return FittedLabel(
        values=fitted,
        warning="; ".join(filter(None, [beyond, _warning_of_distance(place, displacement)])) or None,
        notes=(
            *_note_of_order(change, label_affine, image_affine),
            f"its label is cut out of the image's grid ({size} of {whole} voxels): put in its place",
        ),
    )


def _corner_displacement_voxels(
    image_shape: tuple[int, ...], image_affine: Affine, label_affine: Affine, label_shape: tuple[int, ...]
) -> float:
    image_corners, label_corners = (
        np.array([(*corner, 1) for corner in product(*((0, size - 1) for size in shape))], dtype=np.float64)
        for shape in (image_shape, label_shape)
    )
    placed = label_corners @ (np.linalg.inv(image_affine) @ label_affine).T
    return float(np.linalg.norm((placed - image_corners)[:, :3], axis=1).max())


def _resampled(
    values: npt.NDArray[np.unsignedinteger[Any]], to_label: Affine, image_shape: tuple[int, int, int]
) -> npt.NDArray[np.unsignedinteger[Any]]:
    """Return the label of the nearest voxel for each voxel of the image; 0 outside the label's grid.

    Parameters
    ----------
    to_label
        4x4, from indices of the image to indices of the label.
    """
    from scipy.ndimage import affine_transform  # here, because it takes a moment to load

    # Along a grid of half the spacing every other voxel lies in the middle between two: noise must not decide there.
    offset = to_label[:3, 3] + _TIE_VOXELS
    fitted = np.empty(image_shape, dtype=values.dtype, order="F")
    # `grid-constant`: a voxel reaches half its width beyond its centre, also at the edge. No copy of either is made.
    affine_transform(values, to_label[:3, :3], offset, output=fitted, order=0, mode="grid-constant", prefilter=False)
    return fitted


def _told_of_resampling(
    before: npt.NDArray[np.unsignedinteger[Any]],
    after: npt.NDArray[np.unsignedinteger[Any]],
    displacement: float,
    voxel_ratio: float,
) -> tuple[str, str | None]:
    """Say how far away the label was and what became of it, and warn of classes that are gone.

    The ratio is the image's voxel over the label's, by volume.
    """
    lay = (
        "it had other voxels between the same corners"
        if displacement <= _WARNING_VOXELS
        else f"it lay {displacement:.3g} voxels away at the farthest corner"
    )
    far = f"its label was resampled onto the image by nearest neighbour: {lay}"
    had, has = count_values(before), count_values(after)
    labelled_before, labelled_after = (sum(counts.values()) - counts.get(0, 0) for counts in (had, has))
    if labelled_before == 0:
        return f"{far}, and is empty", None
    share = labelled_after * voxel_ratio / labelled_before
    note = (
        f"{far}; {labelled_before} labelled voxels became {labelled_after}, {100 * share:.4g} % of the labelled volume"
    )
    lost = [value for value in had if value not in has and value != 0]
    gone = ", ".join(map(str, lost[:8]))
    return note, f"nothing is left of class {gone} after its label was resampled" if lost else None


def _other_shape(place: str, shape: tuple[int, ...], image_shape: tuple[int, ...]) -> str:
    cause = (
        "The axes look permuted: was one of the two reoriented?"
        if sorted(image_shape) == sorted(shape)
        else "The label was probably drawn on a resampled or cropped copy of the image."
    )
    return (
        f"{place}: the label has shape {shape}, its image {image_shape}. {cause} One of the two files does not say "
        f"where its voxels lie, so --resample-labels cannot help: write the label on the grid of its image."
    )


def _mismatch(
    place: str, displacement: float, label: tuple[tuple[int, ...], Affine], image: tuple[tuple[int, ...], Affine]
) -> str:
    (label_shape, label_affine), (image_shape, image_affine) = label, image
    image_codes, label_codes = ("".join(aff2axcodes(affine)) for affine in (image_affine, label_affine))
    image_spacing, label_spacing = (
        " x ".join(f"{size:.4g}" for size in spacing_mm(affine)) for affine in (image_affine, label_affine)
    )
    image_origin, label_origin = (
        "({:.2f}, {:.2f}, {:.2f})".format(*affine[:3, 3]) for affine in (image_affine, label_affine)
    )
    if sorted(image_shape) != sorted(label_shape):
        cause = "The label was probably drawn on a resampled or cropped copy of the image."
    elif image_codes != label_codes:
        cause = "One of the two was reoriented."
    elif image_spacing != label_spacing:
        cause = "The label was probably drawn on a resampled copy."
    else:
        cause = "The label was probably written with the affine of another file."
    lies = (
        "has other voxels than its image, between the same corners."
        if displacement <= _WARNING_VOXELS
        else f"lies {displacement:.3g} voxels from its image at the farthest corner, in whatever order of axes; up to "
        f"{_WARNING_VOXELS} is taken."
    )
    return (
        f"{place}: the label {lies} Image: shape {image_shape}, {image_codes}, {image_spacing} mm, "
        f"origin {image_origin} mm; label: shape {label_shape}, {label_codes}, {label_spacing} mm, origin "
        f"{label_origin} mm. {cause} If the two lie right in patient space, ingest with --resample-labels (nearest "
        f"neighbour); if the voxels correspond by index, write the label with its image's affine."
    )
