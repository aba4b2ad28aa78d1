"""Single-frame series whose slices do not lie as a reader would wish: each maker knows by how much.

Makers take (folder, seed) first, so that `IRREGULAR` can hold them by name; their other arguments have defaults.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from .answers import Answer, Answers, Maker, Reason
from .instances import AXIAL, CORONAL, OBLIQUE, SAGITTAL, Identity, lattice, position
from .phantom import SHAPE
from .series import stored_ct, stored_mr, write_series

__all__ = [
    "IRREGULAR",
    "copies",
    "duplicate_positions",
    "localizer",
    "missing_slices",
    "mixed_matrix_sizes",
    "mixed_orientations",
    "mixed_spacing",
    "no_positions",
    "one_position",
    "scout",
    "skewed_cosines",
    "stray_localizer",
    "tilted",
    "too_few",
    "uneven_shear",
    "uneven_spacing",
    "without_position",
]

THICKNESS_MM = 2.5


def tilted(
    folder: Path,
    seed: int = 0,
    *,
    shear_mm: tuple[float, float] = (0.0, 4.0),
    angles_degrees: Sequence[float] = (0.0, 0.0, 0.0),
    slices: int = SHAPE[2],
    **options: Any,
) -> Answers:
    """A regular stack whose slices are moved in their plane: taken, with its sheared affine.

    `shear_mm` is by how much the last slice lies off the normal through the first, in the directions of the column
    index and of the row index. Facts: shear_mm (their hypotenuse), tilt_degrees.
    """
    step = np.asarray(shear_mm, dtype=np.float64) / (slices - 1)
    affine_lps = lattice((0.8, 0.9, THICKNESS_MM), angles_degrees=angles_degrees, shear_mm=step)
    answer = write_series(
        folder, seed=seed, stored=stored_ct((*SHAPE[:2], slices), seed=seed), affine_lps=affine_lps, **options
    )
    shear = float(np.hypot(*shear_mm))
    tilt = float(np.degrees(np.arctan2(np.hypot(*step), THICKNESS_MM)))
    return (replace(answer, reason="tilt", facts={"shear_mm": shear, "tilt_degrees": tilt}),)


def uneven_shear(folder: Path, seed: int = 0, *, off_mm: float = 3.0) -> Answers:
    """Even distances along the normal, but one slice lies `off_mm` beside the line through the others: refused.

    Facts: off_mm; after (the file before the one that is off).
    """
    positions = _positions()
    positions[3] += AXIAL[:3, 1] / np.linalg.norm(AXIAL[:3, 1]) * off_mm
    answer = write_series(folder, seed=seed, positions_mm=positions)
    return (_refused(answer, "uneven shear", off_mm=off_mm, after=answer.paths[2]),)


def missing_slices(folder: Path, seed: int = 0, *, missing: Sequence[int] = (3,), of: int = SHAPE[2]) -> Answers:
    """A stack of slices 0 to `of` - 1 without those `missing`: refused.

    Facts: missing (how many); gap_mm (the widest); after (the file before it); gaps, ((file before, mm), ...) of all.
    """
    there = [k for k in range(of) if k not in missing]
    positions = _positions(of)[there]
    answer = write_series(
        folder,
        seed=seed,
        stored=stored_ct((*SHAPE[:2], of), seed=seed)[:, :, there],
        positions_mm=positions,
        instance_number=lambda n: there[n] + 1,
        part=lambda n: there[n],
    )
    steps = np.linalg.norm(np.diff(positions, axis=0), axis=1)
    gaps = [(answer.paths[n], float(step)) for n, step in enumerate(steps) if step > THICKNESS_MM * 1.5]
    after, gap_mm = max(gaps, key=lambda gap: gap[1])
    facts = {"missing": len(missing), "gap_mm": gap_mm, "after": after, "gaps": tuple(gaps)}
    return (_refused(answer, "slices missing", **facts),)


def uneven_spacing(folder: Path, seed: int = 0, *, steps_mm: Sequence[float] = (2.5, 2.5, 3.5, 1.75, 2.5)) -> Answers:
    """Distances that vary, with no slice missing: refused, but for deviations below 1 % of the spacing.

    Facts: steps_mm; deviation_mm (the largest, from their median).
    """
    along = np.concatenate([[0.0], np.cumsum(steps_mm)])
    positions = AXIAL[:3, 3] + along[:, None] * AXIAL[:3, 2] / THICKNESS_MM
    affine_lps = AXIAL.copy()
    affine_lps[:3, 2] = (positions[-1] - positions[0]) / (len(along) - 1)
    stored = stored_ct((*SHAPE[:2], len(along)), seed=seed)
    answer = write_series(folder, seed=seed, stored=stored, affine_lps=affine_lps, positions_mm=positions)
    deviation = float(np.abs(np.asarray(steps_mm) - np.median(steps_mm)).max())
    answer = replace(answer, facts={"steps_mm": tuple(steps_mm), "deviation_mm": deviation})
    if deviation <= 0.01 * float(np.median(steps_mm)):
        return (answer,)
    return (_refused(answer, "uneven spacing", **answer.facts),)


def duplicate_positions(folder: Path, seed: int = 0, *, twice: Sequence[int] = (2,)) -> Answers:
    """Some positions hold two different slices that nothing but their instance tells apart: refused.

    Facts: slices, positions (how many of each); doubled ((file, file), ...).
    """
    order = sorted([*range(SHAPE[2]), *twice])
    stored = stored_ct(seed=seed)[:, :, order]
    again = [n for n in range(1, len(order)) if order[n] == order[n - 1]]
    stored[:, :, again] += 100
    answer = write_series(folder, seed=seed, stored=stored, positions_mm=_positions()[order])
    doubled = tuple((answer.paths[n - 1], answer.paths[n]) for n in again)
    facts = {"slices": len(order), "positions": SHAPE[2], "doubled": doubled}
    return (_refused(answer, "duplicate positions", **facts),)


def one_position(folder: Path, seed: int = 0) -> Answers:
    """Six different slices at one position, no volume at all: refused. Facts: slices, positions."""
    answer = write_series(folder, seed=seed, positions_mm=np.repeat(_positions()[:1], SHAPE[2], axis=0))
    return (_refused(answer, "duplicate positions", slices=SHAPE[2], positions=1),)


def copies(folder: Path, seed: int = 0, *, of: Sequence[int] = (0, 3)) -> Answers:
    """Some files lie there twice, the same instance byte for byte: taken, once. Facts: copies (the surplus files)."""
    (folder / "again").mkdir(parents=True, exist_ok=True)
    answer = write_series(folder, seed=seed)
    surplus = tuple(Path(shutil.copy(answer.paths[k], folder / "again" / f"copy{k}")) for k in of)
    return (replace(answer, facts={"copies": surplus}),)


def mixed_orientations(folder: Path, seed: int = 0) -> Answers:
    """An axial and an oblique stack under one SeriesInstanceUID: two stacks, each regular."""
    return _grids(folder, seed, (AXIAL, None, "a"), (OBLIQUE, None, "b"))


def mixed_matrix_sizes(folder: Path, seed: int = 0) -> Answers:
    """Two stacks of other rows and columns under one SeriesInstanceUID, one behind the other."""
    behind = lattice(origin_mm=position(AXIAL, SHAPE[2]))
    return _grids(folder, seed, (AXIAL, SHAPE, "a"), (behind, (32, 26, 4), "b"))


def mixed_spacing(folder: Path, seed: int = 0) -> Answers:
    """Two stacks of other pixel spacing under one SeriesInstanceUID, at the same positions."""
    return _grids(folder, seed, (AXIAL, None, "a"), (lattice((1.6, 1.8, THICKNESS_MM)), None, "b"))


def stray_localizer(folder: Path, seed: int = 0) -> Answers:
    """A regular stack with one coronal scout among its files: the stack is taken, the scout is too few slices."""
    main, scout = _grids(folder, seed, (AXIAL, None, "a"), (CORONAL, (*SHAPE[:2], 1), "b"))
    return main, _refused(scout, "too few slices", slices=1)


def localizer(folder: Path, seed: int = 0, *, announced: bool = True) -> Answers:
    """Three slices in each of three planes, in one series; `announced`: by ImageType.

    Refused as a localizer where that is announced; else three stacks, which nothing tells from thin volumes.
    """
    planes = [(plane, (*SHAPE[:2], 3), name) for plane, name in ((AXIAL, "a"), (CORONAL, "c"), (SAGITTAL, "s"))]
    options = {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]} if announced else {}
    stacks = _grids(folder, seed, *planes, modality="MR", **options)
    return tuple(_refused(stack, "localizer") for stack in stacks) if announced else stacks


def scout(folder: Path, seed: int = 0) -> Answers:
    """A CT topogram: two single planes, called LOCALIZER."""
    planes = ((CORONAL, (*SHAPE[:2], 1), "c"), (SAGITTAL, (*SHAPE[:2], 1), "s"))
    stacks = _grids(folder, seed, *planes, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    return tuple(_refused(stack, "localizer") for stack in stacks)


def too_few(folder: Path, seed: int = 0, *, slices: int = 2, alone: bool = False) -> Answers:
    """One or two slices beside a whole series of the same study (unless `alone`): refused. Facts: slices."""
    few = write_series(
        folder / "few",
        stored=stored_ct(seed=seed)[:, :, :slices],
        identity=Identity(seed=seed, series=2),
    )
    whole = () if alone else (write_series(folder / "whole", seed=seed),)
    return (_refused(few, "too few slices", slices=slices), *whole)


def no_positions(folder: Path, seed: int = 0) -> Answers:
    """CT slices without ImagePositionPatient and ImageOrientationPatient: refused."""

    def change(k: int, dataset: Dataset) -> None:
        del dataset.ImagePositionPatient, dataset.ImageOrientationPatient

    return (replace(_refused(write_series(folder, seed=seed, change=change), "no geometry"), affine=None),)


def without_position(folder: Path, seed: int = 0) -> Answers:
    """One file of six without ImagePositionPatient: refused. Facts: file."""

    def change(k: int, dataset: Dataset) -> None:
        if k == 2:
            del dataset.ImagePositionPatient

    answer = write_series(folder, seed=seed, change=change)
    return (_refused(answer, "no geometry", file=answer.paths[2]),)


def skewed_cosines(folder: Path, seed: int = 0) -> Answers:
    """Row and column directions 60 degrees apart: no grid that DICOM allows; refused."""
    answer = write_series(folder, seed=seed, ImageOrientationPatient=[1, 0, 0, 0.5, 0.8660254, 0])
    return (replace(_refused(answer, "no geometry"), affine=None),)


def _positions(slices: int = SHAPE[2]) -> NDArray[np.float64]:
    return np.array([position(AXIAL, k) for k in range(slices)])


def _refused(answer: Answer, reason: Reason, **facts: Any) -> Answer:
    return replace(answer, fate="refused", reason=reason, facts=facts)


def _grids(
    folder: Path,
    seed: int,
    *stacks: tuple[NDArray[np.float64], tuple[int, int, int] | None, str],
    modality: str = "CT",
    **options: Any,
) -> Answers:
    """Write stacks (affine_lps, shape, prefix of the files) into one folder and one series."""
    answers = []
    for number, (affine_lps, shape, prefix) in enumerate(stacks):
        stored = (stored_ct if modality == "CT" else stored_mr)(shape or SHAPE, seed=seed + number)
        answers.append(
            write_series(
                folder,
                stored=stored,
                affine_lps=affine_lps,
                identity=Identity(seed=seed),
                modality=modality,
                name=lambda k, slices, prefix=prefix: f"{prefix}{slices - k:03d}.dcm",
                instance_number=lambda k, number=number: 100 * number + k + 1,
                part=lambda k, prefix=prefix: f"{prefix}{k}",
                **options,
            )
        )
    return tuple(answers)


IRREGULAR: dict[str, Maker] = {
    "tilted": tilted,
    "tilted the other way": partial(tilted, shear_mm=(0.0, -9.0)),
    "tilted along the rows": partial(tilted, shear_mm=(2.5, 0.0), angles_degrees=(10, 5, -20)),
    "uneven shear": uneven_shear,
    "one slice missing": missing_slices,
    "two gaps": partial(missing_slices, missing=(2, 5, 6), of=9),
    "uneven spacing": uneven_spacing,
    "almost even spacing": partial(uneven_spacing, steps_mm=(2.5, 2.51, 2.49, 2.5, 2.5)),
    "duplicate positions": duplicate_positions,
    "one position": one_position,
    "copies": copies,
    "mixed orientations": mixed_orientations,
    "mixed matrix sizes": mixed_matrix_sizes,
    "mixed pixel spacing": mixed_spacing,
    "stray localizer": stray_localizer,
    "localizer": localizer,
    "localizer not announced": partial(localizer, announced=False),
    "scout": scout,
    "two slices": too_few,
    "one slice": partial(too_few, slices=1),
    "no positions": no_positions,
    "one file without position": without_position,
    "skewed cosines": skewed_cosines,
}
