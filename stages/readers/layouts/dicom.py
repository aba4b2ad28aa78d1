"""DICOM folders: every series that triage found as a candidate, and every label object with the series it belongs to.

A segmentation (DICOM-SEG) or structure set (RTSTRUCT) belongs to the series that it names. Where it names none that is
there, anonymised away as it may be, it belongs to the only series with its frame of reference, else to the one whose
instances it names, else to the only one on whose grid it lies; each of these is told.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from ....store.errors import UnreadableFile
from .. import dicom_seg, rtstruct
from ..base import Affine, LabelFiles
from ..dicom_series import DicomFolder, Finding, LabelObject, Series
from ..label_planes import Described
from ..naming import stem
from .base import Candidate, LayoutOptions, Refusal, Tree, counted_files, name_of
from .endings import LabelOption

__all__ = [
    "LabelledSeries",
    "label_options",
    "lies_on",
    "other_refusals",
    "patient_of_series",
    "scans",
    "with_label",
]

_KINDS = {"dicom-seg": "DICOM-SEG", "rtstruct": "RTSTRUCT"}
_LISTED = 4


def scans(tree: Tree, folder: DicomFolder, options: LayoutOptions) -> list[Candidate]:
    """Return each series as a candidate without a label, refused where triage refused it."""
    homes = [_home(finding.paths) for finding in folder.findings]
    all_there = Counter(homes)
    taken = Counter(home for home, finding in zip(homes, folder.findings, strict=True) if finding.series is not None)
    return [
        _candidate(tree, finding, home, options, alone=all_there[home] == 1, only_taken=taken[home] == 1)
        for finding, home in zip(folder.findings, homes, strict=True)
    ]


def _candidate(
    tree: Tree, finding: Finding, home: Path, options: LayoutOptions, *, alone: bool, only_taken: bool
) -> Candidate:
    first, series = finding.paths[0], finding.series
    shown, name = tree.shown(home), name_of(home, options)
    if len(finding.paths) == 1:
        shown = tree.shown(first)
    elif not alone:
        numbered = f"series {finding.number}" if finding.number is not None else "series without a number"
        shown = f"{shown} ({numbered}, {counted_files(len(finding.paths))})"
    if not only_taken:
        told_apart = "series" if finding.number is None else f"{finding.number}"
        name = stem(first) if len(finding.paths) == 1 else f"{name}_{told_apart}"
    matrix = (finding.columns, finding.rows, finding.frames) if series is None else series.shape
    return Candidate(
        image=finding.paths if series is None else series.paths,
        reader="dicom",
        stem=name,
        stem_is_id=False,
        patient=None,
        patient_secret="" if series is None else patient_of_series(series),
        series=series,
        chosen=() if series is None else series.chosen,
        modality=finding.modality if series is None else series.modality,
        shown=shown,
        size=" x ".join(map(str, matrix)),
        reason=finding.reason if series is None else None,
        notes=() if series is None else series.notes,
    )


def patient_of_series(series: Series) -> str:
    """Return what the subject of a series is a hash of: its PatientID, else its study, which has one patient.

    Tools that anonymise blank the PatientID; then two series of one study would be two subjects, one on either side of
    a split. Empty where both are blank: the volume is a subject of its own.
    """
    return series.patient_id or (f"StudyInstanceUID {series.study_uid}" if series.study_uid else "")


def _home(paths: Sequence[Path]) -> Path:
    return Path(os.path.commonpath({path.parent for path in paths}))


def other_refusals(tree: Tree, folder: DicomFolder) -> list[Refusal]:
    """Return what is DICOM, and neither an image nor a label."""
    return [
        Refusal(
            path=files.paths[0],
            shown=tree.shown(files.paths[0]),
            reason=files.reason + (f" (and {len(files.paths) - 1} more like it)" if len(files.paths) > 1 else ""),
            size=counted_files(len(files.paths)),
        )
        for files in folder.refused
    ]


# -- label objects ---------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelledSeries:
    """The label objects of a folder, by the candidate that they belong to."""

    options: dict[int, list[LabelOption]] = field(default_factory=dict)
    """By the candidate's place in the list."""
    refused: list[Refusal] = field(default_factory=list)


