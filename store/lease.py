"""Who keeps house: one process at a time takes things away from a workspace.

Writers need no lock: they only add. What removes (`gc`, `--repair`, compaction of a
journal) holds the lease, a file that is created if absent and names its holder.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from .documents import parse_json, sealed_json, unsealed
from .errors import DamagedStore, WorkspaceBusy
from .places import Place

LEASE_FILE = "housekeeping.json"
# A holder on another machine cannot be asked whether it lives; no housekeeping takes a day.
_SECONDS_UNTIL_STALE = 24 * 3600.0
# A clock that is set, or a machine that was asleep, moves the time at which a process is said to have started.
_CLOCK_STEP_SECONDS = 10.0
# Taking over takes two requests.
_CLAIM_FILE = "housekeeping.claim.json"
_SECONDS_OF_A_CLAIM = 600.0
_FIELDS = ("host", "system", "process", "process_started", "since", "purpose")


@contextmanager
def lease(workspace: Place, purpose: str) -> Iterator[None]:
    """Hold the lease of a workspace inside the block.

    Parameters
    ----------
    workspace
        Its place.
    purpose
        What others are told: "samkit gc".

    Raises
    ------
    WorkspaceBusy
        When another process holds it; it is named.
    """
    place = workspace / LEASE_FILE
    mine = {
        "host": socket.gethostname(),
        "system": _system(),
        "process": os.getpid(),
        "process_started": psutil.Process().create_time(),
        "since": time.time(),
        "purpose": purpose,
    }
    if not place.publish_if_absent(sealed_json(mine)):
        _take_over(place, mine)
    try:
        yield
    finally:
        if _holder(_content(place)) == mine:  # not where somebody took it over from a process that slept for a day
            place.remove()


def _take_over(place: Place, mine: dict[str, Any]) -> None:
    """Put one's own lease in the place of one whose holder is gone, or refuse.

    Of two that find the same lease stale, one may remove it: the one that creates the claim. It looks again before it
    does, since another may have gone through all of this in between.
    """
    found = _content(place)
    holder = _holder(found)
    if holder == mine:
        return  # written after all: an object store may have lost its answer, and been asked again
    if holder is not None and _lives(holder):
        raise WorkspaceBusy(_told(place, holder))
    claim = place.parent / _CLAIM_FILE
    if claim.exists() and time.time() - claim.modified() > _SECONDS_OF_A_CLAIM:
        claim.remove()  # of a process that was killed while it took over
    if not claim.publish_if_absent(sealed_json(mine)) and _holder(_content(claim)) != mine:
        raise WorkspaceBusy(_told(place, _holder(_content(claim))))
    try:
        if found is not None and _content(place) == found:
            place.remove()
        if not place.publish_if_absent(sealed_json(mine)) and _holder(_content(place)) != mine:
            raise WorkspaceBusy(_told(place, _holder(_content(place))))
    finally:
        claim.remove()


def _content(place: Place) -> bytes | None:
    """Return a lease as it lies there, or None for none."""
    return place.parent.read_children([place.name]).get(place.name)


def _holder(content: bytes | None) -> dict[str, Any] | None:
    """Return what a lease says, or None where there is none or it says nothing."""
    if content is None:
        return None
    try:
        return unsealed(parse_json(content, LEASE_FILE), LEASE_FILE, _FIELDS, "Remove it.")
    except DamagedStore:
        return None


def _system() -> str:
    """Return what numbers of processes hold for: one start of a machine, and one container on it."""
    boot, namespace = Path("/proc/sys/kernel/random/boot_id"), Path("/proc/self/ns/pid")
    told = boot.read_text().strip() if boot.exists() else ""
    return f"{told}/{namespace.stat().st_ino}" if namespace.exists() else told


def _lives(holder: dict[str, Any]) -> bool:
    if (holder["host"], holder["system"]) != (socket.gethostname(), _system()):
        return bool(time.time() - holder["since"] < _SECONDS_UNTIL_STALE)
    try:
        # Numbers of processes are given again; the time of its start tells whether it is the one.
        started = psutil.Process(holder["process"]).create_time()
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:
        return True
    return bool(abs(started - holder["process_started"]) < _CLOCK_STEP_SECONDS)


def _told(place: Place, holder: dict[str, Any] | None) -> str:
    if holder is None:
        who = "another process is cleaning up"
    else:
        minutes = max(0.0, time.time() - holder["since"]) / 60
        who = (
            f"`{holder['purpose']}` (process {holder['process']} on {holder['host']}) is cleaning up, for "
            f"{minutes:.0f} min"
        )
    return (
        f"{place.parent}: {who}. Nothing was changed. Wait for it and run the same command again; if that process is "
        f"gone, remove {place}."
    )
