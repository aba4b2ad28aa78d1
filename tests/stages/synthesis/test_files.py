"""One phantom, however it is stored, is the same anatomy at the same place in the world."""

from __future__ import annotations

from itertools import permutations, product

import nibabel as nib
import numpy as np
import pydicom
import pytest
import SimpleITK
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.uid import UID, MRImageStorage

from samkit.stages.synthesis.anatomy import draw_subject
from samkit.stages.synthesis.files import write_dicom_series, write_nifti_pair, write_sample
from samkit.store.errors import UsageError

SMALL = (6, 48, 40)
ODD_SPACING_MM = (10 / 3, 1.7, 1.1)  # not a decimal, and different on each axis
ORIENTATIONS = sorted("".join(order) for signs in product("RL", "AP", "SI") for order in permutations(signs))

# Type 1 and type 2 attributes of the MR Image IOD, DICOM PS3.3 A.4.
REQUIRED_ATTRIBUTES = """
    PatientName PatientID PatientBirthDate PatientSex StudyInstanceUID StudyDate StudyTime
    ReferringPhysicianName StudyID AccessionNumber Modality SeriesInstanceUID SeriesNumber PatientPosition
    FrameOfReferenceUID PositionReferenceIndicator Manufacturer InstanceNumber ImageType PixelSpacing
    ImageOrientationPatient ImagePositionPatient SliceThickness SamplesPerPixel PhotometricInterpretation Rows
    Columns BitsAllocated BitsStored HighBit PixelRepresentation PixelData ScanningSequence SequenceVariant
    ScanOptions MRAcquisitionType RepetitionTime EchoTime EchoTrainLength SOPClassUID SOPInstanceUID
""".split()  # noqa: SIM905 - forty names are easier to check on five lines than on forty


@pytest.fixture(scope="module")
def phantom():
    return draw_subject(11, shape=SMALL, spacing_mm=ODD_SPACING_MM)


@pytest.fixture
def series(tmp_path, phantom):
    return [pydicom.dcmread(path) for path in write_dicom_series(tmp_path, phantom)]


def sampled_at(image, affine, points):
    """Values of an array at RAS+ points that are voxel centres; fails where they are not."""
    indices = nib.affines.apply_affine(np.linalg.inv(affine), points)
    # A hundredth of a voxel: sform and qform are float32, decimal strings have 16 characters.
    np.testing.assert_allclose(indices, np.rint(indices), atol=0.01)
    return image[tuple(np.rint(indices).astype(int).T)]


def world_of(phantom):
    """RAS+ position of every voxel of a phantom, (voxels, 3), in the order of ``phantom.image.ravel()``."""
    slices, rows, columns = np.indices(phantom.image.shape).reshape(3, -1)
    return nib.affines.apply_affine(phantom.affine, np.stack([columns, rows, slices], axis=1))


def dicom_array_and_affine(series):
    """(columns, rows, slices) voxels and RAS+ affine, by the equations of DICOM PS3.3 C.7.6.2.1.1."""
    first, last = series[0], series[-1]
    row_direction, column_direction = np.reshape(first.ImageOrientationPatient, (2, 3)).astype(float)
    between_rows, between_columns = (float(value) for value in first.PixelSpacing)
    affine = np.eye(4)
    affine[:3, 0] = row_direction * between_columns
    affine[:3, 1] = column_direction * between_rows
    affine[:3, 2] = np.subtract(last.ImagePositionPatient, first.ImagePositionPatient) / (len(series) - 1)
    affine[:3, 3] = first.ImagePositionPatient
    voxels = np.stack([dataset.pixel_array.T for dataset in series], axis=2)
    return voxels, np.diag([-1, -1, 1, 1]) @ affine


