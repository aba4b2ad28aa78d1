"""verify: whether everything is what was written."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict
from pathlib import Path

from ...store.verify import verify
from ...store.workspace import open_workspace
from .. import console
from ..console import counted
from ..exit_codes import DONE, FAILED


def run_verify(workspace_path: Path, *, as_json: bool) -> int:
    """Look at every checksum and digest; list what is damaged with its remedy, and fail if anything is."""
    workspace = open_workspace(workspace_path)
    looked: Counter[str] = Counter()
    damaged = []
    with console.progress_bar("verifying", len(workspace.volumes), "things") as bar:
        for number, checked in enumerate(verify(workspace), start=1):
            looked[checked.part] += 1
            bar.reach(f"verifying {checked.part}s", number, max(number, len(workspace.volumes)))
            if checked.fault is not None:
                damaged.append(checked)
    if as_json:
        console.say(json.dumps({"looked_at": looked, "damaged": [asdict(fault) for fault in damaged]}, indent=1))
        return FAILED if damaged else DONE
    if damaged:
        rows = [[fault.part, fault.name, fault.fault or ""] for fault in damaged]
        console.table("Damaged", ["what", "name", "fault and remedy"], rows, numbers_from=None, whole=("what",))
    told = ", ".join(counted(looked[part], part) for part in ("volume", "shard", "run"))
    console.say(f"{told} read: {counted(len(damaged), 'fault') if damaged else 'all as they were written'}")
    return FAILED if damaged else DONE
