"""What the values of a volume are like, read in blocks: exactly what numpy says of the whole, in little memory."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from samkit.stages.readers import histogram
from samkit.stages.readers.histogram import BLOCK_VOXELS, Measured, blocks_of, is_padding

RNG = np.random.default_rng(0)
KINDS = ("int8", "uint8", "int16", "uint16", "int32", "uint32", "float16", "float32", "float64")
PERCENTS = (0.0, 0.5, 25.0, 50.0, 99.5, 100.0)


def numpys(values: np.ndarray, percents: tuple[float, ...] = PERCENTS) -> list[float]:
    return np.percentile(values.astype(np.float64), list(percents)).tolist()


def any_values(kind: str) -> st.SearchStrategy[np.ndarray]:
    """Arrays with heavy ties (few values, repeated) and outliers (the ends of the type)."""
    dtype = np.dtype(kind)
    limits = np.finfo(dtype) if dtype.kind == "f" else np.iinfo(dtype)
    # Half the largest float: the difference of two values must not overflow float64, in numpy's formula either.
    ends = (float(limits.min) / 2, float(limits.max) / 2) if dtype.kind == "f" else (limits.min, limits.max)
    elements = st.one_of(
        arrays.from_dtype(dtype, allow_nan=False, allow_infinity=False, min_value=ends[0], max_value=ends[1]),
        st.sampled_from([dtype.type(0), dtype.type(1), dtype.type(ends[0]), dtype.type(ends[1])]),
    )
    return arrays.arrays(dtype, st.integers(1, 60), elements=elements)


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(histogram, "BLOCK_VOXELS", 7)


class TestBlocks:
    @pytest.mark.parametrize("order", ["C", "F"])
    def test_every_value_comes_once(self, small_blocks: None, order: str):
        values = np.asarray(RNG.integers(0, 999, (5, 4, 3)), order=order)
        seen = np.concatenate([block.copy() for block in blocks_of(values)])
        assert sorted(seen.tolist()) == sorted(values.ravel().tolist())

    def test_no_block_is_larger_than_said(self, small_blocks: None):
        assert max(block.size for block in blocks_of(np.zeros((5, 4, 3)))) == 7

    @pytest.mark.parametrize("turned", [False, True])
    def test_a_volume_in_one_piece_is_not_copied(self, turned: bool):
        values = np.zeros((512, 512, 3), np.int16)
        values = values.T if turned else values
        assert all(np.shares_memory(block, values) for block in blocks_of(values))

    def test_a_volume_with_gaps_and_turned_axes_is_read_whole(self, small_blocks: None):
        values = np.arange(210).reshape(5, 6, 7)[::-2, ::2, ::3]
        assert sorted(np.concatenate([block.copy() for block in blocks_of(values)])) == sorted(values.ravel())

    def test_foreign_byte_order_is_turned(self):
        (block,) = blocks_of(np.array([1, 2, 300], dtype=">i2"))
        assert block.dtype == np.dtype("int16")
        assert block.tolist() == [1, 2, 300]


class TestPadding:
    def test_both_ends_of_the_range_belong_to_it(self):
        values = np.array([-2001, -2000, -1500, -1000, -999], np.int16)
        assert is_padding(values, (-2000, -1000)).tolist() == [False, True, True, True, False]

    def test_the_ends_may_come_in_either_order(self):
        values = np.array([-2001, -2000, -1000, -999], np.int16)
        assert is_padding(values, (-1000, -2000)).tolist() == [False, True, True, False]

    def test_a_range_between_whole_numbers_holds_none(self):
        assert not is_padding(np.array([0, 1], np.int16), (0.25, 0.75)).any()

    @pytest.mark.parametrize("padding", [(-70_000, -40_000), (40_000, 70_000), (float("inf"), float("inf"))])
    def test_a_range_outside_of_the_type_holds_none(self, padding: tuple[float, float]):
        assert not is_padding(np.array([-32768, 32767], np.int16), padding).any()

    def test_a_range_that_reaches_out_of_the_type_holds_what_it_can(self):
        values = np.array([-32768, -2000, 0], np.int16)
        assert is_padding(values, (-float("inf"), -2000)).tolist() == [True, True, False]

    def test_fractions_are_compared_as_they_were_stored(self):
        padding = -2000 * 1.35 - 1024.1  # not exact in float32
        values = np.array([padding, padding + 1], np.float32)
        assert float(values[0]) != padding
        assert is_padding(values, (padding, padding)).tolist() == [True, False]

    def test_nan_is_no_padding(self):
        assert not is_padding(np.array([np.nan], np.float32), (-1e9, 1e9)).any()


class TestExtent:
    @pytest.mark.parametrize("kind", KINDS)
    @given(data=st.data())
    @settings(max_examples=30, deadline=None)
    def test_it_is_the_minimum_and_the_maximum(self, kind: str, data: st.DataObject):
        values = data.draw(any_values(kind))
        extent = Measured(values=values).extent()
        assert (extent.lowest, extent.highest, extent.measured) == (values.min(), values.max(), values.size)

    def test_padding_is_left_out_and_counted(self):
        values = np.array([-2000, -2000, -1000, 300, 3000], np.int16)
        extent = Measured(values=values, padding=(-2000, -2000)).extent()
        assert (extent.lowest, extent.highest, extent.measured, extent.padded) == (-1000, 300 * 10, 3, 2)

    def test_what_is_not_finite_is_left_out_and_counted_by_kind(self):
        values = np.array([np.nan, np.nan, np.nan, np.inf, np.inf, -np.inf, 4, 5], np.float32)
        extent = Measured(values=values).extent()
        assert (extent.nan, extent.positive_infinite, extent.negative_infinite, extent.not_finite) == (3, 2, 1, 6)
        assert (extent.lowest, extent.highest, extent.measured, extent.padded) == (4, 5, 2, 0)

    def test_padding_beside_nan_is_counted_apart(self):
        values = np.array([np.nan, -2000, -2000, 4], np.float32)
        extent = Measured(values=values, padding=(-2000, -2000)).extent()
        assert (extent.nan, extent.padded, extent.measured) == (1, 2, 1)

    def test_it_does_not_depend_on_the_blocks(self, small_blocks: None):
        values = RNG.normal(size=(9, 8, 7)).astype(np.float32)
        values[3, 3, 3] = np.nan
        extent = Measured(values=values).extent()
        assert (extent.lowest, extent.highest) == (np.nanmin(values), np.nanmax(values))
        assert (extent.nan, extent.measured) == (1, values.size - 1)

    def test_of_nothing_there_is_no_range(self):
        extent = Measured(values=np.full(3, np.nan, np.float32)).extent()
        assert extent.measured == 0
        assert np.isnan(extent.lowest)
        assert np.isnan(extent.highest)


class TestWholeNumbers:
    def test_those_of_a_label_map_are_told_in_order(self):
        assert Measured(values=np.array([2.0, 0.0, 10.0, 2.0])).whole_numbers(3) == (0, 2, 10)

    def test_more_than_asked_for_are_none(self):
        assert Measured(values=np.arange(5)).whole_numbers(4) is None

    def test_one_that_is_not_whole_is_none(self):
        assert Measured(values=np.array([0.0, 0.5])).whole_numbers(4) is None

    def test_padding_and_what_is_not_finite_count_for_nothing(self):
        values = np.array([0.0, 1.0, np.nan, -2000.5])
        assert Measured(values=values, padding=(-2001, -2000)).whole_numbers(4) == (0, 1)

    def test_values_of_later_blocks_count_too(self):
        values = np.zeros(BLOCK_VOXELS + 1)
        values[-1] = 0.5
        assert Measured(values=values).whole_numbers(4) is None


class TestPercentiles:
    @pytest.mark.parametrize("kind", KINDS)
    @given(data=st.data())
    @settings(max_examples=60, deadline=None)
    def test_they_are_numpys_to_the_last_bit(self, kind: str, data: st.DataObject):
        values = data.draw(any_values(kind))
        assert list(Measured(values=values).percentiles(PERCENTS)) == numpys(values)

    @pytest.mark.parametrize("kind", ["int16", "uint16", "float32"])
    @given(data=st.data())
    @settings(max_examples=60, deadline=None)
    def test_of_the_values_above_the_minimum_and_below_the_maximum_too(self, kind: str, data: st.DataObject):
        values = data.draw(any_values(kind))
        lowest, highest = values.min(), values.max()
        measured = Measured(values=values)
        assume(lowest < highest)
        assert list(measured.percentiles(PERCENTS, above=lowest.item())) == numpys(values[values > lowest])
        assert list(measured.percentiles(PERCENTS, below=highest.item())) == numpys(values[values < highest])

    @given(percents=st.lists(st.floats(0, 100), min_size=1, max_size=4))
    @settings(deadline=None)
    def test_any_percentage_may_be_asked_for(self, percents: list[float]):
        values = RNG.normal(size=999).astype(np.float32)
        assert list(Measured(values=values).percentiles(percents)) == numpys(values, tuple(percents))

    def test_a_large_smooth_volume_takes_many_blocks(self):
        values = RNG.normal(100, 30, (128, 128, 40)).astype(np.float32)
        assert values.size > 2 * histogram.BLOCK_VOXELS
        assert list(Measured(values=values).percentiles(PERCENTS)) == numpys(values)

    def test_values_that_share_their_first_sixteen_bits_are_told_apart(self):
        # All in one bin of the first count: sign, exponent and seven bits of the mantissa are equal.
        values = (1 + RNG.random(5000) * 2**-8).astype(np.float32)
        assert list(Measured(values=values).percentiles(PERCENTS)) == numpys(values)

    def test_one_value_far_out_does_not_coarsen_the_rest(self):
        values = np.append(RNG.random(5000), [3e38, -3e38]).astype(np.float32)
        assert list(Measured(values=values).percentiles((0.5, 99.5))) == numpys(values, (0.5, 99.5))

    def test_nan_infinity_and_padding_are_left_out(self):
        values = np.append(RNG.random(500), [np.nan, np.inf, -np.inf, -2000, -2000]).astype(np.float32)
        measured = Measured(values=values, padding=(-2000, -2000))
        assert list(measured.percentiles(PERCENTS)) == numpys(values[:500])

    def test_both_zeros_are_zero(self):
        zeros = Measured(values=np.array([-0.0, -0.0], np.float32)).percentiles([0, 50])
        assert [str(zero) for zero in zeros] == ["0.0", "0.0"]

    def test_of_no_value_there_are_none(self):
        with pytest.raises(ValueError, match="no values"):
            Measured(values=np.zeros(3, np.int16)).percentiles([50], above=0)

    @pytest.mark.parametrize("kind", ["int16", "float32"])
    def test_a_volume_is_not_copied(self, kind: str):
        values = RNG.integers(-1000, 2000, (512, 512, 40)).astype(kind)
        measured = Measured(values=values, padding=(-1000, -990))
        tracemalloc.start()
        try:
            measured.percentiles((0.5, 99.5), above=measured.extent().lowest)
            peak_bytes = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert peak_bytes < 12e6  # and 21 or 42 MB for a copy
