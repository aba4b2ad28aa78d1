"""The hybrid keeps the contract, has the size that it says, and sees the slice finer than the embedding's grid."""

import pytest
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


@pytest.mark.parametrize(("level", "others"), [("quarters_up", []), ("eighths_up", ["quarters_up"])])
def test_each_skip_alone_brings_the_slice_to_its_place_in_the_logits(level, others):
    head = Hybrid.build(HeadContext(input_shape=(32, 4, 4), class_count=2)).eval()
    _, quarter, eighth, _ = head.widths
    skip = {"quarters_up": quarter, "eighths_up": eighth}
    with torch.no_grad():
        first_weight(getattr(head, level))[:, : -skip[level]] = 0  # what comes from below
        for other in others:
            first_weight(getattr(head, other))[:, -skip[other] :] = 0
    features, slices = torch.randn(1, 32, 4, 4), torch.zeros(1, 1, 64, 64)
    changed = slices.clone()
    changed[..., 16:24, 16:24] = 1
    with torch.no_grad():
        difference = (head(FeaturesAndSlices(features, changed)) - head(FeaturesAndSlices(features, slices))).abs()
    near = torch.zeros(16, 16, dtype=torch.bool)
    near[2:8, 2:8] = True  # the square is at 4 and 5; a logit is four pixels, and the norms see the whole plane
    change = difference[0].amax(dim=0)
    assert change[near].mean() > 2 * change[~near].mean()


def first_weight(module: torch.nn.Module) -> torch.Tensor:
    return next(layer.weight for layer in module.modules() if isinstance(layer, torch.nn.Conv2d))
