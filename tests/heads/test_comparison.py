"""Intervals cover what they say they cover, and paired differences see what spreads hide."""

from types import SimpleNamespace

import numpy as np
import pytest

from samkit.heads.comparison import bootstrap, dice_grid, standings
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


def run(head, dice, *, draw=0, subjects=1, split="split", **config):
    """What a comparison looks at in a run."""
    settings = SimpleNamespace(
        head=head, head_config=config, draw=draw, subjects=subjects, amount=f"{subjects}", split_digest=split
    )
    return SimpleNamespace(
        settings=settings, scores=[scored(subject, value).to_json() for subject, value in dice.items()]
    )


def test_the_best_head_stands_first_and_the_others_say_how_far_behind():
    best, other = standings([run("ridge", {"a": 0.2, "b": 0.4}), run("linear", {"a": 0.5, "b": 0.6})])
    assert (best.head, best.behind) == ("linear", None)
    assert other.behind.mean == pytest.approx(0.25)


def test_only_draws_that_all_heads_have_are_compared():
    found = standings([run("ridge", {"a": 0.2}), run("linear", {"a": 0.3}), run("linear", {"a": 0.9}, draw=1)])
    assert {one.head: (one.draws, one.dice.mean) for one in found} == {"ridge": (1, 0.2), "linear": (1, 0.3)}


def test_subjects_of_different_splits_and_numbers_are_never_compared():
    found = standings(
        [run("ridge", {"a": 0.2}), run("linear", {"a": 0.3}, split="other"), run("linear", {"a": 1}, subjects=5)]
    )
    assert [one.behind for one in found] == [None] * 3


def test_a_head_with_other_options_is_another():
    found = standings([run("ladder", {"a": 0.2}, gate="fixed"), run("ladder", {"a": 0.3}, gate="learned")])
    assert [one.head for one in found] == ["ladder", "ladder:gate=fixed"]
