"""In a directory a file or a folder appears whole, or not at all."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from contracts.place import PlaceContract, filled

from samkit.store.local import Disk, LocalPlace
from samkit.store.places import Place, place_of

WRITERS = 8


class Killed(BaseException):
    """Stands for a kill: nothing in samkit catches it."""


class DyingDisk(Disk):
    """A disk whose process is killed before the n-th change, counted from 0."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def _step(self) -> None:
        if self.steps == 0:
            raise Killed
        self.steps -= 1

    def make_folder(self, path: Path) -> None:
        self._step()
        super().make_folder(path)

    def write(self, path: Path, pieces: Sequence[memoryview | bytes]) -> None:
        self._step()
        super().write(path, pieces)

    def sync(self, path: Path) -> None:
        self._step()
        super().sync(path)

    def rename(self, source: Path, target: Path) -> None:
        self._step()
        super().rename(source, target)

    def link(self, source: Path, target: Path) -> None:
        self._step()
        super().link(source, target)

    def unlink(self, path: Path) -> None:
        self._step()
        super().unlink(path)

    def remove_tree(self, path: Path) -> None:
        self._step()
        super().remove_tree(path)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return place_of(tmp_path)


@pytest.fixture
def file(tmp_path: Path) -> LocalPlace:
    return LocalPlace(tmp_path / "file")


@pytest.fixture
def folder(tmp_path: Path) -> LocalPlace:
    return LocalPlace(tmp_path / "folder")


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def with_disk(place: LocalPlace, disk: Disk) -> LocalPlace:
    return LocalPlace(place.path, disk)


def killed_at_every_step(act: Callable[[Disk], object], check: Callable[[int], None]) -> int:
    """Kill an action before its first change, its second, ...; after each, check; return how many changes it makes.

    Hidden leftovers stay where they are, as after a real kill the block that removes them never runs.
    """
    for steps in range(100):
        try:
            act(DyingDisk(steps))
        except Killed:
            check(steps)
        else:
            return steps
    message = "an action of a hundred changes"
    raise AssertionError(message)


class TestLocalPlace(PlaceContract):
    pass


# -- names -----------------------------------------------------------------------------------------


def test_a_place_is_a_path_for_those_who_need_one(folder: LocalPlace):
    (folder / "file").publish(b"data")
    assert Path(folder / "file").read_bytes() == b"data"
    assert (folder / "file").path == folder.path / "file"


def test_a_link_and_a_way_around_lead_to_the_same_place(tmp_path: Path, folder: LocalPlace):
    folder.path.mkdir()
    (tmp_path / "link").symlink_to(folder.path)
    assert place_of(tmp_path / "link").same_as(folder)
    assert place_of(tmp_path / "folder" / ".." / "folder").same_as(folder)


# -- files -----------------------------------------------------------------------------------------


def test_a_published_file_holds_the_data_and_leaves_nothing_beside_it(tmp_path: Path):
    place_of(tmp_path / "deep" / "file.json").publish(b"data")
    assert (tmp_path / "deep" / "file.json").read_bytes() == b"data"
    assert names_in(tmp_path / "deep") == ["file.json"]


def test_publishing_again_leaves_nothing_beside_it(tmp_path: Path, file: LocalPlace):
    file.publish(b"long old data")
    file.publish(b"new")
    assert names_in(tmp_path) == ["file"]


@pytest.mark.parametrize("write", [LocalPlace.publish, LocalPlace.publish_if_absent])
def test_a_kill_at_any_step_of_writing_leaves_no_file_or_a_whole_one(tmp_path: Path, write: Callable[..., object]):
    def act(disk: Disk) -> None:
        write(LocalPlace(tmp_path / str(id(disk)) / "file", disk), b"data")

    def check(_: int) -> None:
        assert {path.read_bytes() for path in tmp_path.glob("*/file")} <= {b"data"}

    assert killed_at_every_step(act, check) >= 4  # write, flush, name, flush of the folder


