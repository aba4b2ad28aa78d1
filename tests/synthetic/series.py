"""Plain series: one file a slice, one regular stack. `PLAIN` holds the variants that a reader must take as they are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as DicomSequence
from pydicom.uid import (
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    MRImageStorage,
    PositronEmissionTomographyImageStorage,
    SecondaryCaptureImageStorage,
)

from .answers import Answer, Maker, to_ras
from .instances import (
    AXIAL,
    CORONAL,
    OBLIQUE,
    SAGITTAL,
    Identity,
    ds,
    lattice,
    new_instance,
    place,
    position,
    put_pixels,
    save,
    written,
)
from .phantom import SHAPE, phantom

__all__ = ["PLAIN", "SOP_CLASSES", "blank", "shuffled_name", "stored_ct", "stored_mr", "true_affine", "write_series"]

SOP_CLASSES = {
    "CT": CTImageStorage,
    "MR": MRImageStorage,
    "PT": PositronEmissionTomographyImageStorage,
    "OT": SecondaryCaptureImageStorage,
}

Change = Callable[[int, Dataset], None]
Name = Callable[[int, int], str]


def stored_ct(shape: tuple[int, int, int] = SHAPE, *, seed: int = 0) -> NDArray[np.int16]:
    """Return the phantom in Hounsfield units, cut off where fewer slices are asked for than it needs."""
    return phantom((*shape[:2], max(shape[2], SHAPE[2])), seed=seed).hounsfield[:, :, : shape[2]]


def stored_mr(shape: tuple[int, int, int] = SHAPE, *, seed: int = 0) -> NDArray[np.uint16]:
    """Return the phantom in arbitrary positive units, background near 0."""
    return np.maximum(stored_ct(shape, seed=seed) + 1000, 0).astype(np.uint16)


def shuffled_name(k: int, slices: int) -> str:
    """Name slice k, without extension, so that neither order of the names is the order of the slices."""
    return f"IM{(k * 523 + 77) % 1009:06d}"


def true_affine(affine_lps: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the RAS+ affine of what `place` and `position` write for this lattice: rounded to decimal strings."""
    spacing = np.linalg.norm(affine_lps[:3, :2], axis=0)
    rounded = affine_lps.copy()
    rounded[:3, :2] = written(affine_lps[:3, :2] / spacing) * written(spacing)
    rounded[:3, 3] = written(affine_lps[:3, 3])
    return to_ras(rounded)


def write_series(
    folder: Path,
    *,
    stored: NDArray[Any] | None = None,
    affine_lps: NDArray[np.float64] = AXIAL,
    positions_mm: NDArray[np.float64] | None = None,
    modality: str = "CT",
    slope: float | Sequence[float] | None = None,
    intercept: float | Sequence[float] | None = None,
    identity: Identity | None = None,
    seed: int = 0,
    name: Name = lambda k, slices: f"{slices - k:04d}.dcm",
    instance_number: Callable[[int], int] = lambda k: k + 1,
    part: Callable[[int], object] | None = None,
    photometric: str = "MONOCHROME2",
    bits_stored: int | None = None,
    syntax: str = ExplicitVRLittleEndian,
    preamble: bool = True,
    change: Change = lambda k, dataset: None,
    **attributes: Any,
) -> Answer:
    """Write a series, one file a slice, and say what it holds.

    Parameters
    ----------
    folder
        Is made where it does not exist.
    stored
        (column, row, slice) of the pixels' own type; by default the phantom of the seed, int16 for CT, else uint16.
    affine_lps
        (column, row, slice) to LPS+ millimetres; a sheared one makes a tilted gantry.
    positions_mm
        (slices, 3), LPS+: where the slices lie, if not on `affine_lps`; the answer is then still that of `affine_lps`.
    slope, intercept
        One for all slices or one a slice; None: the tag is left out.
    name
        (k, slices) -> a file name; by default names that sort against the slices.
    instance_number
        k -> InstanceNumber.
    part
        k -> what names the instance (for instances that share a number); by default k.
    change
        Called last with (k, dataset), for everything else. What it does to the truth is its caller's to say.
    attributes
        Set in every file.
    """
    who = identity or Identity(seed=seed)
    if stored is None:
        stored = stored_ct(seed=seed) if modality == "CT" else stored_mr(seed=seed)
    slices = stored.shape[2]
    slopes, intercepts = _one_a_slice(slope, slices), _one_a_slice(intercept, slices)
    paths = []
    for k in range(slices):
        dataset = new_instance(
            who,
            sop_class=SOP_CLASSES[modality],
            modality=modality,
            number=instance_number(k),
            part=k if part is None else part(k),
        )
        dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL" if modality == "CT" else "M"]
        at_mm = position(affine_lps, k) if positions_mm is None else positions_mm[k]
        place(dataset, affine_lps, at_mm, frame_uid=who.frame_of_reference_uid)
        dataset.SliceThickness = ds(round(float(abs(np.linalg.norm(affine_lps[:3, 2]))), 6))
        if slopes is not None:
            dataset.RescaleSlope = ds(slopes[k])
        if intercepts is not None:
            dataset.RescaleIntercept = ds(intercepts[k])
        put_pixels(
            dataset,
            stored[..., k, :] if stored.ndim == 4 else stored[..., k],
            photometric=photometric,
            bits_stored=bits_stored,
        )
        for keyword, value in attributes.items():
            setattr(dataset, keyword, value)
        change(k, dataset)
        paths.append(save(dataset, folder / name(k, slices), syntax=syntax, preamble=preamble))
    values = stored.astype(np.float64)
    if slopes is not None:
        values = values * slopes.reshape(-1, *(1,) * (stored.ndim - 3))
    if intercepts is not None:
        values = values + intercepts.reshape(-1, *(1,) * (stored.ndim - 3))
    return Answer(
        paths=tuple(paths),
        values=values,
        affine=true_affine(affine_lps),
        modality=modality,
        fate="taken",
        inverted=photometric == "MONOCHROME1",
        patient_id=who.patient_id,
        series_uid=who.series_uid,
        study_uid=who.study_uid,
        frame_of_reference_uid=who.frame_of_reference_uid,
        series_number=who.series,
    )


