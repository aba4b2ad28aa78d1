"""Display orientation: exactly invertible, at the same place in the world, and the same however a scan is stored."""

from __future__ import annotations

import json
from itertools import permutations, product

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nibabel.affines import apply_affine, from_matvec
from nibabel.orientations import apply_orientation, axcodes2ornt, inv_ornt_aff, io_orientation, ornt_transform

from samkit.stages.readers.geometry import (
    Orientation,
    choose_orientation,
    compare_grids,
    display_spacing_mm,
    spacing_mm,
)
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


class TestFit:
    SHAPE = (10, 20, 30)

    def moved(self, voxels: float) -> np.ndarray:
        return STRAIGHT @ from_matvec(np.eye(3), [voxels, 0, 0])

    def test_the_same_grid_fits_in_silence(self):
        fit = compare_grids(self.SHAPE, STRAIGHT, self.SHAPE, STRAIGHT.copy())
        assert (fit.displacement_voxels, fit.warning) == (pytest.approx(0, abs=1e-9), None)

    @given(voxels=st.floats(0, 0.5))
    @settings(max_examples=50)
    def test_silence_warning_and_refusal_follow_the_displacement(self, voxels: float):
        if min(abs(voxels - 0.01), abs(voxels - 0.1)) < 1e-6:
            return  # float noise decides there
        if voxels > 0.1:
            with pytest.raises(GeometryMismatch):
                compare_grids(self.SHAPE, STRAIGHT, self.SHAPE, self.moved(voxels))
            return
        fit = compare_grids(self.SHAPE, STRAIGHT, self.SHAPE, self.moved(voxels))
        assert fit.displacement_voxels == pytest.approx(voxels, abs=1e-9)
        assert (fit.warning is not None) == (voxels > 0.01)

    def test_a_scale_error_is_measured_at_the_far_corner(self):
        stretched = STRAIGHT @ np.diag([1, 1, 1.01, 1])
        with pytest.raises(GeometryMismatch, match=r"0\.29 voxels"):  # 29 steps of 0.01
            compare_grids(self.SHAPE, STRAIGHT, self.SHAPE, stretched)

    def test_a_refusal_has_both_grids_and_the_cause(self):
        flipped = STRAIGHT @ np.diag([-1, 1, 1, 1])
        with pytest.raises(GeometryMismatch, match=r"seg\.nii.*RAS, 0\.8 x 0\.9 x 4 mm.*LAS.*reoriented"):
            compare_grids(self.SHAPE, STRAIGHT, self.SHAPE, flipped, place="seg.nii")

    def test_another_shape_is_refused_with_both(self):
        with pytest.raises(GeometryMismatch, match=r"\(10, 20, 31\).*\(10, 20, 30\).*cropped"):
            compare_grids(self.SHAPE, STRAIGHT, (10, 20, 31), STRAIGHT)

    def test_permuted_axes_are_called_so(self):
        with pytest.raises(GeometryMismatch, match="permuted"):
            compare_grids(self.SHAPE, STRAIGHT, (30, 20, 10), STRAIGHT)

    def test_unknown_geometry_compares_shapes_only(self):
        assert compare_grids(self.SHAPE, None, self.SHAPE, STRAIGHT).displacement_voxels is None
        with pytest.raises(GeometryMismatch):
            compare_grids(self.SHAPE, None, (10, 20, 31), None)
