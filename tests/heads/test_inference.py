"""A head's answer for a whole volume is a label map on the slices' own pixels, in the dataset's own values."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from samkit.heads.base import HeadContext
from samkit.heads.frame import Frame
from samkit.heads.inference import class_values, logits_by_slice, segment, to_class_index
from samkit.heads.linear import Linear

FRAME = Frame(rows=30, columns=20, input_px=64)


def built(class_count=3):
    return Linear.build(HeadContext(feature_shape=(16, 4, 4), class_count=class_count)).eval()


def features(count):
    return np.random.default_rng(0).normal(size=(count, 16, 4, 4)).astype(np.float16)


def test_class_values_are_background_and_then_the_named_ones_in_order():
    assert class_values({42: "liver", 3: "spleen"}) == [0, 3, 42]


@given(st.sets(st.integers(1, 60_000), min_size=1, max_size=20), st.integers(0, 2**32 - 1))
def test_label_values_come_back_from_class_indices(named, seed):
    values = [0, *sorted(named)]
    label = np.random.default_rng(seed).choice(values, (2, 5, 4)).astype(np.uint16)
    index = to_class_index(label, values)
    assert index.max() < len(values)
    np.testing.assert_array_equal(np.asarray(values)[index], label)


@pytest.mark.parametrize("count", [1, 7, 8, 9, 17])
def test_every_slice_gets_a_mask_whatever_the_number_of_slices(count):
    label = segment(built(), features(count), FRAME, {1: "a", 2: "b"})
    assert label.shape == (count, 30, 20)


def test_a_mask_is_the_most_likely_class_of_each_pixel():
    head, given_features = built(), features(3)
    logits = torch.cat(list(logits_by_slice(head, given_features, FRAME)))
    expected = np.asarray([0, 3, 42])[logits.argmax(dim=1).numpy()]
    np.testing.assert_array_equal(segment(head, given_features, FRAME, {3: "a", 42: "b"}), expected)


@pytest.mark.parametrize(("value", "kind"), [(3, np.uint8), (255, np.uint8), (256, np.uint16), (70_000, np.uint32)])
def test_the_mask_has_the_smallest_kind_that_holds_the_values(value, kind):
    assert segment(built(class_count=2), features(1), FRAME, {value: "a"}).dtype == kind


def test_a_large_label_value_is_not_cut_off():
    head = built(class_count=2)
    torch.nn.init.constant_(head.classifier[-1].bias, 0.0)
    with torch.no_grad():
        head.classifier[-1].bias[1] = 1000.0
    assert (segment(head, features(1), FRAME, {70_000: "a"}) == 70_000).all()


def test_slices_are_not_mixed_between_batches():
    head, given_features = built(), features(17)
    alone = np.concatenate(
        [segment(head, given_features[n : n + 1], FRAME, {1: "a", 2: "b"}) for n in range(len(given_features))]
    )
    together = segment(head, given_features, FRAME, {1: "a", 2: "b"})
    assert (alone == together).mean() > 0.999  # to rounding: a pixel between two classes may fall either way


def test_no_gradients_are_kept():
    logits = next(iter(logits_by_slice(built(), features(2), FRAME)))
    assert not logits.requires_grad
