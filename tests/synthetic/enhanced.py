"""Enhanced multi-frame MR and CT: one file, where each frame's facts are in functional groups, its own or shared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as DicomSequence
from pydicom.uid import EnhancedCTImageStorage, EnhancedMRImageStorage, ExplicitVRLittleEndian

from .answers import Answer, Answers, Maker
from .four_d import as_four_d, volumes_of
from .instances import AXIAL, CORONAL, OBLIQUE, Identity, ds, lattice, new_instance, position, put_pixels, save, written
from .phantom import SHAPE
from .series import stored_ct, stored_mr, true_affine

__all__ = ["ENHANCED", "enhanced", "enhanced_4d"]

Home = Literal["shared", "frame"]


def enhanced(
    folder: Path,
    seed: int = 0,
    *,
    modality: Literal["MR", "CT"] = "MR",
    stored: NDArray[Any] | None = None,
    affine_lps: NDArray[np.float64] = AXIAL,
    along: Sequence[float] | None = None,
    order: Sequence[int] | None = None,
    home: Home = "shared",
    slope: float | Sequence[float] | None = None,
    intercept: float | Sequence[float] = 0.0,
    empty_shared: bool = False,
    root_geometry: bool = False,
    frame_of_reference: bool = True,
    volume_of: Sequence[int] | None = None,
    marks: Sequence[Dataset] | None = None,
    identity: Identity | None = None,
    name: str = "enhanced.dcm",
    part: object = "enhanced",
    syntax: str = ExplicitVRLittleEndian,
) -> Answer:
    """Write one multi-frame file.

    Parameters
    ----------
    stored
        (column, row, frame) in the order of the lattice.
    along
        Of each frame, at which multiple of the lattice's third column it lies; by default 0, 1, 2, ...
    order
        Which frame is stored first, second, ...: the order of the pixels and of the per-frame groups.
    home
        Where pixel measures and orientation stand: once for all, or in every frame.
    slope, intercept
        One (then where `home` says) or one a frame (then in every frame); None: no Pixel Value Transformation.
    empty_shared
        The shared groups hold the sequences without an item, and every frame holds its own.
    root_geometry
        Position, orientation and spacing of the first frame stand at the top level too, where the standard has none.
    volume_of
        Of each frame, the number of its volume from 0: written as TemporalPositionIndex and as a third dimension.
    marks
        Of each frame, more sequences for its functional groups.
    """
    who = identity or Identity(seed=seed)
    if stored is None:
        stored = stored_ct(seed=seed) if modality == "CT" else stored_mr(seed=seed)
    frames = stored.shape[2]
    along = list(range(frames)) if along is None else along
    order = list(range(frames)) if order is None else order
    slopes = None if slope is None else written(np.broadcast_to(np.asarray(slope, dtype=np.float64), frames))
    intercepts = written(np.broadcast_to(np.asarray(intercept, dtype=np.float64), frames))
    everywhere = empty_shared or home == "frame"

    dataset = new_instance(
        who,
        sop_class=EnhancedCTImageStorage if modality == "CT" else EnhancedMRImageStorage,
        modality=modality,
        part=part,
        ImageType=["ORIGINAL", "PRIMARY", "VOLUME", "NONE"],
        ContentDate="20190523",
        ContentTime="101112",
        AcquisitionDateTime="20190523101112",
    )
    if frame_of_reference:
        dataset.FrameOfReferenceUID, dataset.PositionReferenceIndicator = who.frame_of_reference_uid, ""
    put_pixels(dataset, stored[:, :, list(order)])
    # Stack ID, In-Stack Position Number, Temporal Position Index
    _add_dimensions(dataset, who, 0x00209056, 0x00209057, *([] if volume_of is None else [0x00209128]))
    measures, orientation = _geometry(affine_lps)
    shared = Dataset()
    if empty_shared:
        shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = DicomSequence(), DicomSequence()
    elif not everywhere:
        shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = _one(measures), _one(orientation)
    one_rescale = np.ndim(slope) == 0 and np.ndim(intercept) == 0 and not everywhere
    if slopes is not None and one_rescale:
        shared.PixelValueTransformationSequence = _one(_rescale(slopes[0], intercepts[0]))
    groups = []
    ranks = {float(step): number + 1 for number, step in enumerate(sorted(set(along)))}
    for frame in order:
        group = Dataset()
        content, plane = Dataset(), Dataset()
        content.StackID, content.InStackPositionNumber = "1", ranks[float(along[frame])]
        content.DimensionIndexValues = [1, ranks[float(along[frame])]]
        if volume_of is not None:
            content.TemporalPositionIndex = volume_of[frame] + 1
            content.DimensionIndexValues = [*content.DimensionIndexValues, volume_of[frame] + 1]
        plane.ImagePositionPatient = [ds(x) for x in position(affine_lps, along[frame])]
        group.FrameContentSequence, group.PlanePositionSequence = _one(content), _one(plane)
        if everywhere:
            group.PixelMeasuresSequence, group.PlaneOrientationSequence = _one(measures), _one(orientation)
        if slopes is not None and not one_rescale:
            group.PixelValueTransformationSequence = _one(_rescale(slopes[frame], intercepts[frame]))
        if marks is not None:
            group.update(marks[frame])
        groups.append(group)
    dataset.SharedFunctionalGroupsSequence = _one(shared)
    dataset.PerFrameFunctionalGroupsSequence = DicomSequence(groups)
    if root_geometry:
        dataset.ImageOrientationPatient, dataset.PixelSpacing = (
            orientation.ImageOrientationPatient,
            measures.PixelSpacing,
        )
        dataset.ImagePositionPatient = groups[0].PlanePositionSequence[0].ImagePositionPatient
    values = stored.astype(np.float64)
    return Answer(
        paths=(save(dataset, folder / name, syntax=syntax),),
        values=values if slopes is None else values * slopes + intercepts,
        affine=true_affine(affine_lps),
        modality=modality,
        fate="taken",
        facts={"order": tuple(order)},
        patient_id=who.patient_id,
        series_uid=who.series_uid,
        study_uid=who.study_uid,
        frame_of_reference_uid=who.frame_of_reference_uid if frame_of_reference else "",
        series_number=who.series,
    )


def enhanced_4d(
    folder: Path,
    seed: int = 0,
    *,
    key: Literal["time", "b-value", "echo"] = "time",
    choices: Sequence[float] = (0, 1, 2),
    **options: Any,
) -> Answers:
    """Several volumes in one file, frames of one position together: refused until one is chosen."""
    volumes = volumes_of(len(choices), seed=seed)
    each = [(k, v) for k in range(SHAPE[2]) for v in range(len(choices))]
    answer = enhanced(
        folder,
        seed,
        stored=np.stack([volumes[:, :, k, v] for k, v in each], axis=-1),
        along=[k for k, _ in each],
        volume_of=[v for _, v in each],
        marks=[_mark(key, choices[v], v) for _, v in each],
        **options,
    )
    return (as_four_d(answer, volumes, key=key, choices=choices),)


def missing_frame(folder: Path, seed: int = 0) -> Answers:
    """One frame of a stack is absent: refused. Facts: gap_mm, missing."""
    answer = enhanced(folder, seed, stored=stored_mr(seed=seed)[:, :, :5], along=[0, 1, 2, 4, 5])
    return (replace(answer, fate="refused", reason="slices missing", affine=None, facts={"missing": 1, "gap_mm": 5.0}),)


def two_files(folder: Path, seed: int = 0) -> Answers:
    """One stack in two multi-frame files of one series, a concatenation: taken as one."""
    stored = stored_mr(seed=seed)
    halves = [
        enhanced(folder, seed, stored=stored[:, :, low:high], along=range(low, high), name=f"{low}.dcm", part=low)
        for low, high in ((0, 4), (4, 6))
    ]
    paths = tuple(path for half in halves for path in half.paths)
    return (replace(halves[0], paths=paths, values=stored.astype(np.float64), facts={}),)


def _one(item: Dataset) -> DicomSequence:
    return DicomSequence([item])


def _geometry(affine_lps: NDArray[np.float64]) -> tuple[Dataset, Dataset]:
    spacing = np.linalg.norm(affine_lps[:3, :3], axis=0)
    measures, orientation = Dataset(), Dataset()
    measures.PixelSpacing, measures.SliceThickness = [ds(spacing[1]), ds(spacing[0])], ds(spacing[2])
    orientation.ImageOrientationPatient = [ds(x) for x in (affine_lps[:3, :2] / spacing[:2]).T.ravel()]
    return measures, orientation


def _rescale(slope: float, intercept: float) -> Dataset:
    item = Dataset()
    item.RescaleSlope, item.RescaleIntercept, item.RescaleType = ds(slope), ds(intercept), "US"
    return item


def _add_dimensions(dataset: Dataset, who: Identity, *pointers: int) -> None:
    organization, items = Dataset(), []
    organization.DimensionOrganizationUID = who.uid("dimensions")
    for pointer in pointers:
        item = Dataset()
        item.DimensionOrganizationUID = organization.DimensionOrganizationUID
        item.DimensionIndexPointer, item.FunctionalGroupPointer = pointer, 0x00209111
        items.append(item)
    dataset.DimensionOrganizationSequence, dataset.DimensionIndexSequence = _one(organization), DicomSequence(items)


def _mark(key: str, choice: float, volume: int) -> Dataset:
    """Return the functional group that says of which volume a frame is."""
    group, item = Dataset(), Dataset()
    if key == "b-value":
        item.DiffusionBValue, item.DiffusionDirectionality = float(choice), "ISOTROPIC" if choice else "NONE"
        group.MRDiffusionSequence = _one(item)
    elif key == "echo":
        item.EffectiveEchoTime = float(choice)
        group.MREchoSequence = _one(item)
    else:
        item.TemporalPositionTimeOffset = 2.5 * volume
        group.TemporalPositionSequence = _one(item)
    return group


def _maker(**options: Any) -> Maker:
    return lambda folder, seed: (enhanced(folder, seed, **options),)


SHUFFLED = (4, 0, 3, 5, 1, 2)

ENHANCED: dict[str, Maker] = {
    "enhanced mr": _maker(affine_lps=OBLIQUE),
    "enhanced ct": _maker(modality="CT", slope=1, intercept=-24),
    "groups in every frame": _maker(home="frame", slope=1.35, intercept=2, affine_lps=CORONAL),
    "empty shared groups": _maker(empty_shared=True, slope=2),
    "as Hyperfine writes": _maker(root_geometry=True, frame_of_reference=False, slope=1),
    "shuffled frames": _maker(order=SHUFFLED),
    "rescale by frame": _maker(slope=(1, 0.5, 2.25, 1.35, 3, 0.125), intercept=(0, -5, 7, 1.5, 0, 2), order=SHUFFLED),
    "enhanced without frame of reference": _maker(frame_of_reference=False),
    "tilted enhanced ct": _maker(modality="CT", affine_lps=lattice(shear_mm=(0.0, 0.8)), slope=1, intercept=0),
    "two enhanced files": two_files,
    "frame missing": missing_frame,
    "enhanced time points": enhanced_4d,
    "enhanced b-values": partial(enhanced_4d, key="b-value", choices=(0, 50, 800)),
    "enhanced echoes": partial(enhanced_4d, key="echo", choices=(2.46, 4.92)),
}
