"""Both convolutional decoders keep the contract, have the sizes that they say, and see more than one cell."""

import pytest
import torch
from contracts.head import HeadContract
from torch.nn import functional as F

from samkit.heads.base import HeadContext
from samkit.heads.cnn import Cnn, PublishedCnn, twice_as_fine


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


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 5), (16, 16), (7, 12)])
def test_twice_as_fine_is_torchs_bilinear_up_scaling_and_its_way_back(height, width):
    torch.manual_seed(0)
    answer, found = torch.randn(2, 3, 2 * height, 2 * width).double(), []
    grid = torch.randn(2, 3, height, width).double()
    for up in (twice_as_fine, lambda part: F.interpolate(part, scale_factor=2, mode="bilinear", align_corners=False)):
        given = grid.clone().requires_grad_()
        finer = up(given)
        (finer * answer).sum().backward()
        found.append((finer, given.grad))
    torch.testing.assert_close(found[0], found[1], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_twice_as_fine_keeps_the_dtype(dtype):
    grid = torch.rand(1, 2, 8, 8)
    finer = twice_as_fine(grid.to(dtype))
    assert finer.dtype == dtype
    as_torch = F.interpolate(grid, scale_factor=2, mode="bilinear", align_corners=False)
    torch.testing.assert_close(finer.float(), as_torch, rtol=0.01, atol=0.01 if dtype is torch.bfloat16 else 1e-6)
