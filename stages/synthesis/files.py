"""Phantoms as the files a hospital or a research folder would hold: NIfTI pairs and DICOM series.

Conventions: a phantom is (slices, rows, columns) in display orientation with a RAS+ affine (see ``anatomy``). NIfTI
stores any orientation asked for with the affine that belongs to it; DICOM stores LPS+ positions. All of them describe
the same voxels, rounded to whole numbers, at the same places in the world, and the same phantom always gives the
same bytes. Existing files of the same names are overwritten.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import nibabel as nib
import numpy as np
from nibabel.orientations import OrientationError, axcodes2ornt, io_orientation, ornt_transform
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid
from pydicom.valuerep import DSfloat, format_number_as_ds

from ...store.errors import UsageError
from .anatomy import Phantom, draw_subject

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = ["Sample", "write_dicom_series", "write_nifti_pair", "write_sample"]

_STUDY_DATE = "20000101"  # fixed: the same phantom must give the same bytes every day

# The orientations that people have, so that the demo shows that they do not matter.
_SAMPLE_ORIENTATIONS = ("RAS", "LPS", "LAS")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """Where the files of a sample are, and what its labels mean."""

    dataset: Path
    """A folder with ``imagesTr/<subject>.nii.gz`` and ``labelsTr/<subject>.nii.gz``."""
    new_patient: Path
    """A folder with one DICOM series of another subject, without labels."""
    subjects: tuple[str, ...]
    """File names in ``dataset``, without ``.nii.gz``."""
    label_names: Mapping[int, str]
    """Name of every label value but 0."""

    @property
    def labels_option(self) -> str:
        """The label names as the command line takes them: ``1=liver,2=spleen``."""
        return ",".join(f"{value}={name}" for value, name in sorted(self.label_names.items()))


def write_nifti_pair(folder: Path, name: str, phantom: Phantom, *, orientation: str = "RAS") -> tuple[Path, Path]:
    """Write ``imagesTr/<name>.nii.gz`` (int16) and ``labelsTr/<name>.nii.gz`` (uint8).

    Parameters
    ----------
    folder
        Made if it is not there.
    name
        File name without ``.nii.gz``.
    phantom
        What to write.
    orientation
        The direction in which each axis of the stored array grows, as nibabel names it: ``"RAS"`` stores the first
        axis towards the patient's right, the second towards the front, the third towards the head.

    Returns
    -------
    tuple[Path, Path]
        The image's file and the label's. Both have the same affine, as sform and as qform, in millimetres.

    Raises
    ------
    UsageError
        When ``orientation`` does not name each of the three axes once.
    """
    target = _orientation(orientation)
    paths = (folder / "imagesTr" / f"{name}.nii.gz", folder / "labelsTr" / f"{name}.nii.gz")
    arrays: tuple[NDArray[np.int16 | np.uint8], ...] = (_whole_intensities(phantom), phantom.label)
    for path, voxels in zip(paths, arrays, strict=True):
        image = nib.Nifti1Image(voxels.transpose(2, 1, 0), phantom.affine)
        image = image.as_reoriented(ornt_transform(io_orientation(phantom.affine), target))
        image.header.set_xyzt_units("mm")
        image.set_sform(image.affine, code="scanner")
        image.set_qform(image.affine, code="scanner")
        path.parent.mkdir(parents=True, exist_ok=True)
        nib.save(image, path)
    return paths


def write_dicom_series(folder: Path, phantom: Phantom, *, patient_name: str = "Phantom^Demo") -> tuple[Path, ...]:
    """Write a phantom as one single-frame MR file a slice, in an order that only geometry reveals.

    File names and instance numbers are shuffled, each in its own way, as archives do.

    Parameters
    ----------
    folder
        Made if it is not there.
    phantom
        What to write; its labels are not written.
    patient_name
        Family and given name, separated by a caret.

    Returns
    -------
    tuple[Path, ...]
        The files from the most inferior slice to the most superior.

    Notes
    -----
    MR Image IOD, DICOM PS3.3 section A.4; uncompressed 16-bit pixels, explicit VR little endian. Identifiers follow
    from the phantom's seed and grid.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.Generator(np.random.PCG64(phantom.seed))
    slices = len(phantom.image)
    instance_numbers = _shuffled(rng, slices)
    names = _dicom_names(slices)
    paths = tuple(folder / names[number] for number in _shuffled(rng, slices))
    for index, pixels in enumerate(_whole_intensities(phantom).astype(np.uint16)):
        dataset = _series_attributes(phantom, patient_name)
        dataset.SOPInstanceUID = _identifier(phantom, "slice", index)
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
        dataset.InstanceNumber = int(instance_numbers[index]) + 1
        right, front, top, _ = phantom.affine @ (0, 0, index, 1)
        dataset.ImagePositionPatient = _decimals((-right, -front, top))
        dataset.set_pixel_data(pixels, "MONOCHROME2", bits_stored=16, generate_instance_uid=False)
        dataset.save_as(paths[index], enforce_file_format=True)
    return paths


