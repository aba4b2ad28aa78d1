"""ingest: what a folder holds, and what became of each source."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Container, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

from ...stages.ingest import ingest, relabel
from ...stages.intake.job import IngestOptions, Refused, Taken
from ...stages.intake.labels import as_before, check_that_labels_occur, resampled_before
from ...stages.readers.archives import Unpacked, unpacked
from ...stages.readers.base import SourceFiles
from ...stages.readers.dicom_series import VolumeChoice
from ...stages.readers.layouts import (
    Found,
    FoundLabels,
    KnownVolume,
    LayoutOptions,
    Triaged,
    find_labels,
    find_sources,
    header_reads,
)
from ...stages.readers.nifti import why_label_is_refused
from ...store.errors import UsageError
from ...store.local import LocalPlace
from ...store.places import place_of
from ...store.workspace import Workspace, open_workspace
from .. import console
from ..config import id_key, private_files
from ..console import counted
from ..exit_codes import DONE, SOME_FAILED
from ..processes import SourceReaders
from .hints import workspace_flag
from .scratch import scratch_beside

# Whose labels' headers say a size that `--dry-run` can look at.
_SIZED = frozenset({"nifti", "itk", "picture"})
# A message names so many volumes, and counts the rest.
_NAMED = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class IngestReport:
    """What the user wants to be told, and where."""

    dry_run: bool = False
    as_json: bool = False
    allow_refused: bool = False
    #: Files outside the workspace for what must not go into it.
    id_map: Path | None = None
    refused: Path | None = None


def run_ingest(
    source: Path,
    workspace: str,
    layout: LayoutOptions,
    options: IngestOptions,
    *,
    report: IngestReport,
    workers: int | None = None,
) -> int:
    """Ingest a folder or a file and print what became of each source."""
    _check_outside(workspace, report)
    with SourceReaders(workers) as readers, found_in(source, layout, workspace, readers) as found:
        if report.dry_run:
            _write_private(found, report, None)
            place = place_of(workspace)
            there = open_workspace(place) if Workspace.is_at(place) else None
            judged = _judged(found, as_before(there, options), resampled_before(there))
            return _told_dry_run(source, judged, report)
        if not report.as_json:
            console.say(f"{source}: {found.layout}, {counted(len(found.sources), 'volume')}")
            for note in found.notes:
                console.say(f"  {note}")
        results = ingest_found(workspace, found, replace(options, shown=str(source)), readers)
        _write_private(found, report, results)
        _warn_of_subjects(workspace, found, results)
    return _told(results, found.layout, workspace, report)


def run_relabel(
    folder: Path, workspace: str, layout: LayoutOptions, options: IngestOptions, *, report: IngestReport
) -> int:
    """Add labels to volumes of the workspace, or correct them; nothing is encoded again."""
    opened = open_workspace(workspace)
    _check_outside(workspace, report)
    with _unpacked_beside(workspace, folder) as tree:
        known = {volume.id: KnownVolume.of(volume.record) for volume in opened.volumes.values()}
        found = find_labels(tree.root, _of_tree(layout, tree, folder), known)
        if report.dry_run:
            return _told_labels(found, report)
        results = []
        with console.progress_bar("reading labels", len(found.pairs), "labels") as bar:
            for result in relabel(opened, found, replace(options, shown=str(folder))):
                results.append(result)
                bar.advance()
    if report.refused is not None:
        _write_refused(report.refused, results)
    return _told(results, "labels", workspace, report)


def _told_labels(found: FoundLabels, report: IngestReport) -> int:
    if report.as_json:
        pairs = [{"volume": volume_id, "label": shown} for volume_id, _, shown in found.pairs]
        refused = [{"source": shown, "reason": reason} for shown, reason in found.refused]
        console.say(json.dumps({"labels": pairs, "refused": refused}, indent=2))
    else:
        rows = [[shown, volume_id, ""] for volume_id, _, shown in found.pairs]
        rows += [[shown, "refused", reason] for shown, reason in found.refused]
        console.table("Labels", ["label", "volume", "why"], rows, numbers_from=None)
        console.say(f"{counted(len(found.pairs), 'label')} would be taken; nothing was written")
    return SOME_FAILED if found.refused and not report.allow_refused else DONE


@contextmanager
def found_in(source: Path, layout: LayoutOptions, workspace: str | Path, readers: SourceReaders) -> Iterator[Found]:
    """Find the volumes of a folder, a file or an archive; what was unpacked is gone afterwards."""
    with _unpacked_beside(workspace, source) as tree:
        readers.expect(tree.root)
        options = replace(_of_tree(layout, tree, source), read_headers=readers.headers)
        found = find_sources(tree.root, options)
        yield replace(found, notes=(*tree.told, *found.notes))


@contextmanager
def _unpacked_beside(workspace: str | Path, source: Path) -> Iterator[Unpacked]:
    with ExitStack() as stack:
        scratch = stack.enter_context(scratch_beside(workspace))
        with console.progress_bar("unpacking", 0, "MB") as bar:  # gone before the next one: a terminal has room for one
            told = unpacked(source, scratch, progress=lambda done, of: bar.reach("unpacking", done >> 20, of >> 20))
            tree = stack.enter_context(told)
        yield tree


def _of_tree(layout: LayoutOptions, tree: Unpacked, typed: Path) -> LayoutOptions:
    return replace(layout, logical=tree.logical, already_refused=tree.refused, shown_root=typed)


def layout_options(
    *,
    ids: Literal["auto", "stem", "hash"],
    subject: str | None,
    channel: int | None,
    label_suffix: str | None,
    volume: VolumeChoice | None = None,
) -> LayoutOptions:
    """Return the options of a layout, with the user's key for hashed ids."""
    return LayoutOptions(
        ids=ids,
        id_key=id_key(),
        subject_regex=subject,
        channel=channel,
        label_suffix=label_suffix,
        volume=volume or VolumeChoice(),
    )


