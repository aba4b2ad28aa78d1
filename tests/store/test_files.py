"""A file or a folder appears whole, or not at all."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from samkit.store import files
from samkit.store.errors import DamagedStore
from samkit.store.files import (
    canonical_json,
    check_fields,
    publish,
    publish_if_absent,
    published_folder,
    read_json,
    readable_json,
    size_bytes,
)

WRITERS = 8

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


class Killed(BaseException):
    """Stands for a kill: nothing in samkit catches it."""


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def fill(part: Path, text: str) -> None:
    (part / "inner").mkdir()
    (part / "inner" / "file").write_text(text)


# -- files -----------------------------------------------------------------------------------------


def test_a_published_file_holds_the_data_and_leaves_nothing_beside_it(tmp_path: Path):
    publish(tmp_path / "deep" / "file.json", b"data")
    assert (tmp_path / "deep" / "file.json").read_bytes() == b"data"
    assert names_in(tmp_path / "deep") == ["file.json"]


def test_publishing_again_replaces_the_file(tmp_path: Path):
    publish(tmp_path / "file", b"long old data")
    publish(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"new"


@pytest.mark.parametrize("write", [publish, publish_if_absent])
def test_a_kill_while_writing_leaves_the_name_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write):
    def die(descriptor: int) -> None:
        raise Killed

    monkeypatch.setattr(files.os, "fsync", die)
    with pytest.raises(Killed):
        write(tmp_path / "file", b"data")
    assert not (tmp_path / "file").exists()


def test_a_kill_while_replacing_leaves_the_old_file_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    publish(tmp_path / "file", b"old")

    def die(self: Path, target: Path) -> Path:
        raise Killed

    monkeypatch.setattr(Path, "replace", die)
    with pytest.raises(Killed):
        publish(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"old"


def test_the_data_is_on_the_disk_before_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    seen: list[bool] = []
    real = files.os.fsync

    def watch(descriptor: int) -> None:
        seen.append((tmp_path / "file").exists())
        real(descriptor)

    monkeypatch.setattr(files.os, "fsync", watch)
    publish(tmp_path / "file", b"data")
    assert seen == [False, True]  # the data, then the folder that holds the new name


def test_the_first_of_two_writers_is_told_so_and_the_second_changes_nothing(tmp_path: Path):
    assert publish_if_absent(tmp_path / "file", b"first") is True
    assert publish_if_absent(tmp_path / "file", b"second") is False
    assert (tmp_path / "file").read_bytes() == b"first"
    assert names_in(tmp_path) == ["file"]


def test_among_threads_exactly_one_writer_wins(tmp_path: Path):
    together = threading.Barrier(WRITERS)

    def write(number: int) -> bool:
        together.wait()
        return publish_if_absent(tmp_path / "file", str(number).encode())

    with ThreadPoolExecutor(WRITERS) as pool:
        won = list(pool.map(write, range(WRITERS)))
    assert won.count(True) == 1
    assert (tmp_path / "file").read_text() == str(won.index(True))


def test_among_processes_exactly_one_writer_wins(tmp_path: Path):
    program = (
        "import pathlib, sys, time\n"
        "from samkit.store.files import publish_if_absent\n"
        "folder, number = pathlib.Path(sys.argv[1]), sys.argv[2]\n"
        "(folder / f'ready-{number}').touch()\n"
        "while not (folder / 'go').exists(): time.sleep(0.001)\n"
        "print(publish_if_absent(folder / 'file', number.encode()))\n"
    )
    started = [
        subprocess.Popen([sys.executable, "-c", program, str(tmp_path), str(number)], stdout=subprocess.PIPE, text=True)
        for number in range(4)
    ]
    while len(list(tmp_path.glob("ready-*"))) < 4 and all(process.poll() is None for process in started):
        threading.Event().wait(0.01)
    (tmp_path / "go").touch()
    said = [process.communicate(timeout=60)[0].strip() for process in started]
    assert sorted(said) == ["False", "False", "False", "True"]
    assert (tmp_path / "file").read_text() == str(said.index("True"))


# -- folders ---------------------------------------------------------------------------------------


def test_a_folder_appears_with_all_that_was_put_into_it(tmp_path: Path):
    with published_folder(tmp_path / "deep" / "folder") as part:
        fill(part, "data")
        assert not (tmp_path / "deep" / "folder").exists()
    assert (tmp_path / "deep" / "folder" / "inner" / "file").read_text() == "data"
    assert names_in(tmp_path / "deep") == ["folder"]


def test_every_file_of_a_folder_is_on_the_disk_before_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    synced: dict[int, bool] = {}
    real = files.os.fsync

    def watch(descriptor: int) -> None:
        synced.setdefault(files.os.fstat(descriptor).st_ino, (tmp_path / "folder").exists())
        real(descriptor)

    monkeypatch.setattr(files.os, "fsync", watch)
    with published_folder(tmp_path / "folder") as part:
        fill(part, "data")
    inside = [tmp_path / "folder", *(tmp_path / "folder").rglob("*")]
    assert [synced.get(path.stat().st_ino) for path in inside] == [False] * len(inside)


def test_a_folder_whose_block_fails_does_not_appear(tmp_path: Path):
    with pytest.raises(Killed), published_folder(tmp_path / "folder") as part:
        fill(part, "half")
        raise Killed
    assert names_in(tmp_path) == []


def test_a_folder_whose_block_fails_leaves_the_old_one(tmp_path: Path):
    with published_folder(tmp_path / "folder") as part:
        fill(part, "old")
    with pytest.raises(Killed), published_folder(tmp_path / "folder") as part:
        fill(part, "new")
        raise Killed
    assert (tmp_path / "folder" / "inner" / "file").read_text() == "old"


def test_what_a_killed_process_leaves_has_a_hidden_name(tmp_path: Path):
    program = (
        "import os, pathlib, sys\n"
        "from samkit.store.files import published_folder\n"
        "with published_folder(pathlib.Path(sys.argv[1]) / 'folder') as part:\n"
        "    (part / 'file').write_text('half')\n"
        "    os._exit(9)\n"
    )
    killed = subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=False)
    assert killed.returncode == 9
    (left,) = names_in(tmp_path)
    assert left.startswith(".")
    assert left.endswith(".part")


def test_a_folder_replaces_the_one_before(tmp_path: Path):
    for text in ("old", "new"):
        with published_folder(tmp_path / "folder") as part:
            fill(part, text)
    assert (tmp_path / "folder" / "inner" / "file").read_text() == "new"
    assert names_in(tmp_path) == ["folder"]


def test_a_folder_that_is_to_be_kept_is_left_alone(tmp_path: Path):
    with published_folder(tmp_path / "folder") as part:
        fill(part, "old")
    before = (tmp_path / "folder").stat().st_ino
    with published_folder(tmp_path / "folder", keep=lambda: True) as part:
        fill(part, "new")
    assert (tmp_path / "folder" / "inner" / "file").read_text() == "old"
    assert (tmp_path / "folder").stat().st_ino == before
    assert names_in(tmp_path) == ["folder"]


@pytest.mark.parametrize("kept", [True, False])
def test_threads_that_publish_one_folder_leave_one_whole_folder(tmp_path: Path, *, kept: bool):
    together = threading.Barrier(WRITERS)

    def write(number: int) -> None:
        with published_folder(tmp_path / "folder", keep=lambda: kept) as part:
            fill(part, str(number))
            together.wait()

    with ThreadPoolExecutor(WRITERS) as pool:
        list(pool.map(write, range(WRITERS)))
    assert (tmp_path / "folder" / "inner" / "file").read_text() in {str(number) for number in range(WRITERS)}
    assert names_in(tmp_path) == ["folder"]


def test_an_error_of_the_disk_is_not_taken_for_another_writer(tmp_path: Path):
    (tmp_path / "folder").write_text("a file where the folder belongs")
    with pytest.raises(NotADirectoryError), published_folder(tmp_path / "folder") as part:
        fill(part, "data")
    assert (tmp_path / "folder").read_text() == "a file where the folder belongs"


def test_the_size_of_a_folder_is_that_of_all_its_files(tmp_path: Path):
    publish(tmp_path / "one", b"12345")
    publish(tmp_path / "deep" / "two", b"123")
    assert size_bytes(tmp_path) == 8
    assert size_bytes(tmp_path / "absent") == 0


# -- JSON ------------------------------------------------------------------------------------------


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


def test_readable_json_reads_back(tmp_path: Path):
    publish(tmp_path / "file.json", readable_json({"name": "Müller", "values": [1, 2]}))
    assert read_json(tmp_path / "file.json") == {"name": "Müller", "values": [1, 2]}


@pytest.mark.parametrize("torn", [b"", b'{"a": 1', b"\xff\xfe\x00", b'{"a": 1}}'])
def test_a_file_that_is_not_json_is_damage_and_named(tmp_path: Path, torn: bytes):
    (tmp_path / "file.json").write_bytes(torn)
    with pytest.raises(DamagedStore, match=r"file\.json.*Restore it from a copy"):
        read_json(tmp_path / "file.json")


def test_fields_are_checked_by_name_and_both_lists_are_told():
    with pytest.raises(DamagedStore, match=r"a\.json: the fields \['two'\] are missing and \['three'\] are not known"):
        check_fields("a.json", {"one": 1, "three": 3}, ("one", "two"), "Restore it.")


@pytest.mark.parametrize("value", [None, 3, "text", ["one"]])
def test_what_is_no_object_has_no_fields(value: object):
    with pytest.raises(DamagedStore, match="where an object with the fields"):
        check_fields("a.json", value, ("one",), "Restore it.")