def label_options(tree: Tree, folder: DicomFolder, candidates: Sequence[Candidate]) -> LabelledSeries:
    """Find the series of each label object.

    Parameters
    ----------
    candidates
        Of `scans`, or others with series; those without are passed over.
    """
    series = {place: one.series for place, one in enumerate(candidates) if one.series is not None}
    found = LabelledSeries()
    lost = sum(one.reason is not None for one in candidates)
    for item in folder.label_objects:
        modality = _KINDS.get(item.reader, item.reader)
        try:
            description = _describe(item)
            owners, note = _owners(item, description, series)
        except UnreadableFile as error:
            found.refused.append(tree.refusal(item.path, str(error), modality=modality))
            continue
        label = LabelFiles(
            reader="rtstruct" if item.reader == "rtstruct" else "dicom-seg",
            paths=(item.path,),
            names=description.names,
        )
        if len(owners) == 1:
            option = LabelOption(label=label, path=item.path, stem=stem(item.path), suffix="", note=note)
            found.options.setdefault(owners[0], []).append(option)
            continue
        listed = ", ".join(candidates[place].shown for place in owners[:_LISTED])
        if owners:
            reason = (
                f"it may belong to {len(owners)} image series, and names none of them alone: {listed}. Put it into a "
                f"folder with its own series"
            )
        elif series:
            reason = f"it names none of the {len(series)} image series here, and lies on the grid of none"
        else:
            reason = "there is no image series that it could belong to: give the folder that holds both"
        if not owners and lost:
            reason += f" ({lost} series refused here: it may be the label of one of them)"
        found.refused.append(
            replace(
                tree.refusal(item.path, reason, modality=modality, label=label),
                series_uids=description.referenced_series_uids,
            )
        )
    return found


def _describe(item: LabelObject) -> Described:
    if item.reader == "rtstruct":
        return rtstruct.describe_rtstruct(item.path)
    return dicom_seg.describe_seg(item.path)


def _owners(item: LabelObject, description: Described, series: Mapping[int, Series]) -> tuple[list[int], str]:
    """Return the series that a label object may belong to, best one, and how it was found where that needs telling."""
    named = [place for place, one in series.items() if one.series_uid in description.referenced_series_uids]
    if len(named) == 1:
        return named, ""
    # One series may hold several stacks; then only those come into question.
    left = {place: series[place] for place in named} if named else dict(series)
    frame = description.frame_of_reference_uid
    framed = [place for place, one in left.items() if frame and one.frame_of_reference_uid == frame]
    if not named and len(framed) == 1:
        return framed, _told("is the only series with its frame of reference")
    instances = frozenset(description.referenced_sop_uids)
    holding = [place for place, one in left.items() if instances & {slice_.sop_uid for slice_ in one.frames}]
    if len(holding) == 1:
        return holding, "" if named else _told("holds the instances that it names")
    if holding or framed:
        left = {place: left[place] for place in (holding or framed)}
    lying = [
        place
        for place, one in left.items()
        if one.affine is not None and lies_on(item.reader, item.path, one.shape, np.asarray(one.affine, np.float64))
    ]
    if len(lying) == 1:
        return lying, _told("is the only series on whose grid it lies")
    return lying or (named if len(named) > 1 else []), ""


def _told(how: str) -> str:
    return f"its label does not name this series, which {how}"


def lies_on(reader: str, path: Path, shape: tuple[int, int, int], affine: Affine | None) -> bool:
    """Tell whether a label object was drawn on the grid of an image.

    Parameters
    ----------
    reader
        As `LabelObject.reader`.
    path
        The label object.
    shape
        (i, j, k) of the image.
    affine
        (i, j, k) to RAS+ millimetres; on an image without one nothing lies.

    Raises
    ------
    UnreadableFile
        The label object is missing or damaged.
    """
    if affine is None:
        return False
    return (rtstruct.lies_on if reader == "rtstruct" else dicom_seg.lies_on)(path, shape, affine)


def with_label(tree: Tree, candidate: Candidate, option: LabelOption | None) -> Candidate:
    """Return a candidate with the label that was chosen for it."""
    if option is None:
        return candidate
    notes = (*candidate.notes, option.note) if option.note else candidate.notes
    return replace(candidate, label=option.label, label_shown=tree.shown(option.path), notes=notes)