def write_sample(
    folder: Path,
    *,
    subjects: int = 12,
    seed: int = 0,
    shape: tuple[int, int, int] = (24, 160, 144),
    spacing_mm: tuple[float, float, float] = (5.0, 1.5, 1.5),
) -> Sample:
    """Write a small dataset to learn from, and a new patient to try the result on.

    Parameters
    ----------
    folder
        Gets the folders ``dataset`` and ``new-patient``.
    subjects
        How many labelled subjects, 1 or more; their files differ in orientation.
    seed
        Not negative. Equal arguments give equal files.
    shape, spacing_mm
        The grid of every subject, as for ``draw_subject``.

    Returns
    -------
    Sample
        Where the files are.

    Raises
    ------
    UsageError
        When a number is out of range, or when the folders already hold other files: they would become part of the
        sample unnoticed.
    """
    if subjects < 1 or seed < 0:
        message = (
            f"A sample needs at least 1 subject and a seed of 0 or more, not {subjects} subjects and seed {seed}. "
            "Try the defaults: 12 subjects, seed 0."
        )
        raise UsageError(message)
    dataset, new_patient = folder / "dataset", folder / "new-patient"
    names = tuple(f"phantom{number:02d}" for number in range(1, subjects + 1))
    _refuse_strangers(dataset, {f"{kind}/{name}.nii.gz" for kind in ("imagesTr", "labelsTr") for name in names})
    _refuse_strangers(new_patient, _dicom_names(shape[0]))

    *labelled_seeds, new_seed = (int(value) for value in np.random.SeedSequence(seed).generate_state(subjects + 1))
    for number, (name, subject_seed) in enumerate(zip(names, labelled_seeds, strict=True)):
        phantom = draw_subject(subject_seed, shape=shape, spacing_mm=spacing_mm)
        orientation = _SAMPLE_ORIENTATIONS[number % len(_SAMPLE_ORIENTATIONS)]
        write_nifti_pair(dataset, name, phantom, orientation=orientation)
    phantom = draw_subject(new_seed, shape=shape, spacing_mm=spacing_mm)
    write_dicom_series(new_patient, phantom)
    return Sample(dataset=dataset, new_patient=new_patient, subjects=names, label_names=phantom.label_names)


def _whole_intensities(phantom: Phantom) -> NDArray[np.int16]:
    """Round the image as scanners store it: whole numbers that fit both int16 and uint16."""
    return np.clip(np.rint(phantom.image), 0, np.iinfo(np.int16).max).astype(np.int16)


def _orientation(codes: str) -> NDArray[np.float64]:
    """Turn letters into nibabel's (axis, flip) rows; the letters must name each axis once."""
    try:
        orientation: NDArray[np.float64] = axcodes2ornt(tuple(codes))
    except (OrientationError, ValueError):
        orientation = np.empty((0, 2))
    if sorted(orientation[:, 0]) != [0, 1, 2]:
        message = (
            f"Orientation {codes!r} must name three axes, one letter each of R or L, A or P, S or I, in any order: "
            'for example "RAS" or "LPS".'
        )
        raise UsageError(message)
    return orientation


