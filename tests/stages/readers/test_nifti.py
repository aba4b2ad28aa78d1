"""NIfTI in and out: values, geometry, refusals, and masks on the identical grid."""

from __future__ import annotations

import gzip
import json
import re
import tracemalloc
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK
from hypothesis import example, given, settings
from hypothesis import strategies as st

from samkit.stages.readers.geometry import spacing_mm
from samkit.stages.readers.itk import write_label_nrrd
from samkit.stages.readers.nifti import (
    grid_of_affine,
    read_nifti_image,
    read_nifti_label,
    why_label_is_refused,
    write_label_nifti,
    write_label_nifti_index_space,
)
from samkit.store.errors import (
    GeometryMismatch,
    SamkitError,
    UnreadableFile,
    UnusableLabel,
    UnusableVoxels,
    UsageError,
)

AFFINE = nib.affines.from_matvec(
    np.array([[0.79, 0.05, 0.0], [-0.05, 0.79, 0.2], [0.0, -0.03, 4.9]]), np.array([-101.3, 12.7, 1000.1])
)


def save(path: Path, values: np.ndarray, affine: np.ndarray | None = AFFINE, **header: object) -> Path:
    image = nib.Nifti1Image(values, affine)
    for name, value in header.items():
        image.header[name] = value
    nib.save(image, path)
    return path


def tilted(degrees: float, spacing: tuple[float, float, float] = (0.8, 0.9, 5.0)) -> np.ndarray:
    """An oblique stack whose slices are shifted along their columns, as by a tilted gantry."""
    shear = np.eye(3)
    shear[1, 2] = np.tan(np.radians(degrees)) * spacing[2] / spacing[1]
    turned = nib.eulerangles.euler2mat(0.2, 0.1, -0.3) @ np.diag(spacing) @ shear
    return nib.affines.from_matvec(turned, [-101.3, 12.7, 1000.1])


def ramp(*shape: int, dtype: str = "int16") -> np.ndarray:
    return np.arange(np.prod(shape)).reshape(shape).astype(dtype)


