"""report: the table of all runs, and the page."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict

from ...heads.comparison import compare, typed_head
from ...heads.conventions import Convention
from ...stages.conventions import ConventionRow, tabulate_by
from ...stages.report import write_report
from ...stages.reporting.formats import PAPER_FORMATS, paper_table
from ...stages.reporting.table import Row, reportable, table_csv, tabulate, told_heads, told_test_sets
from ...store.errors import UsageError
from ...store.places import place_of
from ...store.runs import Run
from ...store.workspace import open_workspace
from .. import console
from ..exit_codes import DONE

PAGE, JSON, CSV = "page", "json", "csv"
FORMATS = (PAGE, JSON, CSV, *PAPER_FORMATS)


def run_report(
    workspace_path: str, output: str | None, *, table_format: str = PAGE, convention: str | None = None
) -> int:
    """Print the table of all runs and write the page; or write the table alone, as a program or a paper takes it.

    With a convention the table by a paper's rules is told too; as JSON it is told instead.
    """
    if convention is not None and table_format not in (PAGE, JSON):
        message = (
            f"--convention {convention}: told as a table on the terminal or as JSON, not as {table_format}. Leave "
            f"--format out, or give --format {JSON}"
        )
        raise UsageError(message)
    workspace = open_workspace(workspace_path)
    runs, left_out = reportable(workspace)
    rows = tabulate(runs)
    for left in left_out:
        console.warn(f"left out: {left.run_id} ({left.alias}) because {left.reason}")
    by_convention = [] if convention is None else tabulate_by(Convention(convention), runs, workspace, told_heads(rows))
    if table_format == PAGE:
        page = write_report(workspace, workspace.path / "report" if output is None else place_of(output))
        console.results_table(rows)
        if convention is not None:
            _say_by(Convention(convention), by_convention)
        console.say(f"report: {page}")
        return DONE
    if (unlike := told_test_sets(rows)) is not None:
        console.warn(unlike)
    if table_format == JSON:
        told: Sequence[Row | ConventionRow] = rows if convention is None else by_convention
        text = json.dumps([asdict(row) for row in told], indent=1) + "\n"
    else:
        text = table_csv(rows) if table_format == CSV else paper_table(rows, table_format)
    if output is None:
        console.say(text.rstrip("\n"))
    else:
        place_of(output).publish(text.encode())
        console.say(f"table: {output}")
    return DONE


def run_compare(workspace_path: str, one: str, other: str) -> int:
    """Tell how much better one experiment is than another, on the same draws and test subjects."""
    workspace = open_workspace(workspace_path)
    runs, _ = reportable(workspace)
    told = told_heads(tabulate(runs))
    sides = [_named(name, runs, told) for name in (one, other)]
    found = compare(*sides)
    if not found:
        heads = ",".join(dict.fromkeys(typed_head(side[0]) for side in sides))
        amounts = ",".join(map(str, sorted({run.settings.subjects for side in sides for run in side})))
        message = (
            f"--compare {one} {other}: no draw of the same split is in both. Train them on the same: samkit experiment "
            f"--heads {heads} --volumes {amounts} --draws 5"
        )
        raise UsageError(message)
    rows = [
        [
            each.amount,
            each.split,
            str(each.draws),
            str(each.test_subjects),
            *(interval.percent for interval in (each.one, each.other, each.difference)),
        ]
        for each in found
    ]
    console.table(
        "Mean Dice % over all classes, on the same draws and test subjects (95 % of a bootstrap over both; where the "
        "difference's holds 0, they are not told apart)",
        ["subjects", "split", "draws", "test subjects", one, other, "difference"],
        rows,
        numbers_from=0,
    )
    return DONE


def _named(name: str, runs: Sequence[Run], told: Mapping[str, str]) -> list[Run]:
    """Return the runs of the experiment that a name means: a head, or a head as the table tells it apart."""
    exact = [run for run in runs if told[run.id] == name]
    # What follows tells it from others of its head: settings in brackets, then the encoder.
    found = exact or [run for run in runs if told[run.id].split(" on ")[0].split(" (")[0] == name]
    names = sorted({told[run.id] for run in found})
    if len(names) != 1:
        choices = names or sorted(set(told.values()))
        what = f"means {len(names)} experiments" if names else "is no experiment here"
        message = f"--compare {name!r}: {what}. Name one of: {'; '.join(choices)}"
        raise UsageError(message)
    return found


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
