"""Label values and class indices lead to each other."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from samkit.heads.classes import class_values, to_class_index


def test_class_values_are_background_and_then_the_named_ones_in_order():
    assert class_values({42: "liver", 3: "spleen"}) == [0, 3, 42]


@given(st.sets(st.integers(1, 60_000), min_size=1, max_size=20), st.integers(0, 2**32 - 1))
def test_label_values_come_back_from_class_indices(named, seed):
    values = [0, *sorted(named)]
    label = np.random.default_rng(seed).choice(values, (2, 5, 4)).astype(np.uint16)
    index = to_class_index(label, values)
    assert index.max() < len(values)
    np.testing.assert_array_equal(np.asarray(values)[index], label)
