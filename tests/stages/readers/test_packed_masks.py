"""Masks as bits: what is put in comes out, in little memory."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from samkit.stages.readers.packed_masks import PackedMasks

SHAPE = (7, 9, 5)


@given(seed=st.integers(0, 2**32 - 1), share=st.sampled_from([0.0, 0.02, 0.5, 1.0]), parts=st.integers(1, 6))
def test_a_mask_is_the_union_of_what_was_put_into_it(seed: int, share: float, parts: int):
    random = np.random.default_rng(seed)
    masks, expected = PackedMasks(SHAPE), np.zeros(SHAPE, bool)
    for _ in range(parts):
        start = random.integers(0, SHAPE)
        end = random.integers(start, SHAPE) + 1
        block = random.random(end - start) < share
        expected[tuple(slice(a, b) for a, b in zip(start, end, strict=True))] |= block
        masks.put("liver", block, tuple(start.tolist()))
    np.testing.assert_array_equal(masks["liver"], expected)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_plane_across_any_axis_is_put_where_it_belongs(axis: int):
    plane = np.expand_dims(np.random.default_rng(0).random([SHAPE[other] for other in range(3) if other != axis]), axis)
    masks, expected = PackedMasks(SHAPE), np.zeros(SHAPE, bool)
    start = [0, 0, 0]
    start[axis] = 3
    masks.put("liver", plane > 0.5, tuple(start))
    np.moveaxis(expected, axis, 0)[3] = np.moveaxis(plane, axis, 0)[0] > 0.5
    np.testing.assert_array_equal(masks["liver"], expected)


def test_masks_are_there_in_the_order_of_their_names_even_when_empty():
    masks = PackedMasks(SHAPE, ["spleen", "liver"])
    masks.put("metal", np.zeros(SHAPE, bool))
    masks.put("liver", np.ones(SHAPE, bool))
    assert list(masks) == ["spleen", "liver", "metal"]
    assert [bool(masks[name].any()) for name in masks] == [False, True, False]
    assert len(masks) == 3


def test_a_mask_that_nobody_named_is_none():
    masks = PackedMasks(SHAPE, ["liver"])
    assert "liver" in masks
    assert "spleen" not in masks
    with pytest.raises(KeyError):
        masks["spleen"]


def test_what_is_done_to_a_mask_or_to_what_was_put_in_changes_nothing():
    masks, whole = PackedMasks(SHAPE), np.ones(SHAPE, bool)
    masks.put("liver", whole)
    whole[:] = False
    masks["liver"][:] = False
    assert masks["liver"].all()
    assert masks["liver"].flags.f_contiguous


def test_a_hundred_organs_take_less_than_one_of_them_as_bytes():
    shape = (128, 128, 64)
    masks = PackedMasks(shape)
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    for number in range(100):
        organ = np.zeros(shape, bool)
        organ[number : number + 20, 40:60, 20:40] = True
        masks.put(f"organ {number}", organ)
        del organ
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert after - before < 128 * 128 * 64
