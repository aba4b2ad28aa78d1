"""The hybrid keeps the contract, has the size that it says, and sees the slice finer than the embedding's grid."""

import torch
from contracts.head import PairHeadContract

from samkit.heads.base import HeadContext
from samkit.heads.hybrid import Hybrid
from samkit.heads.seen import FeaturesAndSlices


class TestHybrid(PairHeadContract):
    head_class = Hybrid
    trained_parts = frozenset(
        {
            "halves",
            "quarters",
            "eighths",
            "cells",
            "projection",
            "bottom",
            "eighths_up",
            "quarters_up",
            "classifier",
        }
    )


def test_it_has_the_number_of_parameters_that_it_says():
    head = Hybrid.build(HeadContext(input_shape=(256, 16, 16), class_count=4))
    assert head.parameter_count() == 640_660


def test_slices_in_grey_are_seen_as_those_in_three_equal_colours():
    head = Hybrid.build(HeadContext(input_shape=(32, 4, 4), class_count=2)).eval()
    features, grey = torch.randn(1, 32, 4, 4), torch.rand(1, 1, 64, 64)
    of_grey, of_colours = (head(FeaturesAndSlices(features, slices)) for slices in (grey, grey.expand(-1, 3, -1, -1)))
    assert torch.equal(of_grey, of_colours)


def test_what_the_slice_shows_in_one_cell_changes_logits_within_it():
    head = Hybrid.build(HeadContext(input_shape=(32, 4, 4), class_count=2)).eval()
    features, slices = torch.randn(1, 32, 4, 4), torch.zeros(1, 1, 64, 64)
    changed = slices.clone()
    changed[..., 16:20, 16:20] = 1
    with torch.no_grad():
        difference = (head(FeaturesAndSlices(features, changed)) - head(FeaturesAndSlices(features, slices))).abs()
    within = difference[0].amax(dim=0)[4:8, 4:8]
    assert within.max() > 2 * within.min()