def test_a_kill_while_the_data_is_flushed_leaves_the_name_free(file: LocalPlace):
    with pytest.raises(Killed):
        with_disk(file, DyingDisk(1)).publish(b"data")
    assert not file.exists()


def test_a_kill_at_any_step_of_replacing_leaves_the_old_file_or_the_new_one(file: LocalPlace):
    file.publish(b"old")
    seen: list[bytes] = []

    def check(_: int) -> None:
        seen.append(file.read_bytes())
        file.publish(b"old")

    killed_at_every_step(lambda disk: with_disk(file, disk).publish(b"new"), check)
    assert seen == [b"old", b"old", b"old", b"new"]


def test_the_data_is_on_the_disk_before_the_name(file: LocalPlace):
    seen: list[tuple[str, bool]] = []

    class Watched(Disk):
        def sync(self, path: Path) -> None:
            seen.append((path.name, file.exists()))
            super().sync(path)

    with_disk(file, Watched()).publish(b"data")
    (part, before), (parent, after) = seen
    assert part.startswith(".file.")
    assert parent == file.path.parent.name
    assert (before, after) == (False, True)


def test_a_new_folder_is_on_the_disk_before_what_lies_in_it(tmp_path: Path):
    synced: list[str] = []

    class Watched(Disk):
        def sync(self, path: Path) -> None:
            synced.append(path.name)
            super().sync(path)

    LocalPlace(tmp_path / "a" / "b" / "file", Watched()).publish(b"data")
    assert synced[:2] == [tmp_path.name, "a"]  # each holds the name of the next
    assert synced[-1] == "b"


def test_a_write_that_takes_less_than_it_was_given_goes_on(file: LocalPlace, monkeypatch: pytest.MonkeyPatch):
    # A system call writes 2 GiB at most; here, of an unbuffered file, three bytes.
    class Slow:
        def __init__(self, path: Path) -> None:
            self.file = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)

        def __enter__(self) -> Slow:
            return self

        def __exit__(self, *_: object) -> None:
            os.close(self.file)

        def write(self, data: memoryview) -> int:
            return os.write(self.file, data[:3])

    monkeypatch.setattr(Path, "open", lambda self, *_, **__: Slow(self))
    Disk().write(file.path, [b"01234567", memoryview(b"89")])
    monkeypatch.undo()
    assert file.read_bytes() == b"0123456789"


def test_a_file_where_a_folder_belongs_is_an_error_of_the_disk(file: LocalPlace):
    file.publish(b"a file where the folder belongs")
    with pytest.raises(NotADirectoryError):
        (file / "inner").publish(b"data")
    assert file.read_bytes() == b"a file where the folder belongs"


def test_among_threads_exactly_one_writer_wins(file: LocalPlace):
    together = threading.Barrier(WRITERS)

    def write(number: int) -> bool:
        together.wait()
        return file.publish_if_absent(str(number).encode())

    with ThreadPoolExecutor(WRITERS) as pool:
        won = list(pool.map(write, range(WRITERS)))
    assert won.count(True) == 1
    assert file.read_bytes().decode() == str(won.index(True))


def test_among_processes_exactly_one_writer_wins(tmp_path: Path):
    program = (
        "import pathlib, sys, time\n"
        "from samkit.store.local import LocalPlace\n"
        "folder, number = pathlib.Path(sys.argv[1]), sys.argv[2]\n"
        "(folder / f'ready-{number}').touch()\n"
        "while not (folder / 'go').exists(): time.sleep(0.001)\n"
        "print(LocalPlace(folder / 'file').publish_if_absent(number.encode()))\n"
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


class DiskWithoutLinks(Disk):
    """As exFAT and some network mounts answer."""

    def link(self, source: Path, target: Path) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))


def test_without_hard_links_the_second_writer_is_told_so_too(tmp_path: Path, file: LocalPlace):
    plain = with_disk(file, DiskWithoutLinks())
    assert plain.publish_if_absent(b"first") is True
    assert plain.publish_if_absent(b"second") is False
    assert file.read_bytes() == b"first"
    assert names_in(tmp_path) == ["file"]


