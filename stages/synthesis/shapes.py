"""Random solids, sliced: the label maps that the embedded encoder is trained on.

A *scene* is a list of solids in space, bent superellipsoids in layers like an onion; an *anatomy* is one plane of it,
in one subject: other subjects of a scene have the same parts, each a little larger, farther left, or more bent.
Coordinates are (up, back, left) as in `atlas`, but here the plane is at up = 0 and the field of view reaches from -1 to
1 along rows and columns. Solids are painted in the order of the list: what comes later covers what came before, so that
organs touch, and a vessel lies in a liver.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from .anatomy import fraction_inside
from .scanner import smooth_field

__all__ = ["Anatomy", "Kind", "Layer", "Scene", "draw_scene", "draw_subject"]


class Kind(IntEnum):
    """What a part of a picture is, whatever it looks like."""

    OUTSIDE = 0
    """Air, or what lies between everything else."""
    BODY = 1
    """The outermost layer of a trunk, a limb or a head, and what fills it."""
    BODY_LAYER = 2
    """A shell under the skin: fat, muscle, bone."""
    ORGAN = 3
    """A solid without layers."""
    WALL = 4
    """The outer layer of a hollow solid: a myocardium, a bowel's wall, a renal cortex."""
    CAVITY = 5
    """What a wall encloses."""
    CORE = 6
    """What lies inside a cavity."""
    TUBE = 7
    """A vessel, along or across the plane."""
    HALF = 8
    """One side of a solid that is cut in two: head and body of a hippocampus."""
    REGION = 9
    """A patch without a form of its own: where a smooth random field is high."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Layer:
    """One part of a solid as it is painted: how much of each pixel it covers, in the box that holds it."""

    box: tuple[slice, slice]
    fraction: NDArray[np.float32]
    """(rows, columns) of the box, 0 to 1: partial volume, in the plane and through the slice's thickness."""
    part: int
    """Its number, from 1, the same in every subject of a scene."""
    labelled: bool
    """Whether the label map says so where this layer covers more than half: some things are seen and have no label."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Anatomy:
    """One plane through one subject of a scene, before anything looks at it."""

    layers: tuple[Layer, ...]
    """In the order of painting."""
    parts: NDArray[np.uint8]
    """(rows, columns): 0 outside of everything, else the number of the part that is seen there."""
    kinds: NDArray[np.uint8]
    """(parts + 1,): the `Kind` of every part, by its number; equal for all subjects of a scene."""
    solids: NDArray[np.uint8]
    """(parts + 1,): which solid a part belongs to; parts of one solid share a number. Equal for all subjects, too."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Solid:
    """A superellipsoid in layers."""

    centre: NDArray[np.float32]
    """(up, back, left)."""
    axes: NDArray[np.float32]
    """(3, 3): rows are the own axes, each divided by its radius, so that the surface is at distance 1."""
    #: 0 an ellipsoid, 1 a box.
    boxiness: float = 0.0
    #: How far the second own axis curves along the first: 0 straight, 1 a crescent.
    bend: float = 0.0
    #: Where the layers begin, outermost first, as distances: (1.0, 0.7) is a wall and its cavity.
    shells: tuple[float, ...] = (1.0,)
    kinds: tuple[Kind, ...] = (Kind.ORGAN,)
    #: Where, along the first own axis, the solid is cut into two parts; None for whole.
    cut: float | None = None
    #: How much the surface is dented, as a share of the distance.
    dents: float = 0.0
    labelled: bool = True

    @property
    def radius_in_plane(self) -> float:
        """About how far the surface is from the centre along rows and columns."""
        return float(1 / np.linalg.norm(self.axes[:, 1:], axis=0).mean())

    @property
    def reach(self) -> float:
        """How far the surface is from the centre at most: a box's corner, and what a bend moves."""
        corner = np.sqrt(3 / (3 - 2 * self.boxiness))
        return float(corner * self.radii.max() + abs(self.bend) / 2 * self.radii[1])

    @property
    def radii(self) -> NDArray[np.float32]:
        """Along the own axes."""
        radii: NDArray[np.float32] = 1 / np.linalg.norm(self.axes, axis=1)
        return radii

    def of_another(self, rng: np.random.Generator, unlike: float) -> _Solid:
        """Return the same solid in another subject: sizes, place and form change by about that share."""
        shells = [self.shells[0]]
        for shell in self.shells[1:]:
            shells.append(min(shell * np.exp(unlike * rng.normal()), 0.97 * shells[-1]))
        moved = unlike * min(float(self.radii.min()), _MOST_MOVED) * rng.standard_normal(3)
        return replace(
            self,
            centre=(self.centre + moved).astype(np.float32),
            axes=(self.axes * np.exp(unlike * rng.standard_normal((3, 1)))).astype(np.float32),
            bend=self.bend + 0.5 * unlike * rng.normal(),
            shells=tuple(shells),
            cut=None if self.cut is None else self.cut + 0.5 * unlike * rng.normal(),
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Region:
    """A patch of tissue without a form: where a sum of plane waves is high."""

    waves: NDArray[np.float32]
    """(waves, 2): radians over a unit, along (back, left)."""
    phases: NDArray[np.float32]
    level: float

    def fraction(self, coordinates: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return how much of each pixel it covers."""
        field = np.zeros(coordinates.shape[1:], np.float32)
        for (back, left), phase in zip(self.waves, self.phases, strict=True):
            field += np.cos(back * coordinates[0] + left * coordinates[1] + phase)
        return fraction_inside(np.float32(self.level) - field / np.float32(np.sqrt(len(self.waves) / 2)), 0)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Scene:
    """What all subjects of a kind have in common."""

    body: _Solid | None
    """None where all of the picture lies inside one."""
    regions: tuple[_Region, ...]
    solids: tuple[_Solid, ...]
    """In the order of painting."""
    thickness: float
    """Of a slice."""


# -- the scene ---------------------------------------------------------------------------------------------------------

_BODY_SHARE = 0.7  # of the pictures show a body and air around it; the others lie inside one
_ORGANS = (3, 12)
_TOUCHING_SHARE = 0.45
_SMALLEST_RADIUS, _LARGEST_RADIUS = 0.05, 0.45
_UNLABELLED_SHARE = 0.15
_WAVES = 16
# A body's place changes less than its size.
_MOST_MOVED = 0.3
_PLANES_APART = 0.5


def draw_scene(rng: np.random.Generator) -> Scene:
    """Draw what lies in a body, or around a picture that lies in one."""
    body = _draw_body(rng) if rng.random() < _BODY_SHARE else None
    return Scene(
        body=body,
        regions=tuple(_draw_region(rng) for _ in range(int(rng.integers(0, 4)))),
        solids=tuple(_draw_solids(rng, reach=1.0 if body is None else 0.8 * body.radius_in_plane)),
        # Thick slices blur slanted surfaces; thin ones do not.
        thickness=float(rng.choice([0.0, rng.uniform(0, 0.12)])),
    )


def draw_subject(rng: np.random.Generator, scene: Scene, size: int, *, unlike: float = 0.0) -> Anatomy:
    """Draw a subject of a scene and slice it.

    Parameters
    ----------
    rng
        Source of what is this subject's own.
    scene
        See `draw_scene`.
    size
        Rows and columns of the picture.
    unlike
        By which share, about, sizes and places differ from the scene's, and with them the plane; surfaces are dented
        and the picture is deformed anew in any case.

    Returns
    -------
    Anatomy
        Some parts may be hidden by later ones, or lie beside the picture: their number does not occur in ``parts``.
    """
    coordinates = _plane_coordinates(rng, size, unlike)
    dents = smooth_field(rng, (1, size, size), cycles=(0.1, 4.0, 4.0))[0]
    higher = np.array([_PLANES_APART * unlike * rng.normal(), 0, 0], np.float32)
    canvas = _Canvas(size)

    def paint(solid: _Solid) -> None:
        own = solid.of_another(rng, unlike)
        _paint_solid(canvas, replace(own, centre=own.centre + higher), coordinates, dents, thickness=scene.thickness)

    if scene.body is not None:
        paint(scene.body)
    inside = canvas.covered
    for region in scene.regions:
        fraction = (region.fraction(coordinates) * inside).astype(np.float32, copy=False)
        canvas.paint((slice(0, size), slice(0, size)), fraction, canvas.new_part(Kind.REGION, canvas.new_solid()))
    for solid in scene.solids:
        paint(solid)
    return canvas.finished()


def _plane_coordinates(rng: np.random.Generator, size: int, unlike: float) -> NDArray[np.float32]:
    """Return (2, rows, columns): where each pixel lies along (back, left), placed and deformed at random."""
    axis = (2 * np.arange(size, dtype=np.float32) + 1) / size - 1
    flat: NDArray[np.float32] = np.stack(np.meshgrid(axis, axis, indexing="ij"))
    turn, zoom, shift = unlike * rng.normal(), np.exp(unlike * rng.normal()), 0.5 * unlike * rng.standard_normal(2)
    placed = np.einsum("ij,jrc->irc", (zoom * _turn_in_plane(turn)[1:, 1:]).astype(np.float32), flat)
    amplitude, cycles = np.float32(rng.uniform(0.0, 0.06)), float(rng.uniform(0.7, 2.5))
    moved = [smooth_field(rng, (1, size, size), cycles=(0.1, cycles, cycles))[0] for _ in range(2)]
    coordinates: NDArray[np.float32] = placed + shift.astype(np.float32)[:, None, None]
    coordinates += amplitude / np.float32(cycles) * np.stack(moved)
    return coordinates


def _draw_region(rng: np.random.Generator) -> _Region:
    return _Region(
        waves=(np.pi * rng.uniform(0.7, 4.0) * rng.standard_normal((_WAVES, 2))).astype(np.float32),
        phases=rng.uniform(0, 2 * np.pi, _WAVES).astype(np.float32),
        level=rng.uniform(0.4, 1.6),
    )


def _draw_solids(rng: np.random.Generator, *, reach: float) -> Iterator[_Solid]:
    """Yield what lies in a body, or in the picture, in the order of painting: organs, then vessels."""
    former: _Solid | None = None
    for _ in range(int(rng.integers(*_ORGANS, endpoint=True))):
        former = _draw_organ(rng, reach, former if rng.random() < _TOUCHING_SHARE else None)
        yield replace(former, labelled=rng.random() >= _UNLABELLED_SHARE)
    for _ in range(int(rng.integers(0, 4))):
        yield replace(_draw_tube(rng, reach), labelled=rng.random() >= _UNLABELLED_SHARE)


def _draw_body(rng: np.random.Generator) -> _Solid:
    radius = rng.uniform(0.6, 1.1)
    shells, kinds = [1.0], [Kind.BODY]
    for _ in range(int(rng.integers(0, 4))):
        shells.append(shells[-1] - rng.uniform(0.03, 0.15))
        kinds.append(Kind.BODY_LAYER)
    if len(kinds) > 1:
        kinds = [Kind.BODY_LAYER] * (len(kinds) - 1) + [Kind.BODY]
    # A trunk goes on above and below the picture.
    radii = np.array([8.0, radius * np.exp(rng.normal(0, 0.15)), radius])
    return _Solid(
        centre=np.array([0, *rng.uniform(-0.15, 0.15, 2)], np.float32),
        axes=_axes(_turn_in_plane(rng.uniform(-np.pi, np.pi)), radii),
        boxiness=rng.uniform(0, 0.6),
        shells=tuple(shells),
        kinds=tuple(kinds),
        dents=rng.uniform(0, 0.03),
    )


def _draw_organ(rng: np.random.Generator, reach: float, beside: _Solid | None) -> _Solid:
    radius = np.exp(rng.uniform(np.log(_SMALLEST_RADIUS), np.log(_LARGEST_RADIUS)))
    radii = radius * np.exp(rng.normal(0, 0.35, 3))
    if beside is None:
        # Anywhere in a disc, its middle not denser than its rim.
        angle, apart = rng.uniform(-np.pi, np.pi), reach * np.sqrt(rng.uniform())
        centre = apart * np.array([0, np.sin(angle), np.cos(angle)])
    else:
        # Centres as far apart as the surfaces reach, a little less: the later organ covers the overlap.
        angle = rng.uniform(-np.pi, np.pi)
        apart = rng.uniform(0.6, 1.0) * (radius + beside.radius_in_plane)
        centre = np.array([0, beside.centre[1] + apart * np.sin(angle), beside.centre[2] + apart * np.cos(angle)])
    # The plane cuts it somewhere, not always in the middle.
    centre[0] = rng.uniform(-0.9, 0.9) * radii.min()
    shells: tuple[float, ...] = (1.0,)
    kinds: tuple[Kind, ...] = (Kind.ORGAN,)
    cut = None
    form = rng.random()
    if form < 0.35:
        shells, kinds = (1.0, rng.uniform(0.45, 0.9)), (Kind.WALL, Kind.CAVITY)
        if rng.random() < 0.25:
            shells, kinds = (*shells, shells[1] * rng.uniform(0.3, 0.7)), (*kinds, Kind.CORE)
    elif form < 0.5:
        kinds, cut = (Kind.HALF,), rng.uniform(-0.5, 0.5)
    return _Solid(
        centre=centre.astype(np.float32),
        axes=_axes(_turn(rng), radii),
        boxiness=rng.choice([0.0, rng.uniform(0, 0.8)]),
        bend=rng.choice([0.0, rng.normal(0, 0.5)]),
        shells=shells,
        kinds=kinds,
        cut=cut,
        dents=rng.uniform(0, 0.12),
    )


def _draw_tube(rng: np.random.Generator, reach: float) -> _Solid:
    radius, length = np.exp(rng.uniform(np.log(0.015), np.log(0.1))), rng.uniform(0.5, 3.0)
    return _Solid(
        centre=np.array([0, *rng.uniform(-reach, reach, 2)], np.float32),
        axes=_axes(_turn(rng), np.array([length, radius, radius])),
        # Of the length: a bend is told in radii of the axis that curves.
        bend=rng.normal(0, 0.2) * length / radius,
        kinds=(Kind.TUBE,),
    )


def _axes(rotation: NDArray[np.float64], radii: NDArray[np.float64]) -> NDArray[np.float32]:
    axes: NDArray[np.float32] = (rotation / radii[:, None]).astype(np.float32)
    return axes


def _turn_in_plane(angle: float) -> NDArray[np.float64]:
    cosine, sine = np.cos(angle), np.sin(angle)
    return np.array([[1, 0, 0], [0, cosine, sine], [0, -sine, cosine]])


def _turn(rng: np.random.Generator) -> NDArray[np.float64]:
    """Draw a rotation, all alike likely: by a quaternion of four normal numbers."""
    w, x, y, z = (quaternion := rng.standard_normal(4)) / np.linalg.norm(quaternion)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )


# -- painting ----------------------------------------------------------------------------------------------------------


class _Canvas:
    """The picture while it is painted."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._layers: list[Layer] = []
        self._parts = np.zeros((size, size), np.uint8)
        self._kinds = [int(Kind.OUTSIDE)]
        self._solids = [0]

    @property
    def covered(self) -> NDArray[np.float32] | float:
        """How much of each pixel the first layer covers: the body's; all of it where nothing was painted."""
        if not self._layers:
            return 1.0
        covered = np.zeros((self.size, self.size), np.float32)
        covered[self._layers[0].box] = self._layers[0].fraction
        return covered

    def new_solid(self) -> int:
        """Return a number that no solid has yet."""
        return max(self._solids) + 1

    def new_part(self, kind: Kind, solid: int) -> int:
        """Return the number of the next part."""
        self._kinds.append(int(kind))
        self._solids.append(solid)
        return len(self._kinds) - 1

    def paint(
        self, box: tuple[slice, slice], fraction: NDArray[np.float32], part: int, *, labelled: bool = True
    ) -> None:
        """Add a layer."""
        if labelled:
            self._parts[box][fraction > 0.5] = part
        self._layers.append(Layer(box=box, fraction=fraction, part=part, labelled=labelled))

    def finished(self) -> Anatomy:
        """Return what was painted."""
        return Anatomy(
            layers=tuple(self._layers),
            parts=self._parts,
            kinds=np.array(self._kinds, np.uint8),
            solids=np.array(self._solids, np.uint8),
        )


def _paint_solid(
    canvas: _Canvas, solid: _Solid, coordinates: NDArray[np.float32], dents: NDArray[np.float32], *, thickness: float
) -> None:
    # Numbered whether it is seen or not: a part's number is the same in every subject.
    number = canvas.new_solid()
    sides = 1 if solid.cut is None else 2
    parts = [[canvas.new_part(kind, number) for _ in range(sides)] for kind in solid.kinds]
    box = _box(solid, coordinates)
    if box is None:
        return
    own = np.einsum("ij,jrc->irc", solid.axes[:, 1:], coordinates[:, *box])
    own -= (solid.axes @ solid.centre)[:, None, None]
    if solid.bend:
        own[1] += np.float32(solid.bend) * (np.square(own[0]) - np.float32(0.5))
    squares = np.square(own)
    squared = squares.sum(axis=0)
    if solid.boxiness:
        squared += np.float32(solid.boxiness) * (squares.max(axis=0) - squared)
    distance = np.sqrt(squared)
    # How fast the distance changes across the plane, for the blur of a thick slice.
    across = thickness * np.abs(np.einsum("i,irc->rc", solid.axes[:, 0], own)) / np.maximum(distance, np.float32(0.05))
    if solid.dents:
        distance *= 1 + np.float32(solid.dents) * dents[box]
    for shell, (part, *half) in zip(solid.shells, parts, strict=True):
        fraction = fraction_inside(distance - np.float32(shell), across)
        canvas.paint(box, fraction, part, labelled=solid.labelled)
        if solid.cut is not None:
            # Blurred as the surface is, not as a plane of the cut's own slope would be.
            beyond = fraction_inside(np.float32(solid.cut) - own[0], across)
            canvas.paint(box, fraction * beyond, half[0], labelled=solid.labelled)


def _box(solid: _Solid, coordinates: NDArray[np.float32]) -> tuple[slice, slice] | None:
    """Return the rows and columns that may show the solid, None where there are too few."""
    reach = np.float32(solid.reach * (1 + 3 * solid.dents))
    back, left = (np.abs(along - centre) < reach for along, centre in zip(coordinates, solid.centre[1:], strict=True))
    near = back & left
    sides = []
    for axis in (1, 0):
        shown = np.flatnonzero(near.any(axis=axis))
        if len(shown) == 0 or shown[-1] - shown[0] < 1:
            return None
        sides.append(slice(int(shown[0]), int(shown[-1]) + 1))
    return sides[0], sides[1]
