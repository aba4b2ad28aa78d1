"""Intervals cover what they say they cover, and paired differences see what spreads hide."""

from types import SimpleNamespace

import numpy as np
import pytest
from examples.scores import scored

from samkit.heads.comparison import bootstrap, compare, dice_grid, standings


def test_a_grid_has_the_mean_of_classes_then_of_volumes():
    first = [scored("a", 0.2, 0.4), scored("a", 0.9, None, volume="w"), scored("b", 0.5)]
    grid = dice_grid([first, [scored("b", 1.0)]], ["a", "b"])
    np.testing.assert_allclose(grid, [[0.6, 0.5], [np.nan, 1.0]])


def test_the_mean_is_that_of_subjects_then_of_draws():
    assert bootstrap(np.array([[0.2, 0.4], [np.nan, 0.9]])).mean == pytest.approx(0.6)


def test_nothing_has_no_interval():
    assert bootstrap(np.full((2, 3), np.nan)) is None


@pytest.mark.parametrize("grid", [[[0.7]], [[0.7, 0.5, 0.9]], [[0.7], [0.5], [0.9]]])
def test_a_single_draw_or_a_single_subject_has_a_mean_and_no_interval(grid):
    interval = bootstrap(np.array(grid))
    assert interval.mean == pytest.approx(0.7)
    assert (interval.low, interval.high) == (None, None)


def test_where_everything_is_alike_the_interval_is_that_number():
    interval = bootstrap(np.full((3, 4), 0.5))
    assert (interval.mean, interval.low, interval.high) == (0.5, 0.5, 0.5)


def test_an_interval_of_two_draws_is_wide_and_stays_a_dice():
    grid = np.array([[0.2, 0.3], [0.8, 0.7]])
    assert bootstrap(grid).low < 0
    assert (bootstrap(grid, within=(0, 1)).low, bootstrap(grid, within=(0, 1)).high) == (0, 1)


def test_equal_grids_have_equal_intervals():
    grid = np.random.default_rng(0).random((5, 9))
    assert bootstrap(grid) == bootstrap(grid.copy())


@pytest.mark.parametrize(("draws", "subjects"), [(2, 8), (3, 8), (5, 20)])
@pytest.mark.parametrize(("of_a_draw", "of_a_subject"), [(0.1, 0.1), (0.02, 0.15), (0.15, 0.02)])
def test_the_interval_holds_the_truth_as_often_as_it_says(draws, subjects, of_a_draw, of_a_subject):
    """Draws and subjects each have an effect, and both are few: a plain bootstrap holds it in 80 to 88 of 100."""
    random = np.random.default_rng(1)
    held = 0
    for _ in range(200):
        grid = of_a_draw * random.standard_normal((draws, 1)) + of_a_subject * random.standard_normal((1, subjects))
        interval = bootstrap(0.5 + grid + 0.05 * random.standard_normal((draws, subjects)))
        held += interval.low <= 0.5 <= interval.high
    assert held / 200 >= 0.92


def test_a_difference_on_the_same_draws_is_seen_where_the_spread_hides_it():
    random = np.random.default_rng(2)
    worse = 0.5 + 0.2 * random.standard_normal((5, 1)) + 0.1 * random.standard_normal((1, 10))
    better = worse + 0.03 + 0.01 * random.standard_normal((5, 10))
    apart = bootstrap(better - worse)
    assert 0 < apart.low < 0.03 < apart.high
    assert bootstrap(better).low < bootstrap(worse).high


def run(head, dice, *, draw=0, drawn="p1", subjects=1, split="default", **config):
    """What a comparison looks at in a run."""
    settings = SimpleNamespace(
        head=head,
        head_config=config,
        subjects=subjects,
        amount=f"{subjects}",
        split=split,
        split_digest=split,
        draw=draw,
        drawn_volumes={drawn: "content"},
        scored_volumes=dict.fromkeys(dice, "content"),
    )
    return SimpleNamespace(
        settings=settings, scores=[scored(subject, value).to_json() for subject, value in dice.items()]
    )


def test_the_best_head_stands_first_and_the_others_say_how_far_behind():
    best, other = standings([run("ridge", {"a": 0.2, "b": 0.4}), run("linear", {"a": 0.5, "b": 0.6})])
    assert (best.head, best.behind) == ("linear", None)
    assert other.behind.mean == pytest.approx(0.25)


def test_a_head_is_compared_on_the_draws_that_it_shares_with_the_best_and_keeps_the_mean_of_its_own():
    tried_once = run("cnn", {"a": 0.9})
    of_two = [run("ridge", {"a": 0.2}), run("ridge", {"a": 0.4}, drawn="p2")]
    best = [run("linear", {"a": 0.3}), run("linear", {"a": 0.9}, drawn="p2")]
    found = {one.head: one for one in standings([tried_once, *of_two, *best])}
    assert {one.best for one in found.values()} == {"linear"}
    assert {head: (one.draws, one.shared_draws) for head, one in found.items()} == {
        "linear": (2, 2),
        "ridge": (2, 2),
        "cnn": (1, 1),
    }
    assert found["ridge"].dice.mean == pytest.approx(0.3)
    assert found["ridge"].behind.mean == pytest.approx(0.3)
    assert found["cnn"].behind.mean == pytest.approx(0.3 - 0.9)


def test_draws_that_drew_the_same_count_once():
    (found,) = standings([run("ridge", {"a": 0.2}), run("ridge", {"a": 0.2}, draw=1)])
    assert found.draws == 1


def test_of_draws_that_drew_the_same_the_first_counts_whichever_was_trained_first():
    first, second = run("linear", {"a": 0.2}), run("linear", {"a": 0.6}, draw=1)
    other = run("linear", {"a": 0.4}, draw=2, drawn="p2")
    (found,) = standings([second, other, first])
    assert found.dice.mean == pytest.approx(0.3)


def test_draws_of_one_number_that_drew_others_are_not_paired():
    first, second = standings([run("ridge", {"a": 0.2}), run("linear", {"a": 0.3}, drawn="p2")])
    assert (first.head, second.behind, second.on_draws) == ("linear", None, "1 (0 shared)")


def test_subjects_of_different_splits_and_numbers_are_never_compared():
    found = standings(
        [run("ridge", {"a": 0.2}), run("linear", {"a": 0.3}, split="other"), run("linear", {"a": 1}, subjects=5)]
    )
    assert [(one.split, one.behind) for one in found] == [("default", None), ("other", None), ("default", None)]


def test_scores_on_other_volumes_are_never_compared():
    assert [one.behind for one in standings([run("ridge", {"a": 0.2}), run("linear", {"a": 0.3, "b": 0.5})])] == [
        None
    ] * 2


def test_a_head_with_other_options_is_another():
    found = standings([run("ladder", {"a": 0.2}, gate="fixed"), run("ladder", {"a": 0.3}, gate="learned")])
    assert [one.head for one in found] == ["ladder", "ladder:gate=fixed"]


def test_two_experiments_are_compared_on_the_draws_that_both_have():
    (found,) = compare([run("ridge", {"a": 0.2}), run("ridge", {"a": 0.9}, drawn="p2")], [run("linear", {"a": 0.3})])
    assert (found.draws, found.one.mean, found.other.mean) == (1, 0.2, 0.3)
    assert found.difference.mean == pytest.approx(-0.1)