class TestReadingAnImage:
    @pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
    @pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "uint16"])
    def test_small_integers_stay_what_they_are(self, tmp_path: Path, dtype: str, ending: str):
        scan = read_nifti_image(save(tmp_path / f"a{ending}", ramp(4, 3, 2, dtype=dtype)))
        assert scan.values.dtype == dtype
        np.testing.assert_array_equal(scan.values, ramp(4, 3, 2))

    @pytest.mark.parametrize("dtype", ["int32", "uint32", "int64", "float32", "float64"])
    def test_all_other_numbers_become_float32(self, tmp_path: Path, dtype: str):
        values = ramp(4, 3, 2, dtype=dtype) * 30_000
        nib.save(nib.Nifti1Image(values, AFFINE, dtype=dtype), tmp_path / "a.nii.gz")
        scan = read_nifti_image(tmp_path / "a.nii.gz")
        assert scan.values.dtype == np.float32
        np.testing.assert_array_equal(scan.values, values)

    def test_float64_beyond_float32_is_infinite(self, tmp_path: Path):
        scan = read_nifti_image(save(tmp_path / "a.nii", np.array([1e300, 1.0]).reshape(2, 1, 1)))
        assert scan.values.ravel().tolist() == [np.inf, 1.0]

    def test_slope_and_intercept_are_applied(self, tmp_path: Path):
        image = nib.Nifti1Image(ramp(4, 3, 2), AFFINE)
        image.header.set_slope_inter(0.5, -1024)
        image.to_filename(tmp_path / "a.nii")
        reference = nib.load(tmp_path / "a.nii")
        assert reference.dataobj.slope != 1
        scan = read_nifti_image(tmp_path / "a.nii")
        assert scan.values.dtype == np.float32
        np.testing.assert_allclose(scan.values, reference.get_fdata(), rtol=1e-6)

    def test_the_affine_is_nibabels(self, tmp_path: Path):
        path = save(tmp_path / "a.nii.gz", ramp(4, 3, 2))
        np.testing.assert_array_equal(read_nifti_image(path).affine, nib.load(path).affine)

    def test_the_qform_counts_where_there_is_no_sform(self, tmp_path: Path):
        image = nib.Nifti1Image(ramp(4, 3, 2), None)
        rigid = nib.affines.from_matvec(np.diag([-2.0, 3.0, 4.0]), [5, 6, 7])
        image.set_qform(rigid, code=1)
        nib.save(image, tmp_path / "a.nii")
        np.testing.assert_allclose(read_nifti_image(tmp_path / "a.nii").affine, rigid, atol=1e-5)

    def test_a_file_that_states_no_orientation_is_noted(self, tmp_path: Path):
        path = save(tmp_path / "a.nii", ramp(4, 3, 2), None, pixdim=[1, 2, 3, 4, 1, 1, 1, 1])
        scan = read_nifti_image(path)
        assert spacing_mm(scan.affine) == (2, 3, 4)
        assert "pixdim" in scan.notes[0]

    def test_a_2d_image_is_one_slice(self, tmp_path: Path):
        assert read_nifti_image(save(tmp_path / "a.nii", ramp(4, 3))).values.shape == (4, 3, 1)

    def test_trailing_ones_do_not_count(self, tmp_path: Path):
        scan = read_nifti_image(save(tmp_path / "a.nii", ramp(4, 3, 2, 1, 1)))
        np.testing.assert_array_equal(scan.values, ramp(4, 3, 2))

    @pytest.mark.parametrize("dtype", ["int16", "float32", "float64"])
    def test_big_endian_files_are_read(self, tmp_path: Path, dtype: str):
        values = ramp(4, 3, 2, dtype=dtype)
        nib.save(nib.Nifti1Image(values, AFFINE, nib.Nifti1Header(endianness=">"), dtype=dtype), tmp_path / "a.nii")
        scan = read_nifti_image(tmp_path / "a.nii")
        assert scan.values.dtype.isnative
        np.testing.assert_array_equal(scan.values, values)

    @pytest.mark.parametrize("channels", ["RGB", "RGBA"])
    def test_colour_is_a_trailing_axis_of_three(self, tmp_path: Path, channels: str):
        colours = np.random.default_rng(0).integers(0, 256, (4, 3, 2, len(channels)), dtype=np.uint8)
        packed = colours.view([(name, "u1") for name in channels])[..., 0]
        scan = read_nifti_image(save(tmp_path / "a.nii.gz", packed))
        assert (scan.grid.shape, scan.grid.stored_shape) == ((4, 3, 2), (4, 3, 2))
        np.testing.assert_array_equal(scan.values, colours[..., :3])

    def test_transparency_that_is_left_out_is_noted(self, tmp_path: Path):
        rgba = np.zeros((4, 3, 2), dtype=[(name, "u1") for name in "RGBA"])
        assert "transparency" in read_nifti_image(save(tmp_path / "a.nii", rgba)).notes[0]


def save_in_units(path: Path, values: np.ndarray, affine: np.ndarray, units: int) -> Path:
    """Write a file of these voxels whose numbers are in the units of NIfTI's byte: 1 metres, 2 mm, 3 microns."""
    scale = {1: 0.001, 3: 1000.0}.get(units & 7, 1.0)
    return save(path, values, np.diag([scale, scale, scale, 1.0]) @ affine, xyzt_units=units)


