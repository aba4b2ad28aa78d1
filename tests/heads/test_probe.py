"""The probe keeps the contract, and is nothing but a weighted sum at each cell."""

import torch
from contracts.head import HeadContract

from samkit.heads.base import HeadContext
from samkit.heads.probe import Probe


class TestProbe(HeadContract):
    head_class = Probe
    trained_parts = frozenset({"classifier"})


def test_it_has_one_number_a_channel_and_one_more_for_each_class():
    head = Probe.build(HeadContext(input_shape=(256, 64, 64), class_count=4))
    assert head.parameter_count() == 4 * 257


def test_it_is_linear_in_the_features():
    head = Probe.build(HeadContext(input_shape=(8, 4, 4), class_count=2))
    torch.nn.init.zeros_(head.classifier.bias)
    first, second = torch.randn(2, 1, 8, 4, 4).unbind()
    torch.testing.assert_close(head(2 * first + second), 2 * head(first) + head(second))


def test_a_cell_says_something_of_its_own_place_only():
    head = Probe.build(HeadContext(input_shape=(8, 4, 4), class_count=2))
    features = torch.randn(1, 8, 4, 4)
    changed = features.clone()
    changed[..., 0, 0] += 1
    difference = (head(changed) - head(features)).abs().amax(dim=1)[0]
    assert difference[:4, :4].max() > 0
    assert difference[6:].max() == 0
    assert difference[:, 6:].max() == 0