class TestNifti:
    @settings(max_examples=48, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(orientation=st.sampled_from(ORIENTATIONS))
    def test_every_orientation_is_the_same_anatomy_in_the_world(self, tmp_path, phantom, orientation):
        image, label = map(nib.load, write_nifti_pair(tmp_path, "one", phantom, orientation=orientation))
        points = world_of(phantom)
        np.testing.assert_array_equal(
            sampled_at(np.asarray(image.dataobj), image.affine, points), np.rint(phantom.image).ravel()
        )
        np.testing.assert_array_equal(
            sampled_at(np.asarray(label.dataobj), label.affine, points), phantom.label.ravel()
        )

    @pytest.mark.parametrize("orientation", ["RAS", "LPS", "ASR"])
    def test_the_file_is_stored_in_the_orientation_asked_for(self, tmp_path, phantom, orientation):
        for path in write_nifti_pair(tmp_path, "one", phantom, orientation=orientation):
            assert "".join(nib.aff2axcodes(nib.load(path).affine)) == orientation

    def test_images_are_int16_and_labels_uint8(self, tmp_path, phantom):
        image, label = map(nib.load, write_nifti_pair(tmp_path, "one", phantom))
        assert (image.get_data_dtype(), label.get_data_dtype()) == (np.int16, np.uint8)

    def test_intensities_are_stored_unscaled(self, tmp_path, phantom):
        image, _ = map(nib.load, write_nifti_pair(tmp_path, "one", phantom))
        assert (image.dataobj.slope, image.dataobj.inter) == (1.0, 0.0)

    def test_image_and_label_lie_beside_each_other_under_one_name(self, tmp_path, phantom):
        assert write_nifti_pair(tmp_path / "new", "one", phantom) == (
            tmp_path / "new" / "imagesTr" / "one.nii.gz",
            tmp_path / "new" / "labelsTr" / "one.nii.gz",
        )

    def test_qform_and_sform_agree_and_say_scanner(self, tmp_path, phantom):
        for path in write_nifti_pair(tmp_path, "one", phantom, orientation="PIR"):
            header = nib.load(path).header
            assert (int(header["sform_code"]), int(header["qform_code"])) == (1, 1)
            np.testing.assert_allclose(header.get_qform(), header.get_sform(), atol=1e-4)

    def test_units_are_millimetres(self, tmp_path, phantom):
        path, _ = write_nifti_pair(tmp_path, "one", phantom)
        assert nib.load(path).header.get_xyzt_units()[0] == "mm"

    def test_the_same_phantom_gives_the_same_bytes(self, tmp_path, phantom):
        first, second = (write_nifti_pair(tmp_path / name, "one", phantom) for name in ("a", "b"))
        assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]

    @pytest.mark.parametrize("orientation", ["", "RA", "RAR", "RLS", "RASX", "XYZ", "ras"])
    def test_letters_that_are_no_orientation_are_refused(self, tmp_path, phantom, orientation):
        with pytest.raises(UsageError, match=f"{orientation!r} must name three axes"):
            write_nifti_pair(tmp_path, "one", phantom, orientation=orientation)
        assert list(tmp_path.iterdir()) == []


class TestDicom:
    def test_the_series_is_the_same_anatomy_in_the_world_as_the_phantom(self, phantom, series):
        voxels, affine = dicom_array_and_affine(series)
        np.testing.assert_array_equal(sampled_at(voxels, affine, world_of(phantom)), np.rint(phantom.image).ravel())

    def test_simpleitk_reads_the_same_grid_from_dicom_and_nifti(self, tmp_path, phantom):
        write_dicom_series(tmp_path / "dicom", phantom)
        nifti, _ = write_nifti_pair(tmp_path, "one", phantom, orientation="LPS")  # the order in which ITK keeps voxels
        reader = SimpleITK.ImageSeriesReader()
        reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(tmp_path / "dicom")))
        from_dicom, from_nifti = reader.Execute(), SimpleITK.ReadImage(nifti)
        np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(from_dicom), SimpleITK.GetArrayFromImage(from_nifti))
        for property_name in ("GetOrigin", "GetSpacing", "GetDirection"):
            np.testing.assert_allclose(
                getattr(from_dicom, property_name)(), getattr(from_nifti, property_name)(), atol=1e-4
            )

    def test_files_are_returned_from_inferior_to_superior(self, series):
        heights = [float(dataset.ImagePositionPatient[2]) for dataset in series]
        assert heights == sorted(heights)

    @settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(seed=st.integers(0, 2**32))
    def test_neither_file_names_nor_instance_numbers_give_the_order_of_the_slices(self, tmp_path, seed):
        paths = write_dicom_series(tmp_path, draw_subject(seed, shape=(4, 32, 32)))
        names = [path.name for path in paths]
        numbers = [int(pydicom.dcmread(path, stop_before_pixels=True).InstanceNumber) for path in paths]
        for order in (names, numbers):
            assert order not in (sorted(order), sorted(order, reverse=True))
            assert len(set(order)) == len(order)

    def test_every_slice_has_an_identifier_of_its_own_and_shares_the_series(self, series):
        assert len({dataset.SOPInstanceUID for dataset in series}) == len(series)
        assert len({dataset.SeriesInstanceUID for dataset in series}) == 1
        assert all(dataset.SOPInstanceUID == dataset.file_meta.MediaStorageSOPInstanceUID for dataset in series)
        assert all(UID(dataset.SOPInstanceUID).is_valid for dataset in series)

    def test_other_grids_of_one_seed_are_other_series(self, tmp_path):
        small, large = (
            write_dicom_series(tmp_path / name, draw_subject(0, shape=shape))
            for name, shape in (("small", (4, 32, 32)), ("large", (5, 32, 32)))
        )
        assert pydicom.dcmread(small[0]).SeriesInstanceUID != pydicom.dcmread(large[0]).SeriesInstanceUID

    def test_the_same_phantom_gives_the_same_bytes(self, tmp_path, phantom):
        first, second = (write_dicom_series(tmp_path / name, phantom) for name in ("a", "b"))
        assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]

    def test_every_attribute_that_an_mr_image_must_have_is_there(self, series):
        assert [name for name in REQUIRED_ATTRIBUTES if name not in series[0]] == []
        assert series[0].SOPClassUID == MRImageStorage

    def test_decimal_strings_fit_the_standard(self, series):
        for dataset in series:
            for element in dataset.iterall():
                if element.VR == "DS":
                    values = element.value if element.VM > 1 else [element.value]
                    assert all(len(str(value)) <= 16 for value in values), element

    def test_the_patient_is_called_as_asked(self, tmp_path, phantom):
        paths = write_dicom_series(tmp_path, phantom, patient_name="Doe^Jane")
        assert {str(pydicom.dcmread(path).PatientName) for path in paths} == {"Doe^Jane"}

    def test_the_timings_are_those_of_the_phantom(self, phantom, series):
        assert float(series[0].EchoTime) == phantom.acquisition.echo_time_ms
        assert float(series[0].RepetitionTime) == phantom.acquisition.repetition_time_ms


