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
from typing import Any

import psutil

from .documents import read_sealed, sealed_json
from .errors import DamagedStore, WorkspaceBusy
from .places import Place

LEASE_FILE = "housekeeping.json"
# A holder on another machine cannot be asked whether it lives; no housekeeping takes a day.
_SECONDS_UNTIL_STALE = 24 * 3600.0
# Taking over takes two requests.
_CLAIM_FILE = "housekeeping.claim.json"
_SECONDS_OF_A_CLAIM = 600.0
_FIELDS = ("host", "process", "process_started", "since", "purpose")


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
        if _holder(place) == mine:  # not where somebody took it over from a process that slept for a day
            place.remove()


def _take_over(place: Place, mine: dict[str, Any]) -> None:
    """Put one's own lease in the place of one whose holder is gone, or refuse.

    Of two that find the same lease stale, one may remove it: the one that creates the claim. It looks again before it
    does, since another may have gone through all of this in between.
    """
    holder = _holder(place)
    if holder == mine:
        return  # written after all: an object store may have lost its answer, and been asked again
    if holder is not None and _lives(holder):
        raise WorkspaceBusy(_told(place, holder))
    claim = place.parent / _CLAIM_FILE
    if claim.modified() and time.time() - claim.modified() > _SECONDS_OF_A_CLAIM:
        claim.remove()  # of a process that was killed while it took over
    if not claim.publish_if_absent(sealed_json(mine)):
        raise WorkspaceBusy(_told(place, _holder(claim)))
    try:
        if _holder(place) == holder:
            place.remove()
        if not place.publish_if_absent(sealed_json(mine)):
            raise WorkspaceBusy(_told(place, _holder(place)))
    finally:
        claim.remove()


def _holder(place: Place) -> dict[str, Any] | None:
    """Return what a lease says, or None where it is gone or unreadable."""
    try:
        return read_sealed(place, _FIELDS, "Remove it.")
    except DamagedStore:
        return None


def _lives(holder: dict[str, Any]) -> bool:
    if holder["host"] != socket.gethostname():
        return bool(time.time() - holder["since"] < _SECONDS_UNTIL_STALE)
    try:
        # Numbers of processes are given again; the time of its start tells whether it is the one.
        return bool(abs(psutil.Process(holder["process"]).create_time() - holder["process_started"]) < 1.0)
    except psutil.NoSuchProcess:
        return False


def _told(place: Place, holder: dict[str, Any] | None) -> str:
    who = "another process" if holder is None else f"`{holder['purpose']}`, process {holder['process']}"
    where = "" if holder is None else f" on {holder['host']}"
    minutes = 0.0 if holder is None else max(0.0, time.time() - holder["since"]) / 60
    return (
        f"{place.parent} is being kept by {who}{where}, for {minutes:.0f} min. Nothing was changed. Wait for it, and "
        f"run the same command again; if that process is gone, remove {place}."
    )
