"""ingest: what became of each source."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

from ...stages.ingest import IngestOptions, Refused, Taken, ingest
from ...stages.readers.layouts import Found, LayoutOptions, find_sources
from .. import console
from ..config import id_key
from ..console import counted
from ..exit_codes import DONE, SOME_FAILED
from .hints import workspace_flag


def run_ingest(source: Path, workspace: str, layout: LayoutOptions, options: IngestOptions) -> int:
    """Ingest a folder or a file and print what became of each source."""
    found = find_sources(source, layout)
    console.say(f"{source}: {found.layout}, {counted(len(found.sources), 'volume')}")
    results = ingest_found(workspace, found, replace(options, shown=str(source)))
    taken = [result for result in results if isinstance(result, Taken)]
    refused = [result for result in results if isinstance(result, Refused)]
    if taken:
        rows = [
            [
                result.shown,
                result.id,
                result.change,
                str(result.slices),
                ",".join(map(str, result.label_values)) if result.labelled else "no label",
                "; ".join(result.notes),
            ]
            for result in taken
        ]
        console.table(
            "Taken", ["source", "volume", "change", "slices", "label values", "notes"], rows, numbers_from=None
        )
    if refused:
        rows = [[result.shown, result.reason] for result in refused]
        console.table("Refused", ["source", "why"], rows, numbers_from=None)
    unlabelled = sum(not result.labelled for result in taken)
    console.say(
        f"{len(taken)} taken ({sum(result.change == 'unchanged' for result in taken)} unchanged, "
        f"{unlabelled} without a label), {len(refused)} refused"
    )
    if taken:
        console.say(f"next: samkit embed{workspace_flag(workspace)}")
    return SOME_FAILED if refused else DONE


def layout_options(
    *, ids: Literal["auto", "stem", "hash"], subject: str | None, channel: int | None, label_suffix: str | None
) -> LayoutOptions:
    """Return the options of a layout, with the user's key for hashed ids."""
    return LayoutOptions(
        ids=ids,
        id_key=id_key(),
        subject_regex=subject,
        channel=channel,
        label_suffix=label_suffix,
    )


def ingest_found(workspace: str | Path, found: Found, options: IngestOptions) -> list[Taken | Refused]:
    """Ingest what a layout found, under a progress bar."""
    results = []
    with console.progress_bar("ingesting", len(found.sources) + len(found.refused), "volumes") as bar:
        for result in ingest(workspace, found, options):
            results.append(result)
            bar.advance()
    return results
