"""gc and remove: volumes leave the dataset, and what only they needed leaves the disk."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

from ...store.errors import UsageError
from ...store.garbage import collect
from ...store.lease import lease
from ...store.runs import touched_by
from ...store.workspace import open_workspace
from .. import console
from ..console import counted
from ..exit_codes import DONE
from .hints import workspace_flag

_SECONDS_PER_HOUR = 3600.0
# A message names so many runs, and counts the rest.
_NAMED = 5


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
    return DONE


def run_remove(workspace_path: str, volume_ids: Sequence[str]) -> int:
    """Take volumes out of the dataset; their slices and rows stay on the disk until `samkit gc`."""
    workspace = open_workspace(workspace_path)
    unknown = [volume_id for volume_id in volume_ids if volume_id not in workspace.volumes]
    if unknown:
        near = ", ".join(list(workspace.volumes)[:5])
        message = f"no volume {', '.join(unknown)} in {workspace_path}, which has {near}, ...; nothing was removed."
        raise UsageError(message)
    touched = touched_by(workspace.runs, volume_ids)
    workspace.remove_volumes(volume_ids)
    flag = workspace_flag(workspace_path)
    console.say(f"{counted(len(set(volume_ids)), 'volume')} removed, {len(workspace.volumes)} left")
    if touched:
        shown = ", ".join(run.id for run in touched[:_NAMED])
        more = f" and {len(touched) - _NAMED} more" if len(touched) > _NAMED else ""
        console.warn(
            f"{counted(len(touched), 'run')} trained or scored on them: {shown}{more}. They are stale now, and keep "
            f"their predictions of these volumes until their folders below runs/ are removed"
        )
    console.say(f"next: samkit gc{flag} frees what only they held (add --older-than 0 if nothing else is running)")
    return DONE
