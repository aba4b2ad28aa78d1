"""How numbers are kept: what rounding costs is bounded, and what cannot be kept is told."""

from __future__ import annotations

import numpy as np
import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from samkit.store.precision import STORAGE_PRECISIONS, StoredRows, read_dtype, row_checksum

# XXH3-64 of the little-endian bytes, part of the format.
CHECKSUM = 11666074257046066166
LARGEST = float(np.finfo(np.float16).max)


def features(count: int = 4, channels: int = 3) -> np.ndarray:
    """Channels of very different size, as SAM's are."""
    random = np.random.default_rng(0)
    sizes = 10.0 ** np.arange(-2, channels - 2)
    return (random.normal(size=(count, channels, 5, 6)) * sizes[:, None, None]).astype(np.float32)


def restored(rows: StoredRows) -> np.ndarray:
    out = np.empty(rows.values.shape, read_dtype(rows.values.dtype))
    rows.restore(out)
    return out


small = hnp.arrays(np.float32, (2, 2, 3, 2), elements=st.floats(-1000, 1000, width=32))


# -- round trips -----------------------------------------------------------------------------------


def test_float32_is_kept_bit_by_bit():
    values = features()
    rows = StoredRows.of(values, "float32")
    assert rows.values.dtype == np.float32
    assert rows.scales is None
    assert restored(rows).tobytes() == values.tobytes()


@given(small)
def test_float16_is_the_nearest_float16(values: np.ndarray):
    rows = StoredRows.of(values, "float16")
    assert rows.scales is None
    assert restored(rows).tobytes() == values.astype(np.float16).tobytes()


@given(small)
def test_int8_is_off_by_half_a_step_of_its_channel_at_most(values: np.ndarray):
    step = np.abs(values).max(axis=(2, 3), keepdims=True) / 127
    error = np.abs(restored(StoredRows.of(values, "int8")).astype(np.float64) - values)
    # What is read is float16, which rounds once more; its smallest step is 6e-8.
    assert np.all(error <= 0.5 * step * (1 + 1e-4) + np.abs(values) * 2.0**-10 + 6e-8)


def test_int8_keeps_the_largest_of_each_channel_to_the_precision_of_float16():
    values = features()
    kept = restored(StoredRows.of(values, "int8")).astype(np.float64)
    largest = np.abs(values).max(axis=(2, 3))
    np.testing.assert_allclose(np.abs(kept).max(axis=(2, 3)), largest, rtol=1e-3)


def test_int8_of_features_is_within_one_percent():
    values = features()
    kept = restored(StoredRows.of(values, "int8")).astype(np.float64)
    assert np.linalg.norm(kept - values) / np.linalg.norm(values) < 1e-2


def test_int8_uses_every_step_from_minus_127_to_127_and_keeps_zero():
    values = np.linspace(-1, 1, 255, dtype=np.float32).reshape(1, 1, 255, 1)
    rows = StoredRows.of(values, "int8")
    assert rows.values.ravel().tolist() == list(range(-127, 128))
    assert restored(rows)[0, 0, 127, 0] == 0


def test_each_channel_of_each_row_has_a_scale_of_its_own():
    values = features()
    rows = StoredRows.of(values, "int8")
    assert rows.scales is not None
    assert rows.scales.dtype == np.float32
    np.testing.assert_array_equal(rows.scales, np.abs(values).max(axis=(2, 3)) / np.float32(127))


def test_a_channel_of_zeros_is_kept_as_zeros():
    values = features()
    values[1, 2] = 0
    rows = StoredRows.of(values, "int8")
    assert rows.scales is not None
    assert rows.scales[1, 2] == 0
    assert not restored(rows)[1, 2].any()
    assert rows.finite().all()


def test_a_row_does_not_depend_on_those_beside_it():
    values = features()
    together = StoredRows.of(values, "int8")
    for row in range(len(values)):
        alone = StoredRows.of(values[row : row + 1], "int8")
        assert alone.checksums() == together.checksums()[row : row + 1]


