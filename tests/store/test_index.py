"""The volumes index: a log that two ingests can write to, and of which nothing can go missing unseen."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from examples.edits import edit, flip, rewrite, rewrite_lines

from samkit.store.errors import DamagedStore, NewerFormat
from samkit.store.index import IndexChange, IndexState, VolumesIndex
from samkit.store.keys import FORMAT_VERSION
from samkit.store.local import LocalPlace
from samkit.store.places import Place


@pytest.fixture
def folder(tmp_path: Path) -> LocalPlace:
    return LocalPlace(tmp_path / "volumes")


def record(volume_id: str, **others: Any) -> dict[str, Any]:
    return {"id": volume_id, "subject": f"subject-{volume_id}", **others}


def add(index: VolumesIndex, *volume_ids: str, **others: Any) -> IndexState:
    return index.append(lambda _: IndexChange(records={name: record(name, **others) for name in volume_ids}))


def remove(index: VolumesIndex, *volume_ids: str) -> IndexState:
    return index.append(lambda _: IndexChange(removed=volume_ids))


def log_of(folder: Place, count: int) -> VolumesIndex:
    """Add volumes ``v000``, ``v001``, ..., a segment each."""
    index = VolumesIndex(folder)
    for number in range(count):
        add(index, f"v{number:03d}")
    return index


def read(folder: Place) -> IndexState:
    """What another process reads."""
    return VolumesIndex(folder).read()


# -- what is in it ---------------------------------------------------------------------------------


def test_an_index_that_is_not_there_is_empty(folder: LocalPlace):
    assert read(folder) == IndexState()
    assert not folder.path.exists()


def test_what_was_added_is_what_is_read(folder: LocalPlace):
    add(VolumesIndex(folder), "b", "a")
    state = read(folder)
    assert [(name, state.record(name)) for name in state.lines] == [("a", record("a")), ("b", record("b"))]


def test_every_commit_is_a_segment_of_its_own_and_a_head_tells_their_number(folder: LocalPlace):
    log_of(folder, 2)
    assert folder.children() == ["00000001.jsonl", "00000002.jsonl", "head.json"]


def test_volumes_come_in_the_order_of_their_ids_whatever_the_order_they_came_in(folder: LocalPlace):
    index = VolumesIndex(folder)
    states = [add(index, name) for name in ("z", "B", "a10", "a2")]
    assert list(states[-1].lines) == list(index.read().lines) == list(read(folder).lines) == ["B", "a10", "a2", "z"]


def test_a_volume_that_is_added_again_is_replaced(folder: LocalPlace):
    index = log_of(folder, 2)
    add(index, "v000", modality="CT")
    assert read(folder).record("v000") == record("v000", modality="CT")
    assert list(read(folder).lines) == ["v000", "v001"]


def test_a_volume_that_was_removed_is_gone_until_it_is_added_again(folder: LocalPlace):
    index = log_of(folder, 3)
    remove(index, "v001")
    assert list(index.read().lines) == list(read(folder).lines) == ["v000", "v002"]
    add(index, "v001")
    assert list(read(folder).lines) == ["v000", "v001", "v002"]


def test_removing_what_another_has_removed_already_is_nothing(folder: LocalPlace):
    index = log_of(folder, 2)
    remove(VolumesIndex(folder), "v000")
    remove(index, "v000")
    assert list(read(folder).lines) == ["v001"]


def test_names_that_are_not_ascii_survive(folder: LocalPlace):
    add(VolumesIndex(folder), "a", subject="Müller \u2028 \x85 \r\n")
    assert read(folder).record("a")["subject"] == "Müller \u2028 \x85 \r\n"


def test_label_names_are_carried_on_by_every_commit(folder: LocalPlace):
    index = VolumesIndex(folder)
    assert index.read().label_names is None
    index.append(lambda _: IndexChange(label_names={10: "LV", 1: "RV"}))
    add(index, "a")
    remove(index, "a")
    assert index.read().label_names == read(folder).label_names == {1: "RV", 10: "LV"}


def test_labels_come_in_the_order_of_their_numbers(folder: LocalPlace):
    VolumesIndex(folder).append(lambda _: IndexChange(label_names={2000: "c", 7: "a", 500: "b"}))
    assert list(read(folder).label_names or {}) == [7, 500, 2000]


def test_label_names_can_be_changed_and_emptied(folder: LocalPlace):
    index = VolumesIndex(folder)
    for names in ({1: "RV"}, {1: "right ventricle"}, {}):
        index.append(lambda _, names=names: IndexChange(label_names=names))
        assert read(folder).label_names == names


# -- two writers -----------------------------------------------------------------------------------


def test_two_writers_in_turns_lose_nothing_of_each_other(folder: LocalPlace):
    mine, theirs = VolumesIndex(folder), VolumesIndex(folder)
    mine.read()
    theirs.read()
    for number in range(3):
        add(mine, f"mine{number}")
        add(theirs, f"theirs{number}")
    expected = [*(f"mine{number}" for number in range(3)), *(f"theirs{number}" for number in range(3))]
    assert list(read(folder).lines) == list(mine.read().lines) == list(theirs.read().lines) == expected


def test_a_writer_that_was_overtaken_decides_again_on_what_is_there_now(folder: LocalPlace):
    mine, theirs = log_of(folder, 1), VolumesIndex(folder)
    seen: list[list[str]] = []

    def decide(now: IndexState) -> IndexChange:
        seen.append(list(now.lines))
        if len(seen) == 1:
            add(theirs, "theirs")
        return IndexChange(records={"mine": record("mine")})

    mine.append(decide)
    assert seen == [["v000"], ["theirs", "v000"]]
    assert list(read(folder).lines) == ["mine", "theirs", "v000"]


def test_a_commit_that_is_decided_against_writes_nothing(folder: LocalPlace):
    index = log_of(folder, 1)

    def refuse(_: IndexState) -> IndexChange:
        raise KeyError

    with pytest.raises(KeyError):
        index.append(refuse)
    assert folder.children() == ["00000001.jsonl", "head.json"]


def test_among_threads_every_commit_counts(folder: LocalPlace):
    together = threading.Barrier(6)

    def write(number: int) -> None:
        index = VolumesIndex(folder)
        together.wait()
        for turn in range(4):
            add(index, f"v{number}-{turn}")

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(write, range(6)))
    assert list(read(folder).lines) == sorted(f"v{number}-{turn}" for number in range(6) for turn in range(4))


def test_a_commit_between_a_readers_listing_and_its_look_at_the_head_is_no_damage(
    folder: LocalPlace, monkeypatch: pytest.MonkeyPatch
):
    writer, reader = log_of(folder, 1), VolumesIndex(folder)
    real = LocalPlace.read_children

    def overtaken(self: LocalPlace, names: list[str]) -> dict[str, bytes]:
        monkeypatch.setattr(LocalPlace, "read_children", real)
        add(writer, "late")
        return real(self, names)

    monkeypatch.setattr(LocalPlace, "read_children", overtaken)
    assert set(reader.read().lines) <= {"v000", "late"}
    assert list(reader.read().lines) == ["late", "v000"]


def test_a_kill_between_a_segment_and_the_head_loses_nothing(folder: LocalPlace, monkeypatch: pytest.MonkeyPatch):
    class Killed(BaseException):
        pass

    def die(*_: object) -> None:
        raise Killed

    index = log_of(folder, 1)
    with monkeypatch.context() as patched:
        patched.setattr(LocalPlace, "publish", die)
        with pytest.raises(Killed):
            add(index, "late")
    assert list(read(folder).lines) == ["late", "v000"]
    assert list(add(VolumesIndex(folder), "later").lines) == ["late", "later", "v000"]


# -- snapshots -------------------------------------------------------------------------------------


def test_a_snapshot_is_written_after_thirty_two_segments(folder: LocalPlace):
    log_of(folder, 31)
    assert not [name for name in folder.children() if "snapshot" in name]
    add(VolumesIndex(folder), "last")
    assert [name for name in folder.children() if "snapshot" in name] == ["00000032.snapshot.jsonl"]


def test_the_next_snapshot_is_written_after_thirty_two_more(folder: LocalPlace):
    index = log_of(folder, 33)
    follower = VolumesIndex(folder)
    for number in range(30):
        add((index, follower)[number % 2], f"w{number:03d}")
    assert [name for name in folder.children() if "snapshot" in name] == ["00000032.snapshot.jsonl"]
    add(index, "last")
    assert [name for name in folder.children() if "snapshot" in name][1:] == ["00000064.snapshot.jsonl"]


def test_reading_through_a_snapshot_gives_what_the_log_gives(folder: LocalPlace):
    index = VolumesIndex(folder)
    index.append(lambda _: IndexChange(label_names={1: "RV"}))
    for number in range(40):
        add(index, f"v{number:03d}")
        if number % 5 == 0:
            remove(index, f"v{number // 2:03d}")
    through = read(folder)
    for name in [name for name in folder.children() if "snapshot" in name]:
        (folder / name).remove()
    log = read(folder)
    assert through.snapshot == 32
    assert log.snapshot == 0
    assert (through.lines, through.label_names, through.segment, through.seal) == (
        log.lines,
        log.label_names,
        log.segment,
        log.seal,
    )
    assert index.read().lines == log.lines


def test_the_log_goes_on_after_a_snapshot_whose_segments_are_gone(folder: LocalPlace):
    index = log_of(folder, 33)
    for covered in index.covered():
        covered.remove()
    assert folder.children() == ["00000032.snapshot.jsonl", "00000033.jsonl", "head.json"]
    add(VolumesIndex(folder), "late")
    assert list(read(folder).lines) == ["late", *(f"v{number:03d}" for number in range(33))]


def test_a_reader_that_was_far_behind_goes_on_from_a_snapshot(folder: LocalPlace):
    behind = log_of(folder, 3)
    ahead = VolumesIndex(folder)
    for number in range(3, 40):
        add(ahead, f"v{number:03d}")
    for covered in ahead.covered():
        covered.remove()
    assert list(behind.read().lines) == list(ahead.read().lines)
    assert list(add(behind, "late").lines) == ["late", *(f"v{number:03d}" for number in range(40))]


def test_a_snapshot_that_is_written_again_says_the_same(folder: LocalPlace):
    index = log_of(folder, 32)
    before = (folder / "00000032.snapshot.jsonl").read_bytes()
    index.write_snapshot(read(folder))
    assert (folder / "00000032.snapshot.jsonl").read_bytes() == before


def test_what_a_snapshot_covers_are_the_segments_up_to_it_and_older_snapshots(folder: LocalPlace):
    index = log_of(folder, 2)
    assert index.covered() == []
    index.write_snapshot(index.read())
    add(index, "a")
    index.write_snapshot(index.read())
    add(index, "b")
    assert [place.name for place in index.covered()] == [
        "00000001.jsonl",
        "00000002.jsonl",
        "00000002.snapshot.jsonl",
        "00000003.jsonl",
    ]


# -- damage ----------------------------------------------------------------------------------------


@pytest.fixture
def full(folder: LocalPlace) -> LocalPlace:
    """Three segments, a snapshot of the first two (which stay), and a head."""
    index = log_of(folder, 2)
    index.write_snapshot(index.read())
    add(index, "v002")
    return folder


def test_a_flip_in_any_byte_of_a_segment_that_is_read_is_refused(folder: LocalPlace):
    log_of(folder, 3)
    for name in ("00000001.jsonl", "00000002.jsonl", "00000003.jsonl"):
        good = (folder / name).read_bytes()
        for place in range(len(good)):
            flip(folder / name, place)
            with pytest.raises(DamagedStore, match=name):
                read(folder)
            (folder / name).publish(good)


def test_a_flip_in_any_byte_of_the_snapshot_is_told_and_the_segments_are_read_instead(full: LocalPlace):
    file = full / "00000002.snapshot.jsonl"
    good, lines = file.read_bytes(), read(full).lines
    for place in range(0, len(good), 3):
        flip(file, place)
        assert read(full).lines == lines
        ((name, fault),) = VolumesIndex(full).faults()
        assert name == file.name
        assert "Remove it: the segments say the same." in fault
        file.publish(good)
    assert list(VolumesIndex(full).faults()) == []


def test_a_flip_in_any_byte_of_the_snapshot_is_refused_where_its_segments_are_gone(full: LocalPlace):
    file = full / "00000002.snapshot.jsonl"
    (full / "00000001.jsonl").remove()
    good = file.read_bytes()
    for place in range(0, len(good), 3):
        flip(file, place)
        with pytest.raises(DamagedStore, match=r"00000002\.snapshot\.jsonl"):
            read(full)
        file.publish(good)


@pytest.mark.parametrize("segment", [2, 4])
def test_a_changed_head_is_refused(full: LocalPlace, segment: int):
    edit(full / "head.json", {"segment": segment})
    with pytest.raises(DamagedStore, match=r"head\.json: its content does not match its seal"):
        read(full)


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"\xff"])
def test_a_torn_head_is_refused(full: LocalPlace, text: bytes):
    (full / "head.json").publish(text)
    with pytest.raises(DamagedStore, match=r"head\.json"):
        read(full)


def test_a_head_that_is_gone_is_written_by_the_next_commit(full: LocalPlace):
    # It only tells how long the log is: without it the log reads as before.
    (full / "head.json").remove()
    assert list(read(full).lines) == ["v000", "v001", "v002"]
    add(VolumesIndex(full), "v003")
    assert (full / "head.json").exists()


@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_segment_that_is_gone_is_refused_wherever_it_was(folder: LocalPlace, number: int):
    log_of(folder, 3)
    (folder / f"{number:08d}.jsonl").remove()
    with pytest.raises(DamagedStore, match=r"0000000\d\.jsonl"):
        read(folder)


def test_the_last_segment_that_is_gone_is_named(folder: LocalPlace):
    log_of(folder, 3)
    (folder / "00000003.jsonl").remove()
    with pytest.raises(DamagedStore, match=r"ends at segment 2 and had 3 segments: 00000003\.jsonl is gone"):
        read(folder)


def test_a_segment_after_the_snapshot_that_is_gone_is_refused(full: LocalPlace):
    (full / "00000003.jsonl").remove()
    with pytest.raises(DamagedStore, match=r"00000003\.jsonl is gone"):
        read(full)


def test_all_segments_gone_but_the_head_are_refused(folder: LocalPlace):
    log_of(folder, 2)
    for name in ("00000001.jsonl", "00000002.jsonl"):
        (folder / name).remove()
    with pytest.raises(DamagedStore, match=r"00000001\.jsonl is gone"):
        read(folder)


def test_a_segment_of_another_log_is_refused(tmp_path: Path, folder: LocalPlace):
    log_of(folder, 3)
    other = LocalPlace(tmp_path / "other")
    add(VolumesIndex(other), "another")
    for number in range(2):
        add(VolumesIndex(other), f"v{number:03d}")
    (folder / "00000002.jsonl").publish((other / "00000002.jsonl").read_bytes())
    with pytest.raises(DamagedStore, match=r"00000002\.jsonl: it follows segment 1 of seal"):
        read(folder)


def test_a_segment_under_another_number_is_refused(folder: LocalPlace):
    log_of(folder, 2)
    (folder / "00000003.jsonl").publish((folder / "00000002.jsonl").read_bytes())
    with pytest.raises(DamagedStore, match=r"00000003\.jsonl"):
        read(folder)


def test_a_segment_sealed_again_with_other_content_is_refused_by_the_one_that_follows(folder: LocalPlace):
    log_of(folder, 2)
    rewrite_lines(folder / "00000001.jsonl", lambda lines: lines.append(["x", record("x")]))
    with pytest.raises(DamagedStore, match=r"00000002\.jsonl: it follows"):
        read(folder)


@pytest.mark.parametrize("header", [{}, [], "text", 3, {"format": 1, "segment": 1}])
def test_a_segment_without_a_header_is_refused(folder: LocalPlace, header: object):
    log_of(folder, 1)

    def change(lines: list[Any]) -> None:
        lines[0] = header

    rewrite_lines(folder / "00000001.jsonl", change)
    with pytest.raises(DamagedStore, match=r"00000001\.jsonl"):
        read(folder)


@pytest.mark.parametrize("name", ["00000001.jsonl", "00000002.snapshot.jsonl"])
def test_a_later_format_is_refused_with_both_versions(folder: LocalPlace, name: str):
    index = log_of(folder, 2)
    if "snapshot" in name:
        index.write_snapshot(index.read())

    def change(lines: list[Any]) -> None:
        lines[0] = {**lines[0], "format": FORMAT_VERSION + 1, "something_new": True}

    rewrite_lines(folder / name, change)
    with pytest.raises(NewerFormat, match=rf"format {FORMAT_VERSION + 1} .* up to {FORMAT_VERSION}\. Update it"):
        read(folder)


@pytest.mark.parametrize("name", [".00000002.jsonl.1234.part", "notes.txt", "00000002.jsonl.bak", "2.jsonl"])
def test_other_files_in_the_folder_are_not_looked_at(folder: LocalPlace, name: str):
    log_of(folder, 1)
    (folder.path / name).write_text("x")
    assert list(read(folder).lines) == ["v000"]


def test_a_head_behind_the_log_is_no_damage(full: LocalPlace):
    # Of two writers the one that was first may write the head last.
    rewrite(full / "head.json", {"segment": 2})
    assert read(full).segment == 3


def test_a_log_whose_end_was_removed_is_never_gone_on_with(folder: LocalPlace):
    log_of(folder, 3)
    (folder / "00000003.jsonl").remove()
    with pytest.raises(DamagedStore, match="is gone"):
        add(VolumesIndex(folder), "new")
    assert "00000003.jsonl" not in folder.children()
