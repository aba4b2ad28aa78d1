"""Labels as DICOM objects over a series: segmentations by highdicom, structure sets of contours by pydicom."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import highdicom as hd
import numpy as np
from highdicom.seg import SegmentAlgorithmTypeValues, SegmentationTypeValues, SegmentDescription
from matplotlib.path import Path as Polygon
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as DicomSequence
from pydicom.sr.codedict import codes
from pydicom.uid import RTStructureSetStorage

from .answers import LPS_TO_RAS, Answer
from .instances import Identity, ds, new_instance, position, save

__all__ = ["Contour", "RtStructAnswer", "SegAnswer", "disc", "rectangle", "write_rtstruct", "write_seg"]

Mask = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class SegAnswer:
    path: Path
    masks: Mapping[str, NDArray[np.float64]]
    """By segment label, in the order of the segment numbers, (column, row, slice) of the lattice that was asked for:
    0 or 1; for a fractional segmentation what the file holds, in steps of 1/255."""
    affine: NDArray[np.float64]
    """(column, row, slice) of `masks` to RAS+ millimetres."""
    overlap: bool
    """Whether two segments share a voxel."""


def write_seg(
    path: Path,
    series: Answer,
    masks: Mapping[str, Mask | NDArray[np.float64]],
    *,
    kind: Literal["binary", "fractional", "labelmap"] = "binary",
    order: Literal["ascending", "descending", "shuffled"] = "ascending",
    affine: NDArray[np.float64] | None = None,
    keep_empty: bool = False,
) -> SegAnswer:
    """Write a DICOM-SEG over a series.

    Parameters
    ----------
    masks
        By segment label, (column, row, slice) on the series' lattice (or on `affine`): bool, or fractions in [0, 1]
        for ``fractional``. They may overlap, but for a label map.
    order
        How frames follow each other in the file; the masks are the same.
    affine
        Another lattice for the segmentation, to RAS+: permuted, flipped, moved, coarser. None: the series'.
    keep_empty
        Write frames without a voxel, too; else they are left out, as most tools do.
    """
    if series.affine is None:
        message = "a segmentation needs a series with geometry"
        raise ValueError(message)
    sources = [dcmread(source) for source in series.paths]
    fractional = kind == "fractional"
    stack = np.stack(
        [np.asarray(mask, dtype=np.float64 if fractional else np.uint8) for mask in masks.values()], axis=-1
    )
    overlap = bool(((stack > 0).sum(axis=-1) > 1).any())
    grid = series.affine if affine is None else affine
    pixels = np.ascontiguousarray(stack.transpose(2, 1, 0, 3))
    if kind == "labelmap":
        numbers = np.arange(1, len(masks) + 1, dtype=np.uint8)
        pixels = (pixels * numbers).max(axis=-1)
    # Planes one by one and not as a `hd.Volume`, which refuses a tilted lattice.
    affine_lps = LPS_TO_RAS @ grid
    spacing = np.linalg.norm(affine_lps[:3, :3], axis=0)
    who = Identity(patient=series.patient_id)
    segmentation = hd.seg.Segmentation(
        source_images=sources,
        pixel_array=pixels,
        plane_positions=[
            hd.PlanePositionSequence("PATIENT", [ds(x) for x in position(affine_lps, k)]) for k in range(len(pixels))
        ],
        plane_orientation=hd.PlaneOrientationSequence(
            "PATIENT", [ds(x) for x in (affine_lps[:3, :2] / spacing[:2]).T.ravel()]
        ),
        pixel_measures=hd.PixelMeasuresSequence([ds(spacing[1]), ds(spacing[0])], slice_thickness=ds(spacing[2])),
        segmentation_type=SegmentationTypeValues[kind.upper()],
        segment_descriptions=[
            SegmentDescription(
                segment_number=number,
                segment_label=label,
                segmented_property_category=codes.SCT.Organ,
                segmented_property_type=codes.SCT.Liver,
                algorithm_type=SegmentAlgorithmTypeValues.MANUAL,
            )
            for number, label in enumerate(masks, start=1)
        ],
        series_instance_uid=who.uid("seg", series.series_uid),
        series_number=101,
        sop_instance_uid=who.uid("seg", series.series_uid, path.name),
        instance_number=1,
        manufacturer="Synthetic Systems",
        manufacturer_model_name="Drawer",
        software_versions="1",
        device_serial_number="1",
        omit_empty_frames=not keep_empty,
    )
    if order != "ascending":
        count = len(segmentation.PerFrameFunctionalGroupsSequence)
        reverse = list(range(count))[::-1]
        _reorder(segmentation, reverse if order == "descending" else np.random.default_rng(0).permutation(count))
    path.parent.mkdir(parents=True, exist_ok=True)
    segmentation.save_as(path)
    held = {name: np.rint(stack[..., n] * 255) / 255 if fractional else stack[..., n] for n, name in enumerate(masks)}
    return SegAnswer(
        path=path,
        masks={name: mask.astype(np.float64) for name, mask in held.items()},
        affine=np.asarray(grid, dtype=np.float64),
        overlap=overlap,
    )


def _reorder(segmentation: Dataset, order: Sequence[int] | NDArray[np.int64]) -> None:
    """Bring the frames of a multi-frame object into another order, pixels and groups alike."""
    groups = segmentation.PerFrameFunctionalGroupsSequence
    segmentation.PerFrameFunctionalGroupsSequence = DicomSequence([groups[n] for n in order])
    voxels = segmentation.Rows * segmentation.Columns
    if segmentation.BitsAllocated == 1:
        bits = np.unpackbits(np.frombuffer(segmentation.PixelData, np.uint8), bitorder="little")
        frames = bits[: voxels * len(groups)].reshape(len(groups), -1)[list(order)]
        data = np.packbits(frames.ravel(), bitorder="little").tobytes()
    else:
        frames = np.frombuffer(segmentation.PixelData, np.uint8)
        frames = frames[: voxels * segmentation.BitsAllocated // 8 * len(groups)].reshape(len(groups), -1)
        data = frames[list(order)].tobytes()
    segmentation.PixelData = data + b"\0" * (len(data) % 2)


# --- contours ---


@dataclass(frozen=True, slots=True, eq=False)
class Contour:
    """A polygon in the plane of a slice. Whole numbers are centres of voxels."""

    k: float
    """The slice; between two slices where it is no whole number."""
    points: NDArray[np.float64]
    """(points, 2): column index, row index."""
    kind: str = "CLOSED_PLANAR"


def rectangle(k: float, columns: tuple[int, int], rows: tuple[int, int]) -> Contour:
    """Return the outline of voxels from and to which (both included): no voxel's centre is near its edge."""
    (left, right), (top, bottom) = columns, rows
    corners = [
        (left - 0.5, top - 0.5),
        (right + 0.5, top - 0.5),
        (right + 0.5, bottom + 0.5),
        (left - 0.5, bottom + 0.5),
    ]
    return Contour(k, np.array(corners))


