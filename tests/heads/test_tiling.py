"""Tiles cover a plane exactly, overlap as much as was asked, are as few as can be, and are named by their pixels."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from samkit.heads.frame import Frame
from samkit.heads.tiling import DEFAULT_OVERLAP, Tile, Tiling, blend_weights, cover, row_keys
from samkit.store.errors import GeometryMismatch, UsageError
from samkit.store.keys import RowKey

lengths = st.integers(1, 250)
tilings = st.builds(
    Tiling,
    input_px=st.integers(1, 130),
    overlap=st.one_of(st.sampled_from([0, 0.0, 0.1, 0.25, 0.5, 0.8, 0.89]), st.floats(0, 0.89)),
)
# Of planes there are as many tiles as the product.
coarse = st.builds(Tiling, input_px=st.integers(8, 40), overlap=st.floats(0, 0.7))
sides = st.integers(1, 90)
cut = st.tuples(tilings, lengths).map(lambda pair: (pair[0], pair[0].input_px + pair[1]))
spans = st.tuples(st.integers(0, 9999), st.integers(1, 9999)).map(lambda pair: (pair[0], sum(pair)))


# Along one side --------------------------------------------------------------------------------------------------


@given(tilings, lengths)
def test_every_pixel_is_covered_and_none_beyond_the_side(tiling, length):
    covered = {pixel for first, stop in tiling.spans(length) for pixel in range(first, stop)}
    assert covered == set(range(length))


@given(cut)
def test_tiles_of_a_side_that_is_cut_are_as_long_as_the_input(case):
    tiling, length = case
    assert {stop - first for first, stop in tiling.spans(length)} == {tiling.input_px}


@given(tilings, lengths)
def test_a_side_that_fits_is_not_cut(tiling, length):
    assert (tiling.spans(length) == ((0, length),)) == (length <= tiling.input_px)


@given(cut)
def test_tiles_overlap_by_at_least_the_stated_share(case):
    tiling, length = case
    # A tile has at least one pixel of its own, whatever the share.
    least = min(Fraction(str(tiling.overlap)) * tiling.input_px, tiling.input_px - 1)
    shared = [before[1] - after[0] for before, after in itertools.pairwise(tiling.spans(length))]
    assert min(shared) >= least


@given(cut)
def test_tiles_are_as_few_as_can_overlap_so_much(case):
    tiling, length = case
    least = min(math.ceil(Fraction(str(tiling.overlap)) * tiling.input_px), tiling.input_px - 1)
    count = len(tiling.spans(length))
    # With one tile less, all overlapping by no more than they must, the side is not covered.
    assert tiling.input_px + (count - 2) * (tiling.input_px - least) < length


@given(cut)
def test_tiles_are_spread_evenly(case):
    tiling, length = case
    steps = [after[0] - before[0] for before, after in itertools.pairwise(tiling.spans(length))]
    assert max(steps) - min(steps) <= 1


@given(tilings, lengths)
def test_tiles_of_a_flipped_side_are_the_flipped_tiles_but_for_half_a_pixel_in_the_middle(tiling, length):
    there = tiling.spans(length)
    back = tuple((length - stop, length - first) for first, stop in reversed(there))
    off = [number for number, (one, other) in enumerate(zip(there, back, strict=True)) if one != other]
    assert off in ([], [len(there) // 2])
    assert all(abs(there[number][0] - back[number][0]) <= 1 for number in off)


def test_the_tiles_of_a_radiograph_are_these():
    # Golden: they are in the keys of rows that are stored.
    assert [first for first, _ in Tiling(input_px=1024, overlap=0.25).spans(4000)] == [0, 744, 1488, 2232, 2976]
    assert [first for first, _ in Tiling(input_px=1024, overlap=0.1).spans(4001)] == [0, 744, 1488, 2233, 2977]


def test_a_share_is_the_decimal_that_was_typed():
    # 0.07 is stored as a little more: 7.000000000000001 pixels of 100, of which one more would be taken.
    assert Tiling(input_px=100, overlap=0.07).spans(193) == ((0, 100), (93, 193))


# Planes ----------------------------------------------------------------------------------------------------------


@given(coarse, sides, sides)
def test_tiles_of_a_plane_are_all_its_rows_of_tiles_from_left_to_right(tiling, rows, columns):
    tiles = tiling.tiles(rows, columns)
    if not tiling.cuts(rows, columns):
        assert tiles == (Tile(),)
        return
    assert [tile.rows for tile in tiles] == sorted(tile.rows for tile in tiles)
    assert {tile.rows for tile in tiles} == set(tiling.spans(rows))
    across = len(tiling.spans(columns))
    for first in range(0, len(tiles), across):
        assert tuple(tile.columns for tile in tiles[first : first + across]) == tiling.spans(columns)


@pytest.mark.parametrize("size", [(64, 64), (64, 10), (1, 64), (30, 20)])
def test_a_plane_that_fits_is_one_tile_called_full(size):
    assert [str(tile) for tile in Tiling(input_px=64).tiles(*size)] == ["full"]


def test_only_the_side_that_is_too_long_is_cut():
    tiles = Tiling(input_px=64, overlap=0.5).tiles(20, 96)
    assert [str(tile) for tile in tiles] == ["rows0-20+columns0-64", "rows0-20+columns32-96"]


@given(coarse, sides, sides)
def test_the_frame_of_a_tile_has_the_shape_of_every_tile(tiling, rows, columns):
    frame = tiling.frame_of_tile(Frame(rows=rows, columns=columns, input_px=tiling.input_px))
    plane = np.empty((rows, columns), np.bool_)
    assert {tile.crop(plane).shape for tile in tiling.tiles(rows, columns)} == {(frame.rows, frame.columns)}


@given(coarse, sides, sides)
def test_a_tile_is_not_resized(tiling, rows, columns):
    frame = tiling.frame_of_tile(Frame(rows=rows, columns=columns, input_px=tiling.input_px))
    assert not tiling.cuts(rows, columns) or frame.inner_px == (frame.rows, frame.columns)


@pytest.mark.parametrize("overlap", [-0.01, 0.9, 1.0, math.nan, math.inf])
def test_an_overlap_that_cannot_be_is_refused(overlap):
    with pytest.raises(UsageError, match=r"--tile-overlap .*below 0.9"):
        Tiling(input_px=64, overlap=overlap)


def test_an_input_without_pixels_is_refused():
    with pytest.raises(UsageError, match="tiles of 0 px"):
        Tiling(input_px=0)


def test_tiles_overlap_by_a_quarter_unless_something_else_is_asked():
    assert Tiling(input_px=64).overlap == DEFAULT_OVERLAP == 0.25


# The text in a key -----------------------------------------------------------------------------------------------


@given(spans, spans)
def test_a_tile_comes_back_from_its_text(rows, columns):
    tile = Tile(rows=rows, columns=columns)
    assert Tile.parse(str(tile)) == tile


@given(spans, spans)
def test_a_tile_says_its_pixels_exactly(rows, columns):
    text = str(Tile(rows=rows, columns=columns))
    assert text == f"rows{rows[0]}-{rows[1]}+columns{columns[0]}-{columns[1]}"
    assert RowKey.parse(str(RowKey(slice_digest="d", tile=text))).tile == text


def test_full_is_the_whole_plane():
    plane = np.arange(12).reshape(3, 4)
    assert Tile.parse("full") == Tile()
    assert str(Tile()) == "full"
    np.testing.assert_array_equal(Tile.parse("full").crop(plane), plane)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "FULL",
        "rows0-8",
        "rows0-8+columns0-8 ",
        "rows00-8+columns0-8",
        "rows-1-8+columns0-8",
        "rows0-8+columns0-8+rows0-8",
        "rows0-٨+columns0-8",
        "columns0-8+rows0-8",
    ],
)
def test_a_text_of_no_tile_is_refused(text):
    with pytest.raises(UsageError, match=r"known are 'full' and texts like"):
        Tile.parse(text)


@pytest.mark.parametrize("text", ["rows8-8+columns0-8", "rows0-8+columns9-8"])
def test_a_tile_without_pixels_is_refused(text):
    with pytest.raises(UsageError, match="at least one pixel each"):
        Tile.parse(text)


@pytest.mark.parametrize("half", [{"rows": (0, 8)}, {"columns": (0, 8)}])
def test_half_a_tile_is_refused(half):
    with pytest.raises(UsageError, match="give both"):
        Tile(**half)


def test_a_tile_is_cut_out_of_every_channel():
    plane = np.arange(2 * 5 * 6).reshape(2, 5, 6)
    np.testing.assert_array_equal(Tile(rows=(1, 3), columns=(2, 6)).crop(plane), plane[:, 1:3, 2:6])


@pytest.mark.parametrize("tile", [Tile(rows=(0, 6), columns=(0, 6)), Tile(rows=(0, 5), columns=(1, 7))])
def test_a_tile_of_another_plane_is_refused_instead_of_cut_short(tile):
    with pytest.raises(GeometryMismatch, match="does not lie within a plane of 5 x 6 pixels"):
        tile.crop(np.zeros((1, 5, 6)))


# The keys of a volume --------------------------------------------------------------------------------------------


def volume_of(rows, columns, digests=("a", "b")):
    def keys(view="identity"):
        return [RowKey(slice_digest=digest, view=view) for digest in digests]

    record = SimpleNamespace(shape=(len(digests), 1, rows, columns))
    return SimpleNamespace(record=record, slice_digests=digests, row_keys=keys)


@pytest.mark.parametrize("tiling", [None, Tiling(input_px=64)])
@pytest.mark.parametrize("view", ["identity", "transpose"])
def test_slices_that_fit_have_the_keys_that_they_have_without_tiles(tiling, view):
    volume = volume_of(64, 50)
    assert row_keys(volume, tiling, view=view) == volume.row_keys(view)


def test_keys_go_slice_by_slice_and_tile_by_tile():
    keys = row_keys(volume_of(96, 100), Tiling(input_px=64, overlap=0.25), view="transpose")
    assert [str(key) for key in keys] == [
        f"{digest}/transpose/{tile}"
        for digest in ("a", "b")
        for tile in (
            "rows0-64+columns0-64",
            "rows0-64+columns36-100",
            "rows32-96+columns0-64",
            "rows32-96+columns36-100",
        )
    ]


# Weights ---------------------------------------------------------------------------------------------------------


@given(cut)
def test_at_every_pixel_the_weights_add_up_to_one(case):
    tiling, length = case
    total, across = np.zeros(length), tiling.spans(length)
    for (first, stop), weight in zip(across, blend_weights(across), strict=True):
        assert weight.dtype == np.float32
        assert (weight > 0).all()
        total[first:stop] += weight
    np.testing.assert_allclose(total, 1, rtol=0, atol=1e-6)


@given(cut)
def test_where_a_tile_is_alone_its_weight_is_exactly_one(case):
    tiling, length = case
    across = tiling.spans(length)
    covering = np.zeros(length, int)
    for first, stop in across:
        covering[first:stop] += 1
    for (first, stop), weight in zip(across, blend_weights(across), strict=True):
        assert (weight[covering[first:stop] == 1] == 1).all()


def test_weights_rise_over_the_whole_overlap_and_begin_with_almost_nothing():
    left, right = blend_weights([(0, 64), (48, 112)])
    assert (np.diff(right[:16]) > 0).all()
    assert right[0] < 0.01
    assert right[15] > 0.99
    np.testing.assert_allclose(left[48:], right[:16][::-1], rtol=1e-5)


def test_one_tile_has_the_whole_say():
    (weight,) = blend_weights([(0, 9)])
    np.testing.assert_array_equal(weight, np.ones(9, np.float32))


# Whether a plane is whole ----------------------------------------------------------------------------------------


@given(coarse, sides, sides)
def test_the_tiles_of_a_plane_cover_it(tiling, rows, columns):
    assert cover(tiling.tiles(rows, columns), rows, columns)


@given(coarse, sides, sides, st.data())
def test_a_plane_that_lacks_a_tile_is_not_covered(tiling, rows, columns, data):
    tiles = list(tiling.tiles(rows, columns))
    tiles.remove(data.draw(st.sampled_from(tiles)))
    seen = np.zeros((rows, columns), dtype=bool)
    for tile in tiles:
        tile.crop(seen)[...] = True
    assert cover(tiles, rows, columns) == seen.all()