def _series_attributes(phantom: Phantom, patient_name: str) -> Dataset:
    """State what every slice of the series says; attributes of type 2 without a value here are empty."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = MRImageStorage
    dataset.SOPClassUID = MRImageStorage

    dataset.PatientName = patient_name
    dataset.PatientID = f"phantom-{phantom.seed}"
    dataset.PatientBirthDate = ""
    dataset.PatientSex = ""
    dataset.PatientPosition = "HFS"

    dataset.StudyInstanceUID = _identifier(phantom, "study")
    dataset.StudyDate = _STUDY_DATE
    dataset.StudyTime = "120000"
    dataset.StudyID = "1"
    dataset.AccessionNumber = ""
    dataset.ReferringPhysicianName = ""

    dataset.SeriesInstanceUID = _identifier(phantom, "series")
    dataset.FrameOfReferenceUID = _identifier(phantom, "frame of reference")
    dataset.PositionReferenceIndicator = ""
    dataset.SeriesNumber = 1
    dataset.SeriesDescription = "synthetic abdomen"
    dataset.Laterality = ""
    dataset.Modality = "MR"
    dataset.Manufacturer = "samkit"

    # T1-weighted spoiled gradient echo; the timings are those that made the contrast.
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "OTHER"]
    dataset.ScanningSequence = "GR"
    dataset.SequenceVariant = "SP"
    dataset.ScanOptions = ""
    dataset.MRAcquisitionType = "2D"
    dataset.RepetitionTime = _decimal(phantom.acquisition.repetition_time_ms)
    dataset.EchoTime = _decimal(phantom.acquisition.echo_time_ms)
    dataset.FlipAngle = _decimal(phantom.acquisition.flip_angle_degrees)
    dataset.EchoTrainLength = 1
    dataset.MagneticFieldStrength = "3"  # that of the relaxation times

    between_slices, between_rows, between_columns = phantom.spacing_mm
    dataset.SliceThickness = _decimal(between_slices)
    dataset.SpacingBetweenSlices = _decimal(between_slices)
    dataset.PixelSpacing = _decimals((between_rows, between_columns))
    # Columns grow towards the patient's left and rows towards the back: +x and +y of DICOM's LPS+.
    dataset.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    return dataset


def _identifier(phantom: Phantom, *what: object) -> str:
    """Derive a UID from what makes the phantom, so that two runs give one series and two phantoms never share one."""
    sources = ("samkit phantom", phantom.seed, phantom.image.shape, phantom.spacing_mm, *what)
    return generate_uid(entropy_srcs=[repr(source) for source in sources])


def _decimal(value: float) -> DSfloat:
    """Round to the 16 characters that a DICOM decimal string may have."""
    return DSfloat(format_number_as_ds(float(value)))


def _decimals(values: Iterable[float]) -> list[DSfloat]:
    return [_decimal(value) for value in values]


def _dicom_names(slices: int) -> list[str]:
    return [f"IM{number:04d}.dcm" for number in range(1, slices + 1)]


def _shuffled(rng: np.random.Generator, count: int) -> NDArray[np.intp]:
    """Draw an order of ``count`` (3 or more) that is neither ascending nor descending."""
    while True:
        order = rng.permutation(count)
        if np.unique(np.sign(np.diff(order))).size > 1:
            return order


def _refuse_strangers(folder: Path, expected: Iterable[str]) -> None:
    """Refuse a folder that holds files which the sample would not overwrite; hidden ones do not count."""
    present = {path.relative_to(folder).as_posix() for path in folder.rglob("[!.]*") if path.is_file()}
    strangers = sorted(present.difference(expected))
    if strangers:
        message = (
            f"{folder} already holds {len(strangers)} file(s) that are no part of this sample, "
            f"{strangers[0]} for example: perhaps a larger sample was written there before. "
            "Choose an empty folder, or remove that one."
        )
        raise UsageError(message)
