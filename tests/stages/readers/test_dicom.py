"""Plain DICOM series: order, place, values, and refusals with numbers."""

from __future__ import annotations

import warnings
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK
from nibabel.affines import apply_affine, from_matvec

from samkit.stages.readers.dicom import find_series, is_dicom, read_series
from samkit.stages.readers.geometry import choose_orientation
from samkit.stages.readers.nifti import read_nifti_image
from samkit.store.errors import UnreadableFile, UnusableVoxels

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
AXIAL = from_matvec(np.diag([0.8, 0.9, 4.0]), [-100.0, -120.0, 30.0])
OBLIQUE = from_matvec(nib.eulerangles.euler2mat(0.3, -0.2, 0.25) @ np.diag([0.8, 0.9, 4.0]), [-10.0, 20.0, 30.0])
VALUES = np.random.default_rng(0).integers(-1000, 1000, (6, 5, 4)).astype(np.int16)  # column, row, slice


class TestReading:
    @pytest.mark.parametrize("affine", [AXIAL, OBLIQUE], ids=["axial", "oblique"])
    def test_values_and_places_come_back(self, tmp_path: Path, write_series, affine: np.ndarray):
        scan = read_series(write_series(tmp_path, VALUES, affine=affine))
        np.testing.assert_array_equal(scan.values, VALUES)
        np.testing.assert_allclose(scan.affine, LPS_TO_RAS @ affine, atol=1e-5)

    def test_simpleitk_puts_the_voxels_in_the_same_place(self, tmp_path: Path, write_series):
        paths = write_series(tmp_path, VALUES, affine=OBLIQUE)
        reference = SimpleITK.ReadImage(SimpleITK.ImageSeriesReader.GetGDCMSeriesFileNames(str(tmp_path)))
        scan = read_series(paths)
        for index in [(0, 0, 0), (5, 4, 3), (2, 3, 1)]:
            lps = reference.TransformIndexToPhysicalPoint(index)
            np.testing.assert_allclose(apply_affine(LPS_TO_RAS @ scan.affine, index), lps, atol=1e-4)
            assert scan.values[index] == reference[index]

    def test_neither_file_names_nor_instance_numbers_give_the_order(self, tmp_path: Path, write_series):
        numbers = [7, 1, 9, 3]
        paths = write_series(
            tmp_path,
            VALUES,
            affine=AXIAL,
            change=lambda k, slice_: setattr(slice_, "InstanceNumber", numbers[k]),
        )
        np.testing.assert_array_equal(read_series(paths[::-1]).values, VALUES)

    def test_every_slice_has_its_own_rescale(self, tmp_path: Path, write_series):
        def rescale(k, slice_):
            slice_.RescaleSlope, slice_.RescaleIntercept = f"{0.5 * (k + 1)}", f"{-k}"

        scan = read_series(write_series(tmp_path, VALUES, affine=AXIAL, change=rescale))
        np.testing.assert_allclose(scan.values, VALUES * (0.5 * np.arange(1, 5)) - np.arange(4), rtol=1e-6)

    def test_unsigned_values_with_an_intercept_do_not_wrap(self, tmp_path: Path, write_series):
        raw = np.array([0, 1024, 40_000, 65_535]).reshape(2, 2, 1)
        paths = write_series(
            tmp_path,
            raw.astype(np.uint16).view(np.int16),
            affine=AXIAL,
            PixelRepresentation=0,
            RescaleIntercept=-1024,
        )
        np.testing.assert_array_equal(read_series(paths).values, raw - 1024)

    def test_monochrome1_is_inverted_and_said(self, tmp_path: Path, write_series):
        scan = read_series(write_series(tmp_path, VALUES, affine=AXIAL, PhotometricInterpretation="MONOCHROME1"))
        np.testing.assert_array_equal(scan.values, int(VALUES.max()) + int(VALUES.min()) - VALUES.astype(int))
        assert "MONOCHROME1" in scan.notes[0]

    def test_the_modality_is_the_headers(self, tmp_path: Path, write_series):
        assert read_series(write_series(tmp_path, VALUES, affine=AXIAL, modality="MR")).modality == "MR"

    @pytest.mark.parametrize(
        ("fields", "between"),
        [
            ({"SpacingBetweenSlices": -2.5, "SliceThickness": 3}, 2.5),
            ({"SliceThickness": 3}, 3),
            ({}, 1),
        ],
    )
    def test_a_single_slice_is_as_thick_as_it_says(self, tmp_path: Path, write_series, fields, between):
        scan = read_series(write_series(tmp_path, VALUES[:, :, :1], affine=AXIAL, **fields))
        assert np.linalg.norm(scan.affine[:3, 2]) == pytest.approx(between)
        assert bool(scan.notes) is (fields == {})

    def test_thickness_is_not_the_distance_of_slices(self, tmp_path: Path, write_series):
        scan = read_series(write_series(tmp_path, VALUES, affine=AXIAL, SliceThickness=9, SpacingBetweenSlices=7))
        assert np.linalg.norm(scan.affine[:3, 2]) == pytest.approx(4)

    def test_nothing_of_the_patient_is_in_the_scan(self, tmp_path: Path, write_series):
        scan = read_series(write_series(tmp_path, VALUES, affine=AXIAL))
        assert not any(word in repr((scan.grid, scan.notes, scan.modality)) for word in ("Doe", "MRN", "1.2.826"))


