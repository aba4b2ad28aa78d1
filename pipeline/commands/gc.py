"""gc: what no volume, record or run needs leaves the disk."""

from __future__ import annotations

import contextlib

from ...store.errors import UsageError
from ...store.garbage import collect
from ...store.lease import lease
from ...store.workspace import open_workspace
from .. import console
from ..exit_codes import DONE
from .hints import workspace_flag

_SECONDS_PER_HOUR = 3600.0


def run_gc(workspace_path: str, *, older_than_hours: float, dry_run: bool) -> int:
    """Take away what no volume, record or run needs, and say what that was; with ``dry_run`` only say it."""
    if older_than_hours < 0:
        message = f"--older-than {older_than_hours:g}: give hours, 0 or more."
        raise UsageError(message)
    workspace = open_workspace(workspace_path)
    with contextlib.nullcontext() if dry_run else lease(workspace.path, "samkit gc"):
        found = list(collect(workspace, older_than_seconds=older_than_hours * _SECONDS_PER_HOUR, dry_run=dry_run))
    if found:
        rows = [[one.kind, one.name, str(one.count), console.readable_bytes(one.size_bytes)] for one in found]
        console.table(
            "Would be taken away" if dry_run else "Taken away", ["what", "name", "count", "size"], rows, numbers_from=2
        )
    freed = console.readable_bytes(sum(one.size_bytes for one in found))
    if dry_run:
        console.say(f"dry run: nothing was changed; samkit gc would free {freed}")
    else:
        console.say(f"{freed} freed")
    if older_than_hours > 0:
        console.say(
            f"what fell out of use in the last {older_than_hours:g} h stays, since something may still read it; "
            f"if nothing else is running: samkit gc{workspace_flag(workspace_path)} --older-than 0"
        )
    return DONE
