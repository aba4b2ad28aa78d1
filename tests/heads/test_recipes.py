"""Recipes are the papers' settings, and what is asked for takes their place."""

import pytest

from samkit.heads.recipes import OWN, RECIPES, VALIDATE_EVERY, FitOptions, Optimiser, chosen_fit, swept
from samkit.store.errors import UsageError


def test_epochs_become_steps_when_the_rows_are_known():
    assert RECIPES["autosam-paper"].for_rows(95).steps == 120 * 24
    assert RECIPES["sam-lst-paper"].for_rows(2211).steps == 18_600  # as the reference counts them


def test_without_epochs_rows_change_nothing():
    assert FitOptions(steps=7).for_rows(1000) == FitOptions(steps=7)


def test_the_head_s_own_options_are_the_default():
    own = FitOptions(steps=11)
    assert chosen_fit(own) == chosen_fit(own, OWN) == own


def test_a_paper_s_recipe_takes_the_place_of_the_head_s_own():
    fit = chosen_fit(FitOptions(), "autosam-paper")
    assert (fit.learning_rate, fit.optimiser, fit.weight_decay) == (5e-4, Optimiser.ADAM, 0)
    assert (fit.cross_entropy_weight, fit.dice_weight) == (1, 1)
    other = chosen_fit(FitOptions(), "sam-lst-paper")
    assert (other.cross_entropy_weight, other.dice_weight, other.rising_steps) == (0.2, 0.8, 250)


def test_what_is_typed_changes_a_recipe():
    fit = chosen_fit(FitOptions(), "autosam-paper", steps=50, batch_size=2, learning_rate=0.1)
    assert (fit.for_rows(1000).steps, fit.batch_size, fit.learning_rate) == (50, 2, 0.1)


def test_an_unknown_recipe_is_refused_with_the_nearest():
    with pytest.raises(UsageError, match="Did you mean 'autosam-paper'"):
        chosen_fit(FitOptions(), "autosam")


def test_draws_of_unlike_size_are_kept_under_one_name_where_epochs_decide():
    recipe = RECIPES["autosam-paper"]
    assert recipe.for_rows(10).to_json() == recipe.for_rows(99).to_json()


def test_runs_from_before_there_was_a_precision_are_those_of_float32():
    assert "precision" not in FitOptions().to_json()
    assert FitOptions(precision="bfloat16").to_json()["precision"] == "bfloat16"


def test_a_sweep_is_every_combination_of_its_values():
    fits = swept(FitOptions(steps=9), ["learning-rate=1e-3,1e-2", "weight-decay=0,0.1"])
    assert {(fit.learning_rate, fit.weight_decay) for fit in fits} == {(1e-3, 0), (1e-3, 0.1), (1e-2, 0), (1e-2, 0.1)}
    assert {fit.steps for fit in fits} == {9}


def test_without_a_sweep_there_is_one_fit():
    assert swept(FitOptions(), []) == (FitOptions(),)


def test_steps_that_are_swept_take_the_place_of_epochs():
    assert [fit.for_rows(1000).steps for fit in swept(RECIPES["autosam-paper"], ["steps=5,6"])] == [5, 6]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("learning_rate=1", "Did you mean 'learning-rate'"),
        ("batch-size=1,2", "unknown sweep 'batch-size'"),
        ("learning-rate", "give numbers joined by commas"),
        ("learning-rate=fast", "give numbers joined by commas"),
        ("learning-rate=0", "give numbers joined by commas"),
        ("learning-rate=nan", "give numbers joined by commas"),
        ("steps=0", "give numbers joined by commas"),
        ("steps=1.5", "give numbers joined by commas"),
    ],
)
def test_a_sweep_that_cannot_be_is_refused(text, told):
    with pytest.raises(UsageError, match=told):
        swept(FitOptions(), [text])


def test_a_subject_to_stop_by_is_kept_where_it_is_asked_for():
    without = FitOptions(validate_every=None)
    assert chosen_fit(without).validate_every is None
    assert chosen_fit(without, validation=True).validate_every == VALIDATE_EVERY
    assert chosen_fit(FitOptions(validate_every=7), validation=True).validate_every == 7
    assert chosen_fit(FitOptions(), validation=False).validate_every is None
