"""Order and place of slices, decided from numbers alone."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from samkit.stages.readers.slice_stack import SliceHeader, stack
from samkit.store.errors import UnreadableFile


def slices(*positions_mm: tuple[float, float, float], orientation=(1, 0, 0, 0, 1, 0)) -> list[SliceHeader]:
    return [
        SliceHeader(
            place=f"instance {k + 1}",
            position_mm=position,
            orientation=orientation,
            spacing_mm=(0.9, 0.8),
            between_slices_mm=2.0,
        )
        for k, position in enumerate(positions_mm)
    ]


@given(st.permutations(range(6)), st.floats(0.1, 20), st.floats(-1000, 1000))
def test_any_order_of_files_gives_one_affine(order: list[int], between_mm: float, start_mm: float):
    straight = slices(*((1.0, 2.0, start_mm + k * between_mm) for k in range(6)))
    shuffled = stack([straight[k] for k in order])
    assert shuffled.affine == stack(straight).affine
    assert [order[index] for index in shuffled.order] == list(range(6))
    assert shuffled.affine[2][2] == pytest.approx(between_mm)


def test_columns_rows_and_slices_point_where_dicom_says():
    affine = np.array(stack(slices((1, 2, 3), (1, 2, 7))).affine)
    # LPS+ to RAS+: x and y change sign; PixelSpacing is (between rows, between columns).
    np.testing.assert_allclose(affine, [[-0.8, 0, 0, -1], [0, -0.9, 0, -2], [0, 0, 4, 3], [0, 0, 0, 1]])


def test_the_distance_is_the_mean_between_first_and_last():
    affine = stack(slices((0, 0, 0), (0, 0, 2.001), (0, 0, 4.0))).affine
    assert affine[2][2] == 2.0


def test_a_single_slice_takes_its_thickness():
    assert stack(slices((0, 0, 5))).affine[2][2] == 2.0


def test_slices_that_run_down_are_turned_round():
    assert stack(slices((0, 0, 4), (0, 0, 2), (0, 0, 0))).order == (2, 1, 0)


@given(st.floats(0, 0.5))
def test_shear_is_refused_beyond_a_tenth_of_a_voxel(shear_mm: float):
    if abs(shear_mm - 0.08) < 1e-6:
        return  # float noise decides there: 0.1 voxel of 0.8 mm
    sheared = slices((0, 0, 0), (shear_mm / 2, 0, 5), (shear_mm, 0, 10))
    if shear_mm > 0.08:
        with pytest.raises(UnreadableFile, match="not stacked at right angles"):
            stack(sheared)
    else:
        assert stack(sheared).affine[0][2] == pytest.approx(-shear_mm / 2)


def test_directions_that_are_not_at_right_angles_are_refused():
    with pytest.raises(UnreadableFile, match="not two unit vectors"):
        stack(slices((0, 0, 0), (0, 0, 1), orientation=(1, 0, 0, 0.6, 0.8, 0)))


def test_rounded_cosines_are_no_tilt():
    # Four decimals, as some vendors write them: an arccos of the scalar product would report half a degree.
    oblique = np.array([[0.6088, 0.7907, 0.0637], [-0.1428, 0.1882, -0.9717]])
    normal = np.cross(oblique[0], oblique[1])
    positions = [tuple(normal / np.linalg.norm(normal) * 5.0 * k) for k in range(20)]
    assert len(stack(slices(*positions, orientation=tuple(oblique.ravel()))).order) == 20
