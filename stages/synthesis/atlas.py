"""The atlas: where organs lie in an abdomen, and how far subjects depart from it.

Body coordinates are (up, back, left): the skin is at distance 1 from the axis of the trunk, and the stack of slices
reaches from -1 to 1 along it. Angles are degrees in the axial plane.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["ATLAS", "LABEL_NAMES", "LIVER", "Ellipsoid", "draw_bowel", "vary"]

LIVER, SPLEEN, LEFT_KIDNEY, RIGHT_KIDNEY = 1, 2, 3, 4
LABEL_NAMES: Mapping[int, str] = MappingProxyType(
    {LIVER: "liver", SPLEEN: "spleen", LEFT_KIDNEY: "left kidney", RIGHT_KIDNEY: "right kidney"}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ellipsoid:
    """A part of an organ; centre and radii are (up, back, left) in body coordinates."""

    organ: str
    """Parts of one organ vary together."""
    tissue: str
    """A key of ``scanner.TISSUES``."""
    centre: tuple[float, float, float]
    radii: tuple[float, float, float]
    tilt_degrees: float = 0.0
    """In the axial plane; positive turns the back end towards patient-left."""
    label: int = 0
    """What the label map says here; 0 where this part belongs to no labelled organ."""


# In the order of painting: what comes later covers what came before. Positions and sizes are read off textbook axial
# sections at the level of the first lumbar vertebra, and adjusted by looking at the pictures.
ATLAS = (
    Ellipsoid(organ="psoas left", tissue="muscle", centre=(-0.9, 0.50, 0.24), radii=(1.0, 0.16, 0.10)),
    Ellipsoid(organ="psoas right", tissue="muscle", centre=(-0.9, 0.50, -0.24), radii=(1.0, 0.16, 0.10)),
    Ellipsoid(organ="back left", tissue="muscle", centre=(0.0, 0.76, 0.24), radii=(5.0, 0.18, 0.22)),
    Ellipsoid(organ="back right", tissue="muscle", centre=(0.0, 0.76, -0.24), radii=(5.0, 0.18, 0.22)),
    Ellipsoid(organ="spine", tissue="cortical bone", centre=(0.0, 0.38, 0.0), radii=(5.0, 0.21, 0.175)),
    Ellipsoid(organ="spine", tissue="marrow", centre=(0.0, 0.38, 0.0), radii=(5.0, 0.18, 0.15)),
    Ellipsoid(organ="spine", tissue="cortical bone", centre=(0.0, 0.66, 0.0), radii=(5.0, 0.12, 0.12)),
    Ellipsoid(organ="spine", tissue="fluid", centre=(0.0, 0.645, 0.0), radii=(5.0, 0.07, 0.075)),
    Ellipsoid(organ="spine", tissue="marrow", centre=(0.0, 0.82, 0.0), radii=(5.0, 0.09, 0.025)),
    Ellipsoid(organ="colon left", tissue="bowel", centre=(-0.9, 0.12, 0.68), radii=(1.0, 0.14, 0.11)),
    Ellipsoid(organ="colon right", tissue="bowel", centre=(-1.1, 0.10, -0.62), radii=(0.8, 0.17, 0.14)),
    Ellipsoid(
        organ="pancreas", tissue="pancreas", centre=(0.1, -0.10, 0.16), radii=(0.35, 0.09, 0.30), tilt_degrees=-15
    ),
    Ellipsoid(organ="stomach", tissue="bowel", centre=(0.45, -0.34, 0.40), radii=(0.75, 0.26, 0.30), tilt_degrees=-20),
    Ellipsoid(organ="stomach", tissue="fluid", centre=(0.45, -0.34, 0.40), radii=(0.65, 0.20, 0.24), tilt_degrees=-20),
    Ellipsoid(organ="liver", tissue="liver", centre=(0.35, 0.00, -0.50), radii=(1.05, 0.62, 0.42), label=LIVER),
    Ellipsoid(
        organ="liver",
        tissue="liver",
        centre=(0.55, -0.42, -0.12),
        radii=(0.75, 0.28, 0.46),
        tilt_degrees=10,
        label=LIVER,
    ),
    Ellipsoid(organ="gallbladder", tissue="fluid", centre=(-0.15, -0.34, -0.33), radii=(0.35, 0.14, 0.09)),
    Ellipsoid(
        organ="spleen",
        tissue="spleen",
        centre=(0.40, 0.20, 0.68),
        radii=(0.75, 0.37, 0.19),
        tilt_degrees=-20,
        label=SPLEEN,
    ),
    Ellipsoid(organ="cava", tissue="blood", centre=(0.0, 0.11, -0.13), radii=(5.0, 0.08, 0.095)),
    Ellipsoid(organ="aorta", tissue="blood", centre=(0.0, 0.11, 0.06), radii=(5.0, 0.075, 0.065)),
    Ellipsoid(organ="left kidney", tissue="fat", centre=(-0.15, 0.47, 0.43), radii=(0.75, 0.26, 0.21), tilt_degrees=25),
    Ellipsoid(
        organ="left kidney",
        tissue="renal cortex",
        centre=(-0.15, 0.48, 0.43),
        radii=(0.70, 0.23, 0.18),
        tilt_degrees=25,
        label=LEFT_KIDNEY,
    ),
    Ellipsoid(
        organ="left kidney",
        tissue="renal medulla",
        centre=(-0.15, 0.46, 0.41),
        radii=(0.52, 0.14, 0.09),
        tilt_degrees=25,
        label=LEFT_KIDNEY,
    ),
    Ellipsoid(
        organ="right kidney", tissue="fat", centre=(-0.30, 0.49, -0.43), radii=(0.75, 0.26, 0.21), tilt_degrees=-25
    ),
    Ellipsoid(
        organ="right kidney",
        tissue="renal cortex",
        centre=(-0.30, 0.50, -0.43),
        radii=(0.70, 0.23, 0.18),
        tilt_degrees=-25,
        label=RIGHT_KIDNEY,
    ),
    Ellipsoid(
        organ="right kidney",
        tissue="renal medulla",
        centre=(-0.30, 0.48, -0.41),
        radii=(0.52, 0.14, 0.09),
        tilt_degrees=-25,
        label=RIGHT_KIDNEY,
    ),
)

# How much subjects differ, each a half-width of a uniform distribution: bounded, so that no organ can vanish.
_SHIFT = np.array([0.12, 0.035, 0.035])  # (up, back, left), body coordinates
_RESIZE = 0.12  # in the logarithm of a radius
_TURN_DEGREES = 10.0


def vary(rng: np.random.Generator, atlas: tuple[Ellipsoid, ...]) -> list[Ellipsoid]:
    """Move, resize and tilt each organ as a whole: its parts share one draw."""
    draws = {
        organ: (rng.uniform(-_SHIFT, _SHIFT), np.exp(rng.uniform(-_RESIZE, _RESIZE, 3)), rng.uniform(-1, 1))
        for organ in dict.fromkeys(part.organ for part in atlas)
    }
    varied = []
    for part in atlas:
        shift, factors, turn = draws[part.organ]
        up, back, left = (float(value) for value in np.add(part.centre, shift))
        up_radius, back_radius, left_radius = (float(value) for value in np.multiply(part.radii, factors))
        varied.append(
            replace(
                part,
                centre=(up, back, left),
                radii=(up_radius, back_radius, left_radius),
                tilt_degrees=part.tilt_degrees + _TURN_DEGREES * float(turn),
            )
        )
    return varied


def draw_bowel(rng: np.random.Generator) -> list[Ellipsoid]:
    """Loops of bowel, front and low; the one part of the anatomy whose number and places do not repeat."""
    loops: list[Ellipsoid] = []
    for number in range(int(rng.integers(12, 20))):
        radius = float(rng.uniform(0.10, 0.16))
        wall = Ellipsoid(
            organ=f"bowel {number}",
            tissue="bowel",
            centre=(float(rng.uniform(-1.2, -0.2)), float(rng.uniform(-0.7, 0.1)), float(rng.uniform(-0.55, 0.55))),
            radii=(2 * radius, radius, 1.3 * radius),
            tilt_degrees=float(rng.uniform(-90, 90)),
        )
        lumen = replace(wall, tissue="fluid", radii=(1.4 * radius, 0.7 * radius, 0.9 * radius))
        loops += [wall, lumen] if number % 2 else [wall]
    return loops
