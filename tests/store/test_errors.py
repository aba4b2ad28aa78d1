"""The tree of errors: one root, the exit codes, and messages without the quotes of a KeyError."""

from __future__ import annotations

import pytest

from samkit.store import errors
from samkit.store.errors import MissingEmbeddings, MissingRun, SamkitError, SamkitWarning, StoreError, UsageError


@pytest.mark.parametrize("name", sorted(set(errors.__all__) - {"SamkitWarning"}))
def test_every_error_hangs_on_one_root(name: str):
    assert issubclass(getattr(errors, name), SamkitError)


def test_all_that_is_defined_is_listed():
    defined = {name for name, value in vars(errors).items() if isinstance(value, type)}
    assert sorted(defined) == errors.__all__


@pytest.mark.parametrize("name", sorted(set(errors.__all__) - {"SamkitWarning"}))
def test_the_drawing_at_the_top_shows_every_error(name: str):
    assert name in (errors.__doc__ or "")


def test_wrong_usage_leaves_with_2_and_all_else_with_1():
    codes = {name: getattr(errors, name).exit_code for name in errors.__all__ if name != "SamkitWarning"}
    assert {name for name, code in codes.items() if code == UsageError.exit_code} == {"UsageError"}
    assert set(codes.values()) == {1, 2}


@pytest.mark.parametrize("kind", [MissingEmbeddings, MissingRun])
def test_what_is_missing_is_a_key_error_that_prints_without_quotes(kind: type[StoreError]):
    error = kind("no such thing")
    assert isinstance(error, KeyError)
    assert str(error) == "no such thing"


def test_a_warning_is_not_an_error_of_samkit():
    assert issubclass(SamkitWarning, UserWarning)
    assert not issubclass(SamkitWarning, SamkitError)
