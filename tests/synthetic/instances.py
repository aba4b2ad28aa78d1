"""One DICOM instance: who and what it is, where it lies, its pixels, and how it is written down."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, generate_uid
from pydicom.valuerep import DSfloat
from scipy.spatial.transform import Rotation

__all__ = ["AXIAL", "CORONAL", "OBLIQUE", "SAGITTAL", "Identity", "ds", "lattice", "new_instance", "place", "position"]
__all__ += ["put_pixels", "save", "written"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Identity:
    """Whose series it is. All UIDs follow from it, so that the same arguments give the same bytes."""

    seed: int = 0
    patient: str = ""
    """PatientID; empty: one that follows from the seed."""
    study: str = "1"
    series: int = 3
    """SeriesNumber."""

    @property
    def patient_id(self) -> str:
        return self.patient or f"MRN-{self.seed % 10_000_000:07d}"

    @property
    def study_uid(self) -> str:
        return self.uid("study", series=False)

    @property
    def series_uid(self) -> str:
        return self.uid("series")

    @property
    def frame_of_reference_uid(self) -> str:
        return self.uid("frame of reference", series=False)

    def uid(self, *words: object, series: bool = True) -> str:
        """Return the UID of a part of the study (or of the series), the same at every call."""
        owner = [self.seed, self.patient_id, self.study, *([self.series] if series else [])]
        return generate_uid(entropy_srcs=["samkit's tests", *(str(word) for word in (*owner, *words))])


def new_instance(
    identity: Identity, *, sop_class: str, modality: str, number: int = 1, part: object = None, **attributes: Any
) -> Dataset:
    """Make an instance without geometry or pixels: the modules on patient, study and series that tools insist on.

    `part` names the instance within its series (by default its number does); `attributes` override what is set here.
    """
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.SOPClassUID = sop_class
    dataset.SOPInstanceUID = identity.uid("instance", sop_class, number if part is None else part)
    dataset.file_meta.MediaStorageSOPClassUID = sop_class
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.PatientName, dataset.PatientID = f"Phantom^Number{identity.seed}", identity.patient_id
    dataset.PatientBirthDate, dataset.PatientSex = "19521009", "O"
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = identity.study_uid, identity.series_uid
    dataset.StudyDate, dataset.StudyTime = f"2019{1 + len(identity.study) % 12:02d}23", "101112"
    dataset.StudyID, dataset.AccessionNumber, dataset.ReferringPhysicianName = identity.study, "A-4711", "Referrer^Rita"
    dataset.SeriesNumber, dataset.InstanceNumber, dataset.Modality = identity.series, number, modality
    dataset.Manufacturer, dataset.PatientPosition = "Synthetic Systems", "HFS"
    for name, value in attributes.items():
        setattr(dataset, name, value)
    return dataset


# --- where it lies ---


def lattice(
    spacing_mm: Sequence[float] = (0.8, 0.9, 2.5),
    *,
    origin_mm: Sequence[float] = (-11.0, -23.5, 40.0),
    angles_degrees: Sequence[float] = (0.0, 0.0, 0.0),
    shear_mm: Sequence[float] = (0.0, 0.0),
) -> NDArray[np.float64]:
    """Return (column, row, slice) to LPS+ millimetres.

    `angles_degrees` turn about x, y, z in this order; `shear_mm` is by how much each slice is moved against the one
    before it, in the directions of the column index and of the row index: zero but for a tilted gantry.
    """
    matrix = np.eye(4)
    directions = Rotation.from_euler("xyz", angles_degrees, degrees=True).as_matrix()
    matrix[:3, :3] = directions * np.asarray(spacing_mm)
    matrix[:3, 2] += directions[:, :2] @ np.asarray(shear_mm)
    matrix[:3, 3] = origin_mm
    return matrix


AXIAL = lattice()
CORONAL = lattice(angles_degrees=(-90, 0, 0))
SAGITTAL = lattice(angles_degrees=(-90, 0, 90))
OBLIQUE = lattice((0.7, 1.1, 3.3), angles_degrees=(13, -21, 34))


def ds(value: float) -> DSfloat:
    """Return the decimal string, of at most 16 characters, that is nearest to a number."""
    return DSfloat(float(value), auto_format=True)


def written(values: Any) -> Any:
    """Return an array of numbers as they come back from decimal strings: the truth of a file is what it says."""
    array = np.asarray(values, dtype=np.float64)
    return np.array([float(str(ds(value))) for value in array.ravel()]).reshape(array.shape)


def position(affine_lps: NDArray[np.float64], k: float) -> NDArray[np.float64]:
    """Return the centre of the first voxel of slice k, in LPS+ millimetres."""
    return np.asarray(affine_lps[:3, 2] * k + affine_lps[:3, 3])


def place(dataset: Dataset, affine_lps: NDArray[np.float64], at_mm: Sequence[float], *, frame_uid: str) -> None:
    """Set the orientation and the spacing of a lattice, and a position of one slice (LPS+ millimetres)."""
    spacing = np.linalg.norm(affine_lps[:3, :2], axis=0)
    dataset.ImageOrientationPatient = [ds(x) for x in (affine_lps[:3, :2] / spacing).T.ravel()]
    dataset.PixelSpacing = [ds(spacing[1]), ds(spacing[0])]
    dataset.ImagePositionPatient = [ds(x) for x in at_mm]
    dataset.FrameOfReferenceUID, dataset.PositionReferenceIndicator = frame_uid, ""


# --- pixels and files ---


def put_pixels(
    dataset: Dataset,
    stored: NDArray[Any],
    *,
    photometric: str = "MONOCHROME2",
    bits_stored: int | None = None,
    planar: int = 0,
) -> None:
    """Set the pixels: (column, row), for colour (column, row, 3); a frame axis after the rows makes it multi-frame.

    Negative numbers of fewer bits than allocated keep zeros above them, as some scanners write them.
    """
    bits = stored.dtype.itemsize * 8
    colour = photometric in {"RGB", "YBR_FULL"}
    order = (1, 0, *((2,) if colour else ()))
    planes = [stored]
    if stored.ndim > len(order):
        planes = list(np.moveaxis(stored, 2, 0))
        dataset.NumberOfFrames = len(planes)
    dataset.Columns, dataset.Rows = stored.shape[:2]
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 3 if colour else 1, photometric
    if colour:
        dataset.PlanarConfiguration = planar
    dataset.BitsAllocated = bits
    dataset.BitsStored = bits_stored or bits
    dataset.HighBit = dataset.BitsStored - 1
    dataset.PixelRepresentation = int(stored.dtype.kind == "i")
    frames = np.stack([plane.transpose(order) for plane in planes])
    if colour and planar:
        frames = np.moveaxis(frames, -1, 1)
    words = np.ascontiguousarray(frames).astype(stored.dtype.newbyteorder("<"))
    if dataset.BitsStored < bits:
        words = words.view(f"<u{bits // 8}") & ((1 << dataset.BitsStored) - 1)
    data = words.tobytes()
    dataset.PixelData = data + b"\0" * (len(data) % 2)


def save(dataset: Dataset, path: Path, *, syntax: str = ExplicitVRLittleEndian, preamble: bool = True) -> Path:
    """Write an instance; without preamble it is a bare data set, as old exports leave it (then `syntax` is ignored)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not preamble:
        del dataset.file_meta
        dataset.save_as(path, implicit_vr=True, little_endian=True)
        return path
    if dataset.SOPClassUID and dataset.SOPInstanceUID:  # where they are blanked, the file's own header keeps them
        dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.file_meta.TransferSyntaxUID = UID(syntax)
    if not UID(syntax).is_little_endian and dataset.BitsAllocated == 16:
        dataset.PixelData = np.frombuffer(dataset.PixelData, "<u2").astype(">u2").tobytes()
    dataset.save_as(path, enforce_file_format=True)
    return path