def ingest_found(
    workspace: str | Path, found: Found, options: IngestOptions, readers: SourceReaders
) -> list[Taken | Refused]:
    """Ingest what a layout found, under a progress bar."""
    results: list[Taken | Refused] = []
    total = len(found.sources) + len(found.refused)
    with console.progress_bar("ingesting", total, "volumes") as bar:

        def read_values(sources: Sequence[SourceFiles], threshold: float | None) -> Iterator[frozenset[int]]:
            for number, values in enumerate(readers.label_values(sources, threshold)):
                bar.reach("looking into labels", number + 1, len(sources))
                yield values
            bar.reach("ingesting", len(results), total)

        for result in ingest(workspace, found, options, read=readers.sources, read_values=read_values):
            results.append(result)
            bar.advance()
    return results


# -- what is told ----------------------------------------------------------------------------------


def _judged(found: Found, options: IngestOptions, resampled: Container[str]) -> Found:
    """Refuse in the table what the options will refuse, as far as headers tell; ``resampled``: by their identities."""
    check_that_labels_occur(options.labels, found.sources)
    sources = {source.shown: source for source in found.sources}

    def judged(row: Triaged) -> Triaged:
        source = sources.get(row.shown)
        if row.decision == "refused" or source is None:
            return row
        reasons = []
        if source.series is None and not row.size:
            reasons.append("its header cannot be read: it is damaged, or no file of what its name says")
        if source.label is not None and source.label.reader in _SIZED and not header_reads(source.label.paths[0]):
            reasons.append("the header of its label cannot be read")
        elif row.size and not (options.resample_labels or source.identity in resampled):
            reasons += [reason] if (reason := _misfit(source)) is not None else []
        if options.require_labels and source.label is None:
            reasons.append("no label, and --require-labels asks for one")
        grey = source.series is None or source.series.samples == 1
        if source.modality == "CT" and grey and not options.windows and options.intensity == "auto":
            reasons.append("a CT needs a window: --window soft-tissue, lung, bone, ... or --intensity percentiles")
        return row if not reasons else replace(row, decision="refused", why="; ".join(reasons))

    return replace(found, table=[judged(row) for row in found.table])


def _misfit(source: SourceFiles) -> str | None:
    """Return why its label does not lie on the image, where their headers tell."""
    label = source.label
    if label is None or (source.reader, label.reader) != ("nifti", "nifti"):
        return None
    return why_label_is_refused(
        source.image[0],
        label.paths[0],
        volume_index=source.volume_index,
        label_volume_index=label.volume_index,
        place=source.shown,
    )


def _told_dry_run(source: Path, found: Found, report: IngestReport) -> int:
    refused = sum(row.decision == "refused" for row in found.table)
    if report.as_json:
        shown = [asdict(row) for row in found.table]
        console.say(json.dumps({"layout": found.layout, "notes": list(found.notes), "series": shown}, indent=2))
    else:
        rows = [[row.shown, row.modality, row.size, row.decision, row.why] for row in found.table]
        console.table(f"{source}: {found.layout}", ["source", "modality", "size", "", "why"], rows, numbers_from=None)
        for note in found.notes:
            console.say(note)
        told = f"{len(found.table) - refused} would be taken, {refused} refused, as far as headers tell"
        console.say(f"{told}; nothing was written")
    return SOME_FAILED if refused and not report.allow_refused else DONE


