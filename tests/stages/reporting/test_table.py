"""The table tells heads apart by what they stand on, and its classes come in the order of their numbers."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
from examples.runs import SETTINGS
from examples.table_rows import LINEAR, LINEAR_ON_ANOTHER, UNET

from samkit.heads.metrics import ScoredVolume, score_volume
from samkit.stages.reporting.table import ALL_CLASSES, Row, tabulate, told_heads, told_test_sets


def run_of(run_id: str, *, found: int = 4, **settings: Any) -> SimpleNamespace:
    """A run on one subject of four voxels of each class, of which its head found so many."""
    names = settings.get("label_names", SETTINGS.label_names)
    reference = np.repeat(np.array([*names], np.uint8), 4).reshape(1, -1, 4)
    label = np.where(np.arange(4) < found, reference, 0).astype(np.uint8)
    scores = tuple(score_volume(label, reference, class_names=names, spacing_mm=None))
    return SimpleNamespace(
        id=run_id,
        settings=replace(SETTINGS, **settings),
        record={
            "encoder_trained": True,
            "seconds": {"fitting": 1.0},
            "peak_memory_bytes": 1,
            "trainable_parameters": 1,
        },
        scores=[ScoredVolume(volume_id="a", subject="a", scores=scores, accuracy=1.0).to_json()],
    )


def mean_row(*runs: SimpleNamespace) -> Row:
    (row,) = (row for row in tabulate(runs) if row.class_name == ALL_CLASSES)
    return row


DRAWN_TWICE = [
    run_of("linear-1-0", draw=0, drawn_volumes={"p": "content"}, found=4),
    run_of("linear-1-1", draw=1, drawn_volumes={"p": "content"}, found=4),
    run_of("linear-1-2", draw=2, drawn_volumes={"q": "content"}, found=0),
]


def test_a_head_without_an_encoder_is_no_second_recipe():
    assert list(told_heads([LINEAR, UNET]).values()) == ["linear", "unet"]


def test_of_two_recipes_only_heads_that_stand_on_one_are_named_with_theirs():
    told = told_heads([LINEAR, LINEAR_ON_ANOTHER, UNET])
    assert list(told.values()) == ["linear on nano d74490b97bc8", "linear on sam_vit_b 0123456789ab", "unet"]


def test_classes_of_a_run_that_scored_them_in_another_order_come_by_their_numbers():
    names = {1: "liver", 10: "spleen", 2: "kidney"}
    run = run_of("run", label_names=names)
    run.settings = replace(run.settings, label_names=dict(sorted(names.items())))
    assert [row.class_name for row in tabulate([run])] == ["liver", "kidney", "spleen", ALL_CLASSES]


def test_draws_that_drew_the_same_count_once_in_every_number():
    row = mean_row(*DRAWN_TWICE)
    assert (row.dice.mean, row.iou.mean, row.accuracy.draws) == (0.5, 0.5, 2)


def test_of_a_single_unlike_draw_there_is_no_standard_deviation():
    row = mean_row(*DRAWN_TWICE[:2])
    assert (row.told_draws, row.dice.standard_deviation) == ("2 (1 unlike)", None)


def test_what_a_head_missed_is_counted_over_unlike_draws():
    found_nothing = [run_of(f"linear-1-{draw}", draw=draw, drawn_volumes={"p": "content"}, found=0) for draw in (0, 1)]
    assert mean_row(*found_nothing).prediction_empty == 1


def test_a_row_tells_the_runs_of_its_numbers_apart_from_those_that_drew_the_same():
    row = mean_row(*DRAWN_TWICE)
    assert (row.run_ids, row.alike_run_ids) == (("linear-1-0", "linear-1-2"), ("linear-1-1",))


def test_the_worst_draw_is_a_place_among_the_runs_of_the_row():
    row = mean_row(*DRAWN_TWICE)
    assert row.run_ids[row.dice.worst_draw] == "linear-1-2"


def test_a_run_that_drew_the_same_as_another_has_its_name_too():
    assert set(told_heads(tabulate(DRAWN_TWICE))) == {run.id for run in DRAWN_TWICE}


def told_by(*runs: SimpleNamespace) -> list[str]:
    return [row.told_head for row in tabulate(runs) if row.class_name == ALL_CLASSES]


def of_split(head: str, split: str, digest: str, *scored: str) -> SimpleNamespace:
    volumes = dict.fromkeys(scored, "content")
    return run_of(f"{head}-{digest}", head=head, split=split, split_digest=digest, scored_volumes=volumes)


LINEAR_OF_ONE = of_split("linear", "one", "a" * 12, "x")
RIDGE_OF_ONE = of_split("ridge", "one", "a" * 12, "x")
RIDGE_OF_TWO = of_split("ridge", "two", "b" * 12, "y")
RIDGE_OF_A_LARGER_POOL = of_split("ridge", "one", "c" * 12, "x")
RIDGE_OF_A_MENDED_LABEL = of_split("ridge", "one", "a" * 12, "z")


def test_heads_of_one_split_do_not_name_it():
    assert told_by(LINEAR_OF_ONE, RIDGE_OF_ONE) == ["linear", "ridge"]


def test_heads_of_different_splits_name_theirs_though_none_has_runs_of_several():
    assert told_by(LINEAR_OF_ONE, RIDGE_OF_TWO) == ["linear (split one)", "ridge (split two)"]


def test_a_pool_that_grew_is_told_of_every_head_of_its_split():
    told = told_by(LINEAR_OF_ONE, RIDGE_OF_A_LARGER_POOL)
    assert told == ["linear (split digest aaaaaa)", "ridge (split digest cccccc)"]


def test_a_split_that_did_not_change_needs_no_digest_beside_one_that_did():
    told = told_by(LINEAR_OF_ONE, RIDGE_OF_A_LARGER_POOL, RIDGE_OF_TWO)
    assert told[-1] == "ridge (split two)"


def test_another_test_set_of_the_same_split_is_told_of_every_head_of_it():
    linear, ridge = told_by(LINEAR_OF_ONE, RIDGE_OF_A_MENDED_LABEL)
    assert linear.startswith("linear (test set ")
    assert ridge.startswith("ridge (test set ")


def test_rows_of_different_test_sets_are_said_not_to_compare():
    told = told_test_sets(tabulate([LINEAR_OF_ONE, RIDGE_OF_TWO, RIDGE_OF_ONE]))
    assert told.startswith("2 different test sets were scored")
    assert "rows of different ones cannot" in told


def test_rows_of_one_test_set_need_no_such_words():
    assert told_test_sets(tabulate([LINEAR_OF_ONE, RIDGE_OF_A_LARGER_POOL])) is None
