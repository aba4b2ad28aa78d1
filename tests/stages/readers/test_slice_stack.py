"""Order and place of slices, decided from numbers alone."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from samkit.stages.readers.slice_stack import DoubledPositionsError, SliceHeader, clusters, same_position_mm, stack
from samkit.store.errors import UnreadableFile


def slices(
    *positions_mm: tuple[float, ...], orientation=(1, 0, 0, 0, 1, 0), spacing_mm: tuple[float, float] = (0.9, 0.8)
) -> list[SliceHeader]:
    return [
        SliceHeader(
            place=f"slice {k + 1}",
            position_mm=position,
            orientation=orientation,
            spacing_mm=spacing_mm,
            between_slices_mm=2.0,
        )
        for k, position in enumerate(positions_mm)
    ]


def at(*heights_mm: float, **options) -> list[SliceHeader]:
    return slices(*((0.0, 0.0, float(z)) for z in heights_mm), **options)


class TestOrderAndPlace:
    @given(st.permutations(range(6)), st.floats(0.1, 20), st.floats(-1000, 1000))
    def test_any_order_of_files_gives_one_affine(self, order: list[int], between_mm: float, start_mm: float):
        straight = slices(*((1.0, 2.0, start_mm + k * between_mm) for k in range(6)))
        shuffled = stack([straight[k] for k in order])
        assert shuffled.affine == stack(straight).affine
        assert [order[index] for index in shuffled.order] == list(range(6))
        assert shuffled.affine[2][2] == pytest.approx(between_mm)

    def test_columns_rows_and_slices_point_where_dicom_says(self):
        affine = np.array(stack(slices((1, 2, 3), (1, 2, 7))).affine)
        # LPS+ to RAS+: x and y change sign; PixelSpacing is (between rows, between columns).
        np.testing.assert_allclose(affine, [[-0.8, 0, 0, -1], [0, -0.9, 0, -2], [0, 0, 4, 3], [0, 0, 0, 1]])

    def test_the_distance_is_the_mean_between_first_and_last(self):
        assert stack(at(0, 2.001, 4)).affine[2][2] == 2.0

    def test_a_single_slice_takes_its_thickness(self):
        assert stack(at(5)).affine[2][2] == 2.0

    def test_slices_that_run_down_are_turned_round(self):
        assert stack(at(4, 2, 0)).order == (2, 1, 0)

    def test_rounded_cosines_are_no_tilt(self):
        # Four decimals, as some vendors write them: an arccos of the scalar product would report half a degree.
        oblique = np.array([[0.6088, 0.7907, 0.0637], [-0.1428, 0.1882, -0.9717]])
        normal = np.cross(oblique[0], oblique[1])
        positions = [tuple(normal / np.linalg.norm(normal) * 5.0 * k) for k in range(20)]
        assert stack(slices(*positions, orientation=tuple(oblique.ravel()))).notes == ()

    def test_directions_are_made_as_long_as_spacing_says(self):
        affine = np.array(stack(slices((0, 0, 0), (0, 0, 4), orientation=(0.992, 0, 0, 0, 1.006, 0))).affine)
        np.testing.assert_allclose(np.linalg.norm(affine[:3, :3], axis=0), [0.8, 0.9, 4])

    @pytest.mark.parametrize("length", [0.98, 1.02])
    def test_directions_that_are_far_from_unit_length_are_refused(self, length: float):
        one, other = slices((0, 0, 0)), slices((0, 0, 4), orientation=(1, 0, 0, 0, length, 0))
        with pytest.raises(UnreadableFile, match="not two unit vectors"):
            stack([*one, *other])

    def test_directions_that_are_not_at_right_angles_are_refused(self):
        with pytest.raises(UnreadableFile, match="not two unit vectors"):
            stack(slices((0, 0, 0), (0, 0, 1), orientation=(1, 0, 0, 0.6, 0.8, 0)))


def turning(matrix: tuple[int, int], last_radians: float) -> list[SliceHeader]:
    """Five slices, each turned a little more in its plane."""
    turns = np.linspace(0, last_radians, 5)
    return [
        SliceHeader(
            place=f"slice {k + 1}",
            position_mm=(0, 0, 4.0 * k),
            orientation=(np.cos(turn), np.sin(turn), 0, -np.sin(turn), np.cos(turn), 0),
            spacing_mm=(0.9, 0.8),
            matrix=matrix,
        )
        for k, turn in enumerate(turns)
    ]


class TestTurns:
    def test_orientations_that_drift_within_a_voxel_are_taken_with_that_of_the_middle(self):
        drifting = stack(turning((64, 64), 0.004))
        assert drifting.affine[1][0] == pytest.approx(-0.8 * np.sin(0.002))
        (note,) = drifting.notes
        assert "0.11 degrees" in note
        assert "0.19 voxels" in note

    def test_those_that_move_a_corner_by_half_a_voxel_are_refused_with_numbers(self):
        with pytest.raises(UnreadableFile, match=r"1\.5 voxels at a corner \(0\.5 is taken\)") as refused:
            stack(turning((512, 512), 0.004))
        assert "localizer" not in str(refused.value)

    def test_rows_and_columns_are_not_mistaken_for_each_other(self):
        with pytest.raises(UnreadableFile, match="voxels at a corner"):
            stack(turning((512, 1), 0.004))
        assert "0.26 voxels" not in stack(turning((1, 64), 0.004)).notes[0]


class TestTilt:
    @given(st.floats(0, 100))
    def test_a_tilt_is_kept_in_the_affine_whatever_its_size(self, shear_mm: float):
        tilted = stack(slices((0, 0, 0), (shear_mm / 2, 0, 5), (shear_mm, 0, 10)))
        np.testing.assert_allclose(np.array(tilted.affine)[:3, 2], [-shear_mm / 2, 0, 5], atol=1e-9)

    @pytest.mark.parametrize(("shear_mm", "noted"), [(0.079, False), (0.081, True), (-3.0, True)])
    def test_it_is_told_from_a_tenth_of_a_voxel_on(self, shear_mm: float, noted: bool):
        assert bool(stack(slices((0, 0, 0), (shear_mm, 0, 10))).notes) is noted

    def test_it_is_told_in_degrees_and_in_millimetres_at_the_last_slice(self):
        (note,) = stack(slices((0, 0, 0), (0, 2.5, 10), (0, 5, 20))).notes
        assert "14 degrees" in note
        assert "5 mm" in note
        assert "20 mm" in note

    def test_one_slice_beside_the_line_is_refused_with_its_distance(self):
        with pytest.raises(UnreadableFile, match=r"slice 2 lies 2 mm \(2\.5 voxels"):
            stack(slices((0, 0, 0), (2, 0, 5), (0, 0, 10)))

    def test_rounding_of_positions_to_a_decimal_is_not_beside_the_line(self):
        fine = (0.3, 0.3)  # 0.05 mm of rounding is a sixth of such a voxel
        assert stack(slices((0, 0, 0), (0.05, 0, 5), (0, 0, 10), spacing_mm=fine)).notes == ()

    def test_but_half_a_voxel_is_however_small_voxels_are(self):
        with pytest.raises(UnreadableFile, match="beside the line"):
            stack(slices((0, 0, 0), (0.05, 0, 0.5), (0, 0, 1), spacing_mm=(0.08, 0.08)))


class TestDistances:
    @given(st.integers(3, 40), st.data())
    def test_a_missing_slice_is_found_wherever_it_is(self, count: int, data: st.DataObject):
        missing = data.draw(st.integers(1, count - 1))
        there = [k for k in range(count + 1) if k != missing]
        if count == 3 or len(there) == 3:
            return  # of two distances nobody knows which one is right
        with pytest.raises(UnreadableFile, match="not evenly spaced"):
            stack(at(*(2.5 * k for k in there)))

    def test_a_gap_is_told_with_its_size_and_the_slice_before_it(self):
        with pytest.raises(
            UnreadableFile, match=r"after slice 2 .* at 7\.5 mm.*median distance is 2\.5 mm \(5 slices\)"
        ):
            stack(at(0, 2.5, 10, 12.5, 15))

    def test_all_gaps_are_counted_and_the_widest_is_named(self):
        with pytest.raises(UnreadableFile, match=r"after slice 4 .* 3 slice\(s\) are probably missing in 2 gaps"):
            stack(at(0, 2, 6, 8, 14, 16, 18))

    def test_a_slice_far_from_the_others_is_not_called_many_missing_ones(self):
        with pytest.raises(UnreadableFile, match="far from the rest"):
            stack(at(0, 1.25, 2.5, 202.5))

    def test_of_two_distances_the_smaller_one_is_that_of_the_slices(self):
        with pytest.raises(
            UnreadableFile, match=r"at 4 mm, where the smallest distance is 2 mm.* 1 slice\(s\) are prob"
        ):
            stack(at(0, 2, 6))

    @pytest.mark.parametrize("volumes", [2, 3])
    def test_volumes_that_are_moved_against_each_other_are_told_as_such(self, volumes: int):
        with pytest.raises(UnreadableFile, match=r"volumes moved by 0\.02 mm against each other lie in one series"):
            stack(at(*(2 * k + 0.02 * n for k in range(5) for n in range(volumes))))

    def test_gaps_of_one_width_are_not_taken_for_that(self):
        with pytest.raises(UnreadableFile, match="probably missing"):
            stack(at(0, 1, 2, 3, 23, 24, 44, 45, 46))

    def test_varying_distances_are_told_as_such(self):
        with pytest.raises(UnreadableFile, match="The distances vary"):
            stack(at(0, 2.5, 5, 8.5, 10.25, 12.75))

    @pytest.mark.parametrize(("off_mm", "noted"), [(0.009, False), (0.1, True)])
    def test_deviations_within_five_percent_are_taken_and_large_ones_noted(self, off_mm: float, noted: bool):
        assert bool(stack(at(0, 4 + off_mm, 8, 12)).notes) is noted

    def test_positions_rounded_to_a_decimal_are_taken_with_a_note(self):
        heights = np.round(np.arange(30) * 0.625, 1)  # distances of 0.6 and 0.7: more than 5 % apart
        (note,) = stack(at(*heights)).notes
        assert "0.1 mm" in note

    def test_small_deviations_that_add_up_to_half_a_slice_are_refused(self):
        steps = np.concatenate([np.full(50, 1.0), np.full(50, 1.04)])
        with pytest.raises(UnreadableFile, match=r"drift from 1 to 1\.04 mm.*slice 51 lies 1 mm from where"):
            stack(at(0, *np.cumsum(steps)))

    def test_two_slices_at_one_position_are_refused(self):
        with pytest.raises(DoubledPositionsError, match=r"3 slices lie at 2 position\(s\); slice 2 and slice 3"):
            stack(at(0, 4, 4))

    def test_a_micro_ct_has_slices_nearer_than_a_hundredth_of_a_millimetre(self):
        fine = at(*(0.006 * k for k in range(9)), spacing_mm=(0.006, 0.006))
        assert stack(fine).affine[2][2] == pytest.approx(0.006)
        assert same_position_mm((0.006, 0.006)) < 0.006

    def test_several_orientations_are_refused(self):
        two = [*at(0, 1), *slices((0, 0, 2), orientation=(0, 1, 0, 0, 0, -1))]
        with pytest.raises(UnreadableFile, match=r"several orientations: slice 1 .* slice 1"):
            stack(two)


class TestClusters:
    @given(st.lists(st.tuples(st.floats(-2, 2), st.floats(-2, 2), st.floats(-0.1, 0.1)), max_size=40))
    def test_they_are_what_comparing_each_with_each_first_one_gives(self, vectors):
        expected: list[list[int]] = []
        for index, vector in enumerate(vectors):
            near = [
                group
                for group in expected
                if all(abs(a - b) <= 1 for a, b in zip(vectors[group[0]], vector, strict=True))
            ]
            if near:
                near[0].append(index)
            else:
                expected.append([index])
        assert clusters(vectors) == expected

    def test_vectors_of_nothing_are_all_alike(self):
        assert clusters([(), (), ()]) == [[0, 1, 2]]

    @pytest.mark.parametrize(
        ("place", "comparisons_a_vector"),
        [
            (lambda n: (0.0, 0.0, 3.0 * n), 4),
            (lambda n: (3.0 * n, -3.0 * n, 0.0), 4),
            (lambda n: (0.0, 3.0 * (n % 100), 3.0 * (n // 100)), 200),
        ],
        ids=["a line", "a diagonal", "a plane of tiles"],
    )
    def test_ten_thousand_places_are_not_all_compared_with_each_other(self, place, comparisons_a_vector: int):
        made = 0

        class Counted(float):
            def __sub__(self, other: float) -> float:
                nonlocal made
                made += 1
                return float(self) - other

        assert len(clusters([tuple(map(Counted, place(n))) for n in range(10_000)])) == 10_000
        assert made <= comparisons_a_vector * 10_000
