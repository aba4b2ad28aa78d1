"""An abdomen drawn from a seed: body wall, spine, vessels, bowel, and four labelled organs.

Conventions: arrays are (slices, rows, columns): slices inferior to superior, rows anterior to posterior, columns
patient-right to left, so that the liver is on the left of the picture. Spacing is (between slices, between rows,
between columns) in millimetres. World coordinates are RAS+ millimetres.

A subject is the atlas with every organ moved, resized and tilted a little, seen through a smooth random deformation,
and scanned by an acquisition of its own. The deformation acts on the coordinates in which the shapes are evaluated, so
nothing is resampled. The body always fills the grid, whatever the spacing: a small grid shows a small body, not a
piece of a large one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from ...store.errors import UsageError
from .atlas import ATLAS, LABEL_NAMES, LIVER, Ellipsoid, draw_bowel, vary
from .scanner import TISSUES, Acquisition, add_rician_noise, bias_field, draw_acquisition, smooth_field

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

__all__ = ["LABEL_NAMES", "Phantom", "draw_subject"]

# Proportions of the body, as ranges over subjects.
_WIDTH_OVER_FIELD = (0.86, 0.94)  # of the largest body that the field of view could hold
_DEPTH_OVER_WIDTH = (0.70, 0.80)

# A body of fewer (slices, rows, columns) than this could lose an organ between voxels: "present in every subject"
# would be a hope. At this size the smallest organ of 1500 subjects had 12 voxels. With square pixels it is (4, 24, 24).
_SMALLEST_BODY = (4, 14, 20)

_FAT_INTENSITY = 750.0  # the brightest tissue; shading and noise then take the brightest voxels near 1000


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Phantom:
    """One drawn subject: an image, its label map, and where they lie in the world."""

    image: NDArray[np.float32]
    """(slices, rows, columns), MR-like and arbitrary in scale: 0 to about 1000, air about 20."""
    label: NDArray[np.uint8]
    """(slices, rows, columns), 0 for background, otherwise a key of ``label_names``."""
    label_names: Mapping[int, str]
    """Name of every value of ``label`` but 0; all of them occur."""
    spacing_mm: tuple[float, float, float]
    """Distance between the centres of neighbouring (slices, rows, columns)."""
    origin_mm: tuple[float, float, float]
    """RAS+ position (right, anterior, superior) of the centre of voxel [0, 0, 0]."""
    acquisition: Acquisition
    """The sequence timings that made the contrast."""
    seed: int
    """What it was drawn from."""

    @property
    def affine(self) -> NDArray[np.float64]:
        """4x4, maps (column, row, slice) indices to RAS+ millimetres."""
        between_slices, between_rows, between_columns = self.spacing_mm
        affine = np.diag([-between_columns, -between_rows, between_slices, 1.0])
        affine[:3, 3] = self.origin_mm
        return affine


# How much subjects differ, beyond where their organs lie (see the atlas).
_TISSUE_SPREAD = 0.06  # in the logarithm of a relaxation time or proton density
_WOBBLE = np.array([0.04, 0.025, 0.025])  # standard deviation of the deformation, body coordinates


def draw_subject(
    seed: int,
    *,
    shape: tuple[int, int, int] = (24, 160, 144),
    spacing_mm: tuple[float, float, float] = (5.0, 1.5, 1.5),
) -> Phantom:
    """Draw one subject.

    Parameters
    ----------
    seed
        Not negative. Equal arguments give equal subjects; other seeds give other subjects.
    shape
        (slices, rows, columns); with square pixels (4, 24, 24) or more.
    spacing_mm
        Between the centres of neighbouring (slices, rows, columns), positive.

    Returns
    -------
    Phantom
        Every organ of ``LABEL_NAMES`` is present, in its usual place.

    Raises
    ------
    UsageError
        For a negative seed, a spacing that is not positive, or a grid on which the body would have too few voxels.
    """
    _check(seed, shape, spacing_mm)
    rng = np.random.Generator(np.random.PCG64(seed))
    acquisition = draw_acquisition(rng)
    signal_by_tissue = _draw_signals(rng, acquisition)
    coordinates, axis_distance = _body_coordinates(rng, shape, spacing_mm)

    # Nested shells: fat under the skin, then the muscle of the wall, then the fat between the organs.
    from_skin = axis_distance - 1
    from_wall = from_skin + np.float32(rng.uniform(0.06, 0.14)) * (
        1 + np.float32(0.25) * smooth_field(rng, shape, cycles=(0.3, 0.7, 0.7))
    )
    inside_skin = fraction_inside(from_skin)
    inside_fat = fraction_inside(from_wall)
    inside_wall = fraction_inside(from_wall + np.float32(rng.uniform(0.05, 0.08)))

    signal = inside_skin * np.float32(signal_by_tissue["fat"])
    label = np.zeros(shape, np.uint8)
    _cover(signal, inside_fat, signal_by_tissue["muscle"])
    _cover(signal, inside_wall, signal_by_tissue["fat"])
    _cover(signal, _branching(rng, shape) * inside_wall, signal_by_tissue["blood"])  # seen between the organs only
    for part in (*draw_bowel(rng), *vary(rng, ATLAS)):
        box = _bounding_box(part, shape, coordinates)
        # Organs stop at the inside of the wall; muscles of the back and the spine lie in it.
        room = inside_skin if part.tissue in {"muscle", "cortical bone", "marrow"} else inside_wall
        fraction = fraction_inside(_distance(part, coordinates[:, *box])) * room[box]
        _cover(signal[box], fraction, signal_by_tissue[part.tissue])
        label[box][fraction > 0.5] = part.label

    _cover(signal, _branching(rng, shape) * (label == LIVER), signal_by_tissue["blood"])
    signal *= 1 + np.float32(0.04) * smooth_field(rng, shape, cycles=(shape[0] / 4, shape[1] / 5, shape[2] / 5))
    signal *= bias_field(rng, shape, strength=rng.uniform(0.05, 0.12))
    image = add_rician_noise(rng, np.maximum(signal, 0), standard_deviation=rng.uniform(0.012, 0.03))
    return Phantom(
        image=image * np.float32(_FAT_INTENSITY),
        label=label,
        label_names=LABEL_NAMES,
        spacing_mm=spacing_mm,
        origin_mm=_draw_origin_mm(rng, shape, spacing_mm),
        acquisition=acquisition,
        seed=seed,
    )


def _check(seed: int, shape: tuple[int, int, int], spacing_mm: tuple[float, float, float]) -> None:
    if seed < 0:
        message = f"A subject is drawn from a seed of 0 or more, not {seed}. Try: draw_subject({abs(seed)})."
        raise UsageError(message)
    if not all(np.isfinite(step) and step > 0 for step in spacing_mm):
        message = (
            f"Spacing {spacing_mm} mm (between slices, rows, columns) must be three positive numbers, "
            "for example (5.0, 1.5, 1.5)."
        )
        raise UsageError(message)
    least_fill, (flattest, deepest) = _WIDTH_OVER_FIELD[0], _DEPTH_OVER_WIDTH
    depth_mm = 2 * least_fill * _largest_half_width_mm(shape, spacing_mm, flattest) * flattest
    width_mm = 2 * least_fill * _largest_half_width_mm(shape, spacing_mm, deepest)
    body = (shape[0], int(depth_mm / spacing_mm[1]), int(width_mm / spacing_mm[2]))
    if any(size < least for size, least in zip(body, _SMALLEST_BODY, strict=True)):
        message = (
            f"On a grid of {shape} (slices, rows, columns) with spacing {spacing_mm} mm a body would span only {body} "
            f"voxels, and organs would be lost; it takes {_SMALLEST_BODY}. Ask for a larger shape, or for pixels "
            "nearer to square: the smallest grid of square pixels is (4, 24, 24)."
        )
        raise UsageError(message)


def _largest_half_width_mm(
    shape: tuple[int, int, int], spacing_mm: tuple[float, float, float], depth_over_width: float
) -> float:
    """Half the width of the largest body of these proportions that the field of view holds."""
    height_mm, width_mm = shape[1] * spacing_mm[1], shape[2] * spacing_mm[2]
    return min(width_mm, height_mm / depth_over_width) / 2


def _draw_signals(rng: np.random.Generator, acquisition: Acquisition) -> dict[str, float]:
    """Signal of every tissue of this subject, relative to fat."""
    signals: dict[str, float] = {}
    for name, tissue in TISSUES.items():
        t1, t2, density = np.exp(rng.uniform(-_TISSUE_SPREAD, _TISSUE_SPREAD, 3))
        signals[name] = acquisition.signal(
            replace(
                tissue,
                t1_ms=tissue.t1_ms * t1,
                t2_ms=tissue.t2_ms * t2,
                proton_density=tissue.proton_density * density,
            )
        )
    return {name: signal / signals["fat"] for name, signal in signals.items()}


def _body_coordinates(
    rng: np.random.Generator, shape: tuple[int, int, int], spacing_mm: tuple[float, float, float]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Deformed body coordinates (3, slices, rows, columns), and the distance from the axis of the trunk.

    The distance is in units of the distance of the skin, (slices, rows, columns).
    """
    depth_over_width = rng.uniform(*_DEPTH_OVER_WIDTH)
    half_width_mm = rng.uniform(*_WIDTH_OVER_FIELD) * _largest_half_width_mm(shape, spacing_mm, depth_over_width)
    half_mm = (None, half_width_mm * depth_over_width, half_width_mm)
    axes = [
        # Voxel centres; the stack spans -1 to 1 whatever the number of its slices.
        (np.arange(size) - (size - 1) / 2) * (2 / size if half is None else step / half)
        for size, step, half in zip(shape, spacing_mm, half_mm, strict=True)
    ]
    coordinates = np.stack(np.meshgrid(*axes, indexing="ij")).astype(np.float32)
    for axis, amplitude in enumerate(_WOBBLE):
        coordinates[axis] += np.float32(amplitude) * smooth_field(rng, shape, cycles=(0.5, 1.2, 1.2))
    # A superellipse: flatter at front, back and flanks than an ellipse, as a trunk lying on a table is.
    exponent = rng.uniform(2.2, 2.6)
    _, back, left = np.abs(coordinates)
    axis_distance: NDArray[np.float32] = (back**exponent + left**exponent) ** (1 / exponent)
    return coordinates, axis_distance