class TestUnits:
    @pytest.mark.parametrize("units", [1, 2, 3, 3 | 8])
    def test_the_affine_is_in_millimetres_whatever_the_header_is_in(self, tmp_path: Path, units: int):
        scan = read_nifti_image(save_in_units(tmp_path / "a.nii", ramp(4, 3, 2), AFFINE, units))
        np.testing.assert_allclose(scan.affine, AFFINE, rtol=1e-6)
        np.testing.assert_allclose(scan.grid.affine_array, AFFINE, rtol=1e-6)

    @pytest.mark.parametrize("units", [0, 7])
    def test_a_header_that_says_none_is_in_millimetres(self, tmp_path: Path, units: int):
        scan = read_nifti_image(save(tmp_path / "a.nii", ramp(4, 3, 2), xyzt_units=units))
        np.testing.assert_array_equal(scan.affine, nib.load(tmp_path / "a.nii").affine)

    @pytest.mark.parametrize(("units", "said"), [(1, "metres"), (3, "microns")])
    def test_other_units_than_millimetres_are_noted(self, tmp_path: Path, units: int, said: str):
        scan = read_nifti_image(save_in_units(tmp_path / "a.nii", ramp(4, 3, 2), AFFINE, units))
        assert said in scan.notes[0]

    @pytest.mark.parametrize(("units", "size_mm"), [(1, 0.05), (3, 0.00005)])
    def test_small_voxels_are_no_flat_affine(self, tmp_path: Path, units: int, size_mm: float):
        grid = np.diag([size_mm, size_mm, size_mm, 1.0])
        scan = read_nifti_image(save_in_units(tmp_path / "a.nii", ramp(4, 3, 2), grid, units))
        np.testing.assert_allclose(spacing_mm(scan.affine), [size_mm] * 3, rtol=1e-6)

    def test_a_label_that_says_none_has_those_of_its_image(self, tmp_path: Path):
        image = read_nifti_image(save_in_units(tmp_path / "a.nii", ramp(4, 3, 2), AFFINE, 3))
        nib.save(nib.Nifti1Image(ramp(4, 3, 2), nib.load(tmp_path / "a.nii").affine), tmp_path / "label.nii")
        label = read_nifti_label(tmp_path / "label.nii", units=image.grid.xyzt_units)
        np.testing.assert_array_equal(label.affine, image.affine)

    def test_a_label_in_other_units_than_its_image_lies_on_it(self, tmp_path: Path):
        image = read_nifti_image(save_in_units(tmp_path / "a.nii", ramp(4, 3, 2), AFFINE, 3))
        label = read_nifti_label(save_in_units(tmp_path / "b.nii", ramp(4, 3, 2), AFFINE, 2), units=3)
        np.testing.assert_allclose(label.affine, image.affine, rtol=1e-6)

    def test_a_mask_of_a_file_in_microns_as_nrrd_is_in_millimetres(self, tmp_path: Path):
        straight = np.diag([-0.01, -0.01, 0.025, 1.0])
        grid = read_nifti_image(save_in_units(tmp_path / "a.nii", ramp(4, 3, 2), straight, 3)).grid
        write_label_nrrd(tmp_path / "m.nrrd", ramp(4, 3, 2, dtype="uint8"), grid)
        np.testing.assert_allclose(SimpleITK.ReadImage(tmp_path / "m.nrrd").GetSpacing(), (0.01, 0.01, 0.025))


class TestOneVolumeOfSeveral:
    @pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
    @pytest.mark.parametrize("index", [0, 2, 4])
    def test_the_chosen_volume_is_read(self, tmp_path: Path, ending: str, index: int):
        path = save(tmp_path / f"a{ending}", ramp(4, 3, 2, 5))
        scan = read_nifti_image(path, volume_index=index)
        np.testing.assert_array_equal(scan.values, nib.load(path).get_fdata()[..., index])
        assert f"volume {index} of 0 to 4" in scan.notes[0]

    def test_a_label_has_several_volumes_too(self, tmp_path: Path):
        path = save(tmp_path / "a.nii.gz", ramp(4, 3, 2, 5, dtype="uint8"))
        np.testing.assert_array_equal(read_nifti_label(path, volume_index=3).values, ramp(4, 3, 2, 5)[..., 3])

    def test_a_mask_for_it_has_three_dimensions(self, tmp_path: Path):
        scan = read_nifti_image(save(tmp_path / "a.nii.gz", ramp(4, 3, 2, 5)), volume_index=1)
        write_label_nifti(tmp_path / "mask.nii", np.zeros((4, 3, 2), np.uint8), scan.grid)
        assert nib.load(tmp_path / "mask.nii").shape == (4, 3, 2)

    @pytest.mark.parametrize("read", [read_nifti_image, read_nifti_label])
    def test_without_a_choice_it_is_refused_with_the_flags_to_type(self, tmp_path: Path, read):
        with pytest.raises(UnusableVoxels, match=r"5 volumes.*from 0 to 4: --time-index N, or --channel N"):
            read(save(tmp_path / "a.nii.gz", ramp(4, 3, 2, 5)))

    @pytest.mark.parametrize("index", [5, -1])
    def test_a_volume_that_is_not_there_is_refused(self, tmp_path: Path, index: int):
        with pytest.raises(UnusableVoxels, match=rf"no number {index}.*from 0 to 4"):
            read_nifti_image(save(tmp_path / "a.nii.gz", ramp(4, 3, 2, 5)), volume_index=index)

    def test_a_3d_file_has_volume_0_only(self, tmp_path: Path):
        path = save(tmp_path / "a.nii.gz", ramp(4, 3, 2))
        np.testing.assert_array_equal(read_nifti_image(path, volume_index=0).values, ramp(4, 3, 2))
        with pytest.raises(UnusableVoxels, match="3-D file"):
            read_nifti_image(path, volume_index=1)

    def test_of_an_uncompressed_file_no_other_bytes_are_read(self, tmp_path: Path):
        path = save(tmp_path / "a.nii", ramp(4, 3, 2, 5))
        whole = path.read_bytes()
        path.write_bytes(whole[:352] + b"\xff" * 48 + whole[400:])  # the first volume, 24 int16
        np.testing.assert_array_equal(read_nifti_image(path, volume_index=1).values, ramp(4, 3, 2, 5)[..., 1])