@pytest.mark.parametrize(("stored", "read"), [("float16", "float16"), ("float32", "float32"), ("int8", "float16")])
def test_every_kind_is_read_as_a_float(stored: str, read: str):
    assert read_dtype(stored) == np.dtype(read)


# -- what cannot be kept ---------------------------------------------------------------------------


@pytest.mark.parametrize("precision", STORAGE_PRECISIONS)
@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_a_row_with_a_number_that_is_not_finite_is_told(precision: str, wrong: float):
    values = features()
    values[2, 1, 3, 3] = wrong
    assert StoredRows.of(values, precision).finite().tolist() == [True, True, False, True]


@pytest.mark.parametrize(("precision", "kept"), [("float16", False), ("float32", True), ("int8", False)])
def test_what_is_too_large_for_float16_is_told_where_it_is_read_as_float16(precision: str, *, kept: bool):
    values = features()
    values[1, 0, 0, 0] = 2 * LARGEST
    assert StoredRows.of(values, precision).finite().tolist() == [True, kept, True, True]


@pytest.mark.parametrize("precision", STORAGE_PRECISIONS)
def test_the_largest_float16_is_kept(precision: str):
    values = features()
    values[1, 0, 0, 0] = LARGEST
    rows = StoredRows.of(values, precision)
    assert rows.finite().all() == np.isfinite(restored(rows)).all()
    assert rows.finite().all()


@given(hnp.arrays(np.float32, (2, 1, 2, 2), elements=st.floats(width=32)))
@pytest.mark.parametrize("precision", STORAGE_PRECISIONS)
def test_rows_that_are_told_to_be_finite_are_read_as_finite(precision: str, values: np.ndarray):
    rows = StoredRows.of(values, precision)
    with np.errstate(all="ignore"):  # of the rows that are told not to be
        finite = np.isfinite(restored(rows)).all(axis=(1, 2, 3))
    assert np.all(finite[rows.finite()])


# -- checksums -------------------------------------------------------------------------------------


def test_the_checksum_of_a_row_is_this_one():
    row = np.arange(4, dtype=np.float16).reshape(1, 2, 2)
    assert row_checksum(row) == CHECKSUM
    assert row_checksum(row.astype(">f2")) == CHECKSUM


def test_the_checksum_of_a_row_of_bytes_covers_its_scales_after_them():
    values, scales = np.arange(4, dtype=np.int8).reshape(1, 2, 2), np.array([0.5], np.float32)
    expected = xxhash.xxh3_64_intdigest(values.tobytes() + scales.tobytes())
    assert row_checksum(values, scales) == expected
    assert row_checksum(values, scales.astype(">f4")) == expected
    assert StoredRows(values=values[None], scales=scales[None]).checksums() == (expected,)


@pytest.mark.parametrize("precision", STORAGE_PRECISIONS)
def test_the_checksum_depends_on_every_number_and_every_scale(precision: str):
    rows = StoredRows.of(features(1), precision)
    good, flips = rows.checksums(), 0
    for array in (rows.values, rows.scales):
        if array is None:
            continue
        raw = array.reshape(-1).view(np.uint8)
        for place in range(raw.size):
            raw[place] ^= 1
            assert rows.checksums() != good
            raw[place] ^= 1
            flips += 1
    assert flips == rows.values.nbytes + (0 if rows.scales is None else rows.scales.nbytes)
    assert rows.checksums() == good


# -- rows among rows -------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", STORAGE_PRECISIONS)
def test_rows_are_put_together_and_taken_apart_unchanged(precision: str):
    rows = StoredRows.of(features(), precision)
    together = StoredRows.empty(rows.values.shape, precision)
    together.put(0, rows.take(slice(2, 4)))
    together.put(2, rows.take(np.array([1, 0])))
    assert len(together) == 4
    sums = rows.checksums()
    assert together.checksums() == (sums[2], sums[3], sums[1], sums[0])
    np.testing.assert_array_equal(restored(together), restored(rows)[[2, 3, 1, 0]])
