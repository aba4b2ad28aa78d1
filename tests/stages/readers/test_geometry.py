"""Display orientation is exactly invertible, and the same however a scan is stored; labels fit, or are made to."""

from __future__ import annotations

import json
import tracemalloc
from itertools import permutations, product
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK
from hypothesis import given, settings
from hypothesis import strategies as st
from nibabel.affines import apply_affine, from_matvec
from nibabel.orientations import apply_orientation, axcodes2ornt, inv_ornt_aff, io_orientation, ornt_transform

from samkit.stages.readers.geometry import (
    Orientation,
    choose_orientation,
    display_spacing_mm,
    fit_label,
    is_sheared,
    shear_mm,
    spacing_mm,
)
from samkit.stages.readers.labels import whole_labels
from samkit.stages.readers.nifti import grid_of_affine, read_nifti_image, read_nifti_label, write_label_nifti
from samkit.store.errors import GeometryMismatch, UsageError

PLANES = ("axial", "coronal", "sagittal")

ALL_ORIENTATIONS = [
    Orientation(axes=axes, flips=flips, plane="stored")
    for axes in permutations(range(3))
    for flips in product([False, True], repeat=3)
]

ALL_CODES = [
    "".join(codes) for axes in permutations(["RL", "AP", "SI"]) for codes in product(*axes)
]  # the 48 ways to store a volume