def _one_a_slice(value: float | Sequence[float] | None, slices: int) -> NDArray[np.float64] | None:
    return None if value is None else written(np.broadcast_to(np.asarray(value, dtype=np.float64), slices))


def blank(*keywords: str) -> Change:
    """Return a change that empties attributes where they stand, as a careless anonymiser does."""

    def change(k: int, dataset: Dataset) -> None:
        for keyword in keywords:
            setattr(dataset, keyword, None if keyword.endswith("Number") else "")

    return change


# --- the variants ---


def _one(**options: Any) -> Maker:
    return lambda folder, seed: (write_series(folder, seed=seed, **options),)


def _unsigned_ct(folder: Path, seed: int) -> tuple[Answer, ...]:
    stored = (stored_ct(seed=seed).astype(np.int32) + 1024).astype(np.uint16)
    return (write_series(folder, seed=seed, stored=stored, slope=1, intercept=-1024),)


def _large_unsigned(folder: Path, seed: int) -> tuple[Answer, ...]:
    """Values above 32767, which wrap in int16."""
    return (
        write_series(folder, seed=seed, modality="MR", stored=stored_mr(seed=seed) * np.uint16(20) + np.uint16(30000)),
    )


def _lowest_signed(folder: Path, seed: int) -> tuple[Answer, ...]:
    """-32768 in the background, whose negative int16 does not hold."""
    stored = stored_ct(seed=seed)
    stored[stored < -500] = -32768
    return (write_series(folder, seed=seed, stored=stored, slope=1, intercept=0),)


