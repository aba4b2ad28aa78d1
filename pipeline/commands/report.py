"""report: the table of all runs, and the page."""

from __future__ import annotations

import json
from dataclasses import asdict

from ...stages.report import reportable, tabulate, write_report
from ...store.places import place_of
from ...store.workspace import open_workspace
from .. import console
from ..exit_codes import DONE


def run_report(workspace_path: str, output: str | None, *, as_json: bool) -> int:
    """Print the table of all runs and write the page."""
    workspace = open_workspace(workspace_path)
    runs, left_out = reportable(workspace)
    rows = tabulate(runs)
    page = write_report(workspace, workspace.path / "report" if output is None else place_of(output))
    for left in left_out:
        console.warn(f"left out: {left.run_id} ({left.alias}) because {left.reason}")
    if as_json:
        console.say(json.dumps([asdict(row) for row in rows], indent=1))
        return DONE
    console.results_table(rows)
    console.say(f"report: {page}")
    return DONE
