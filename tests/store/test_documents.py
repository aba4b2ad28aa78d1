"""JSON has one text, and a document that was changed after it was written is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from examples.edits import edit, flip, rewrite
from hypothesis import given
from hypothesis import strategies as st

from samkit.store.documents import (
    bytes_digest,
    canonical_json,
    check_fields,
    read_json,
    read_sealed,
    read_sealed_lines,
    readable_json,
    sealed,
    sealed_json,
    sealed_lines,
    unsealed,
)
from samkit.store.errors import DamagedStore
from samkit.store.local import LocalPlace

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
LINES = [b'{"a":1}', b'["b",2]', b'{"c":3}']


@pytest.fixture
def file(tmp_path: Path) -> LocalPlace:
    return LocalPlace(tmp_path / "file.json")


# -- text ------------------------------------------------------------------------------------------


@given(json_values)
def test_canonical_json_reads_back_and_is_written_the_same_again(value: object):
    text = canonical_json(value)
    assert json.loads(text) == value
    assert canonical_json(json.loads(text)) == text


@given(st.dictionaries(st.text(), st.integers(), max_size=6))
def test_canonical_json_does_not_depend_on_the_order_of_the_fields(fields: dict[str, int]):
    assert canonical_json(dict(reversed(fields.items()))) == canonical_json(fields)


def test_canonical_json_is_this_text():
    # A golden text: ids of recipes, runs and shards are hashes of texts like this one.
    assert canonical_json({"b": [1, 0.1, None], "a": "µ"}) == '{"a":"µ","b":[1,0.1,null]}'


def test_canonical_json_refuses_a_number_that_json_cannot_hold():
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical_json({"a": float("nan")})


def test_readable_json_reads_back(file: LocalPlace):
    file.publish(readable_json({"name": "Müller", "values": [1, 2]}))
    assert read_json(file) == {"name": "Müller", "values": [1, 2]}


def test_the_digest_of_bytes_is_this_one():
    # BLAKE2b of 16 bytes, part of the format.
    assert bytes_digest(b"samkit") == "63a2d28fc89b8d00bc2d88e920e78079"
    assert bytes_digest(memoryview(b"samkit")) == bytes_digest(b"samkit")


@pytest.mark.parametrize("torn", [b"", b'{"a": 1', b"\xff\xfe\x00", b'{"a": 1}}'])
def test_a_file_that_is_not_json_is_damage_and_named(file: LocalPlace, torn: bytes):
    file.publish(torn)
    with pytest.raises(DamagedStore, match=r"file\.json.*Restore it from a copy"):
        read_json(file)


def test_a_file_that_is_gone_is_damage_and_named(file: LocalPlace):
    with pytest.raises(DamagedStore, match=r"file\.json is missing\. Restore it from a copy"):
        read_json(file)


# -- fields ----------------------------------------------------------------------------------------


def test_fields_are_checked_by_name_and_both_lists_are_told():
    with pytest.raises(DamagedStore, match=r"a\.json: the fields \['two'\] are missing and \['three'\] are not known"):
        check_fields("a.json", {"one": 1, "three": 3}, ("one", "two"), "Restore it.")


@pytest.mark.parametrize("value", [None, 3, "text", ["one"]])
def test_what_is_no_object_has_no_fields(value: object):
    with pytest.raises(DamagedStore, match="where an object with the fields"):
        check_fields("a.json", value, ("one",), "Restore it.")


# -- sealed documents ------------------------------------------------------------------------------


@given(st.dictionaries(st.text().filter(lambda name: name != "seal"), json_values, max_size=4))
def test_a_sealed_document_reads_back(tmp_path_factory: pytest.TempPathFactory, value: dict[str, Any]):
    place = LocalPlace(tmp_path_factory.mktemp("sealed") / "a.json")
    place.publish(sealed_json(value))
    assert read_sealed(place, value, "Restore it.") == value


def test_the_seal_of_a_document_is_this_one():
    # The BLAKE2b of the canonical JSON of the other fields: whoever knows the format can tell a change.
    assert sealed({"b": 2, "a": 1}) == {"b": 2, "a": 1, "seal": bytes_digest(b'{"a":1,"b":2}')}


@pytest.mark.parametrize("change", [{"one": 2}, {"two": "other"}, {"two": None}, {"one": 1.5}])
def test_a_value_that_was_changed_by_hand_is_refused(file: LocalPlace, change: dict[str, Any]):
    file.publish(sealed_json({"one": 1, "two": "text"}))
    edit(file, change)
    with pytest.raises(DamagedStore, match=r"file\.json: its content does not match its seal: .* Restore it\."):
        read_sealed(file, ("one", "two"), "Restore it.")


def test_layout_and_order_of_the_fields_are_not_content(file: LocalPlace):
    value = sealed({"one": 1, "two": [1, 2]})
    file.publish(json.dumps(dict(reversed(value.items()))).encode())
    assert read_sealed(file, ("one", "two"), "Restore it.") == {"one": 1, "two": [1, 2]}


def test_another_seal_is_refused(file: LocalPlace):
    file.publish(readable_json({**sealed({"one": 1}), "seal": "0" * 32}))
    with pytest.raises(DamagedStore, match="does not match its seal"):
        read_sealed(file, ("one",), "Restore it.")


@pytest.mark.parametrize("field", ["one", "two", "seal"])
def test_a_field_that_is_missing_is_refused_and_named(file: LocalPlace, field: str):
    value = sealed({"one": 1, "two": 2})
    del value[field]
    file.publish(readable_json(value))
    with pytest.raises(DamagedStore, match=rf"the fields \['{field}'\] are missing"):
        read_sealed(file, ("one", "two"), "Restore it.")


def test_a_field_that_is_not_known_is_refused_and_named_even_under_a_right_seal(file: LocalPlace):
    file.publish(sealed_json({"one": 1}))
    rewrite(file, {"three": 3})
    with pytest.raises(DamagedStore, match=r"\['three'\] are not known"):
        read_sealed(file, ("one",), "Restore it.")


@pytest.mark.parametrize("value", [None, 3, "text", ["one"]])
def test_what_is_no_object_has_no_seal(value: object):
    with pytest.raises(DamagedStore, match="where an object with the fields"):
        unsealed(value, "a.json", ("one",), "Restore it.")


def test_a_flip_in_any_byte_is_refused_or_means_the_same(file: LocalPlace):
    value = {"name": "organ", "values": [1, 2, 3.5], "none": None}
    good = sealed_json(value)
    refused = 0
    for place in range(len(good)):
        file.publish(good)
        flip(file, place)
        try:
            assert read_sealed(file, value, "Restore it.") == value
        except DamagedStore:
            refused += 1
    # The rest are a blank or a line's end that became another blank.
    assert refused > len(good) - good.count(b" ") - good.count(b"\n") - 1


# -- sealed lines ----------------------------------------------------------------------------------


def test_sealed_lines_read_back_with_their_seal():
    data = sealed_lines(LINES)
    body = b"\n".join(LINES) + b"\n"
    assert read_sealed_lines(data, "a.jsonl", "Restore it.") == (LINES, bytes_digest(body))


def test_the_last_line_is_the_seal_of_all_before_it():
    *lines, last = sealed_lines(LINES).splitlines()
    assert lines == LINES
    assert json.loads(last) == {"seal": bytes_digest(b"".join(line + b"\n" for line in LINES))}


def test_a_flip_in_any_byte_of_sealed_lines_is_refused():
    good = sealed_lines(LINES)
    for place in range(len(good)):
        for bits in (0x01, 0x20, 0x80):
            torn = bytearray(good)
            torn[place] ^= bits
            with pytest.raises(DamagedStore, match=r"a\.jsonl: .* Restore it\."):
                read_sealed_lines(bytes(torn), "a.jsonl", "Restore it.")


def test_sealed_lines_that_were_cut_off_anywhere_are_refused():
    good = sealed_lines(LINES)
    for length in range(len(good)):
        with pytest.raises(DamagedStore, match="or cut it off"):
            read_sealed_lines(good[:length], "a.jsonl", "Restore it.")


@pytest.mark.parametrize("change", ["dropped", "swapped", "repeated"])
def test_lines_that_were_dropped_swapped_or_repeated_are_refused(change: str):
    first, second, *rest = sealed_lines(LINES).splitlines(keepends=True)
    torn = {"dropped": [second, *rest], "swapped": [second, first, *rest], "repeated": [first, first, second, *rest]}
    with pytest.raises(DamagedStore, match="does not match the seal"):
        read_sealed_lines(b"".join(torn[change]), "a.jsonl", "Restore it.")
