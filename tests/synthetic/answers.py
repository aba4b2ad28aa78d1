"""What a maker knows about the files that it wrote."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = ["LPS_TO_RAS", "Answer", "Answers", "FourDAnswer", "Maker", "Reason", "to_ras"]

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])

Reason = Literal[
    "",
    "4-D",
    "colour",
    "damaged",
    "duplicate positions",
    "localizer",
    "mosaic",
    "no geometry",
    "no image",
    "secondary capture",
    "slices missing",
    "tilt",
    "too few slices",
    "uneven shear",
    "uneven spacing",
]
"""In the words of a triage table; "tilt" and "colour" are told of series that are taken."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Answer:
    """One stack, or what a reader should say about the files that make none."""

    paths: tuple[Path, ...]
    """The files, each once, in the order of the slices of `values`."""
    values: NDArray[np.float64] | None
    """(column, row, slice), for colour (column, row, slice, 3): stored * slope + intercept. None: nothing to take."""
    affine: NDArray[np.float64] | None
    """(column, row, slice) to RAS+ millimetres, sheared where the gantry was tilted; None without geometry."""
    modality: str
    fate: Literal["taken", "refused"]
    reason: Reason = ""
    """Why it is refused, or what is to be said about it."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """The numbers that belong to the reason, each explained by its maker."""
    padding: tuple[float, float] | None = None
    """From and to which of `values` (both included) a voxel is padding."""
    inverted: bool = False
    """MONOCHROME1: `values` are as stored, and meant to be shown with high values dark."""
    patient_id: str
    series_uid: str
    study_uid: str
    frame_of_reference_uid: str
    series_number: int


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class FourDAnswer(Answer):
    """Several volumes in one series: refused (`values` is None) until one is chosen."""

    volumes: tuple[NDArray[np.float64], ...]
    """In the order of the choices, each (column, row, slice); all have `affine`."""
    key: Literal["echo", "b-value", "time"]
    """Which choice tells the volumes apart."""
    choices: tuple[float, ...]
    """Of each volume: its echo time in ms, its b-value in s/mm2, or its number from 0. A b-value may come twice."""


Answers: TypeAlias = tuple[Answer, ...]
"""What one folder holds: one answer a stack, or for the whole series where it makes none."""

Maker: TypeAlias = Callable[[Path, int], Answers]
"""(folder, seed) -> what lies in the folder now. Another seed: another patient, study and series, other noise."""


def to_ras(affine_lps: NDArray[np.float64]) -> NDArray[np.float64]:
    """Turn DICOM's millimetres (LPS+) into RAS+."""
    return LPS_TO_RAS @ affine_lps
