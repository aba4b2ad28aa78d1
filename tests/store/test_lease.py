"""One process at a time takes things away; who finds another at it is told who it is."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest

from samkit.store import lease as lease_module
from samkit.store.documents import sealed_json
from samkit.store.errors import WorkspaceBusy
from samkit.store.lease import LEASE_FILE, lease
from samkit.store.local import LocalPlace
from samkit.store.places import Place

HOUR = 3600.0


@pytest.fixture
def place(tmp_path: Path) -> LocalPlace:
    return LocalPlace(tmp_path / "workspace")


def held_by(place: LocalPlace, **changes: Any) -> None:
    """Leave the lease of a process, by default this one."""
    mine = {
        "host": socket.gethostname(),
        "system": lease_module._system(),
        "process": os.getpid(),
        "process_started": psutil.Process().create_time(),
        "since": time.time(),
        "purpose": "samkit gc",
    }
    (place / LEASE_FILE).publish(sealed_json({**mine, **changes}))


def a_process_that_has_ended() -> int:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    return ended.pid


def test_it_is_held_inside_the_block_and_gone_after_it(place: LocalPlace):
    with lease(place, "samkit gc"):
        assert (place / LEASE_FILE).exists()
    assert not (place / LEASE_FILE).exists()
    with lease(place, "samkit gc"):
        pass


def test_it_is_gone_after_an_error_too(place: LocalPlace):
    with pytest.raises(KeyboardInterrupt), lease(place, "samkit gc"):
        raise KeyboardInterrupt
    assert not (place / LEASE_FILE).exists()


def test_a_second_holder_is_told_process_host_purpose_and_for_how_long(place: LocalPlace):
    held_by(place, since=time.time() - 5 * 60)
    with pytest.raises(WorkspaceBusy) as caught, lease(place, "samkit embed --repair"):
        pass
    message = str(caught.value)
    assert f"`samkit gc` (process {os.getpid()} on {socket.gethostname()}) is cleaning up, for 5 min" in message
    assert "Nothing was changed" in message
    assert str(place / LEASE_FILE) in message


def test_a_refused_holder_leaves_the_lease_to_whom_it_belongs(place: LocalPlace):
    with lease(place, "samkit gc"):
        with pytest.raises(WorkspaceBusy), lease(place, "samkit embed"):
            pass
        assert (place / LEASE_FILE).exists()


def test_another_process_holds_it_for_everybody(place: LocalPlace):
    program = (
        "import pathlib, sys\n"
        "from samkit.store.lease import lease\n"
        "from samkit.store.local import LocalPlace\n"
        "with lease(LocalPlace(pathlib.Path(sys.argv[1])), 'samkit gc'):\n"
        "    print('held', flush=True)\n"
        "    sys.stdin.readline()\n"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", program, str(place)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline().strip() == "held"
        with pytest.raises(WorkspaceBusy, match=f"process {holder.pid} on"), lease(place, "samkit gc"):
            pass
    finally:
        holder.communicate("done\n", timeout=60)
    with lease(place, "samkit gc"):
        pass


def test_a_killed_holder_on_this_host_is_taken_over(place: LocalPlace):
    held_by(place, process=a_process_that_has_ended())
    with lease(place, "samkit gc"):
        assert f'"process": {os.getpid()}' in (place / LEASE_FILE).read_bytes().decode()
    assert not (place / LEASE_FILE).exists()


def test_a_process_that_was_given_the_number_of_a_dead_one_is_not_taken_for_it(place: LocalPlace):
    held_by(place, process_started=psutil.Process().create_time() - HOUR)
    with lease(place, "samkit gc"):
        pass


@pytest.mark.parametrize("age", [0.0, HOUR, 23 * HOUR])
def test_a_holder_on_another_host_is_respected_for_a_day(place: LocalPlace, age: float):
    # Its process cannot be asked for: the number here is that of a process that has ended.
    held_by(place, host="elsewhere", process=a_process_that_has_ended(), since=time.time() - age)
    with pytest.raises(WorkspaceBusy, match="on elsewhere"), lease(place, "samkit gc"):
        pass
    assert (place / LEASE_FILE).exists()


def test_a_holder_on_another_host_is_taken_over_after_a_day(place: LocalPlace):
    held_by(place, host="elsewhere", since=time.time() - 25 * HOUR)
    with lease(place, "samkit gc"):
        pass


@pytest.mark.parametrize("torn", [b"", b"{", b"{}", b"[]", b"\xff"])
def test_a_lease_that_says_nothing_is_taken_over(place: LocalPlace, torn: bytes):
    (place / LEASE_FILE).publish(torn)
    with lease(place, "samkit gc"):
        pass
    assert not (place / LEASE_FILE).exists()


def test_among_threads_one_at_a_time_holds_it(place: LocalPlace):
    together, inside = threading.Barrier(6), []

    def hold(number: int) -> bool:
        together.wait()
        try:
            with lease(place, "samkit gc"):
                inside.append(number)
                assert inside == [number]
                time.sleep(0.02)
                inside.remove(number)
        except WorkspaceBusy:
            return False
        return True

    with ThreadPoolExecutor(6) as pool:
        assert any(pool.map(hold, range(6)))


def test_what_another_took_over_while_this_one_looked_is_left_alone(place: LocalPlace, monkeypatch: pytest.MonkeyPatch):
    held_by(place, process=a_process_that_has_ended())
    look, others = lease_module._content, []

    def look_and_be_late(at: Place) -> bytes | None:
        found = look(at)
        if not others:
            others.append(lease(place, "the faster one"))
            others[0].__enter__()
        return found

    monkeypatch.setattr(lease_module, "_content", look_and_be_late)
    with pytest.raises(WorkspaceBusy, match="the faster one"), lease(place, "the late one"):
        pass
    assert (place / LEASE_FILE).exists()
    others[0].__exit__(None, None, None)
    assert place.children() == []


def test_a_claim_that_a_kill_left_holds_nobody_up_for_long(place: LocalPlace):
    held_by(place, process=a_process_that_has_ended())
    claim = place / "housekeeping.claim.json"
    claim.publish(b"{}")
    with pytest.raises(WorkspaceBusy), lease(place, "samkit gc"):
        pass
    os.utime(claim.path, (time.time() - HOUR, time.time() - HOUR))
    with lease(place, "samkit gc"):
        assert not claim.exists()


def test_a_lease_that_was_written_although_the_answer_was_lost_is_held(
    place: LocalPlace, monkeypatch: pytest.MonkeyPatch
):
    """An object store's client asks again where it got no answer, and is told that the file is there: its own."""
    write = LocalPlace.publish_if_absent
    monkeypatch.setattr(LocalPlace, "publish_if_absent", lambda self, data: write(self, data) and False)
    with lease(place, "samkit gc"):
        assert (place / LEASE_FILE).exists()
    assert not (place / LEASE_FILE).exists()


def test_a_lease_that_was_taken_while_this_one_found_none_is_left_alone(
    place: LocalPlace, monkeypatch: pytest.MonkeyPatch
):
    """It was released between the first try and the look, and somebody else was faster: that is the ordinary case."""
    look, others = lease_module._content, []
    first = lease(place, "the first one")
    first.__enter__()

    def look_late(at: Place) -> bytes | None:
        if others or at.name != LEASE_FILE:
            return look(at)
        others.append(lease(place, "the faster one"))
        first.__exit__(None, None, None)
        found = look(at)
        others[0].__enter__()
        return found

    monkeypatch.setattr(lease_module, "_content", look_late)
    with pytest.raises(WorkspaceBusy, match="the faster one"), lease(place, "the late one"):
        pass
    assert b"the faster one" in (place / LEASE_FILE).read_bytes()


def test_a_machine_of_the_same_name_is_another_machine(place: LocalPlace):
    held_by(place, system="another start/4026531836", process=a_process_that_has_ended())
    with pytest.raises(WorkspaceBusy), lease(place, "samkit gc"):
        pass
