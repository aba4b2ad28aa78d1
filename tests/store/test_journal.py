"""A row exists if and only if a journal record lists its key."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from samkit.store.errors import DamagedStore
from samkit.store.files import publish, readable_json
from samkit.store.journal import Journal, ShardRecord
from samkit.store.keys import RowKey, shard_id

RECIPE_ID = "0123456789ab"


def keys(*numbers: int) -> tuple[RowKey, ...]:
    return tuple(RowKey(slice_digest=f"{number:032x}") for number in numbers)


def record(*numbers: int, **others: Any) -> ShardRecord:
    fields: dict[str, Any] = {
        "shard": shard_id(RECIPE_ID, keys(*numbers)),
        "recipe": RECIPE_ID,
        "keys": keys(*numbers),
        "checksums": tuple(numbers),
        "row_shape": (2, 3, 4),
        "dtype": "float16",
        "compute": {"device": "cpu", "threads": 2},
        "seconds": 1.25,
        "peak_memory_bytes": 1000,
        "code_version": "0.1.0",
        "writer": "test",
    }
    return ShardRecord(**{**fields, **others})


# -- which rows exist ------------------------------------------------------------------------------


def test_a_journal_that_is_not_there_lists_nothing(tmp_path: Path):
    journal = Journal(tmp_path / "journal")
    assert len(journal) == 0
    assert journal.missing(keys(1, 2)) == list(keys(1, 2))


def test_a_row_exists_once_a_record_lists_it(tmp_path: Path):
    journal = Journal(tmp_path / "journal")
    journal.commit(record(1, 2))
    assert list(journal) == list(keys(1, 2))
    assert keys(3)[0] not in journal


def test_a_row_is_found_with_its_record_and_place(tmp_path: Path):
    journal = Journal(tmp_path / "journal")
    journal.commit(record(1, 2))
    assert journal.find(keys(2)[0]) == (record(1, 2), 1)
    assert journal.find(keys(3)[0]) is None


def test_missing_keys_are_told_once_and_in_order(tmp_path: Path):
    journal = Journal(tmp_path / "journal")
    journal.commit(record(1))
    assert journal.missing(keys(5, 1, 4, 5)) == list(keys(5, 4))


def test_another_process_sees_the_record_after_a_refresh(tmp_path: Path):
    mine, theirs = Journal(tmp_path / "journal"), Journal(tmp_path / "journal")
    theirs.commit(record(1))
    assert keys(1)[0] not in mine
    mine.refresh()
    assert keys(1)[0] in mine


def test_one_key_in_two_shards_is_one_row(tmp_path: Path):
    journal = Journal(tmp_path / "journal")
    journal.commit(record(1, 2))
    journal.commit(record(2, 3))
    assert len(journal) == 3
    assert journal.find(keys(2)[0]) == (record(1, 2), 1)


def test_hidden_and_half_written_names_list_nothing(tmp_path: Path):
    folder = tmp_path / "journal"
    kept = readable_json(record(1).to_json())
    publish(folder / f".{record(1).shard}.json.0123.part", kept[:40])
    publish(folder / f".{record(1).shard}.json", kept)
    assert len(Journal(folder)) == 0


# -- the first record stands -----------------------------------------------------------------------


def test_the_first_commit_wins_and_both_keep_its_record(tmp_path: Path):
    first, second = Journal(tmp_path / "journal"), Journal(tmp_path / "journal")
    assert first.commit(record(1, seconds=1.0)) is True
    assert second.commit(record(1, seconds=9.0)) is False
    assert second.records == first.records


def test_among_threads_one_commit_wins(tmp_path: Path):
    together = threading.Barrier(6)

    def commit(number: int) -> bool:
        journal = Journal(tmp_path / "journal")
        together.wait()
        return journal.commit(record(1, seconds=float(number)))

    with ThreadPoolExecutor(6) as pool:
        won = list(pool.map(commit, range(6)))
    assert won.count(True) == 1
    (kept,) = Journal(tmp_path / "journal").records.values()
    assert kept.seconds == won.index(True)


# -- records ---------------------------------------------------------------------------------------


def test_a_record_survives_json():
    assert ShardRecord.from_json(json.loads(json.dumps(record(1, 2).to_json()))) == record(1, 2)


@pytest.mark.parametrize("field", sorted(record(1).to_json()))
def test_a_record_without_one_of_its_fields_is_damage(field: str):
    kept = record(1).to_json()
    del kept[field]
    with pytest.raises(DamagedStore, match=field):
        ShardRecord.from_json(kept)


@pytest.mark.parametrize(
    ("field", "value"),
    [("keys", ["no key"]), ("keys", ["a//full"]), ("row_shape", [2]), ("compute", 3), ("checksums", None)],
)
def test_a_record_with_a_field_of_another_form_is_damage(field: str, value: object):
    with pytest.raises(DamagedStore, match=r"Remove it and run `samkit embed`"):
        ShardRecord.from_json({**record(1).to_json(), field: value})


@pytest.mark.parametrize("value", [None, 3, [], "text"])
def test_a_record_that_is_no_object_is_damage(value: Any):
    with pytest.raises(DamagedStore, match="journal record"):
        ShardRecord.from_json(value)


def test_a_record_with_fewer_checksums_than_rows_is_damage():
    with pytest.raises(DamagedStore, match="2 rows and 1 checksums"):
        ShardRecord.from_json(replace(record(1, 2), checksums=(1,)).to_json())


def test_a_record_whose_rows_were_swapped_is_damage():
    # With the checksums swapped too every row would still fit, and belong to the other slice.
    swapped = replace(record(1, 2), keys=keys(2, 1), checksums=(2, 1))
    with pytest.raises(DamagedStore, match="its recipe and rows are those of"):
        ShardRecord.from_json(swapped.to_json())


def test_a_damaged_record_is_named_by_its_file(tmp_path: Path):
    path = tmp_path / "journal" / f"{record(1).shard}.json"
    publish(path, readable_json({"shard": record(1).shard}))
    with pytest.raises(DamagedStore, match=str(path)):
        Journal(tmp_path / "journal")


def test_a_record_under_another_name_is_refused(tmp_path: Path):
    publish(tmp_path / "journal" / "other.json", readable_json(record(1).to_json()))
    with pytest.raises(DamagedStore, match=rf"Give the file its name back, {record(1).shard}\.json"):
        Journal(tmp_path / "journal")