@pytest.mark.parametrize("size_bytes", [8, 9, 11, 20])
def test_a_file_of_another_length_than_it_should_have_is_refused_whatever_is_asked_for(
    file: LocalPlace, size_bytes: int
):
    file.publish(b"0123456789")
    with pytest.raises(EOFError, match=f"has 10 bytes where its rows take {size_bytes}"):
        filled(file, [(2, 3)], size_bytes)


# -- folders ---------------------------------------------------------------------------------------


def test_a_folder_appears_with_all_that_was_put_into_it_and_nothing_beside_it(tmp_path: Path):
    place_of(tmp_path / "deep" / "folder").publish_folder({"inner/file": b"data"})
    assert (tmp_path / "deep" / "folder" / "inner" / "file").read_text() == "data"
    assert names_in(tmp_path / "deep") == ["folder"]


def test_every_file_of_a_folder_is_on_the_disk_before_its_name(folder: LocalPlace):
    synced: dict[int, bool] = {}

    class Watched(Disk):
        def sync(self, path: Path) -> None:
            synced.setdefault(path.stat().st_ino, folder.path.exists())
            super().sync(path)

    with_disk(folder, Watched()).publish_folder({"file": b"1", "inner/file": b"2", "inner/deep/file": b"3"})
    inside = [folder.path, *folder.path.rglob("*")]
    assert [synced.get(path.stat().st_ino) for path in inside] == [False] * len(inside)


def test_a_kill_at_any_step_of_a_folder_leaves_no_folder_or_a_whole_one(tmp_path: Path):
    wanted = {"file": b"1", "inner/file": b"2"}

    def act(disk: Disk) -> None:
        LocalPlace(tmp_path / str(id(disk)) / "folder", disk).publish_folder(wanted)

    def check(_: int) -> None:
        for made in tmp_path.glob("*/folder"):
            assert place_of(made).files() == {"file": 1, "inner/file": 1}

    assert killed_at_every_step(act, check) > 6


def test_a_kill_at_any_step_of_replacing_a_folder_leaves_a_whole_one_or_none(folder: LocalPlace):
    # Between the two renames neither is there: nothing points to such a folder yet, so none is better than half.
    seen: list[bytes | None] = []

    def check(_: int) -> None:
        seen.append((folder / "inner/file").read_bytes() if folder.path.exists() else None)
        folder.publish_folder({"inner/file": b"old"})

    folder.publish_folder({"inner/file": b"old"})
    killed_at_every_step(lambda disk: with_disk(folder, disk).publish_folder({"inner/file": b"new"}), check)
    assert set(seen) == {b"old", None, b"new"}
    assert seen[0] == b"old"
    assert seen[-1] == b"new"


def test_what_a_killed_process_leaves_has_a_hidden_name(tmp_path: Path):
    program = (
        "import os, pathlib, sys\n"
        "from samkit.store.local import Disk, LocalPlace\n"
        "class Dying(Disk):\n"
        "    def sync(self, path):\n"
        "        os._exit(9)\n"
        "LocalPlace(pathlib.Path(sys.argv[1]) / 'folder', Dying()).publish_folder({'file': b'half'})\n"
    )
    killed = subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=False)
    assert killed.returncode == 9
    (left,) = names_in(tmp_path)
    assert left.startswith(".")
    assert left.endswith(".part")
    assert place_of(tmp_path).children() == []
    assert place_of(tmp_path).files() == {}


def test_a_replaced_folder_leaves_nothing_beside_it(tmp_path: Path, folder: LocalPlace):
    for text in (b"old", b"new"):
        folder.publish_folder({"inner/file": text})
    assert names_in(tmp_path) == ["folder"]