def stored_as(codes: str, values_ras: np.ndarray, affine_ras: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Store a RAS phantom in another index order; every voxel stays where it is in the world."""
    change = ornt_transform(io_orientation(affine_ras), axcodes2ornt(codes))
    return apply_orientation(values_ras, change), affine_ras @ inv_ornt_aff(change, values_ras.shape)


# A head seen from all sides alike would hide a flip: every voxel is different.
PHANTOM = np.arange(3 * 4 * 5, dtype=np.float32).reshape(3, 4, 5)
STRAIGHT = from_matvec(np.diag([0.8, 0.9, 4.0]), [-10.0, 20.0, 30.0])
OBLIQUE = from_matvec(nib.eulerangles.euler2mat(0.3, -0.2, 0.25) @ np.diag([0.8, 0.9, 4.0]), [-10.0, 20.0, 30.0])


class TestApplyAndUndo:
    @given(orientation=st.sampled_from(ALL_ORIENTATIONS), shape=st.tuples(*[st.integers(1, 5)] * 3))
    def test_undo_inverts_apply_exactly(self, orientation: Orientation, shape: tuple[int, int, int]):
        array = np.arange(np.prod(shape)).reshape(shape)
        np.testing.assert_array_equal(orientation.undo(orientation.apply(array)), array)

    @given(orientation=st.sampled_from(ALL_ORIENTATIONS), shape=st.tuples(*[st.integers(1, 5)] * 3))
    def test_apply_inverts_undo_exactly(self, orientation: Orientation, shape: tuple[int, int, int]):
        array = np.arange(np.prod(shape)).reshape(shape)
        np.testing.assert_array_equal(orientation.apply(orientation.undo(array)), array)

    @pytest.mark.parametrize("affine", [STRAIGHT, OBLIQUE], ids=["straight", "oblique"])
    @pytest.mark.parametrize("orientation", ALL_ORIENTATIONS)
    def test_a_voxel_keeps_its_place_in_the_world(self, orientation: Orientation, affine: np.ndarray):
        display = orientation.apply(PHANTOM)
        display_affine = orientation.affine(affine, PHANTOM.shape)
        for index in np.ndindex(display.shape):
            source_index = np.argwhere(display[index] == PHANTOM)[0]
            slice_, row, column = index
            np.testing.assert_allclose(
                apply_affine(display_affine, [column, row, slice_]), apply_affine(affine, source_index), atol=1e-9
            )

    @pytest.mark.parametrize("orientation", ALL_ORIENTATIONS)
    def test_json_gives_an_equal_orientation(self, orientation: Orientation):
        assert Orientation.from_json(json.loads(json.dumps(orientation.to_json()))) == orientation


class TestDisplay:
    @pytest.mark.parametrize("affine", [STRAIGHT, OBLIQUE], ids=["straight", "oblique"])
    @pytest.mark.parametrize("plane", PLANES)
    @pytest.mark.parametrize("codes", ALL_CODES)
    def test_one_scan_stored_in_any_order_gives_one_display(self, codes: str, plane: str, affine: np.ndarray):
        values, stored_affine = stored_as(codes, PHANTOM, affine)
        orientation = choose_orientation(stored_affine, values.shape, plane)
        reference = choose_orientation(affine, PHANTOM.shape, plane)
        np.testing.assert_array_equal(orientation.apply(values), reference.apply(PHANTOM))
        np.testing.assert_allclose(
            orientation.affine(stored_affine, values.shape), reference.affine(affine, PHANTOM.shape), atol=1e-9
        )

    @pytest.mark.parametrize(
        ("plane", "column", "row", "slice_"),
        [
            # The direction, in RAS+, in which each index grows.
            ("axial", [-1, 0, 0], [0, -1, 0], [0, 0, 1]),
            ("coronal", [-1, 0, 0], [0, 0, -1], [0, -1, 0]),
            ("sagittal", [0, -1, 0], [0, 0, -1], [-1, 0, 0]),
        ],
    )
    def test_a_plane_is_shown_as_radiologists_see_it(self, plane, column, row, slice_):
        affine = choose_orientation(STRAIGHT, PHANTOM.shape, plane).affine(STRAIGHT, PHANTOM.shape)
        directions = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
        np.testing.assert_allclose(directions.T, [column, row, slice_], atol=1e-12)

    def test_the_first_axial_pixel_is_anterior_on_the_patients_right_and_inferior(self):
        first = choose_orientation(STRAIGHT, PHANTOM.shape, "axial").apply(PHANTOM)[0, 0, 0]
        assert first == PHANTOM[-1, -1, 0]


class TestChoosingTheAxis:
    @pytest.mark.parametrize(
        ("spacing", "plane"),
        [
            ((1, 1, 5), "axial"),
            ((1, 5, 1), "coronal"),
            ((5, 1, 1), "sagittal"),
            ((1, 1, 1), "axial"),
            ((1.005, 1.0, 1.0), "axial"),  # within 1 %
            ((3, 3, 1), "coronal"),
            ((3, 1, 3), "axial"),
            ((1.02, 1, 1), "sagittal"),
        ],
    )
    def test_slices_lie_through_the_plane(self, spacing: tuple[float, float, float], plane: str):
        affine = np.diag([*spacing, 1.0])
        assert choose_orientation(affine, (10, 10, 10), None).plane == plane

    def test_a_single_plane_is_one_slice_whatever_its_spacing(self):
        orientation = choose_orientation(np.diag([2.0, 1.0, 1.0, 1.0]), (64, 64, 1), None)
        assert orientation.plane == "axial"
        assert orientation.apply(np.zeros((64, 64, 1))).shape == (1, 64, 64)

    def test_an_oblique_scan_takes_the_nearest_axes(self):
        assert choose_orientation(OBLIQUE, PHANTOM.shape, None).plane == "axial"

    def test_array_axes_are_for_files_without_geometry(self):
        with pytest.raises(UsageError, match="axial, coronal or sagittal"):
            choose_orientation(STRAIGHT, PHANTOM.shape, "0")

    def test_an_unknown_plane_is_refused(self):
        with pytest.raises(UsageError, match="--axis transversal"):
            choose_orientation(STRAIGHT, PHANTOM.shape, "transversal")


class TestWithoutGeometry:
    @pytest.mark.parametrize("axis", [None, "0", "1", "2"])
    def test_slices_are_cut_along_the_chosen_axis_of_the_stored_array(self, axis: str | None):
        stored_zhw = PHANTOM.transpose(2, 1, 0)
        shown = choose_orientation(None, PHANTOM.shape, axis).apply(PHANTOM)
        np.testing.assert_array_equal(shown, np.moveaxis(stored_zhw, int(axis or 0), 0))

    @pytest.mark.parametrize("plane", PLANES)
    def test_anatomical_planes_are_refused_with_the_reason(self, plane: str):
        with pytest.raises(UsageError, match=r"no geometry.*--axis 0"):
            choose_orientation(None, PHANTOM.shape, plane)

    def test_an_unknown_axis_is_refused(self):
        with pytest.raises(UsageError, match="--axis 3"):
            choose_orientation(None, PHANTOM.shape, "3")


class TestSpacing:
    def test_spacing_is_the_norm_of_the_columns(self):
        assert spacing_mm(OBLIQUE) == pytest.approx((0.8, 0.9, 4.0))

    @pytest.mark.parametrize("codes", ["RAS", "PIR", "SRA"])
    def test_display_spacing_is_between_slices_rows_columns(self, codes: str):
        values, affine = stored_as(codes, PHANTOM, STRAIGHT)
        orientation = choose_orientation(affine, values.shape, None)
        assert display_spacing_mm(affine, orientation) == pytest.approx((4.0, 0.9, 0.8))


SHEARED = from_matvec(
    nib.eulerangles.euler2mat(0.3, -0.2, 0.25)
    @ np.diag([0.8, 0.9, 4.0])
    @ np.array([[1, 0, 0.1], [0, 1, -1.2], [0, 0, 1]]),
    [-10.0, 20.0, 30.0],
)


def fit(values: np.ndarray, label_affine, image_shape, image_affine, **choices):
    return fit_label(values, label_affine, image_shape, image_affine, place="seg.nii", **choices)


class TestALabelOnTheSameGrid:
    SHAPE = (10, 20, 30)
    LABEL = np.zeros(SHAPE, np.uint8)

    def moved(self, voxels: float) -> np.ndarray:
        return STRAIGHT @ from_matvec(np.eye(3), [voxels, 0, 0])

    def test_it_is_taken_in_silence_and_without_a_copy(self):
        fitted = fit(self.LABEL, STRAIGHT, self.SHAPE, STRAIGHT.copy())
        assert (fitted.warning, fitted.notes) == (None, ())
        assert np.shares_memory(fitted.values, self.LABEL)

    @given(voxels=st.floats(0, 0.5))
    @settings(max_examples=50)
    def test_silence_warning_and_refusal_follow_the_displacement(self, voxels: float):
        if min(abs(voxels - 0.01), abs(voxels - 0.1)) < 1e-6:
            return  # float noise decides there
        if voxels > 0.1:
            with pytest.raises(GeometryMismatch):
                fit(self.LABEL, self.moved(voxels), self.SHAPE, STRAIGHT)
            return
        fitted = fit(self.LABEL, self.moved(voxels), self.SHAPE, STRAIGHT)
        assert fitted.notes == ()
        if voxels <= 0.01:
            assert fitted.warning is None
        else:
            assert f"seg.nii: the label lies {voxels:.3f} voxel" in fitted.warning

    @pytest.mark.parametrize("voxels", [0.0, 1e-9, 1e-3])
    def test_a_single_slice_has_no_direction_across(self, voxels: float):
        label = np.arange(20, dtype=np.uint8).reshape(4, 5, 1)
        label_affine = OBLIQUE @ from_matvec(np.diag([1, 1, -1]), [voxels, 0, 0])
        fitted = fit(label, label_affine, label.shape, OBLIQUE)
        np.testing.assert_array_equal(fitted.values, label)
        assert (fitted.warning, fitted.notes) == (None, ())

    def test_unknown_geometry_compares_shapes_only(self):
        for label_affine, image_affine in [(None, None), (STRAIGHT, None), (None, STRAIGHT)]:
            assert fit(self.LABEL, label_affine, self.SHAPE, image_affine).values is self.LABEL
            with pytest.raises(GeometryMismatch, match=r"\(10, 20, 30\), its image \(10, 20, 31\).*cropped"):
                fit(self.LABEL, label_affine, (10, 20, 31), image_affine)

    @pytest.mark.parametrize("resample", [False, True])
    def test_permuted_axes_without_geometry_are_called_so(self, resample: bool):
        with pytest.raises(GeometryMismatch, match="permuted"):
            fit(self.LABEL, None, (30, 20, 10), STRAIGHT, resample=resample)


class TestALabelOnTheSameLatticeInAnotherOrder:
    @pytest.mark.parametrize("affine", [STRAIGHT, OBLIQUE, SHEARED], ids=["straight", "oblique", "sheared"])
    @pytest.mark.parametrize("codes", ALL_CODES)
    def test_it_is_reordered_exactly(self, codes: str, affine: np.ndarray):
        image = PHANTOM.astype(np.uint8)
        stored, stored_affine = stored_as(codes, image, affine)
        fitted = fit(stored, stored_affine, image.shape, affine)
        np.testing.assert_array_equal(fitted.values, image)
        assert fitted.warning is None

    def test_a_cube_is_reordered_by_its_affine_and_not_by_its_shape(self):
        image = np.arange(27, dtype=np.uint8).reshape(3, 3, 3)
        stored, stored_affine = stored_as("PIL", image, OBLIQUE)
        np.testing.assert_array_equal(fit(stored, stored_affine, image.shape, OBLIQUE).values, image)

    def test_it_is_noted_with_both_orders(self):
        stored, stored_affine = stored_as("LPS", PHANTOM, STRAIGHT)
        (note,) = fit(stored, stored_affine, PHANTOM.shape, STRAIGHT).notes
        assert "(LPS, the image RAS): reordered" in note

    @pytest.mark.parametrize(("voxels", "warned"), [(0.005, False), (0.05, True)])
    def test_the_same_tolerance_holds(self, voxels: float, warned: bool):
        stored, stored_affine = stored_as("LIP", PHANTOM, STRAIGHT @ from_matvec(np.eye(3), [voxels, 0, 0]))
        fitted = fit(stored, stored_affine, PHANTOM.shape, STRAIGHT)
        np.testing.assert_array_equal(fitted.values, PHANTOM)
        assert (fitted.warning is not None) == warned

    def test_a_flip_of_the_header_alone_is_another_grid(self):
        with pytest.raises(GeometryMismatch, match=r"seg\.nii.*RAS, 0\.8 x 0\.9 x 4 mm.*LAS.*reoriented"):
            fit(PHANTOM, STRAIGHT @ np.diag([-1, 1, 1, 1]), PHANTOM.shape, STRAIGHT)


class TestALabelThatIsCutOut:
    """As 3D Slicer writes segmentations: on the lattice of their image, as large as their segments."""

    IMAGE = (13, 17, 11)
    START, SIZE = np.array([2, 5, 3]), (6, 7, 4)

    def label(self, codes: str | None = None, start: np.ndarray = START) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the label, its affine, and what the image's grid should hold."""
        values = np.random.default_rng(0).integers(0, 4, self.SIZE).astype(np.uint8)
        affine = OBLIQUE @ from_matvec(np.eye(3), start)
        whole = np.zeros(np.array(self.IMAGE) + 20, np.uint8)
        whole[tuple(slice(first, first + size) for first, size in zip(start + 10, self.SIZE, strict=True))] = values
        expected = whole[10:-10, 10:-10, 10:-10]
        stored, stored_affine = (values, affine) if codes is None else stored_as(codes, values, affine)
        return stored, stored_affine, expected

    @pytest.mark.parametrize("codes", [None, "LPS", "SRA", "PIR"])
    def test_it_is_put_in_its_place_exactly(self, codes: str | None):
        values, affine, expected = self.label(codes)
        fitted = fit(values, affine, self.IMAGE, OBLIQUE, may_be_cut_out=True)
        np.testing.assert_array_equal(fitted.values, expected)
        assert fitted.warning is None
        assert "cut out of the image's grid" in fitted.notes[-1]
        assert "13 x 17 x 11" in fitted.notes[-1]

    def test_simpleitk_puts_it_there_too(self):
        values, affine, _ = self.label()
        image, label = itk_image(np.zeros(self.IMAGE, np.uint8), OBLIQUE), itk_image(values, affine)
        theirs = SimpleITK.Resample(label, image, SimpleITK.Transform(), SimpleITK.sitkNearestNeighbor)
        fitted = fit(values, affine, self.IMAGE, OBLIQUE, may_be_cut_out=True)
        np.testing.assert_array_equal(fitted.values, SimpleITK.GetArrayFromImage(theirs).T)

    def test_one_as_large_as_the_image_but_elsewhere_is_moved(self):
        label = np.random.default_rng(0).integers(1, 4, self.IMAGE).astype(np.uint8)
        fitted = fit(label, OBLIQUE @ from_matvec(np.eye(3), [0, -1, 0]), self.IMAGE, OBLIQUE, may_be_cut_out=True)
        np.testing.assert_array_equal(fitted.values[:, :-1], label[:, 1:])
        assert not fitted.values[:, -1].any()

    def test_what_lies_outside_the_image_is_left_out_and_counted(self):
        values, affine, expected = self.label(start=np.array([-2, 5, 9]))
        fitted = fit(values, affine, self.IMAGE, OBLIQUE, may_be_cut_out=True)
        np.testing.assert_array_equal(fitted.values, expected)
        lost = np.count_nonzero(values) - np.count_nonzero(expected)
        assert fitted.warning == f"seg.nii: {lost} labelled voxel(s) lie outside its image and are left out"

    @pytest.mark.parametrize(("voxels", "warned"), [(0.005, False), (0.05, True)])
    def test_the_same_tolerance_holds(self, voxels: float, warned: bool):
        values, affine, expected = self.label()
        shifted = affine @ from_matvec(np.eye(3), [voxels, 0, 0])
        fitted = fit(values, shifted, self.IMAGE, OBLIQUE, may_be_cut_out=True)
        np.testing.assert_array_equal(fitted.values, expected)
        assert ("0.050 voxel from its image" in (fitted.warning or "")) is warned

    @pytest.mark.parametrize(
        "moved",
        [
            from_matvec(np.eye(3), [2.5, 5, 3]),
            from_matvec(np.eye(3), [-20, 5, 3]),
            from_matvec(np.diag([1.05, 1, 1]), [2, 5, 3]),
            from_matvec(nib.eulerangles.euler2mat(0.05), [2, 5, 3]),
        ],
        ids=["between voxels", "beside the image", "of another spacing", "turned"],
    )
    def test_one_on_another_lattice_is_refused(self, moved: np.ndarray):
        with pytest.raises(GeometryMismatch, match="--resample-labels"):
            fit(self.label()[0], OBLIQUE @ moved, self.IMAGE, OBLIQUE, may_be_cut_out=True)

    def test_other_kinds_of_files_mean_the_whole_grid_and_are_refused(self):
        # A NIfTI of another size was as a rule drawn on another image.
        values, affine, _ = self.label()
        with pytest.raises(GeometryMismatch, match=r"cropped copy"):
            fit(values, affine, self.IMAGE, OBLIQUE)

    def test_an_image_of_one_slice_may_be_larger_too(self):
        values = np.ones((3, 2, 1), np.uint8)
        affine = OBLIQUE @ from_matvec(np.eye(3), [1, 2, 0])
        fitted = fit(values, affine, (9, 8, 1), OBLIQUE, may_be_cut_out=True)
        assert fitted.values[1:4, 2:4].all()
        assert np.count_nonzero(fitted.values) == 6


class TestALabelOnAnotherGrid:
    SHAPE = (10, 20, 30)

    def test_a_scale_error_is_measured_at_the_far_corner(self):
        stretched = STRAIGHT @ np.diag([1, 1, 1.01, 1])
        with pytest.raises(GeometryMismatch, match=r"0\.29 voxels"):  # 29 steps of 0.01
            fit(np.zeros(self.SHAPE, np.uint8), stretched, self.SHAPE, STRAIGHT)

    def test_another_shape_is_refused_with_both_and_the_flag(self):
        with pytest.raises(
            GeometryMismatch, match=r"\(10, 20, 30\).*\(10, 20, 31\).*cropped.*--resample-labels \(nearest"
        ):
            fit(np.zeros((10, 20, 31), np.uint8), STRAIGHT, self.SHAPE, STRAIGHT)


@pytest.mark.shared
class TestRealLabels:
    @pytest.mark.parametrize(
        ("image", "label"),
        [
            ("totalseg/example_ct_sm.nii.gz", "totalseg/example_seg.nii.gz"),
            ("totalseg/example_mr_sm.nii.gz", "totalseg/example_seg_mr.nii.gz"),
            ("sct/t1w.nii.gz", "sct/t1w_seg-manual.nii.gz"),
        ],
    )
    def test_a_label_lies_on_its_image(self, shared_data: Path, image: str, label: str):
        scan, drawn = read_nifti_image(shared_data / image), read_nifti_label(shared_data / label)
        fitted = fit(drawn.values, drawn.affine, scan.grid.shape, scan.affine)
        assert (fitted.warning, fitted.notes) == (None, ())

    @pytest.mark.parametrize("codes", ["RAS", "LPI", "SAL"])
    def test_a_spleen_is_found_in_whatever_order_it_is_stored(self, shared_data: Path, codes: str):
        scan = read_nifti_image(shared_data / "spleen/sub-spleen2/ct/sub-spleen2_ct.nii.gz")
        (path,) = (shared_data / "spleen" / "derivatives").rglob("*.nii.gz")
        label = nib.load(path)
        stored, affine = stored_as(codes, np.asarray(label.dataobj), label.affine)
        fitted = fit(whole_labels(stored, place="seg.nii"), affine, scan.grid.shape, scan.affine)
        assert scan.values[fitted.values == 1].mean() == pytest.approx(85.6, abs=0.05)  # 29.9 where z is reversed


def blobs(shape: tuple[int, int, int]) -> np.ndarray:
    """Three classes that touch, and no symmetry."""
    i, j, k = np.indices(shape)
    values = ((i / shape[0] + 2 * j / shape[1] + k / shape[2]) * 2).astype(np.uint8) % 4
    values[: shape[0] // 3, :, shape[2] // 2 :] = 0
    return np.asfortranarray(values)


def nearest(values: np.ndarray, label_affine: np.ndarray, shape: tuple[int, ...], affine: np.ndarray) -> np.ndarray:
    """The definition, voxel by voxel."""
    indices = np.moveaxis(np.indices(shape), 0, -1)
    at = np.floor(apply_affine(np.linalg.inv(label_affine) @ affine, indices) + 0.5).astype(int)
    inside = ((at >= 0) & (at < values.shape)).all(axis=-1)
    result = np.zeros(shape, values.dtype)
    result[inside] = values[tuple(at[inside].T)]
    return result


def itk_image(values: np.ndarray, affine: np.ndarray) -> SimpleITK.Image:
    image = SimpleITK.GetImageFromArray(values.T)
    lps = np.diag([-1.0, -1, 1, 1]) @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    return image


class TestResamplingALabel:
    LABEL = blobs((14, 17, 12))
    SHAPE = (20, 15, 11)
    # Another spacing, another direction, another origin; the two overlap in part.
    TURNED = from_matvec(
        nib.eulerangles.euler2mat(-0.11, 0.07, 0.05) @ np.diag([0.63, 1.17, 3.1]), [-8.37, 18.21, 33.3]
    )
    TILTED = TURNED @ np.array([[1, 0, 0, 0], [0, 1, 0.71, 0], [0, 0, 1, 0], [0, 0, 0, 1]])

    @pytest.mark.parametrize("image_affine", [TURNED, TILTED], ids=["straight", "tilted"])
    @pytest.mark.parametrize("label_affine", [OBLIQUE, SHEARED], ids=["straight", "sheared"])
    def test_each_voxel_has_the_label_of_the_nearest(self, image_affine: np.ndarray, label_affine: np.ndarray):
        fitted = fit(self.LABEL, label_affine, self.SHAPE, image_affine, resample=True)
        expected = nearest(self.LABEL, label_affine, self.SHAPE, image_affine)
        assert 200 < np.count_nonzero(expected) < expected.size
        np.testing.assert_array_equal(fitted.values, expected)
        assert fitted.values.dtype == np.uint8

    @pytest.mark.parametrize("image_affine", [TURNED, TILTED], ids=["straight", "tilted"])
    def test_simpleitk_finds_the_same(self, image_affine: np.ndarray):
        fitted = fit(self.LABEL, OBLIQUE, self.SHAPE, image_affine, resample=True)
        reference = itk_image(np.zeros(self.SHAPE, np.uint8), image_affine)
        resampled = SimpleITK.Resample(
            itk_image(self.LABEL, OBLIQUE), reference, SimpleITK.Transform(), SimpleITK.sitkNearestNeighbor
        )
        np.testing.assert_array_equal(fitted.values, SimpleITK.GetArrayFromImage(resampled).T)

    def test_a_crop_is_put_back_where_it_was(self):
        crop = self.LABEL[3:9, 5:16, 2:7]
        crop_affine = OBLIQUE @ from_matvec(np.eye(3), [3, 5, 2])
        fitted = fit(crop, crop_affine, self.LABEL.shape, OBLIQUE, resample=True)
        expected = np.zeros_like(self.LABEL)
        expected[3:9, 5:16, 2:7] = crop
        np.testing.assert_array_equal(fitted.values, expected)

    def test_a_voxel_reaches_half_its_width_also_at_the_edge(self):
        image_affine = STRAIGHT @ np.diag([0.25, 1, 1, 1]) @ from_matvec(np.eye(3), [-1, 0, 0])
        fitted = fit(np.ones((1, 1, 1), np.uint8), STRAIGHT, (7, 1, 1), image_affine, resample=True)
        assert fitted.values.ravel().tolist() == [1, 1, 1, 0, 0, 0, 0]  # from -0.25 to 0.25; 0.5 is the next one's

    @given(noise=st.lists(st.floats(-1e-5, 1e-5), min_size=12, max_size=12))
    @settings(max_examples=30, deadline=None)
    def test_noise_in_a_header_does_not_decide_between_two_neighbours(self, noise: list[float]):
        shape = (27, 33, 23)  # half the spacing: every other voxel lies in the middle between two
        fine = OBLIQUE @ np.diag([0.5, 0.5, 0.5, 1])
        still = fit(self.LABEL, OBLIQUE, shape, fine, resample=True).values
        shaken = fine.copy()
        shaken[:3] += np.reshape(noise, (3, 4)) * 0.1
        np.testing.assert_array_equal(fit(self.LABEL, OBLIQUE, shape, shaken, resample=True).values, still)

    def test_it_is_noted_how_far_it_was_and_what_is_kept(self):
        label = np.zeros((10, 10, 10), np.uint8)
        label[2:6] = 1
        coarse = STRAIGHT @ np.diag([2, 1, 1, 1])
        (note,) = fit(label, STRAIGHT, (5, 10, 10), coarse, resample=True).notes
        assert "0.5 voxels away at the farthest corner" in note  # 9 of its voxels are 4.5, the image's last is 4
        assert "400 labelled voxels became 200, 100 % of the labelled volume" in note

    def test_a_label_between_the_corners_of_its_image_is_not_said_to_lie_away(self):
        label = np.ones((19, 19, 19), np.uint8)
        fine = STRAIGHT @ np.diag([0.5, 0.5, 0.5, 1])
        with pytest.raises(GeometryMismatch, match="has other voxels than its image, between the same corners"):
            fit(label, fine, (10, 10, 10), STRAIGHT)
        (note,) = fit(label, fine, (10, 10, 10), STRAIGHT, resample=True).notes
        assert "by nearest neighbour: it had other voxels between the same corners; 6859 labelled voxels" in note

    def test_a_class_that_is_gone_is_warned_of(self):
        label = np.ones((10, 10, 10), np.uint8)
        label[9] = 2
        fitted = fit(label, STRAIGHT, (5, 10, 10), STRAIGHT, resample=True)
        assert fitted.warning == "seg.nii: nothing is left of class 2 after its label was resampled"
        assert "1000 labelled voxels became 500, 50 % " in fitted.notes[0]

    def test_an_empty_label_stays_empty(self):
        fitted = fit(np.zeros((4, 4, 4), np.uint8), STRAIGHT, (5, 5, 5), STRAIGHT, resample=True)
        assert not fitted.values.any()
        assert (fitted.warning, "is empty" in fitted.notes[0]) == (None, True)

    def test_a_label_that_fits_is_not_resampled(self):
        fitted = fit(self.LABEL, OBLIQUE, self.LABEL.shape, OBLIQUE, resample=True)
        assert fitted.values.base is self.LABEL or fitted.values is self.LABEL
        assert fitted.notes == ()

    def test_what_has_no_geometry_cannot_be_resampled(self):
        with pytest.raises(GeometryMismatch, match="--resample-labels cannot help"):
            fit(self.LABEL, None, self.SHAPE, STRAIGHT, resample=True)

    def test_no_more_memory_is_taken_than_the_result(self):
        shape = (128, 128, 100)
        label, affine = np.asfortranarray(np.zeros(shape, np.uint8)), OBLIQUE @ from_matvec(np.eye(3) * 1.1, [1, 2, 3])
        fit(label[:4, :4, :4], OBLIQUE, (4, 4, 4), affine, resample=True)
        tracemalloc.start()
        try:
            fit(label, OBLIQUE, shape, affine, resample=True)
            assert tracemalloc.get_traced_memory()[1] < 1.3 * label.size
        finally:
            tracemalloc.stop()


def tilted(degrees: float, spacing: tuple[float, float, float] = (0.8, 0.9, 4.0), *, axis: int = 1) -> np.ndarray:
    """An oblique stack whose slices are shifted along their rows or columns, as by a tilted gantry."""
    shear = np.eye(3)
    shear[axis, 2] = np.tan(np.radians(degrees)) * spacing[2] / spacing[axis]
    return from_matvec(nib.eulerangles.euler2mat(0.3, -0.2, 0.25) @ np.diag(spacing) @ shear, [-10.0, 20.0, 30.0])


class TestShear:
    SHAPE = (64, 64, 31)

    @pytest.mark.parametrize("degrees", [0.0, 0.5, -15.5, 30.0])
    def test_it_is_the_tangent_of_the_tilt_times_the_length_of_the_stack(self, degrees: float):
        expected = abs(np.tan(np.radians(degrees))) * 30 * 4.0
        assert shear_mm(tilted(degrees), self.SHAPE) == pytest.approx(expected, abs=1e-9)

    @pytest.mark.parametrize("codes", ["RAS", "LPS", "PIR"])
    def test_a_straight_grid_has_none_however_it_lies(self, codes: str):
        values, affine = stored_as(codes, PHANTOM, OBLIQUE)
        assert shear_mm(affine, values.shape) == pytest.approx(0, abs=1e-12)
        assert not is_sheared(affine, values.shape)

    @pytest.mark.parametrize("degrees", [-30.0, 5.0, 25.0])
    def test_the_spacing_of_a_tilted_gantry_makes_the_volume_of_a_voxel(self, degrees: float):
        affine = tilted(degrees)
        spacing = display_spacing_mm(affine, choose_orientation(affine, (20, 20, 10), "axial"))
        assert np.prod(spacing) == pytest.approx(abs(np.linalg.det(affine[:3, :3])))

    @pytest.mark.parametrize("degrees", [-15.5, 14.0, 1.0])
    @pytest.mark.parametrize("axis", [0, 1])
    def test_a_tilted_gantry_is_sheared_whichever_way_it_tilts(self, degrees: float, axis: int):
        assert is_sheared(tilted(degrees, axis=axis), self.SHAPE)

    def test_axes_that_are_not_at_right_angles_within_a_slice_are_sheared_too(self):
        skewed = STRAIGHT @ from_matvec(np.array([[1, 0.05, 0], [0, 1, 0], [0, 0, 1]]), [0, 0, 0])
        assert is_sheared(skewed, self.SHAPE)

    def test_positions_rounded_to_a_hundredth_of_a_millimetre_are_straight(self):
        affine = tilted(0)
        affine[:3, 2] = (np.round(affine[:3, 2] * 30 + affine[:3, 3], 2) - np.round(affine[:3, 3], 2)) / 30
        assert shear_mm(affine, self.SHAPE) > 0
        assert not is_sheared(affine, self.SHAPE)

    @given(degrees=st.floats(-1.0, 1.0), axis=st.integers(0, 1))
    @settings(max_examples=60, deadline=None)
    def test_what_is_straight_is_opened_by_simpleitk_in_its_place(self, tmp_path_factory, degrees: float, axis: int):
        affine = tilted(degrees, axis=axis)
        path = tmp_path_factory.mktemp("shear") / "m.nii"
        write_label_nifti(path, np.zeros(self.SHAPE, np.uint8), grid_of_affine(self.SHAPE, affine))
        if is_sheared(affine, self.SHAPE):
            with pytest.raises(RuntimeError, match="orthonormal"):
                SimpleITK.ReadImage(path)
            return
        image = SimpleITK.ReadImage(path)
        for corner in product(*((0, size - 1) for size in self.SHAPE)):
            seen = np.array([-1, -1, 1]) * image.TransformIndexToPhysicalPoint(corner)
            away = np.linalg.inv(affine[:3, :3]) @ (seen - apply_affine(affine, corner))
            assert np.linalg.norm(away) < 0.1 + 1e-4  # float32 headers

    @pytest.mark.shared
    @pytest.mark.parametrize(
        "name", ["spleen/sub-spleen2/ct/sub-spleen2_ct.nii.gz", "sct/t1w.nii.gz", "totalseg/example_mr_sm.nii.gz"]
    )
    def test_real_scans_are_straight(self, shared_data: Path, name: str):
        image = nib.load(shared_data / name)
        assert not is_sheared(image.affine, image.shape)
