"""A row exists if and only if a journal record lists its key."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from examples.edits import edit, flip, resealed

from samkit.store.documents import canonical_json, readable_json, sealed, sealed_json, sealed_lines
from samkit.store.errors import DamagedStore
from samkit.store.journal import Journal, ShardRecord, drop_damaged, read_records
from samkit.store.keys import RowKey, shard_id
from samkit.store.local import Disk, LocalPlace

RECIPE_ID = "0123456789ab"


class Killed(BaseException):
    """Stands for a kill: nothing in samkit catches it."""


@pytest.fixture
def folder(tmp_path: Path) -> LocalPlace:
    return LocalPlace(tmp_path / "journal")


def keys(*numbers: int) -> tuple[RowKey, ...]:
    return tuple(RowKey(slice_digest=f"{number:032x}") for number in numbers)


def record(*numbers: int, **others: Any) -> ShardRecord:
    fields: dict[str, Any] = {
        "shard": shard_id(RECIPE_ID, keys(*numbers)),
        "data": f"{shard_id(RECIPE_ID, keys(*numbers))}-01234567",
        "recipe": RECIPE_ID,
        "keys": keys(*numbers),
        "checksums": tuple(numbers),
        "descriptions": {"features/zarr.json": "0" * 32},
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


def test_a_journal_that_is_not_there_lists_nothing(folder: LocalPlace):
    journal = Journal(folder)
    assert len(journal) == 0
    assert journal.missing(keys(1, 2)) == list(keys(1, 2))


def test_a_row_exists_once_a_record_lists_it(folder: LocalPlace):
    journal = Journal(folder)
    journal.commit(record(1, 2))
    assert list(journal) == list(keys(1, 2))
    assert keys(3)[0] not in journal


def test_a_row_is_found_with_its_record_and_place(folder: LocalPlace):
    journal = Journal(folder)
    journal.commit(record(1, 2))
    assert journal.find(keys(2)[0]) == (record(1, 2), 1)
    assert journal.find(keys(3)[0]) is None


def test_missing_keys_are_told_once_and_in_order(folder: LocalPlace):
    journal = Journal(folder)
    journal.commit(record(1))
    assert journal.missing(keys(5, 1, 4, 5)) == list(keys(5, 4))


def test_another_process_sees_the_record_after_a_refresh(folder: LocalPlace):
    mine, theirs = Journal(folder), Journal(folder)
    theirs.commit(record(1))
    assert keys(1)[0] not in mine
    mine.refresh()
    assert keys(1)[0] in mine


def test_one_key_in_two_shards_is_one_row(folder: LocalPlace):
    journal = Journal(folder)
    journal.commit(record(1, 2))
    journal.commit(record(2, 3))
    assert len(journal) == 3
    assert journal.find(keys(2)[0]) == (record(1, 2), 1)


def test_hidden_and_half_written_names_list_nothing(folder: LocalPlace):
    kept = sealed_json(record(1).to_json())
    (folder / f".{record(1).shard}.json.0123.part").publish(kept[:40])
    (folder / f".{record(1).shard}.json").publish(kept)
    assert len(Journal(folder)) == 0


# -- the first record stands -----------------------------------------------------------------------


def test_the_first_commit_wins_and_both_keep_its_record(folder: LocalPlace):
    first, second = Journal(folder), Journal(folder)
    assert first.commit(record(1, seconds=1.0)) is True
    assert second.commit(record(1, seconds=9.0)) is False
    assert second.records == first.records


def test_among_threads_one_commit_wins(folder: LocalPlace):
    together = threading.Barrier(6)

    def commit(number: int) -> bool:
        journal = Journal(folder)
        together.wait()
        return journal.commit(record(1, seconds=float(number)))

    with ThreadPoolExecutor(6) as pool:
        won = list(pool.map(commit, range(6)))
    assert won.count(True) == 1
    (kept,) = Journal(folder).records.values()
    assert kept.seconds == won.index(True)


# -- records ---------------------------------------------------------------------------------------


def test_a_record_survives_json():
    assert ShardRecord.from_json(json.loads(sealed_json(record(1, 2).to_json()))) == record(1, 2)


@pytest.mark.parametrize("field", sorted(sealed(record(1).to_json())))
def test_a_record_without_one_of_its_fields_is_damage(field: str):
    kept = sealed(record(1).to_json())
    del kept[field]
    with pytest.raises(DamagedStore, match=field):
        ShardRecord.from_json(kept)


@pytest.mark.parametrize(
    ("field", "value"),
    [("keys", ["no key"]), ("keys", ["a//full"]), ("row_shape", [2]), ("compute", 3), ("checksums", None)],
)
def test_a_record_with_a_field_of_another_form_is_damage(field: str, value: object):
    with pytest.raises(DamagedStore, match=r"Run `samkit embed --recipe ID --repair`"):
        ShardRecord.from_json(sealed({**record(1).to_json(), field: value}))


@pytest.mark.parametrize(
    ("field", "value"),
    [("seconds", 2.0), ("checksums", [2]), ("compute", {"device": "cuda"}), ("code_version", "0.2.0"), ("data", "x")],
)
def test_a_record_that_was_changed_by_hand_is_damage(folder: LocalPlace, field: str, value: object):
    Journal(folder).commit(record(1))
    edit(folder / f"{record(1).shard}.json", {field: value})
    with pytest.raises(DamagedStore, match="does not match its seal"):
        Journal(folder)


@pytest.mark.parametrize("value", [None, 3, [], "text"])
def test_a_record_that_is_no_object_is_damage(value: Any):
    with pytest.raises(DamagedStore, match="journal record"):
        ShardRecord.from_json(value)


def test_a_record_with_fewer_checksums_than_rows_is_damage():
    with pytest.raises(DamagedStore, match="2 rows and 1 checksums"):
        ShardRecord.from_json(sealed(replace(record(1, 2), checksums=(1,)).to_json()))


def test_a_record_whose_rows_were_swapped_is_damage():
    # With the checksums swapped too every row would still fit, and belong to the other slice.
    swapped = replace(record(1, 2), keys=keys(2, 1), checksums=(2, 1))
    with pytest.raises(DamagedStore, match="its recipe and rows are those of"):
        ShardRecord.from_json(sealed(swapped.to_json()))


def test_a_damaged_record_is_named_by_its_file(folder: LocalPlace):
    place = folder / f"{record(1).shard}.json"
    place.publish(readable_json({"shard": record(1).shard}))
    with pytest.raises(DamagedStore, match=str(place)):
        Journal(folder)


def test_a_record_under_another_name_is_refused(folder: LocalPlace):
    (folder / "other.json").publish(sealed_json(record(1).to_json()))
    with pytest.raises(DamagedStore, match=rf"Give the file its name back, {record(1).shard}\.json"):
        Journal(folder)


def test_a_file_that_is_known_to_be_unreadable_is_not_opened(folder: LocalPlace):
    Journal(folder).commit(record(1))
    (folder / "torn.json").publish(b"{")
    (folder / "compacted" / "torn.jsonl").publish(b"{")
    journal = Journal(folder, leave_out=("torn.json", "compacted/torn.jsonl"))
    assert list(journal) == list(keys(1))
    assert journal.loose() == [f"{record(1).shard}.json"]


# -- looking for one shard -------------------------------------------------------------------------


def test_a_shard_that_another_writer_committed_is_found(folder: LocalPlace):
    mine, theirs = Journal(folder), Journal(folder)
    assert not mine.look_for(record(1).shard)
    theirs.commit(record(1))
    assert mine.look_for(record(1).shard)
    assert mine.find(keys(1)[0]) == (record(1), 0)


def test_a_shard_that_another_writer_committed_and_compacted_is_found(folder: LocalPlace):
    mine, theirs = Journal(folder), Journal(folder)
    theirs.commit(record(1))
    theirs.compact()
    assert mine.look_for(record(1).shard)
    assert mine.find(keys(1)[0]) == (record(1), 0)


def test_the_first_record_stands_also_when_it_was_compacted(folder: LocalPlace):
    mine, theirs = Journal(folder), Journal(folder)
    theirs.commit(record(1, seconds=1.0))
    theirs.compact()
    assert mine.look_for(record(1).shard)
    assert mine.records == Journal(folder).records == {record(1).shard: record(1, seconds=1.0)}


# -- compaction ------------------------------------------------------------------------------------


def filled(folder: LocalPlace, numbers: Iterable[int]) -> Journal:
    """A journal of one shard for each number."""
    journal = Journal(folder)
    for number in numbers:
        journal.commit(record(number))
    return journal


def segments(folder: LocalPlace) -> list[str]:
    return [f"compacted/{name}" for name in (folder / "compacted").children()]


def test_compacting_gathers_the_records_into_one_file(folder: LocalPlace):
    journal = filled(folder, range(5))
    assert len(journal.loose()) == 5
    assert journal.compact() == 5
    assert journal.loose() == []
    assert Journal.files_of(folder) == segments(folder)
    assert len(segments(folder)) == 1


def test_compacting_keeps_every_row_for_an_old_and_for_a_new_reader(folder: LocalPlace):
    old = filled(folder, range(5))
    Journal(folder).compact()
    old.refresh()
    for reader in (old, Journal(folder)):
        assert reader.records == {record(number).shard: record(number) for number in range(5)}
        assert reader.missing(keys(*range(6))) == list(keys(5))


def test_a_segment_is_named_by_its_content(folder: LocalPlace, tmp_path: Path):
    other = LocalPlace(tmp_path / "other")
    for place, numbers in ((folder, (1, 2)), (other, (2, 1))):
        filled(place, numbers).compact()
    assert segments(folder) == segments(other)
    assert (folder / segments(folder)[0]).read_bytes() == (other / segments(other)[0]).read_bytes()


def test_nothing_loose_is_nothing_to_compact(folder: LocalPlace):
    assert Journal(folder).compact() == 0
    filled(folder, range(2)).compact()
    before = segments(folder)
    assert Journal(folder).compact() == 0
    assert segments(folder) == before


def test_rows_are_added_after_a_compaction_as_before_it(folder: LocalPlace):
    filled(folder, range(3)).compact()
    filled(folder, range(3, 5))
    assert len(Journal(folder)) == 5
    assert Journal(folder).compact() == 2
    assert len(segments(folder)) == 2
    assert len(Journal(folder)) == 5


def test_up_to_eight_segments_stay_and_more_are_merged(folder: LocalPlace):
    for number in range(8):
        filled(folder, [number]).compact()
    assert len(segments(folder)) == 8
    filled(folder, [8]).compact()
    assert len(segments(folder)) == 1
    assert Journal(folder).records == {record(number).shard: record(number) for number in range(9)}


def test_a_reader_that_has_read_the_segments_of_before_reads_on_after_they_were_merged(folder: LocalPlace):
    for number in range(8):
        filled(folder, [number]).compact()
    old = Journal(folder)
    filled(folder, [8, 9]).compact()
    old.refresh()
    assert len(old) == 10


def test_a_kill_between_the_segment_and_the_removal_of_its_records_is_harmless(
    folder: LocalPlace, monkeypatch: pytest.MonkeyPatch
):
    def die(*_: object) -> None:
        raise Killed

    journal = filled(folder, range(4))
    with monkeypatch.context() as patched:
        patched.setattr(LocalPlace, "remove_children", die)
        with pytest.raises(Killed):
            journal.compact()
    assert len(Journal.files_of(folder)) == 5
    again = Journal(folder)
    assert again.records == {record(number).shard: record(number) for number in range(4)}
    assert again.compact() == 4
    assert Journal.files_of(folder) == segments(folder)
    assert len(segments(folder)) == 1
    assert len(Journal(folder)) == 4


def test_a_kill_at_any_step_of_merging_loses_no_row(folder: LocalPlace, monkeypatch: pytest.MonkeyPatch):
    real = Disk.unlink
    for left in range(10):
        for number in range(9):
            filled(folder, [number])
            if number < 8:
                Journal(folder).compact()
        steps = iter(range(left))

        def die_later(self: Disk, path: Path, steps: Iterable[int] = steps) -> None:
            # What is hidden is a part of writing the segment.
            if not path.name.startswith(".") and next(iter(steps), None) is None:
                raise Killed
            real(self, path)

        with monkeypatch.context() as patched:
            patched.setattr(Disk, "unlink", die_later)
            try:
                Journal(folder).compact()
            except Killed:
                killed = True
            else:
                killed = False
        assert killed == (left < 9)
        assert len(Journal(folder)) == 9
        folder.remove()


def test_a_reader_is_not_disturbed_by_a_compaction_between_its_listing_and_its_reading(
    folder: LocalPlace, monkeypatch: pytest.MonkeyPatch
):
    filled(folder, range(4))
    real = LocalPlace.read_children

    def overtaken(self: LocalPlace, names: list[str]) -> dict[str, bytes]:
        monkeypatch.setattr(LocalPlace, "read_children", real)
        Journal(folder).compact()
        return real(self, names)

    monkeypatch.setattr(LocalPlace, "read_children", overtaken)
    assert len(Journal(folder)) == 4


# -- retiring --------------------------------------------------------------------------------------


def test_a_retired_shard_is_missing_for_a_new_reader_and_the_others_are_not(folder: LocalPlace):
    journal = filled(folder, range(3))
    journal.retire([record(1).shard])
    for reader in (journal, Journal(folder)):
        assert reader.missing(keys(0, 1, 2)) == list(keys(1))


def test_a_shard_is_retired_out_of_a_segment(folder: LocalPlace):
    filled(folder, range(3)).compact()
    journal = filled(folder, [3])
    journal.retire([record(1).shard, record(3).shard])
    for reader in (journal, Journal(folder)):
        assert reader.missing(keys(0, 1, 2, 3)) == list(keys(1, 3))
    assert len(segments(folder)) == 1


def test_a_segment_of_which_every_shard_was_retired_is_gone(folder: LocalPlace):
    filled(folder, range(3)).compact()
    Journal(folder).retire([record(number).shard for number in range(3)])
    assert Journal.files_of(folder) == []


def test_a_retired_shard_can_be_committed_again(folder: LocalPlace):
    filled(folder, range(3)).compact()
    journal = Journal(folder)
    journal.retire([record(1).shard])
    assert journal.commit(record(1, seconds=7.0)) is True
    assert Journal(folder).records[record(1).shard].seconds == 7.0


def test_a_row_in_another_shard_too_is_found_there_when_one_is_retired(folder: LocalPlace):
    journal = Journal(folder)
    journal.commit(record(1, 2))
    journal.commit(record(2, 3))
    journal.retire([record(1, 2).shard])
    assert journal.find(keys(2)[0]) == (record(2, 3), 0)


def test_a_kill_while_a_segment_is_written_anew_loses_no_other_row(folder: LocalPlace, monkeypatch: pytest.MonkeyPatch):
    def die(self: LocalPlace) -> None:
        if self.name.endswith(".jsonl"):
            raise Killed

    filled(folder, range(3)).compact()
    with monkeypatch.context() as patched:
        patched.setattr(LocalPlace, "remove", die)
        with pytest.raises(Killed):
            Journal(folder).retire([record(1).shard])
    # The old segment stands beside the new one: the shard was not retired, and nothing else is gone.
    assert Journal(folder).missing(keys(0, 1, 2)) == []
    Journal(folder).retire([record(1).shard])
    assert Journal(folder).missing(keys(0, 1, 2)) == list(keys(1))


def test_what_another_process_has_retired_is_forgotten_by_reloading(folder: LocalPlace):
    old = filled(folder, range(3))
    Journal(folder).retire([record(1).shard])
    old.reload()
    assert old.missing(keys(0, 1, 2)) == list(keys(1))


def test_compacting_does_not_bring_back_what_another_process_has_retired(folder: LocalPlace):
    # A long `embed` compacts with a journal that it opened before `gc` retired some of its shards.
    for number in range(8):
        filled(folder, [number]).compact()
    old = Journal(folder)
    Journal(folder).retire([record(1).shard])
    old.commit(record(8))
    old.compact()
    assert Journal(folder).missing(keys(*range(9))) == list(keys(1))


def test_retiring_does_not_bring_back_what_another_process_has_retired(folder: LocalPlace):
    filled(folder, range(4)).compact()
    old = Journal(folder)
    Journal(folder).retire([record(1).shard])
    old.retire([record(2).shard])
    assert Journal(folder).missing(keys(*range(4))) == list(keys(1, 2))


# -- damaged segments ------------------------------------------------------------------------------


def test_a_flip_in_any_byte_of_a_segment_is_damage_and_named(folder: LocalPlace):
    filled(folder, range(2)).compact()
    (name,) = segments(folder)
    good = (folder / name).read_bytes()
    for place in range(0, len(good), 7):
        flip(folder / name, place)
        with pytest.raises(DamagedStore, match=str(folder / name)):
            Journal(folder)
        (folder / name).publish(good)


def test_a_segment_that_was_cut_off_is_damage(folder: LocalPlace):
    filled(folder, range(3)).compact()
    (name,) = segments(folder)
    (folder / name).publish(b"".join((folder / name).read_bytes().splitlines(keepends=True)[:2]))
    with pytest.raises(DamagedStore, match=r"cut it off.*samkit embed --recipe ID --repair"):
        Journal(folder)


def test_a_record_in_a_segment_is_judged_like_one_alone(folder: LocalPlace):
    filled(folder, [1, 2]).compact()
    (name,) = segments(folder)
    first, second, _ = (json.loads(line) for line in (folder / name).read_bytes().splitlines())
    torn = [{**first, "seconds": 5.0}, second]
    data = sealed_lines(canonical_json(line).encode() for line in torn)
    with pytest.raises(DamagedStore, match="does not match its seal"):
        read_records(data, folder / name)
    data = sealed_lines(canonical_json(resealed(line)).encode() for line in torn)
    assert next(kept.seconds for kept in read_records(data, folder / name)) == 5.0


def test_dropping_a_damaged_segment_keeps_the_records_that_are_as_they_were_written(folder: LocalPlace):
    filled(folder, range(4)).compact()
    (name,) = segments(folder)
    shards = sorted(record(number).shard for number in range(4))
    lines = (folder / name).read_bytes().splitlines(keepends=True)
    flip(folder / name, len(lines[0]) + len(lines[1]) // 2)
    drop_damaged(folder, name)
    assert list(Journal(folder).records) == [shards[0], *shards[2:]]
    assert name not in segments(folder)


def test_dropping_a_segment_that_was_cut_off_keeps_its_whole_lines(folder: LocalPlace):
    filled(folder, range(4)).compact()
    (name,) = segments(folder)
    lines = (folder / name).read_bytes().splitlines(keepends=True)
    (folder / name).publish(b"".join([*lines[:2], lines[2][:50]]))
    drop_damaged(folder, name)
    assert len(Journal(folder).records) == 2


def test_dropping_a_segment_whose_seal_alone_is_damaged_keeps_all_of_it(folder: LocalPlace):
    journal = filled(folder, range(3))
    journal.compact()
    (name,) = segments(folder)
    flip(folder / name, -5)
    drop_damaged(folder, name)
    assert Journal(folder).records == journal.records


def test_dropping_a_segment_of_which_nothing_is_left_leaves_none(folder: LocalPlace):
    (folder / "compacted" / "torn.jsonl").publish(b"{\n\xff\n")
    drop_damaged(folder, "compacted/torn.jsonl")
    assert Journal.files_of(folder) == []


def test_dropping_a_damaged_record_leaves_the_others(folder: LocalPlace):
    filled(folder, range(2))
    (folder / f"{record(0).shard}.json").publish(b"{")
    drop_damaged(folder, f"{record(0).shard}.json")
    assert list(Journal(folder).records) == [record(1).shard]


def test_a_reader_that_lists_while_a_compaction_moves_everything_misses_no_row(
    folder: LocalPlace, monkeypatch: pytest.MonkeyPatch
):
    """The whole compaction happens between its listing of the one folder and that of the other, whichever is first."""
    filled(folder, range(5))
    real = LocalPlace.children
    listed = 0

    def children(self: LocalPlace) -> list[str]:
        nonlocal listed
        found = real(self)
        listed += 1
        if listed == 1:
            with monkeypatch.context() as undisturbed:
                undisturbed.setattr(LocalPlace, "children", real)
                assert Journal(folder).compact() == 5
        return found

    monkeypatch.setattr(LocalPlace, "children", children)
    assert len(Journal(folder)) == 5


def test_a_listing_that_misses_a_segment_written_while_it_ran_is_taken_again(
    folder: LocalPlace, monkeypatch: pytest.MonkeyPatch
):
    """What a directory answers while names come and go may hold neither the old one nor the new."""
    filled(folder, range(5)).compact()
    real = LocalPlace.children
    listings: list[list[str]] = []

    def children(self: LocalPlace) -> list[str]:
        found = real(self)
        if self.name == "compacted":
            listings.append(found)
            if len(listings) == 1:
                return []
        return found

    monkeypatch.setattr(LocalPlace, "children", children)
    assert len(Journal(folder)) == 5
