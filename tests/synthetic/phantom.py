"""A body with organs: asymmetric along every axis, so that a flip, a transposition or a shuffled slice shows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["SHAPE", "Phantom", "phantom"]

SHAPE = (24, 20, 6)
"""(columns, rows, slices): no two alike, and no multiple of eight voxels but as a whole."""


@dataclass(frozen=True, slots=True, eq=False)
class Phantom:
    hounsfield: NDArray[np.int16]
    """(column, row, slice): air -1000, tissue about 40, organs above."""
    masks: Mapping[str, NDArray[np.bool_]]
    """liver (without what grows in it), tumour_1, tumour_2, cyst, kidney, bone: disjoint."""


def phantom(shape: tuple[int, int, int] = SHAPE, *, seed: int = 0) -> Phantom:
    """Draw a body; the seed moves the noise and shifts the organs by up to a voxel."""
    random = np.random.default_rng(seed)
    i, j, k = np.meshgrid(*((np.arange(size) + 0.5) / size for size in shape), indexing="ij")

    def ball(centre: tuple[float, float, float], radius: tuple[float, float, float]) -> NDArray[np.bool_]:
        moved = [c + random.uniform(-0.5, 0.5) / size for c, size in zip(centre, shape, strict=True)]
        inside = sum(((x - c) / r) ** 2 for x, c, r in zip((i, j, k), moved, radius, strict=True))
        return np.asarray(inside <= 1)

    body = ball((0.5, 0.52, 0.5), (0.45, 0.42, 9))
    tumour_1 = ball((0.28, 0.38, 0.35), (0.08, 0.09, 0.24))
    tumour_2 = ball((0.36, 0.6, 0.62), (0.07, 0.08, 0.2)) & ~tumour_1
    cyst = ball((0.46, 0.42, 0.6), (0.06, 0.08, 0.2)) & ~tumour_1 & ~tumour_2
    liver = ball((0.34, 0.48, 0.5), (0.24, 0.28, 0.48)) & body & ~tumour_1 & ~tumour_2 & ~cyst
    kidney = ball((0.72, 0.62, 0.4), (0.1, 0.13, 0.35)) & ~liver & ~cyst
    bone = ball((0.55, 0.82, 0.5), (0.08, 0.09, 9)) & ~liver & ~kidney
    masks = {"liver": liver, "tumour_1": tumour_1, "tumour_2": tumour_2, "cyst": cyst, "kidney": kidney, "bone": bone}
    levels = {"liver": 110, "tumour_1": 65, "tumour_2": 55, "cyst": 8, "kidney": 160, "bone": 700}
    values = np.where(body, 40.0, -1000.0) + 30 * (k - 0.5) * body
    for name, mask in masks.items():
        if not mask.any():
            message = f"the shape {shape} is too small: it leaves no {name}"
            raise ValueError(message)
        values[mask] = levels[name]
    return Phantom(np.rint(values + random.normal(0, 6, shape)).astype(np.int16), masks)