def disc(k: float, centre: tuple[float, float], radius: float, *, points: int = 90) -> Contour:
    """Return a regular polygon, radius in voxels."""
    angles = np.linspace(0, 2 * np.pi, points, endpoint=False)
    return Contour(k, np.stack([centre[0] + radius * np.cos(angles), centre[1] + radius * np.sin(angles)], axis=1))


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class RtStructAnswer:
    path: Path
    masks: Mapping[str, Mask]
    """By ROI name: voxels of the series whose centre lies inside of an odd number of its closed contours."""
    areas_mm2: Mapping[str, tuple[float, ...]]
    """By ROI name, of each contour in turn, by the shoelace formula."""


def write_rtstruct(
    path: Path,
    series: Answer,
    contours: Mapping[str, Sequence[Contour]],
    *,
    references: Literal["right", "wrong", "absent"] = "right",
    tilt_mm: float = 0.0,
) -> RtStructAnswer:
    """Write a structure set over a series.

    Parameters
    ----------
    contours
        By ROI name; an ROI without contours is written without a contour sequence.
    references
        Whether the UIDs of series, instances and frame of reference are the series', somebody else's, or left out.
    tilt_mm
        By how much the first point of every contour is lifted out of its plane.
    """
    if series.affine is None or series.values is None:
        message = "contours need a series with geometry"
        raise ValueError(message)
    affine_lps = LPS_TO_RAS @ series.affine
    sources = [dcmread(source, stop_before_pixels=True) for source in series.paths]
    who = Identity(patient=series.patient_id)
    foreign = references == "wrong"
    frame_uid = who.uid("elsewhere") if foreign else series.frame_of_reference_uid
    dataset = new_instance(
        who,
        sop_class=RTStructureSetStorage,
        modality="RTSTRUCT",
        part=("rtstruct", series.series_uid, path.name),
        StudyInstanceUID=series.study_uid,
        SeriesInstanceUID=who.uid("rtstruct", series.series_uid),
        StructureSetLabel="CONTOURS",
        StructureSetDate="20190523",
        StructureSetTime="101112",
    )
    images = [_reference(s.SOPClassUID, who.uid(n) if foreign else s.SOPInstanceUID) for n, s in enumerate(sources)]
    if references != "absent":
        dataset.FrameOfReferenceUID = frame_uid
        dataset.ReferencedFrameOfReferenceSequence = DicomSequence(
            [
                _frame_of_reference(
                    frame_uid, series.study_uid, who.uid("other") if foreign else series.series_uid, images
                )
            ]
        )
    rois, drawn, observed = [], [], []
    for number, (name, outlines) in enumerate(contours.items(), start=1):
        roi, drawing, observation = Dataset(), Dataset(), Dataset()
        roi.ROINumber, roi.ROIName, roi.ROIGenerationAlgorithm = number, name, "MANUAL"
        roi.ReferencedFrameOfReferenceUID = frame_uid
        drawing.ReferencedROINumber, drawing.ROIDisplayColor = number, [255, 0, 40 * number % 256]
        if outlines:
            drawing.ContourSequence = DicomSequence(
                [_contour(outline, affine_lps, images, tilt_mm, cited=references != "absent") for outline in outlines]
            )
        observation.ObservationNumber, observation.ReferencedROINumber = number, number
        observation.RTROIInterpretedType, observation.ROIInterpreter = "ORGAN", ""
        rois.append(roi)
        drawn.append(drawing)
        observed.append(observation)
    dataset.StructureSetROISequence, dataset.ROIContourSequence = DicomSequence(rois), DicomSequence(drawn)
    dataset.RTROIObservationsSequence = DicomSequence(observed)
    shape = (series.values.shape[0], series.values.shape[1], series.values.shape[2])
    return RtStructAnswer(
        path=save(dataset, path),
        masks={name: _filled(outlines, shape) for name, outlines in contours.items()},
        areas_mm2={name: tuple(_area(one, affine_lps) for one in outlines) for name, outlines in contours.items()},
    )