class TestMemory:
    SHAPE = (192, 192, 160)
    BYTES = 2 * 192 * 192 * 160

    def peak(self, read, *arguments, **choices) -> int:
        read(*arguments, **choices)  # what is imported and cached once does not count
        tracemalloc.start()
        try:
            read(*arguments, **choices)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    @pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
    def test_an_int16_scan_takes_little_more_than_itself(self, tmp_path: Path, ending: str):
        path = save(tmp_path / f"a{ending}", np.zeros(self.SHAPE, np.int16))
        assert self.peak(read_nifti_image, path) < 1.2 * self.BYTES

    def test_a_rescaled_scan_takes_little_more_than_its_float32(self, tmp_path: Path):
        image = nib.Nifti1Image(np.zeros(self.SHAPE, np.int16), AFFINE)
        image.header.set_slope_inter(1.35, -1024)
        nib.save(image, tmp_path / "a.nii.gz")
        assert self.peak(read_nifti_image, tmp_path / "a.nii.gz") < 2.2 * self.BYTES

    def test_one_volume_of_many_takes_little_more_than_itself(self, tmp_path: Path):
        path = save(tmp_path / "a.nii.gz", np.zeros((192, 192, 16, 10), np.int16))
        assert self.peak(read_nifti_image, path, volume_index=5) < 1.5 * self.BYTES / 10

    def test_a_label_in_float64_takes_little_more_than_its_bytes(self, tmp_path: Path):
        path = save(tmp_path / "a.nii.gz", np.zeros(self.SHAPE, np.float64))
        assert self.peak(read_nifti_label, path) < 0.8 * self.BYTES


