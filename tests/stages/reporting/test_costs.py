"""What encoding in every step would have cost is counted from what was measured."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from samkit.stages.reporting.costs import encoding_cost


def recipe(rows_of_records, seconds):
    records = {
        str(number): SimpleNamespace(keys=[None] * rows, seconds=seconds) for number, rows in enumerate(rows_of_records)
    }
    return SimpleNamespace(
        recipe=SimpleNamespace(id="0123", folder_name="nano--0123"),
        journal=SimpleNamespace(records=records),
        size_bytes=1000,
    )


def run(steps, *, head="linear", batch_size=4, rows=20, recipe_id="0123"):
    training = {"batch_size": batch_size} if steps else {}
    seconds = {"features": 1.0, "fitting": 2.0, "scoring": 4.0}
    return SimpleNamespace(
        settings=SimpleNamespace(head=head, recipe_id=recipe_id, training=training),
        record={"steps": steps, "training_rows": rows, "seconds": seconds},
    )


def test_every_row_that_a_head_was_shown_would_have_been_encoded():
    cost = encoding_cost(recipe([60, 40], 5.0), [run(50), run(100)])
    assert (cost.rows, cost.seconds, cost.visits) == (100, 10.0, 600)
    assert cost.live_seconds == pytest.approx(60.0)
    assert cost.times_saved == pytest.approx(6.0)


def test_the_cache_has_paid_for_itself_when_as_many_rows_were_shown_as_it_has():
    cost = encoding_cost(recipe([100], 5.0), [run(50, rows=40)])
    assert cost.break_even_epochs == pytest.approx(2.5)
    assert cost.epochs == pytest.approx(5.0)


def test_runs_of_other_recipes_and_those_that_are_solved_do_not_count():
    cost = encoding_cost(recipe([100], 5.0), [run(0), run(10, recipe_id="ffff"), run(10)])
    assert (cost.runs, cost.visits, cost.fitting_seconds) == (1, 40, 3.0)


@pytest.mark.parametrize(
    ("steps", "batch_size", "rows", "visits"),
    [
        (300, 8, 5, 1500),  # a draw that is smaller than a batch
        (6, 4, 9, 18),  # 4, 4 and 1, twice
        (8, 4, 9, 26),  # two more of the third round
    ],
)
def test_the_last_batch_of_a_round_has_what_is_left_of_the_rows(steps, batch_size, rows, visits):
    cost = encoding_cost(recipe([100], 5.0), [run(steps, batch_size=batch_size, rows=rows)])
    assert cost.visits == visits


@pytest.mark.parametrize("head", ["autosam-finetuned", "med-sa-live"])
def test_a_head_that_ran_the_encoder_in_every_step_has_saved_nothing(head):
    cost = encoding_cost(recipe([100], 5.0), [run(10, head=head), run(10)])
    assert (cost.runs, cost.visits) == (1, 40)


def test_a_head_of_a_package_that_is_not_here_counts():
    assert encoding_cost(recipe([100], 5.0), [run(10, head="somebody-elses")]).visits == 40


@pytest.mark.parametrize("runs", [[], [run(0)]])
def test_without_a_fitted_run_there_is_nothing_to_compare(runs):
    assert encoding_cost(recipe([100], 5.0), runs) is None