def _reference(sop_class: str, instance: str) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = sop_class, instance
    return item


def _frame_of_reference(frame_uid: str, study_uid: str, series_uid: str, images: Sequence[Dataset]) -> Dataset:
    frame, study, series = Dataset(), Dataset(), Dataset()
    series.SeriesInstanceUID, series.ContourImageSequence = series_uid, DicomSequence(images)
    study.ReferencedSOPClassUID, study.ReferencedSOPInstanceUID = "1.2.840.10008.3.1.2.3.1", study_uid
    study.RTReferencedSeriesSequence = DicomSequence([series])
    frame.FrameOfReferenceUID, frame.RTReferencedStudySequence = frame_uid, DicomSequence([study])
    return frame


def _contour(
    outline: Contour, affine_lps: NDArray[np.float64], images: Sequence[Dataset], tilt_mm: float, *, cited: bool
) -> Dataset:
    item = Dataset()
    indices = np.column_stack([outline.points, np.full(len(outline.points), outline.k), np.ones(len(outline.points))])
    points = (indices @ affine_lps.T)[:, :3]
    normal = np.cross(affine_lps[:3, 0], affine_lps[:3, 1])
    points[0] += tilt_mm * normal / np.linalg.norm(normal)
    if cited:
        item.ContourImageSequence = DicomSequence([images[min(max(round(outline.k), 0), len(images) - 1)]])
    item.ContourGeometricType, item.NumberOfContourPoints = outline.kind, len(points)
    item.ContourData = [ds(x) for x in points.ravel()]
    return item


def _filled(outlines: Sequence[Contour], shape: tuple[int, int, int]) -> Mask:
    mask = np.zeros(shape, bool)
    centres = np.stack(np.meshgrid(np.arange(shape[0]), np.arange(shape[1]), indexing="ij"), axis=-1).reshape(-1, 2)
    for outline in outlines:
        if outline.kind == "CLOSED_PLANAR":
            mask[:, :, round(outline.k)] ^= Polygon(outline.points).contains_points(centres).reshape(shape[:2])
    return mask


def _area(outline: Contour, affine_lps: NDArray[np.float64]) -> float:
    column, row = outline.points.T
    voxels = 0.5 * abs(np.dot(column, np.roll(row, -1)) - np.dot(row, np.roll(column, -1)))
    return float(voxels * np.linalg.norm(np.cross(affine_lps[:3, 0], affine_lps[:3, 1])))
