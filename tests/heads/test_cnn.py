"""Both convolutional decoders keep the contract, have the sizes that they say, and see more than one cell."""

import pytest
import torch
from contracts.head import HeadContract

from samkit.heads.base import HeadContext
from samkit.heads.cnn import Cnn, PublishedCnn


class TestCnn(HeadContract):
    head_class = Cnn
    trained_parts = frozenset({"decoder", "classifier"})


class TestPublishedCnn(HeadContract):
    head_class = PublishedCnn
    trained_parts = frozenset({"projection", "stages", "classifier"})


@pytest.mark.parametrize(("head_class", "count"), [(Cnn, 118_340), (PublishedCnn, 20_686_340)])
def test_it_has_the_number_of_parameters_that_it_says(head_class, count):
    head = head_class.build(HeadContext(input_shape=(256, 64, 64), class_count=4))
    assert head.parameter_count() == count


@pytest.mark.parametrize("head_class", [Cnn, PublishedCnn])
def test_a_cell_hears_of_its_neighbours(head_class):
    head = head_class.build(HeadContext(input_shape=(32, 8, 8), class_count=2)).eval()
    features = torch.randn(1, 32, 8, 8)
    changed = features.clone()
    changed[..., 4, 4] += 1
    difference = (head(changed) - head(features)).abs().amax(dim=1)[0]
    assert difference[4 * 3 : 4 * 4, 4 * 3 : 4 * 4].max() > 0


def test_channels_are_dropped_in_training_alone():
    head = Cnn.build(HeadContext(input_shape=(256, 4, 4), class_count=2))
    features = torch.randn(1, 256, 4, 4)
    assert not torch.equal(head.train()(features), head(features))
    assert torch.equal(head.eval()(features), head(features))