class TestSample:
    def test_a_sample_is_labelled_nifti_pairs_and_one_dicom_series(self, tmp_path):
        sample = write_sample(tmp_path, subjects=4, shape=SMALL)
        written = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file())
        names = [f"phantom0{number}.nii.gz" for number in (1, 2, 3, 4)]
        assert written == [
            *(f"dataset/imagesTr/{name}" for name in names),
            *(f"dataset/labelsTr/{name}" for name in names),
            *(f"new-patient/IM{number:04d}.dcm" for number in range(1, SMALL[0] + 1)),
        ]
        assert sample.subjects == ("phantom01", "phantom02", "phantom03", "phantom04")

    def test_the_same_seed_gives_the_same_files(self, tmp_path):
        for name in ("a", "b"):
            write_sample(tmp_path / name, subjects=2, seed=5, shape=SMALL)
        files = [path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*") if path.is_file()]
        assert all((tmp_path / "a" / path).read_bytes() == (tmp_path / "b" / path).read_bytes() for path in files)

    def test_a_larger_sample_begins_with_the_smaller_one(self, tmp_path):
        small, large = (write_sample(tmp_path / str(subjects), subjects=subjects, shape=SMALL) for subjects in (2, 3))
        for name in small.subjects:
            one, other = (sample.dataset / "imagesTr" / f"{name}.nii.gz" for sample in (small, large))
            assert one.read_bytes() == other.read_bytes()

    def test_no_two_subjects_are_alike(self, tmp_path):
        sample = write_sample(tmp_path, subjects=4, shape=SMALL)
        labels = {path.read_bytes() for path in (sample.dataset / "labelsTr").iterdir()}
        assert len(labels) == 4

    def test_files_of_a_sample_differ_in_orientation(self, tmp_path):
        sample = write_sample(tmp_path, subjects=3, shape=SMALL)
        images = (nib.load(path) for path in (sample.dataset / "imagesTr").iterdir())
        assert {"".join(nib.aff2axcodes(image.affine)) for image in images} == {"RAS", "LPS", "LAS"}

    def test_labels_are_named_as_the_command_line_takes_them(self, tmp_path):
        sample = write_sample(tmp_path, subjects=1, shape=SMALL)
        assert sample.labels_option == "1=liver,2=spleen,3=left kidney,4=right kidney"

    def test_writing_it_again_is_fine(self, tmp_path):
        assert write_sample(tmp_path, subjects=1, shape=SMALL) == write_sample(tmp_path, subjects=1, shape=SMALL)

    @pytest.mark.parametrize("stranger", ["dataset/imagesTr/mine.nii.gz", "new-patient/IM0099.dcm"])
    def test_a_folder_with_other_files_is_refused_and_left_alone(self, tmp_path, stranger):
        (tmp_path / stranger).parent.mkdir(parents=True)
        (tmp_path / stranger).write_bytes(b"mine")
        with pytest.raises(UsageError, match=stranger.rsplit("/", 1)[1]):
            write_sample(tmp_path, subjects=1, shape=SMALL)
        assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == [stranger.rsplit("/", 1)[1]]

    @pytest.mark.parametrize("arguments", [{"subjects": 0}, {"seed": -1}])
    def test_impossible_numbers_are_refused(self, tmp_path, arguments):
        with pytest.raises(UsageError, match="at least 1 subject and a seed of 0 or more"):
            write_sample(tmp_path, **arguments)
