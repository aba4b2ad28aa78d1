"""NIfTI in and out: values, geometry, refusals, and masks on the identical grid."""

from __future__ import annotations

import gzip
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK
from hypothesis import given, settings
from hypothesis import strategies as st

from samkit.stages.readers.geometry import spacing_mm
from samkit.stages.readers.nifti import (
    grid_of_affine,
    read_nifti_image,
    read_nifti_label,
    whole_labels,
    write_label_nifti,
)
from samkit.store.errors import GeometryMismatch, UnreadableFile, UnusableLabel, UnusableVoxels, UsageError

AFFINE = nib.affines.from_matvec(
    np.array([[0.79, 0.05, 0.0], [-0.05, 0.79, 0.2], [0.0, -0.03, 4.9]]), np.array([-101.3, 12.7, 1000.1])
)


def save(path: Path, values: np.ndarray, affine: np.ndarray | None = AFFINE, **header: object) -> Path:
    image = nib.Nifti1Image(values, affine)
    for name, value in header.items():
        image.header[name] = value
    nib.save(image, path)
    return path


def ramp(*shape: int, dtype: str = "int16") -> np.ndarray:
    return np.arange(np.prod(shape)).reshape(shape).astype(dtype)


class TestReadingAnImage:
    def test_values_keep_their_order_and_become_float32(self, tmp_path: Path):
        scan = read_nifti_image(save(tmp_path / "a.nii.gz", ramp(4, 3, 2)))
        assert scan.values.dtype == np.float32
        np.testing.assert_array_equal(scan.values, ramp(4, 3, 2))

    def test_slope_and_intercept_are_applied(self, tmp_path: Path):
        image = nib.Nifti1Image(ramp(4, 3, 2), AFFINE)
        image.header.set_slope_inter(0.5, -1024)
        image.to_filename(tmp_path / "a.nii")
        reference = nib.load(tmp_path / "a.nii")
        assert reference.dataobj.slope != 1
        np.testing.assert_allclose(read_nifti_image(tmp_path / "a.nii").values, reference.get_fdata(), rtol=1e-6)

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

    def test_big_endian_files_are_read(self, tmp_path: Path):
        nib.save(nib.Nifti1Image(ramp(4, 3, 2), AFFINE, nib.Nifti1Header(endianness=">")), tmp_path / "a.nii")
        np.testing.assert_array_equal(read_nifti_image(tmp_path / "a.nii").values, ramp(4, 3, 2))


class TestRefusingAnImage:
    def test_4d_is_refused_with_its_shape_and_a_way_out(self, tmp_path: Path):
        with pytest.raises(UnusableVoxels, match=r"\(4, 3, 2, 5\).*fslsplit"):
            read_nifti_image(save(tmp_path / "a.nii.gz", ramp(4, 3, 2, 5)))

    def test_colour_is_refused(self, tmp_path: Path):
        rgb = np.zeros((4, 3, 2), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
        with pytest.raises(UnusableVoxels, match="RGB"):
            read_nifti_image(save(tmp_path / "a.nii.gz", rgb))

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

    def test_soft_labels_are_refused_with_some_of_their_values(self, tmp_path: Path):
        soft = np.array([0, 0.25, 0.5, 1], np.float32).reshape(4, 1, 1)
        with pytest.raises(UnusableLabel, match=r"2 of 4 .*0\.25, 0\.5.*threshold"):
            read_nifti_label(save(tmp_path / "a.nii", soft))

    def test_negative_values_are_refused(self, tmp_path: Path):
        with pytest.raises(UnusableLabel, match=r"negative \(-1\)"):
            read_nifti_label(save(tmp_path / "a.nii", np.array([0, -1], np.int16).reshape(2, 1, 1)))

    def test_nan_is_refused(self, tmp_path: Path):
        with pytest.raises(UnusableLabel, match="1 of 2 label values are NaN"):
            read_nifti_label(save(tmp_path / "a.nii", np.array([0, np.nan], np.float32).reshape(2, 1, 1)))

    @given(st.lists(st.integers(0, 2**16 - 1), min_size=1), st.floats(-9e-4, 9e-4))
    def test_whole_values_come_back_as_they_were(self, labels: list[int], noise: float):
        np.testing.assert_array_equal(whole_labels(np.array(labels) + abs(noise), place="x"), labels)


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
        units=st.sampled_from([0, 2, 10]),
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
