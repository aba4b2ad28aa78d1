"""Splits keep test subjects apart and draws are nested, whoever joins later."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from samkit.heads.sampling import draw_subjects, listed_subjects, make_split, removed_subjects, scored_subjects
from samkit.store.errors import UsageError
from samkit.store.splits import Split

names = st.text("abcdefgh0123456789-", min_size=1, max_size=8)
subjects = st.sets(names, min_size=2, max_size=40)
seeds = st.integers(0, 5)


@given(subjects, seeds)
def test_pool_and_test_share_no_subject_and_hold_all(everyone, seed):
    split = make_split(everyone, seed=seed)
    assert not set(split.pool) & set(split.test)
    assert set(split.pool) | set(split.test) == everyone


@given(subjects, seeds)
def test_there_is_always_somebody_to_train_on_and_somebody_to_score_on(everyone, seed):
    split = make_split(everyone, seed=seed)
    assert split.pool
    assert split.test


@given(st.integers(4, 200))
def test_three_tenths_are_kept_for_the_score(count):
    split = make_split(f"patient{number:03d}" for number in range(count))
    assert abs(len(split.test) - 0.3 * count) <= 0.5


@given(subjects, seeds)
def test_the_order_in_which_subjects_are_listed_does_not_matter(everyone, seed):
    assert make_split(sorted(everyone), seed=seed) == make_split(sorted(everyone, reverse=True), seed=seed)


def test_another_seed_is_another_split():
    everyone = [f"patient{number:03d}" for number in range(30)]
    assert make_split(everyone, seed=0).test != make_split(everyone, seed=1).test


@given(subjects, names, seeds)
def test_a_subject_that_joins_moves_no_other_between_the_parts(everyone, newcomer, seed):
    split = make_split(everyone, seed=seed)
    joined = split.joined_by({*everyone, newcomer})
    assert joined.test == split.test
    assert set(joined.pool) == set(split.pool) | ({newcomer} - set(split.test))


@given(subjects, names, seeds)
def test_a_subject_that_joins_keeps_the_order_of_those_who_were_there(everyone, newcomer, seed):
    split = make_split(everyone, seed=seed)
    joined = split.joined_by([newcomer])
    before = draw_subjects(split, len(split.pool), 0, split.pool).subjects
    after = draw_subjects(joined, len(joined.pool), 0, joined.pool).subjects
    assert tuple(subject for subject in after if subject in before) == before


@given(subjects, seeds, st.integers(0, 3))
def test_smaller_draws_lie_inside_larger_ones(everyone, seed, number):
    split = make_split(everyone, seed=seed)
    draws = [draw_subjects(split, count, number, split.pool).subjects for count in range(1, len(split.pool) + 1)]
    assert all(larger[: len(smaller)] == smaller for smaller, larger in itertools.pairwise(draws))


@given(subjects, seeds, st.integers(0, 3))
def test_draws_hold_subjects_of_the_pool_once_each(everyone, seed, number):
    split = make_split(everyone, seed=seed)
    drawn = draw_subjects(split, len(split.pool), number, everyone).subjects
    assert sorted(drawn) == sorted(split.pool)


def test_draws_of_other_numbers_are_other_orders():
    split = make_split(f"patient{number:03d}" for number in range(40))
    assert len({draw_subjects(split, 1, number, split.pool).subjects for number in range(10)}) > 5


@pytest.mark.parametrize(("count", "validates"), [(1, False), (2, False), (3, True), (5, True)])
def test_from_three_subjects_on_the_last_one_validates(count, validates):
    draw = draw_subjects(make_split(map(str, range(20))), count, 0, [str(number) for number in range(20)])
    if validates:
        assert draw.validation == draw.subjects[-1]
        assert draw.training == draw.subjects[:-1]
    else:
        assert draw.validation is None
        assert draw.training == draw.subjects


@pytest.mark.parametrize("everyone", [[], ["only"], ["same", "same"]])
def test_fewer_than_two_subjects_cannot_be_split(everyone):
    with pytest.raises(UsageError, match="at least two are needed"):
        make_split(everyone)


@pytest.mark.parametrize("count", [-1, 0, 8])
def test_more_subjects_than_the_pool_has_or_none_are_refused_with_what_there_is(count):
    split = make_split(map(str, range(10)))
    with pytest.raises(UsageError, match=rf"--volumes {count}: .* has 7 labelled subjects .*Ask for 1 to 7"):
        draw_subjects(split, count, 0, split.pool)


# -- subjects that were removed --------------------------------------------------------------------


@given(subjects, seeds, st.integers(0, 3), st.data())
def test_the_draw_of_those_who_are_left_keeps_their_order(everyone, seed, number, data):
    split = make_split(everyone, seed=seed)
    gone = data.draw(st.sets(st.sampled_from(split.pool), max_size=len(split.pool) - 1))
    before = draw_subjects(split, len(split.pool), number, everyone).subjects
    left = [subject for subject in before if subject not in gone]
    for count in range(1, len(left) + 1):
        assert draw_subjects(split, count, number, everyone - gone).subjects == tuple(left[:count])


@given(subjects, seeds, st.data())
def test_those_who_are_left_of_the_test_part_are_scored(everyone, seed, data):
    split = make_split(everyone, seed=seed)
    gone = data.draw(st.sets(st.sampled_from(split.test), max_size=len(split.test) - 1))
    assert set(scored_subjects(split, everyone - gone)) == set(split.test) - gone


SPLIT = Split(name="default", seed=0, pool=("p0", "p1", "p2"), test=("t0", "t1"))


def test_more_than_are_left_are_refused_with_those_who_were_removed():
    told = (
        r"--volumes 3: .* has 2 labelled subjects \(1 more .*Ask for 1 to 2.*without a label now: p1; .*samkit ingest"
    )
    with pytest.raises(UsageError, match=told):
        draw_subjects(SPLIT, 3, 0, {"p0", "p2", "t0"})


def test_a_pool_of_which_nobody_is_left_is_refused_without_a_number_to_ask_for():
    with pytest.raises(UsageError, match=r"has 0 labelled subjects.*without a label now: p0, p1, p2;") as caught:
        draw_subjects(SPLIT, 1, 0, {"t0"})
    assert "Ask for" not in str(caught.value)


def test_a_test_part_of_which_nobody_is_left_is_refused_with_their_names_and_what_to_do():
    told = r"every test subject .*\(t0, t1\).*samkit ingest SOURCE.*remove splits/default\.json"
    with pytest.raises(UsageError, match=told):
        scored_subjects(SPLIT, {"p0", "p1", "p2"})


def test_a_subject_that_joined_and_is_in_no_part_is_not_taken_for_removed():
    assert removed_subjects(SPLIT.pool, {"p0", "p2", "newcomer"}) == ["p1"]


def test_a_long_list_of_subjects_is_cut():
    assert listed_subjects([f"p{number}" for number in range(7)]) == "p0, p1, p2, p3, p4 and 2 more"
