"""A split is a fixed partition of subjects; who comes later joins the pool."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from examples.edits import edit
from hypothesis import given
from hypothesis import strategies as st

from samkit.store.documents import readable_json, sealed, sealed_json
from samkit.store.errors import DamagedStore
from samkit.store.local import LocalPlace
from samkit.store.splits import Split

SPLIT = Split(name="default", seed=7, pool=("a", "b", "c"), test=("x", "y"))


def test_a_new_subject_joins_the_pool():
    joined = SPLIT.joined_by(["b", "bb", "x"])
    assert joined.pool == ("a", "b", "bb", "c")
    assert joined.test == SPLIT.test


@given(st.sets(st.text(max_size=3)))
def test_whoever_joins_no_test_subject_is_ever_moved_and_nobody_is_lost(subjects: set[str]):
    joined = SPLIT.joined_by(subjects)
    assert joined.test == SPLIT.test
    assert set(joined.pool) == (subjects | set(SPLIT.pool)) - set(SPLIT.test)


def test_who_is_left_out_does_not_join_the_pool():
    assert replace(SPLIT, unused=("f",)).joined_by(["f", "g"]).pool == ("a", "b", "c", "g")


def test_nobody_new_changes_nothing():
    assert SPLIT.joined_by(["a", "y"]) == SPLIT


def test_the_digest_changes_with_a_subject_in_either_part():
    digests = {SPLIT.digest, replace(SPLIT, pool=("a", "b")).digest, replace(SPLIT, test=("x",)).digest}
    assert len(digests) == 3


def test_the_digest_tells_the_pool_from_the_test():
    assert replace(SPLIT, pool=SPLIT.test, test=SPLIT.pool).digest != SPLIT.digest


def test_the_digest_is_of_the_partition_not_of_its_name_or_order():
    assert replace(SPLIT, name="other", seed=8, pool=("c", "b", "a")).digest == SPLIT.digest


def kept(**changes: Any) -> dict[str, Any]:
    return {**json.loads(json.dumps(SPLIT.to_json())), **changes}


@pytest.fixture
def file(tmp_path: Path) -> LocalPlace:
    return LocalPlace(tmp_path / "splits" / "default.json")


def test_a_split_survives_its_file(file: LocalPlace):
    file.publish(sealed_json(SPLIT.to_json()))
    assert Split.read(file) == SPLIT


def test_who_is_left_out_survives_the_file(file: LocalPlace):
    split = replace(SPLIT, unused=("f",))
    file.publish(sealed_json(split.to_json()))
    assert Split.read(file) == split


def test_a_split_that_leaves_nobody_out_is_kept_as_before_that_could_be():
    assert "unused" not in SPLIT.to_json()


@pytest.mark.parametrize("unused", [("a",), ("x",)])
def test_a_subject_that_is_left_out_and_in_a_part_is_damage(file: LocalPlace, unused: tuple[str, ...]):
    file.publish(sealed_json(kept(unused=list(unused))))
    with pytest.raises(DamagedStore, match=rf"{unused[0]} would be .* and left out"):
        Split.read(file)


@pytest.mark.parametrize("field", sorted(sealed(SPLIT.to_json())))
def test_a_split_without_one_of_its_fields_is_damage(file: LocalPlace, field: str):
    value = sealed(SPLIT.to_json())
    del value[field]
    file.publish(readable_json(value))
    with pytest.raises(DamagedStore, match=field):
        Split.read(file)


def test_a_split_with_a_field_from_elsewhere_is_damage(file: LocalPlace):
    file.publish(sealed_json(kept(validation=["b"])))
    with pytest.raises(DamagedStore, match="validation"):
        Split.read(file)


@pytest.mark.parametrize("wrong", ["abc", None, [1, 2]])
def test_a_side_that_is_no_list_of_subjects_is_damage(file: LocalPlace, wrong: object):
    file.publish(sealed_json(kept(pool=wrong)))
    with pytest.raises(DamagedStore, match="not a list of subjects"):
        Split.read(file)


def test_a_subject_on_both_sides_is_refused(file: LocalPlace):
    file.publish(sealed_json(kept(pool=["a", "x"])))
    with pytest.raises(DamagedStore, match="x would be trained on and scored"):
        Split.read(file)


@pytest.mark.parametrize("change", [{"test": ["x"]}, {"pool": ["a", "b"]}, {"seed": 8}, {"name": "other"}])
def test_a_split_that_was_changed_by_hand_after_it_was_made_is_refused(file: LocalPlace, change: dict[str, Any]):
    file.publish(sealed_json(SPLIT.to_json()))
    edit(file, change)
    with pytest.raises(DamagedStore, match=r"splits/default\.json: its content does not match its seal"):
        Split.read(file)


def test_a_split_whose_subjects_are_not_those_of_its_digest_is_refused_under_any_seal(file: LocalPlace):
    file.publish(sealed_json(kept(test=["x"])))
    with pytest.raises(DamagedStore, match=r"splits/default\.json: its subjects have the digest"):
        Split.read(file)


@pytest.mark.parametrize("value", [None, [], "text"])
def test_what_is_no_object_is_no_split(file: LocalPlace, value: Any):
    file.publish(readable_json(value))
    with pytest.raises(DamagedStore, match="where an object with the fields"):
        Split.read(file)
