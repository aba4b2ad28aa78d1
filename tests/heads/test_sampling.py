"""Splits keep test subjects apart and draws are nested, whoever joins later."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from samkit.heads.sampling import (
    draw_frames,
    draw_subjects,
    import_split,
    listed_subjects,
    make_split,
    removed_subjects,
    scored_subjects,
)
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


# -- frames ----------------------------------------------------------------------------------------

TWO_FRAMES = {f"{subject}_{frame}": subject for subject in ("p0", "p1", "p2", "t0") for frame in ("ED", "ES")}
POOL_OF_THREE = Split(name="default", seed=0, pool=("p0", "p1", "p2"), test=("t0",))


@given(st.integers(1, 6), st.integers(0, 5))
def test_frames_are_drawn_one_by_one_of_the_pool_alone(count, number):
    draw = draw_frames(POOL_OF_THREE, count, number, TWO_FRAMES)
    assert len(set(draw.volumes)) == draw.count == count
    assert {TWO_FRAMES[volume] for volume in draw.volumes} == set(draw.subjects) <= set(POOL_OF_THREE.pool)


@given(st.integers(1, 5), st.integers(0, 5))
def test_smaller_draws_of_frames_lie_inside_larger_ones(count, number):
    smaller, larger = (draw_frames(POOL_OF_THREE, one, number, TWO_FRAMES).volumes for one in (count, count + 1))
    assert larger[:count] == smaller


def test_five_frames_can_be_of_three_subjects():
    assert len(draw_frames(POOL_OF_THREE, 5, 0, TWO_FRAMES).subjects) == 3


@pytest.mark.parametrize("count", [0, 7])
def test_more_frames_than_the_pool_has_or_none_are_refused_with_what_there_is(count):
    with pytest.raises(UsageError, match=rf"--volumes {count} --count frames: .* have 6 labelled volumes. Ask for 1"):
        draw_frames(POOL_OF_THREE, count, 0, TWO_FRAMES)


# -- parts composed alike --------------------------------------------------------------------------


@given(subjects, seeds, st.floats(0.05, 0.95), st.data())
def test_every_group_gives_its_share_to_the_test_part_within_one_subject(everyone, seed, share, data):
    groups = {subject: data.draw(st.sampled_from("abc"), subject) for subject in sorted(everyone)}
    split = make_split(everyone, seed=seed, test_share=share, strata=groups)
    for group in set(groups.values()):
        members = {subject for subject in everyone if groups[subject] == group}
        assert abs(len(members & set(split.test)) - len(split.test) * len(members) / len(everyone)) < 1


@given(subjects, seeds, st.floats(0.05, 0.95), st.data())
def test_groups_change_who_is_scored_but_not_how_many(everyone, seed, share, data):
    groups = {subject: data.draw(st.sampled_from("abc"), subject) for subject in sorted(everyone)}
    alike = make_split(everyone, seed=seed, test_share=share, strata=groups)
    assert len(alike.test) == len(make_split(everyone, seed=seed, test_share=share).test)
    assert {*alike.pool, *alike.test} == everyone


@given(subjects, seeds)
def test_one_group_is_as_none(everyone, seed):
    assert make_split(everyone, seed=seed, strata=dict.fromkeys(everyone, "all")) == make_split(everyone, seed=seed)


def test_a_subject_without_a_group_is_refused_by_name():
    with pytest.raises(UsageError, match="no group is known of c"):
        make_split("abc", strata={"a": "1", "b": "1"})


@pytest.mark.parametrize("share", [0, 1, -0.1, float("nan")])
def test_a_share_that_leaves_a_part_empty_is_refused(share):
    with pytest.raises(UsageError, match="--test-share"):
        make_split("abcd", test_share=share)


# -- splits of others ------------------------------------------------------------------------------

SUBJECT_OF = {"a_1": "a", "a_2": "a", "b_1": "b", "c_1": "c"}


def test_a_split_of_others_names_subjects_or_their_volumes():
    split = import_split({"a_2": "pool", "b": "test", "c_1": "unused"}, SUBJECT_OF, name="theirs", seed=3)
    assert split == Split(name="theirs", seed=3, pool=("a",), test=("b",), unused=("c",))


def test_a_subject_that_a_split_of_others_does_not_name_is_left_out_of_both_parts():
    assert import_split({"a": "pool", "b": "test"}, SUBJECT_OF).unused == ("c",)


def test_a_name_that_is_not_here_is_kept_for_when_it_is():
    split = import_split({"a": "pool", "later": "pool", "b": "test"}, SUBJECT_OF)
    assert split.pool == ("a", "later")


def test_two_volumes_of_one_subject_in_two_parts_are_refused():
    with pytest.raises(UsageError, match=r"a: in the part pool and in test"):
        import_split({"a_1": "pool", "a_2": "test", "b": "test"}, SUBJECT_OF)


@pytest.mark.parametrize("part", ["pool", "test"])
def test_a_part_of_which_nobody_is_here_is_refused_with_who_is(part):
    other = {"pool": "test", "test": "pool"}[part]
    with pytest.raises(UsageError, match=rf"the part {part} names x: no labelled subject that is here.*a, b, c"):
        import_split({"x": part, "a": other}, SUBJECT_OF)


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
    told = r"every test subject .*\(t0, t1\).*samkit ingest SOURCE.*samkit split NAME, and train with --split NAME"
    with pytest.raises(UsageError, match=told):
        scored_subjects(SPLIT, {"p0", "p1", "p2"})


def test_a_subject_that_joined_and_is_in_no_part_is_not_taken_for_removed():
    assert removed_subjects(SPLIT.pool, {"p0", "p2", "newcomer"}) == ["p1"]


def test_a_long_list_of_subjects_is_cut():
    assert listed_subjects([f"p{number}" for number in range(7)]) == "p0, p1, p2, p3, p4 and 2 more"
