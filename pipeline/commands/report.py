"""report: the table of all runs, and the page."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict

from ...heads.conventions import Convention
from ...stages.conventions import ConventionRow, tabulate_by
from ...stages.report import write_report
from ...stages.reporting.table import reportable, tabulate
from ...store.places import place_of
from ...store.workspace import open_workspace
from .. import console
from ..exit_codes import DONE


def run_report(workspace_path: str, output: str | None, *, as_json: bool, convention: str | None = None) -> int:
    """Print the table of all runs and write the page; with a convention, print the table by a paper's rules too."""
    workspace = open_workspace(workspace_path)
    runs, left_out = reportable(workspace)
    rows = tabulate(runs)
    page = write_report(workspace, workspace.path / "report" if output is None else place_of(output))
    for left in left_out:
        console.warn(f"left out: {left.run_id} ({left.alias}) because {left.reason}")
    if as_json:
        told = rows if convention is None else tabulate_by(Convention(convention), runs, workspace)
        console.say(json.dumps([asdict(row) for row in told], indent=1))
        return DONE
    console.results_table(rows)
    if convention is not None:
        _say_by(Convention(convention), tabulate_by(Convention(convention), runs, workspace))
    console.say(f"report: {page}")
    return DONE


def _say_by(convention: Convention, rows: Sequence[ConventionRow]) -> None:
    """Print scores by a paper's rules."""
    cells = [
        [
            row.head,
            row.class_name,
            row.encoder,
            row.amount,
            str(row.draws),
            f"{100 * row.dice:.1f}",
            "-" if row.dice_standard_deviation is None else f"{100 * row.dice_standard_deviation:.1f}",
            f"{row.hd95_voxels:.1f}",
            str(row.cases),
        ]
        for row in rows
    ]
    console.table(
        f"As {convention} counts: for comparison with that paper's tables, not with the one above",
        ["head", "class", "encoder", "subjects", "draws", "Dice %", "± sd", "HD95 voxels", "cases"],
        cells,
        numbers_from=3,
        whole=("head", "class"),
    )
