"""Intervals cover what they say they cover, and paired differences see what spreads hide."""

import numpy as np
import pytest

from samkit.heads.comparison import bootstrap, dice_grid
from samkit.heads.metrics import ClassScore, ScoredVolume


def scored(subject, *dice, volume="v"):
    scores = tuple(
        ClassScore(
            class_value=number + 1,
            class_name=f"c{number}",
            dice=value,
            iou=None,
            hd95=None,
            assd=None,
            distance_unit="mm",
            reference_voxels=1,
            prediction_voxels=1,
            outcome="scored",
            false_positive_volume=None,
        )
        for number, value in enumerate(dice)
    )
    return ScoredVolume(volume_id=f"{subject}-{volume}", subject=subject, scores=scores)


def test_a_grid_has_the_mean_of_classes_then_of_volumes():
    first = [scored("a", 0.2, 0.4), scored("a", 0.9, None, volume="w"), scored("b", 0.5)]
    grid = dice_grid([first, [scored("b", 1.0)]], ["a", "b"])
    np.testing.assert_allclose(grid, [[0.6, 0.5], [np.nan, 1.0]])


def test_the_mean_is_that_of_subjects_then_of_draws():
    assert bootstrap(np.array([[0.2, 0.4], [np.nan, 0.9]])).mean == pytest.approx(0.6)


def test_nothing_has_no_interval():
    assert bootstrap(np.full((2, 3), np.nan)) is None


def test_of_one_number_the_interval_is_that_number():
    interval = bootstrap(np.array([[0.7]]))
    assert (interval.mean, interval.low, interval.high) == (0.7, 0.7, 0.7)


def test_equal_grids_have_equal_intervals():
    grid = np.random.default_rng(0).random((5, 9))
    assert bootstrap(grid) == bootstrap(grid.copy())


def test_the_interval_holds_the_truth_about_as_often_as_it_says():
    """Draws and subjects each have an effect: an interval over subjects alone would miss far more often."""
    random = np.random.default_rng(1)
    held = 0
    for _ in range(200):
        grid = 0.5 + 0.1 * random.standard_normal((8, 1)) + 0.1 * random.standard_normal((1, 12))
        interval = bootstrap(grid + 0.05 * random.standard_normal((8, 12)))
        held += interval.low <= 0.5 <= interval.high
    assert 0.84 < held / 200 <= 1.0


def test_a_difference_on_the_same_draws_is_seen_where_the_spread_hides_it():
    random = np.random.default_rng(2)
    worse = 0.5 + 0.2 * random.standard_normal((5, 1)) + 0.1 * random.standard_normal((1, 10))
    better = worse + 0.03 + 0.01 * random.standard_normal((5, 10))
    apart = bootstrap(better - worse)
    assert 0 < apart.low < 0.03 < apart.high
    assert bootstrap(better).low < bootstrap(worse).high