class TestRefusals:
    def move(self, *, k: int, by: tuple[float, float, float]):
        def change(index, slice_):
            if index == k:
                slice_.ImagePositionPatient = [a + b for a, b in zip(slice_.ImagePositionPatient, by, strict=True)]

        return change

    def test_a_missing_slice_is_told_with_the_gap_and_the_place(self, tmp_path: Path, write_series):
        paths = write_series(tmp_path, np.repeat(VALUES, 2, axis=2), affine=AXIAL)
        with pytest.raises(UnreadableFile, match=r"after instance 2 .*at 8 mm.*median distance is 4 mm.*1 slice\(s\)"):
            read_series(paths[:2] + paths[3:])

    def test_two_slices_at_one_position_are_told(self, tmp_path: Path, write_series):
        paths = write_series(tmp_path, VALUES, affine=AXIAL, change=self.move(k=2, by=(0, 0, -4)))
        with pytest.raises(UnreadableFile, match=r"4 slices lie at 3 position\(s\); instance 2 and instance 3"):
            read_series(paths)

    def test_what_tells_mixed_volumes_apart_is_named_without_its_values(self, tmp_path: Path, write_series):
        def echoes(k, slice_):
            slice_.EchoTime = 80 + k % 2
            slice_.ImagePositionPatient = [0, 0, 4 * (k // 2)]

        with pytest.raises(UnreadableFile, match=r"What differs between the slices: EchoTime\.$"):
            read_series(write_series(tmp_path, VALUES, affine=AXIAL, change=echoes))

    def test_copies_of_a_file_are_called_copies(self, tmp_path: Path, write_series):
        paths = write_series(tmp_path, VALUES, affine=AXIAL)
        copy = tmp_path / "copy.dcm"
        copy.write_bytes(paths[1].read_bytes())
        with pytest.raises(UnreadableFile, match="copies of each other"):
            read_series([*paths, copy])

    def test_a_tilt_is_told_in_mm_voxels_and_degrees(self, tmp_path: Path, write_series):
        tilted = AXIAL.copy()
        tilted[1, 2] = 1.0  # 1 mm in plane a slice of 4 mm
        paths = write_series(tmp_path, VALUES, affine=tilted)
        with pytest.raises(UnreadableFile, match=r"3 mm at the last slice, a tilt of 14 degrees"):
            read_series(paths)

    def test_a_shear_below_a_tenth_of_a_voxel_is_kept(self, tmp_path: Path, write_series):
        sheared = AXIAL.copy()
        sheared[1, 2] = 0.02
        scan = read_series(write_series(tmp_path, VALUES, affine=sheared))
        np.testing.assert_allclose(scan.affine, LPS_TO_RAS @ sheared, atol=1e-5)

    def test_one_slice_out_of_line_is_told(self, tmp_path: Path, write_series):
        paths = write_series(tmp_path, VALUES, affine=AXIAL, change=self.move(k=1, by=(2, 0, 0)))
        with pytest.raises(UnreadableFile, match="2 mm in plane"):
            read_series(paths)

    def test_uneven_distances_within_five_percent_are_noted(self, tmp_path: Path, write_series):
        paths = write_series(tmp_path, VALUES, affine=AXIAL, change=self.move(k=1, by=(0, 0, 0.1)))
        assert "differ by up to 0.1 mm" in read_series(paths).notes[0]

    def test_mixed_orientations_are_told(self, tmp_path: Path, write_series):
        paths = write_series(tmp_path / "a", VALUES, affine=AXIAL) + write_series(
            tmp_path / "b", VALUES, affine=OBLIQUE
        )
        with pytest.raises(UnreadableFile, match="several orientations"):
            read_series(paths)

    def test_mixed_sizes_are_told(self, tmp_path: Path, write_series):
        paths = write_series(tmp_path / "a", VALUES, affine=AXIAL) + write_series(
            tmp_path / "b", VALUES[:4], affine=AXIAL
        )
        with pytest.raises(UnreadableFile, match="5 x 4 and 5 x 6"):
            read_series(paths)

    @pytest.mark.parametrize("name", ["ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"])
    def test_missing_geometry_is_named(self, tmp_path: Path, write_series, name: str):
        paths = write_series(tmp_path, VALUES, affine=AXIAL, change=lambda _, slice_: delattr(slice_, name))
        with pytest.raises(UnreadableFile, match=f"lacks {name}"):
            read_series(paths)

    def test_multi_frame_is_not_taken_yet(self, tmp_path: Path, write_series):
        with pytest.raises(UnusableVoxels, match=r"multi-frame object \(8 frames\).*not taken yet"):
            read_series(write_series(tmp_path, VALUES, affine=AXIAL, NumberOfFrames=8))

    def test_colour_is_refused(self, tmp_path: Path, write_series):
        paths = write_series(tmp_path, VALUES, affine=AXIAL, PhotometricInterpretation="RGB", SamplesPerPixel=3)
        with pytest.raises(UnusableVoxels, match="colour"):
            read_series(paths)

    def test_pixels_cut_short_are_refused(self, tmp_path: Path, write_series):
        paths = write_series(tmp_path, VALUES, affine=AXIAL)
        paths[2].write_bytes(paths[2].read_bytes()[:-20])
        with pytest.raises(UnreadableFile, match="cannot be decoded"):
            read_series(paths)

    def test_no_refusal_names_the_patient_or_a_uid(self, tmp_path: Path, write_series):
        def spoil(k, slice_):
            slice_.ImagePositionPatient = [0, 0, k * k]
            slice_.EchoTime = k

        with pytest.raises(UnreadableFile) as refusal:
            read_series(write_series(tmp_path, VALUES, affine=AXIAL, change=spoil))
        assert not any(word in str(refusal.value) for word in ("Doe", "MRN", "1.2.826"))


class TestFinding:
    def test_two_series_in_a_folder_are_two(self, tmp_path: Path, write_series):
        write_series(tmp_path / "a", VALUES, affine=AXIAL)
        write_series(tmp_path / "b", VALUES, affine=AXIAL)
        series, refused = find_series(tmp_path)
        assert [len(one.paths) for one in series] == [4, 4]
        assert refused == []

    def test_endings_do_not_matter_and_other_files_are_skipped(self, tmp_path: Path, write_series):
        for path in write_series(tmp_path, VALUES, affine=AXIAL):
            path.rename(path.with_suffix(""))
        (tmp_path / "notes.txt").write_text("x" * 200)
        (tmp_path / "._0001").write_bytes((tmp_path / "0001").read_bytes())
        series, refused = find_series(tmp_path)
        assert [len(one.paths) for one in series] == [4]
        assert refused == []

    def test_a_localizer_is_split_by_orientation(self, tmp_path: Path, write_series):
        write_series(tmp_path / "a", VALUES, affine=AXIAL, series_uid="1.2.3")
        write_series(tmp_path / "b", VALUES, affine=OBLIQUE, series_uid="1.2.3")
        series, _ = find_series(tmp_path)
        assert len(series) == 2
        assert series[0].uid != series[1].uid

    def test_noise_in_the_cosines_does_not_split(self, tmp_path: Path, write_series):
        def noise(k, slice_):
            slice_.ImageOrientationPatient = [1, 0.005 + (-1) ** k * 1e-5, 0, 0, 1, 0]

        write_series(tmp_path, VALUES, affine=AXIAL, change=noise)
        assert len(find_series(tmp_path)[0]) == 1

    def test_series_without_uid_are_told_apart_by_folder(self, tmp_path: Path, write_series):
        for name in "ab":
            write_series(tmp_path / name, VALUES, affine=AXIAL, SeriesInstanceUID="")
        assert len(find_series(tmp_path)[0]) == 2

    def test_objects_without_an_image_are_refused_once_a_kind(self, tmp_path: Path, write_series):
        write_series(
            tmp_path,
            VALUES[:, :, :2],
            affine=AXIAL,
            modality="RTSTRUCT",
            change=lambda _, slice_: [delattr(slice_, name) for name in ("Rows", "Columns", "PixelData")],
        )
        series, refused = find_series(tmp_path)
        assert series == []
        assert [len(one.paths) for one in refused] == [2]
        assert "RTSTRUCT" in refused[0].reason

    def test_a_file_that_only_calls_itself_dicom_is_refused(self, tmp_path: Path):
        (tmp_path / "a.dcm").write_bytes(b"hello")
        series, refused = find_series(tmp_path)
        assert series == []
        assert "not readable" in refused[0].reason

    def test_a_series_does_not_print_its_patient(self, tmp_path: Path, write_series):
        write_series(tmp_path, VALUES, affine=AXIAL, series_uid="1.2.3.4.5")
        assert not any(word in repr(find_series(tmp_path)) for word in ("MRN", "1.2.3.4.5"))

    def test_dicom_is_known_by_its_first_bytes(self, tmp_path: Path, write_series):
        assert is_dicom(write_series(tmp_path, VALUES, affine=AXIAL)[0])
        (tmp_path / "x").write_bytes(b"\0" * 200)
        assert not is_dicom(tmp_path / "x")

    def test_warnings_that_quote_the_header_are_kept_back(self, tmp_path: Path, write_series, caplog):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            paths = write_series(tmp_path, VALUES, affine=AXIAL, SeriesInstanceUID="not.a.uid.Doe")
        caplog.clear()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            find_series(tmp_path)
            read_series(paths)
        assert caplog.records == []

    def test_an_optional_field_that_is_no_number_counts_as_absent(self, tmp_path: Path, write_series):
        paths = write_series(tmp_path, VALUES, affine=AXIAL, SliceThickness=3)
        for path in paths:
            path.write_bytes(path.read_bytes().replace(b"DS\x02\x003 ", b"DS\x02\x00x "))
        np.testing.assert_array_equal(read_series(paths).values, VALUES)


@pytest.mark.parametrize("plane", [None, "coronal", "sagittal"])
def test_one_scan_as_dicom_and_nifti_gives_one_display(tmp_path: Path, write_series, plane: str | None):
    dicom = read_series(write_series(tmp_path / "series", VALUES, affine=OBLIQUE))
    displays = [choose_orientation(dicom.affine, dicom.grid.shape, plane).apply(dicom.values)]
    image = nib.Nifti1Image(VALUES, LPS_TO_RAS @ OBLIQUE)
    for codes in ("RAS", "LPS", "LAS", "PIR"):
        change = nib.orientations.ornt_transform(nib.io_orientation(image.affine), nib.orientations.axcodes2ornt(codes))
        nib.save(image.as_reoriented(change), tmp_path / f"{codes}.nii.gz")
        scan = read_nifti_image(tmp_path / f"{codes}.nii.gz")
        displays.append(choose_orientation(scan.affine, scan.grid.shape, plane).apply(scan.values))
    for display in displays[1:]:
        np.testing.assert_array_equal(display, displays[0])


@pytest.mark.shared
class TestRealSeries:
    @pytest.mark.parametrize(
        "name",
        [
            "generic/anatomical/001",
            "generic/anatomical/002_non_isotropic",
            "ge/anatomical/001",
            "hitachi/anatomical/001",
            "generic/compressed_j2k/001",
            "generic/compressed_jpeg/001",
            "generic/compressed_jpegls/001",
            "generic/compressed_rle/001",
        ],
    )
    def test_a_series_shows_what_its_ground_truth_shows(self, shared_data: Path, name: str):
        folder = shared_data / "dicom2nifti" / name
        (series,), _ = find_series(folder)
        displays = []
        for scan in (
            read_series(series.paths),
            read_nifti_image(folder.with_name(f"{folder.name}_ground_truth.nii.gz")),
            read_nifti_image(folder.with_name(f"{folder.name}_ground_truth_reoriented.nii.gz")),
        ):
            orientation = choose_orientation(scan.affine, scan.grid.shape, None)
            affine = orientation.affine(scan.affine, scan.grid.shape)
            displays.append((orientation.apply(scan.values), affine))
        for values, affine in displays[1:]:
            np.testing.assert_allclose(values, displays[0][0], rtol=1e-6)
            np.testing.assert_allclose(affine, displays[0][1], atol=2e-3)

    @pytest.mark.parametrize(
        ("name", "says"),
        [
            ("gantrytilting/001", r"3\.629 mm at the last slice, a tilt of 14 degrees"),
            ("notavolume/001", r"4 slices lie at 1 position"),
            ("sliceincrement/001", r"after instance 9 the next one follows at 10 mm.*1 slice\(s\)"),
            ("sliceincrement/002", r"a tilt of 15\.5 degrees"),
        ],
    )
    def test_a_series_that_is_no_volume_is_refused_with_its_numbers(self, shared_data: Path, name: str, says: str):
        (series,), _ = find_series(shared_data / "dicom2nifti" / "failing" / name)
        with pytest.raises(UnreadableFile, match=says):
            read_series(series.paths)

    def test_two_orientations_are_two_volumes(self, shared_data: Path):
        series, _ = find_series(shared_data / "dicom2nifti" / "failing" / "sliceorientation")
        assert [len(one.paths) for one in series] == [2, 2]

    def test_colour_and_multi_frame_are_refused(self, shared_data: Path):
        for name in ("generic/rgb/001", "hyperfine/anatomical/001"):
            (series,), _ = find_series(shared_data / "dicom2nifti" / name)
            with pytest.raises(UnusableVoxels):
                read_series(series.paths)