def test_a_folder_that_is_kept_is_not_even_moved(tmp_path: Path, folder: LocalPlace):
    folder.publish_folder({"inner/file": b"old"})
    before = folder.path.stat().st_ino
    folder.publish_folder({"inner/file": b"new"}, keep=lambda: True)
    assert folder.path.stat().st_ino == before
    assert names_in(tmp_path) == ["folder"]


def test_whether_to_keep_is_not_asked_where_nothing_is_there(folder: LocalPlace):
    def asked() -> bool:
        message = "there was nothing to keep"
        raise AssertionError(message)

    folder.publish_folder({"file": b"data"}, keep=asked)
    assert folder.files() == {"file": 4}


@pytest.mark.parametrize("kept", [True, False])
def test_threads_that_publish_one_folder_leave_one_whole_folder(tmp_path: Path, folder: LocalPlace, *, kept: bool):
    together = threading.Barrier(WRITERS)

    def write(number: int) -> None:
        together.wait()
        folder.publish_folder({"inner/file": str(number).encode()}, keep=lambda: kept)

    with ThreadPoolExecutor(WRITERS) as pool:
        list(pool.map(write, range(WRITERS)))
    assert (folder / "inner" / "file").read_bytes().decode() in {str(number) for number in range(WRITERS)}
    assert names_in(tmp_path) == ["folder"]


def test_an_error_of_the_disk_is_not_taken_for_another_writer(tmp_path: Path, folder: LocalPlace):
    folder.path.write_text("a file where the folder belongs")
    with pytest.raises(NotADirectoryError):
        folder.publish_folder({"inner/file": b"data"})
    assert folder.path.read_text() == "a file where the folder belongs"
    assert names_in(tmp_path) == ["folder"]


def test_nobody_sees_half_of_a_folder_that_is_removed(folder: LocalPlace):
    folder.publish_folder({"a": b"1", "b": b"2"})
    seen: list[bool] = []

    class Watched(Disk):
        def remove_tree(self, path: Path) -> None:
            seen.append(folder.path.exists())
            assert path.name.startswith(".")
            super().remove_tree(path)

    with_disk(folder, Watched()).remove()
    assert seen == [False]
    assert names_in(folder.path.parent) == []


# -- time and leftovers ----------------------------------------------------------------------------


def test_refreshing_makes_an_old_file_and_an_old_folder_count_as_new(folder: LocalPlace):
    folder.publish_folder({"a": b"1", "b": b"2"})
    for path in folder.path.iterdir():
        os.utime(path, (1000, 1000))
    assert folder.modified() == 1000
    folder.refresh()
    assert folder.modified() > time.time() - 60


def test_refreshing_what_is_not_there_is_nothing(folder: LocalPlace):
    folder.refresh()
    assert not folder.path.exists()


def test_leftovers_of_killed_writers_are_removed_where_they_are_old(tmp_path: Path):
    (tmp_path / "a" / ".old.part").mkdir(parents=True)
    (tmp_path / "a" / ".old.part" / "file").touch()
    (tmp_path / ".old.json.12345678.part").touch()
    (tmp_path / ".young.json.12345678.part").touch()
    (tmp_path / ".hidden").touch()
    for path in (tmp_path / "a" / ".old.part" / "file", tmp_path / "a" / ".old.part", tmp_path / ".hidden"):
        os.utime(path, (1000, 1000))
    os.utime(tmp_path / ".old.json.12345678.part", (1000, 1000))
    assert place_of(tmp_path).remove_leftovers(older_than=time.time() - 3600) == 2
    assert names_in(tmp_path) == [".hidden", ".young.json.12345678.part", "a"]
    assert names_in(tmp_path / "a") == []


def test_a_leftover_folder_with_a_young_file_in_it_stays(tmp_path: Path):
    (tmp_path / ".a.part").mkdir()
    (tmp_path / ".a.part" / "file").touch()
    os.utime(tmp_path / ".a.part", (1000, 1000))
    assert place_of(tmp_path).remove_leftovers(older_than=time.time() - 3600) == 0
    assert names_in(tmp_path) == [".a.part"]