def _distance(part: Ellipsoid, coordinates: NDArray[np.float32]) -> NDArray[np.float32]:
    """Implicit function of the ellipsoid: negative inside, zero on the surface; not a metric distance."""
    up, back, left = (
        coordinate - np.float32(centre) for coordinate, centre in zip(coordinates, part.centre, strict=True)
    )
    tilt = np.float32(np.deg2rad(part.tilt_degrees))
    cosine, sine = np.cos(tilt), np.sin(tilt)
    back, left = cosine * back + sine * left, cosine * left - sine * back
    radii = np.array(part.radii, np.float32).reshape(3, 1, 1, 1)
    distance: NDArray[np.float32] = np.linalg.norm(np.stack([up, back, left]) / radii, axis=0) - 1
    return distance


def _bounding_box(
    part: Ellipsoid, shape: tuple[int, int, int], coordinates: NDArray[np.float32]
) -> tuple[slice, slice, slice]:
    """Find a block of voxels that holds the part, with a margin for its gradients.

    A part outside the stack gets a corner block, where it will cover nothing.
    """
    in_plane = max(part.radii[1:])
    box = []
    for axis, reach in enumerate((part.radii[0], in_plane, in_plane)):
        # The least and greatest deformed coordinate of each plane across this axis.
        others = tuple(other for other in range(3) if other != axis)
        low, high = coordinates[axis].min(axis=others), coordinates[axis].max(axis=others)
        touched = np.flatnonzero((high > part.centre[axis] - reach) & (low < part.centre[axis] + reach))
        first, last = (int(touched[0]), int(touched[-1])) if touched.size else (0, 0)
        box.append(slice(max(0, first - 1), min(shape[axis], last + 2)))
    return box[0], box[1], box[2]


