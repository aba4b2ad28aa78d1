"""Masks in index space: what their names say, and the true affine beside them.

Axes that are not at right angles (a tilted gantry) are beyond ITK, and so beyond NRRD and most tools that read NIfTI.
A mask on such a grid holds its voxels by index and claims no place in patient space; so that nobody takes it for one
that does, its name says so, and the affine lies in a file beside it.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from ...store.errors import GeometryMismatch
from ...store.places import place_of

if TYPE_CHECKING:
    from pathlib import Path

    from .base import SourceGrid

__all__ = ["INDEX_SPACE", "affine_beside", "write_affine_beside"]

INDEX_SPACE = ".index-space"
"""What the name of such a mask has before its ending."""

_WHAT = (
    "The file beside this one holds voxels by their index (i, j, k) only and claims no place in patient space: the "
    "grid of its scan is sheared (a tilted gantry), which neither NRRD nor NIfTI says to readers built on ITK. The "
    "matrix affine_ras_mm takes (i, j, k, 1) to millimetres in RAS+: x to the patient's right, y to anterior, z to "
    "superior."
)


def affine_beside(mask: Path) -> Path:
    """Return where the affine of a mask in index space lies.

    Examples
    --------
    >>> from pathlib import Path
    >>> affine_beside(Path("case1.index-space.nii.gz")).name
    'case1.index-space.affine.json'
    """
    return mask.with_name(f"{mask.name.rpartition(INDEX_SPACE)[0]}{INDEX_SPACE}.affine.json")


def write_affine_beside(mask: Path, grid: SourceGrid) -> Path:
    """Write the affine of a mask in index space beside it, whole or not at all.

    Parameters
    ----------
    mask
        Where the mask lies, or will.
    grid
        Of its source, with its affine, sheared or not.

    Returns
    -------
    Path
        The JSON file: ``affine_ras_mm`` (4x4, from (i, j, k, 1) to millimetres in RAS+), ``shape_ijk`` and what this
        is.

    Raises
    ------
    GeometryMismatch
        The grid has no affine.
    """
    affine = grid.affine_array
    if affine is None:
        message = f"{mask}: the source has no affine that could be written beside its mask. Write a plain mask of it."
        raise GeometryMismatch(message)
    beside = affine_beside(mask)
    stored = {"what": _WHAT, "affine_ras_mm": affine.tolist(), "shape_ijk": list(grid.shape)}
    place_of(beside).publish(f"{json.dumps(stored, indent=2)}\n".encode())
    return beside