class TestRefusingAnImage:
    def test_vectors_are_refused_with_their_shape(self, tmp_path: Path):
        with pytest.raises(UnusableVoxels, match=r"5 dimensions, \(4, 3, 2, 1, 3\): vectors"):
            read_nifti_image(save(tmp_path / "a.nii.gz", ramp(4, 3, 2, 1, 3)))

    def test_a_label_in_colours_is_refused(self, tmp_path: Path):
        rgb = np.zeros((4, 3, 2), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
        with pytest.raises(UnusableVoxels, match="RGB"):
            read_nifti_label(save(tmp_path / "a.nii.gz", rgb))

    def test_complex_is_refused(self, tmp_path: Path):
        with pytest.raises(UnusableVoxels, match="complex64"):
            read_nifti_image(save(tmp_path / "a.nii.gz", np.zeros((4, 3, 2), np.complex64)))

    @pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
    @pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.95])
    def test_a_truncated_file_is_named_and_to_be_copied_again(self, tmp_path: Path, ending: str, share: float):
        values = np.random.default_rng(0).integers(0, 1000, (32, 32, 16)).astype(np.int16)
        path = save(tmp_path / f"scan{ending}", values)
        whole = path.read_bytes()
        path.write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(UnreadableFile, match=rf"scan{ending}.*truncated.*copy it again"):
            read_nifti_image(path)

    def test_a_well_formed_archive_of_half_a_file_is_noticed(self, tmp_path: Path):
        path = save(tmp_path / "a.nii.gz", ramp(8, 8, 8))
        path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes())[:900]))
        with pytest.raises(UnreadableFile, match="truncated"):
            read_nifti_image(path)

    def test_a_changed_byte_of_a_compressed_file_is_noticed(self, tmp_path: Path):
        values = np.random.default_rng(0).integers(0, 1000, (32, 32, 16)).astype(np.int16)
        path = save(tmp_path / "a.nii.gz", values)
        content = bytearray(gzip.decompress(path.read_bytes()))
        compressed = bytearray(gzip.compress(bytes(content), compresslevel=0))  # stored: no other byte depends on it
        compressed[len(compressed) // 2] ^= 1
        path.write_bytes(bytes(compressed))
        with pytest.raises(UnreadableFile, match="damaged"):
            read_nifti_image(path)

    @pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
    def test_a_header_that_promises_more_than_any_file_holds_asks_for_no_memory(self, tmp_path: Path, ending: str):
        image = nib.Nifti1Image(ramp(4, 3, 2), AFFINE)
        content = bytearray(image.to_bytes())
        content[40:48] = np.array([3, 32767, 32767, 32767], "<i2").tobytes()
        path = tmp_path / f"a{ending}"
        path.write_bytes(gzip.compress(content) if ending == ".nii.gz" else content)
        with pytest.raises(UnreadableFile, match="truncated"):
            read_nifti_image(path)

    @given(changes=st.lists(st.tuples(st.integers(0, 351), st.integers(0, 255)), min_size=1, max_size=6))
    @example([(108, 0), (109, 0), (110, 128), (111, 127)])  # an infinite offset
    @example([(40, 4), (48, 0), (49, 128)])  # a negative number of volumes
    @settings(max_examples=300, deadline=None)
    def test_whatever_a_header_says_there_is_no_other_error(self, tmp_path_factory, changes):
        content = bytearray(nib.Nifti1Image(ramp(4, 3, 2), AFFINE).to_bytes())
        for at, value in changes:
            content[at] = value
        path = tmp_path_factory.mktemp("headers") / "a.nii"
        path.write_bytes(content)
        for read in (read_nifti_image, read_nifti_label):
            try:
                read(path)
            except SamkitError as error:
                assert str(path) in str(error)

    def test_bytes_that_are_no_nifti_are_refused(self, tmp_path: Path):
        (tmp_path / "a.nii.gz").write_bytes(gzip.compress(b"<html>404 not found</html>" * 99))
        with pytest.raises(UnreadableFile, match="not NIfTI"):
            read_nifti_image(tmp_path / "a.nii.gz")

    def test_a_missing_file_is_refused(self, tmp_path: Path):
        with pytest.raises(UnreadableFile, match="no such file"):
            read_nifti_image(tmp_path / "a.nii.gz")

    def test_a_flat_affine_is_refused(self, tmp_path: Path):
        path = save(tmp_path / "a.nii", ramp(4, 3, 2), None, sform_code=2, srow_x=[1, 0, 0, 0])
        with pytest.raises(UnreadableFile, match="cannot be inverted"):
            read_nifti_image(path)


class TestLabels:
    def test_the_smallest_unsigned_type_is_taken(self, tmp_path: Path):
        assert read_nifti_label(save(tmp_path / "a.nii", ramp(4, 3, 2))).values.dtype == np.uint8
        assert read_nifti_label(save(tmp_path / "b.nii", ramp(40, 30, 2))).values.dtype == np.uint16

    def test_values_a_hair_from_whole_are_rounded_and_not_cut(self, tmp_path: Path):
        almost = np.array([0, 1.00007, 1.9996, 6.9999], np.float32).reshape(4, 1, 1)
        assert read_nifti_label(save(tmp_path / "a.nii", almost)).values.ravel().tolist() == [0, 1, 2, 7]

    def test_rescaled_integers_are_rounded_too(self, tmp_path: Path):
        image = nib.Nifti1Image(np.array([0, 100, 200], np.int16).reshape(3, 1, 1), AFFINE)
        image.header.set_slope_inter(0.010001, 0)
        nib.save(image, tmp_path / "a.nii.gz")
        assert read_nifti_label(tmp_path / "a.nii.gz").values.ravel().tolist() == [0, 1, 2]

    def test_soft_labels_are_refused_with_some_of_their_values(self, tmp_path: Path):
        soft = np.array([0, 0.25, 0.5, 1], np.float32).reshape(4, 1, 1)
        with pytest.raises(UnusableLabel, match=r"a\.nii: 2 of 4 .*0\.25, 0\.5.*--label-threshold 0\.5"):
            read_nifti_label(save(tmp_path / "a.nii", soft))

    def test_soft_labels_are_taken_with_a_threshold(self, tmp_path: Path):
        soft = np.array([0, 0.25, 0.5, 0.51, 1], np.float32).reshape(5, 1, 1)
        label = read_nifti_label(save(tmp_path / "a.nii", soft), threshold=0.5)
        assert label.values.ravel().tolist() == [0, 0, 0, 1, 1]

    @pytest.mark.parametrize(
        ("shape", "affine", "why"),
        [
            ((4, 3, 2), AFFINE, None),
            ((2, 3, 4), AFFINE[:, [2, 1, 0, 3]], None),  # the same voxels, stored in another order
            ((4, 3, 3), AFFINE, r"scan: .*--resample-labels"),
            ((4, 3, 2), AFFINE + np.diag([0.4, 0, 0, 0]), r"scan: .*--resample-labels"),
            ((4, 3, 2, 5), AFFINE, r"label\.nii: .*5 volumes"),
            ((4, 3, 2), np.diag([1.0, 1.0, 1e-13, 1.0]), r"label\.nii: the affine .* cannot be inverted"),
        ],
    )
    def test_headers_tell_whether_one_can_be_taken_for_an_image(self, tmp_path: Path, shape, affine, why: str | None):
        image = save(tmp_path / "image.nii", ramp(4, 3, 2))
        label = save(tmp_path / "label.nii", np.zeros(shape, np.uint8), affine)
        said = why_label_is_refused(image, label, place="scan")
        assert said is None if why is None else re.search(why, said)


class TestWritingAMask:
    @pytest.mark.parametrize("dtype", ["uint8", "uint16", "int32"])
    def test_values_come_back(self, tmp_path: Path, dtype: str):
        grid = read_nifti_image(save(tmp_path / "a.nii.gz", ramp(4, 3, 2))).grid
        write_label_nifti(tmp_path / "mask.nii.gz", ramp(4, 3, 2, dtype=dtype), grid)
        written = nib.load(tmp_path / "mask.nii.gz")
        assert written.get_data_dtype() == dtype
        np.testing.assert_array_equal(np.asarray(written.dataobj), ramp(4, 3, 2))

    @given(
        matrix=st.lists(st.floats(-3, 3, width=32), min_size=9, max_size=9),
        offset=st.lists(st.floats(-500, 500, width=32), min_size=3, max_size=3),
        codes=st.tuples(st.integers(0, 4), st.integers(0, 4)),
        units=st.sampled_from([0, 1, 2, 3, 10, 11]),
    )
    @settings(max_examples=40, deadline=None)
    def test_every_geometry_field_is_the_sources(self, tmp_path_factory, matrix, offset, codes, units):
        linear = np.array(matrix).reshape(3, 3)
        folder = tmp_path_factory.mktemp("grids")
        image = nib.Nifti1Image(ramp(4, 3, 2), None)
        if abs(np.linalg.det(linear)) < 1e-2:
            linear = np.eye(3)
        image.set_sform(nib.affines.from_matvec(linear, offset), code=codes[1])
        image.set_qform(nib.affines.from_matvec(linear, offset), code=codes[0], strip_shears=True)
        image.header["xyzt_units"] = units
        nib.save(image, folder / "a.nii")
        grid = read_nifti_image(folder / "a.nii").grid
        write_label_nifti(folder / "mask.nii", ramp(4, 3, 2, dtype="uint8"), grid)
        source, mask = nib.load(folder / "a.nii").header, nib.load(folder / "mask.nii").header
        for name in ("dim", "qform_code", "sform_code", "xyzt_units"):
            np.testing.assert_array_equal(mask[name], source[name], err_msg=name)
        for name in ("quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z"):
            np.testing.assert_array_equal(mask[name], source[name], err_msg=name)
        for name in ("srow_x", "srow_y", "srow_z"):
            np.testing.assert_array_equal(mask[name], source[name], err_msg=name)
        np.testing.assert_array_equal(mask["pixdim"][:4], source["pixdim"][:4])

    def test_simpleitk_sees_the_identical_grid(self, tmp_path: Path):
        rigid = nib.affines.from_matvec(
            nib.eulerangles.euler2mat(0.2, 0.1, -0.3) @ np.diag([0.8, 0.9, 5.0]), [1 / 3, 2 / 3, 1e3 / 7]
        )
        image = nib.Nifti1Image(ramp(4, 3, 2), rigid)
        image.set_qform(rigid, code=1)
        nib.save(image, tmp_path / "a.nii.gz")
        write_label_nifti(
            tmp_path / "mask.nii.gz", ramp(4, 3, 2, dtype="uint8"), read_nifti_image(tmp_path / "a.nii.gz").grid
        )
        source, mask = SimpleITK.ReadImage(tmp_path / "a.nii.gz"), SimpleITK.ReadImage(tmp_path / "mask.nii.gz")
        assert mask.GetSize() == source.GetSize()
        assert mask.GetOrigin() == source.GetOrigin()
        assert mask.GetSpacing() == source.GetSpacing()
        assert mask.GetDirection() == source.GetDirection()

    @pytest.mark.parametrize("shape", [(4, 3), (4, 3, 2, 1)])
    def test_a_mask_has_as_many_dimensions_as_its_source(self, tmp_path: Path, shape: tuple[int, ...]):
        scan = read_nifti_image(save(tmp_path / "a.nii", ramp(*shape)))
        write_label_nifti(tmp_path / "mask.nii", np.zeros(scan.grid.shape, np.uint8), scan.grid)
        assert nib.load(tmp_path / "mask.nii").shape == shape

    def test_nifti2_stays_nifti2(self, tmp_path: Path):
        nib.save(nib.Nifti2Image(ramp(4, 3, 2), AFFINE), tmp_path / "a.nii")
        scan = read_nifti_image(tmp_path / "a.nii")
        write_label_nifti(tmp_path / "mask.nii", np.zeros((4, 3, 2), np.uint8), scan.grid)
        mask = nib.load(tmp_path / "mask.nii")
        assert isinstance(mask, nib.Nifti2Image)
        np.testing.assert_array_equal(mask.affine, AFFINE)

    def test_a_source_without_geometry_gives_codes_zero(self, tmp_path: Path):
        write_label_nifti(tmp_path / "m.nii", np.zeros((4, 3, 2), np.uint8), grid_of_affine((4, 3, 2), None))
        header = nib.load(tmp_path / "m.nii").header
        assert (int(header["qform_code"]), int(header["sform_code"])) == (0, 0)

    def test_a_grid_made_from_an_affine_has_it_in_both_forms(self, tmp_path: Path):
        rigid = nib.affines.from_matvec(np.diag([-2.0, -3.0, 4.0]), [5, 6, 7])
        write_label_nifti(tmp_path / "m.nii", np.zeros((4, 3, 2), np.uint8), grid_of_affine((4, 3, 2), rigid))
        mask = nib.load(tmp_path / "m.nii")
        np.testing.assert_allclose(mask.get_sform(), rigid)
        np.testing.assert_allclose(mask.get_qform(), rigid, atol=1e-5)
        assert (int(mask.header["qform_code"]), int(mask.header["sform_code"])) == (1, 1)

    def test_a_sheared_grid_is_kept_by_the_sform_alone(self, tmp_path: Path):
        write_label_nifti(tmp_path / "m.nii", np.zeros((8, 8, 9), np.uint8), grid_of_affine((8, 8, 9), tilted(15)))
        mask = nib.load(tmp_path / "m.nii")
        np.testing.assert_allclose(mask.affine, tilted(15), rtol=1e-6)
        assert (int(mask.header["qform_code"]), int(mask.header["sform_code"])) == (0, 1)
        np.testing.assert_allclose(mask.header["pixdim"][1:4], spacing_mm(tilted(15)), rtol=1e-6)

    def test_a_failed_write_leaves_the_old_file_and_no_other(self, tmp_path: Path, monkeypatch):
        grid = grid_of_affine((4, 3, 2), None)
        write_label_nifti(tmp_path / "m.nii.gz", np.ones((4, 3, 2), np.uint8), grid)
        before = (tmp_path / "m.nii.gz").read_bytes()

        def stop(*_: object) -> None:
            raise OSError("disk full")

        monkeypatch.setattr("os.fsync", stop)
        with pytest.raises(OSError, match="disk full"):
            write_label_nifti(tmp_path / "m.nii.gz", np.zeros((4, 3, 2), np.uint8), grid)
        assert [path.name for path in tmp_path.iterdir()] == ["m.nii.gz"]
        assert (tmp_path / "m.nii.gz").read_bytes() == before

    def test_another_shape_is_refused(self, tmp_path: Path):
        with pytest.raises(GeometryMismatch, match=r"\(3, 4, 2\).*\(4, 3, 2\)"):
            write_label_nifti(tmp_path / "m.nii", np.zeros((3, 4, 2), np.uint8), grid_of_affine((4, 3, 2), None))

    def test_probabilities_are_no_mask(self, tmp_path: Path):
        with pytest.raises(UnusableLabel, match="float32"):
            write_label_nifti(tmp_path / "m.nii", np.zeros((4, 3, 2), np.float32), grid_of_affine((4, 3, 2), None))

    def test_another_ending_is_refused(self, tmp_path: Path):
        with pytest.raises(UsageError, match=r"\.nii\.gz"):
            write_label_nifti(tmp_path / "m.mha", np.zeros((4, 3, 2), np.uint8), grid_of_affine((4, 3, 2), None))


class TestWritingInIndexSpace:
    SHAPE = (8, 7, 9)

    def write(self, path: Path, affine: np.ndarray | None = None) -> Path:
        grid = grid_of_affine(self.SHAPE, tilted(15) if affine is None else affine)
        return write_label_nifti_index_space(path, ramp(*self.SHAPE, dtype="uint16"), grid)

    def test_simpleitk_refuses_the_sheared_grid_as_nifti(self, tmp_path: Path):
        grid = grid_of_affine(self.SHAPE, tilted(15))
        write_label_nifti(tmp_path / "m.nii", np.zeros(self.SHAPE, np.uint8), grid)
        with pytest.raises(RuntimeError, match="orthonormal"):
            SimpleITK.ReadImage(tmp_path / "m.nii")

    def test_simpleitk_opens_it_with_the_spacing_and_no_direction(self, tmp_path: Path):
        self.write(tmp_path / "case.index-space.nii.gz")
        mask = SimpleITK.ReadImage(tmp_path / "case.index-space.nii.gz")
        np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(mask).T, ramp(*self.SHAPE))
        assert mask.GetSpacing() == pytest.approx(spacing_mm(tilted(15)), rel=1e-6)
        assert mask.GetOrigin() == (0, 0, 0)
        assert mask.GetDirection() == (1, 0, 0, 0, 1, 0, 0, 0, 1)

    def test_it_claims_no_patient_space(self, tmp_path: Path):
        self.write(tmp_path / "case.index-space.nii.gz")
        header = nib.load(tmp_path / "case.index-space.nii.gz").header
        assert (int(header["qform_code"]), int(header["sform_code"])) == (0, 0)
        assert header.get_xyzt_units()[0] == "mm"

    def test_the_true_affine_lies_beside_it(self, tmp_path: Path):
        beside = self.write(tmp_path / "case.index-space.nii.gz")
        assert beside == tmp_path / "case.index-space.affine.json"
        stored = json.loads(beside.read_text())
        np.testing.assert_array_equal(stored["affine_ras_mm"], tilted(15))
        assert stored["shape_ijk"] == list(self.SHAPE)
        assert "patient space" in stored["what"]

    def test_nothing_else_is_left_in_the_folder(self, tmp_path: Path):
        self.write(tmp_path / "case.index-space.nii")
        assert {path.name for path in tmp_path.iterdir()} == {
            "case.index-space.nii",
            "case.index-space.affine.json",
        }

    def test_a_name_that_does_not_say_so_is_refused(self, tmp_path: Path):
        with pytest.raises(UsageError, match=r"case\.index-space\.nii\.gz"):
            self.write(tmp_path / "case.nii.gz")
        assert list(tmp_path.iterdir()) == []

    def test_a_grid_without_geometry_has_nothing_to_write_beside(self, tmp_path: Path):
        grid = grid_of_affine((4, 3, 2), None)
        with pytest.raises(GeometryMismatch, match="no affine"):
            write_label_nifti_index_space(tmp_path / "m.index-space.nii", np.zeros((4, 3, 2), np.uint8), grid)

    def test_another_shape_is_refused(self, tmp_path: Path):
        with pytest.raises(GeometryMismatch, match=r"\(3, 4, 2\).*\(4, 3, 2\)"):
            write_label_nifti_index_space(
                tmp_path / "m.index-space.nii", np.zeros((3, 4, 2), np.uint8), grid_of_affine((4, 3, 2), AFFINE)
            )


@pytest.mark.shared
@pytest.mark.parametrize("name", ["spleen/sub-spleen2/ct/sub-spleen2_ct.nii.gz", "sct/t1w.nii.gz"])
def test_a_mask_of_a_real_scan_has_its_grid_in_nibabel_and_simpleitk(shared_data: Path, tmp_path: Path, name: str):
    scan = read_nifti_image(shared_data / name)
    write_label_nifti(tmp_path / "m.nii.gz", np.zeros(scan.grid.shape, np.uint8), scan.grid)
    source, mask = nib.load(shared_data / name), nib.load(tmp_path / "m.nii.gz")
    np.testing.assert_array_equal(mask.affine, source.affine)
    np.testing.assert_array_equal(mask.get_qform(), source.get_qform())
    source, mask = SimpleITK.ReadImage(shared_data / name), SimpleITK.ReadImage(tmp_path / "m.nii.gz")
    for field in ("GetSize", "GetOrigin", "GetSpacing", "GetDirection"):
        assert getattr(mask, field)() == getattr(source, field)()