def fraction_inside(distance: NDArray[np.float32], across: NDArray[np.float32] | float = 0.0) -> NDArray[np.float32]:
    """Fraction of each voxel, or pixel, that lies where ``distance`` is negative: partial volume.

    To first order, the surface crosses a voxel while the function is within half of what it changes across one voxel.
    Thick slices therefore blur slanted surfaces and leave upright ones sharp, as they do in a scanner. ``across`` is
    what it changes, without its sign, along an axis that the array does not have: a slice's thickness.
    """
    change = across + sum(np.abs(np.gradient(distance, axis=axis)) for axis in range(distance.ndim))
    fraction: NDArray[np.float32] = np.clip(np.float32(0.5) - distance / np.maximum(change, np.float32(1e-6)), 0, 1)
    return fraction


def _cover(signal: NDArray[np.float32], fraction: NDArray[np.float32], value: float) -> None:
    """Paint ``value`` over ``signal``, in place, where and as far as ``fraction`` says."""
    signal += fraction * (np.float32(value) - signal)


def _branching(rng: np.random.Generator, shape: tuple[int, int, int]) -> NDArray[np.float32]:
    """Winding tubes, 0 to 1: where two smooth random fields are both near zero, which is along curves."""
    squares = sum(np.square(smooth_field(rng, shape, cycles=(1.5, 5.0, 5.0))) for _ in range(2))
    tubes: NDArray[np.float32] = np.exp(-squares / np.float32(2 * 0.15**2))
    return tubes


def _draw_origin_mm(
    rng: np.random.Generator, shape: tuple[int, int, int], spacing_mm: tuple[float, float, float]
) -> tuple[float, float, float]:
    """Put the middle of the grid within some centimetres of the scanner's centre; tenths of a millimetre."""
    up_mm, back_mm, left_mm = ((size - 1) / 2 * step for size, step in zip(shape, spacing_mm, strict=True))
    right, front, top = rng.uniform(-30, 30, 3)
    return round(left_mm + right, 1), round(back_mm + front, 1), round(top - up_mm, 1)