def _told(results: Sequence[Taken | Refused], layout: str, workspace: str, report: IngestReport) -> int:
    taken = [result for result in results if isinstance(result, Taken)]
    refused = [result for result in results if isinstance(result, Refused)]
    code = SOME_FAILED if refused and not report.allow_refused else DONE
    if report.as_json:
        shown = {"taken": [asdict(one) for one in taken], "refused": [asdict(one) for one in refused]}
        console.say(json.dumps({"layout": layout, **shown}, indent=2))
        return code
    if taken:
        rows = [
            [
                result.shown,
                result.id,
                result.change,
                str(result.slices),
                ",".join(map(str, result.label_values)) if result.labelled else "no label",
                "; ".join([*result.notes, *([result.twin] if result.twin else [])]),
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
    if taken and unlabelled == len(taken):
        new = [result.id for result in taken if result.change == "new"]
        more = f", and so the {len(new) - _NAMED} others" if len(new) > _NAMED else ""
        mistake = f"samkit remove{workspace_flag(workspace)} {' '.join(new[:_NAMED])}{more}"
        console.warn(
            "none of these has a label, and heads are trained on labelled volumes. Labels elsewhere: --labels-from "
            "FOLDER." + (f" Taken by mistake: {mistake}" if new else "")
        )
    twins = sum(result.twin is not None for result in taken)
    if twins:
        console.warn(
            f"{counted(twins, 'volume')} with the slices of another one here, see the notes: as when a folder that was "
            f"moved is ingested again"
        )
    if taken:
        console.say(f"next: samkit embed{workspace_flag(workspace)}")
    return code


def _warn_of_subjects(workspace: str, found: Found, results: Sequence[Taken | Refused]) -> None:
    """Say that new files are subjects of their own beside volumes whose patients were named by ``--subject``."""
    new = {result.id for result in results if isinstance(result, Taken) and result.change == "new"}
    untold = {source.id for source in found.sources if not source.subject_is_typed} & new
    if not untold:
        return
    volumes = open_workspace(workspace).volumes
    typed = sum(volume.ingest_recipe.get("subject") == "typed" for volume in volumes.values())
    if typed:
        console.warn(
            f"{counted(len(untold), 'new volume')} without --subject, which {typed} of the volumes here were ingested "
            f"with: a patient of theirs could be trained on and scored. If these are called alike: the same command "
            f"with --subject"
        )


# -- what must not go into the workspace -----------------------------------------------------------


def _check_outside(workspace: str, report: IngestReport) -> None:
    """Refuse to write patients' names into the workspace, whatever the user says."""
    place = place_of(workspace)
    for flag, file in (("--id-map", report.id_map), ("--refused", report.refused)):
        if file is None:
            continue
        if file.is_dir():
            message = f"{flag} {file}: that is a folder. Name a file."
            raise UsageError(message)
        inside = {file.resolve(), *file.resolve().parents}
        if isinstance(place, LocalPlace) and place.path.resolve() in inside:
            message = (
                f"{flag} {file}: that is inside the workspace, which is made to be passed on without patients' names. "
                f"Name a file elsewhere."
            )
            raise UsageError(message)


def _write_private(found: Found, report: IngestReport, results: Sequence[Taken | Refused] | None) -> None:
    if report.id_map is not None:
        taken = None if results is None else {result.id for result in results if isinstance(result, Taken)}
        rows = [
            {
                "id": row.id,
                "subject": row.subject,
                "source": row.shown,
                "patient_id": row.patient_id,
                "series_uid": row.series_uid,
            }
            for row in found.secrets
            if taken is None or row.id in taken
        ]
        _write_csv(report.id_map, ["id", "subject", "source", "patient_id", "series_uid"], rows)
    if report.refused is not None:
        _write_refused(
            report.refused, [Refused(shown=one, reason=why) for one, why in found.refused] + [*(results or [])]
        )


def _write_refused(file: Path, results: Sequence[Taken | Refused]) -> None:
    refused = dict.fromkeys((one.shown, one.reason) for one in results if isinstance(one, Refused))
    _write_csv(file, ["source", "reason"], [{"source": shown, "reason": reason} for shown, reason in refused])


def _write_csv(file: Path, columns: Sequence[str], rows: Sequence[dict[str, str]]) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, columns)
    writer.writeheader()
    writer.writerows(rows)
    file.parent.mkdir(parents=True, exist_ok=True)
    # Names of files may be any bytes.
    content = text.getvalue().encode("utf-8", "surrogateescape")
    with private_files():
        LocalPlace(file).publish(content)