def _bytes(folder: Path, seed: int) -> tuple[Answer, ...]:
    stored = (stored_mr(seed=seed) // 8).clip(0, 255).astype(np.uint8)
    return (write_series(folder, seed=seed, modality="MR", stored=stored),)


def _twelve_bits(folder: Path, seed: int, *, signed: bool) -> tuple[Answer, ...]:
    """12 of 16 bits; signed: the four bits above a negative number are zero, not its sign."""
    stored = stored_ct(seed=seed) if signed else stored_mr(seed=seed)
    return (write_series(folder, seed=seed, stored=stored, bits_stored=12, intercept=0 if signed else -1000, slope=1),)


def _padded(folder: Path, seed: int, *, limit: int | None) -> tuple[Answer, ...]:
    """A corner outside the reconstruction circle, PixelPaddingValue -2000 or the range -2000 to `limit`."""
    stored = stored_ct(seed=seed)
    stored[:4, :3] = -2000
    if limit is not None:
        stored[4:6, :3] = limit
    options = {} if limit is None else {"PixelPaddingRangeLimit": limit}
    answer = write_series(folder, seed=seed, stored=stored, slope=1, intercept=-24, PixelPaddingValue=-2000, **options)
    return (replace(answer, padding=(-2024.0, -2024.0 if limit is None else limit - 24.0)),)


def _inverted(folder: Path, seed: int) -> tuple[Answer, ...]:
    return (write_series(folder, seed=seed, modality="MR", photometric="MONOCHROME1"),)


def _slopes(folder: Path, seed: int, *, modality: str) -> tuple[Answer, ...]:
    """Another slope and intercept in every slice, as Philips MR and PET write them."""
    random = np.random.default_rng(seed)
    slope, intercept = random.uniform(0.2, 4.2, SHAPE[2]).round(6), random.uniform(-3, 0.5, SHAPE[2]).round(6)
    return (write_series(folder, seed=seed, modality=modality, slope=slope, intercept=intercept),)


def _modality_table(folder: Path, seed: int) -> tuple[Answer, ...]:
    """A Modality LUT Sequence in place of slope and intercept: twice the stored value and five."""
    stored = np.minimum(stored_mr(seed=seed), 2047).astype(np.uint16)

    def change(k: int, dataset: Dataset) -> None:
        table = Dataset()
        table.add_new("LUTDescriptor", "US", [2048, 0, 16])
        table.add_new("LUTData", "OW", (np.arange(2048) * 2 + 5).astype("<u2").tobytes())
        table.ModalityLUTType = "US"
        dataset.ModalityLUTSequence = DicomSequence([table])

    answer = write_series(folder, seed=seed, stored=stored, change=change)
    return (replace(answer, values=stored * 2.0 + 5.0),)


def _noisy_headers(folder: Path, seed: int) -> tuple[Answer, ...]:
    """Cosines rounded to four decimals and positions to the hundredth of a millimetre, on an oblique grid.

    A tilt by arccos comes out near half a degree here; the shear is a few hundredths of a millimetre.
    """
    answer = write_series(
        folder,
        seed=seed,
        affine_lps=OBLIQUE,
        change=lambda k, dataset: _rounded(dataset, ImageOrientationPatient=4, ImagePositionPatient=2),
    )
    affine_lps = OBLIQUE.copy()
    spacing = np.linalg.norm(affine_lps[:3, :2], axis=0)
    cosines = (affine_lps[:3, :2] / spacing).round(4)
    affine_lps[:3, :2] = cosines / np.linalg.norm(cosines, axis=0) * written(spacing)
    last = SHAPE[2] - 1
    affine_lps[:3, 2] = (position(OBLIQUE, last).round(2) - position(OBLIQUE, 0).round(2)) / last
    affine_lps[:3, 3] = position(OBLIQUE, 0).round(2)
    return (replace(answer, affine=to_ras(affine_lps)),)


def _rounded(dataset: Dataset, **decimals: int) -> None:
    for keyword, count in decimals.items():
        setattr(dataset, keyword, [ds(round(float(value), count)) for value in dataset[keyword].value])


def _misleading(k: int, dataset: Dataset) -> None:
    """Distances that are not: the thickness is not the spacing, and the spacing's sign and the location lie."""
    dataset.SliceThickness, dataset.SpacingBetweenSlices = 3, -1.25
    dataset.SliceLocation = 100 - 7 * k


PLAIN: dict[str, Maker] = {
    "ct": _one(slope=1, intercept=0),
    "mr": _one(modality="MR"),
    "ct unsigned with intercept": _unsigned_ct,
    "slope 1.35": _one(slope=1.35, intercept=-7.5),
    "slopes of a Philips mr": partial(_slopes, modality="MR"),
    "slopes of a pet": partial(_slopes, modality="PT"),
    "modality table": _modality_table,
    "above 32767": _large_unsigned,
    "down to -32768": _lowest_signed,
    "eight bits": _bytes,
    "twelve bits": partial(_twelve_bits, signed=False),
    "twelve bits signed": partial(_twelve_bits, signed=True),
    "padding value": partial(_padded, limit=None),
    "padding range": partial(_padded, limit=-1999),
    "monochrome1": _inverted,
    "coronal": _one(affine_lps=CORONAL),
    "sagittal": _one(affine_lps=SAGITTAL, modality="MR"),
    "oblique": _one(affine_lps=OBLIQUE, modality="MR"),
    "feet first": _one(affine_lps=lattice(angles_degrees=(180, 0, 0)), PatientPosition="FFS"),
    "noisy headers": _noisy_headers,
    "wide": lambda folder, seed: (
        write_series(folder, seed=seed, stored=stored_ct((40, 18, 6), seed=seed), affine_lps=lattice((6.4, 4.0, 5.0))),
    ),
    "three slices": lambda folder, seed: (write_series(folder, seed=seed, stored=stored_ct((24, 20, 3), seed=seed)),),
    "misleading distances": _one(change=_misleading),
    "numbered against position": _one(instance_number=lambda k: (k * 5) % 7 + 1),
    "one instance number": _one(instance_number=lambda k: 1),
    "no instance number": _one(change=blank("InstanceNumber")),
    "names without extension": _one(name=shuffled_name),
    "names of a Siemens export": _one(name=lambda k, slices: f"MR.{(k * 5) % 7}.IMA", modality="MR"),
    "non-ASCII names": _one(name=lambda k, slices: f"Schädel ъ {(k * 5) % 7}.DCM"),
    "implicit": _one(syntax=ImplicitVRLittleEndian),
    "big endian": _one(syntax=ExplicitVRBigEndian),
    "deflated": _one(syntax=DeflatedExplicitVRLittleEndian),
    "no preamble": _one(preamble=False),
    "no frame of reference": _one(change=lambda k, dataset: dataset.__delattr__("FrameOfReferenceUID")),
    "blank study and frame of reference": _one(change=blank("FrameOfReferenceUID", "StudyInstanceUID")),
}
"""By name; all are taken, with `values` and `affine` as they stand."""
