"""CHAOS (Kavur et al. 2021), and folders like it: a DICOM series with one PNG mask a slice in ``Ground`` beside it.

    Train_Sets/CT/1/DICOM_anon/i0000,0000b.dcm          Ground/liver_GT_000.png       255 liver
               MR/1/T1DUAL/DICOM_anon/InPhase/*.dcm     Ground/IMG-0004-00002.png     63 liver, 126 right kidney,
                                      OutPhase/*.dcm                                  189 left kidney, 252 spleen
                    T2SPIR/DICOM_anon/*.dcm             Ground/IMG-0002-00001.png
    Test_Sets/...                                       without Ground

A mask has the name of its slice's file; where it has not (CT, and the out-phase), the n-th mask belongs to the n-th
file, both in the natural order of their names.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ..base import LabelFiles
from ..dicom_series import Series, triage
from ..labels import LabelChoice, LabelClass
from ..naming import natural_key, stem
from .base import LABEL, Candidate, LayoutOptions, Pairing, Refusal, Tree, name_of
from .dicom import other_refusals, scans
from .files import files_of, kind_of

__all__ = ["chaos"]

_IMAGE, _GROUND = "dicom_anon", "ground"
# 1: what a mask of one bit holds where it is white.
_CT_VALUES = {0: "background", 1: "liver", 255: "liver"}
_MR_VALUES = {0: "background", 63: "liver", 126: "right kidney", 189: "left kidney", 252: "spleen"}
_PATIENT = re.compile(r"\d{1,2}")
_SEQUENCES = {"T1DUAL", "T2SPIR"}
_PHASES = {"InPhase", "OutPhase"}


def chaos(tree: Tree, options: LayoutOptions) -> Pairing | None:
    """``Ground`` with PNG masks beside folders of DICOM, or ``DICOM_anon``."""
    grounds = {
        folder.parent: sorted(masks, key=lambda path: natural_key(path.name))
        for folder, files in tree.folders.items()
        if folder.name.casefold() == _GROUND and folder != tree.root and (masks := files_of(files, "picture"))
    }
    units = {*grounds, *(unit for folder in tree.folders if (unit := _above_image(tree, folder)) is not None)}
    images: dict[Path, list[Path]] = defaultdict(list)
    for folder in tree.folders:
        unit = next((place for place in (folder, *folder.parents) if place in units), None)
        if unit is not None and _GROUND not in (name.casefold() for name in folder.relative_to(unit).parts):
            images[unit].append(folder)
    if not images:
        return None
    candidates: list[Candidate] = []
    refused: list[Refusal] = []
    part: set[Path] = set()
    ordered = 0
    for unit, folders in sorted(images.items(), key=lambda item: item[0].parts):
        masks = grounds.get(unit, [])
        for folder in sorted(folders):
            files = [path for path in tree.within(folder) if kind_of(path) is None]
            dicom = triage(files, options.volume, read=options.read_headers)
            if dicom.empty or dicom.label_objects:
                continue  # other DICOM that happens to lie there
            part.update(files)
            refused += other_refusals(tree, dicom)
            names = sorted({path for finding in dicom.findings for path in finding.paths}, key=_by_name)
            found = scans(tree, dicom, options)
            alone = sum(candidate.reason is None for candidate in found) == 1
            for candidate in found:
                named = _named(candidate, unit, folder, options, alone=alone)
                if masks and named.series is not None:
                    named, by_order, reason = _with_masks(tree, named, named.series, names, masks)
                    ordered += by_order
                    if reason:
                        refused.append(tree.refusal(masks[0].parent, reason, modality=LABEL))
                candidates.append(named)
        part.update(masks)
    if not candidates:
        return None
    values = _values(candidates)
    classes = [name for name in dict.fromkeys(values.values()) if name != "background"]
    note = (
        f"CHAOS: {ordered} series whose masks do not have the names of their slices: paired in the order of the names"
    )
    return Pairing(
        layout="CHAOS",
        candidates=candidates,
        refused=refused,
        label_names=values or None,
        labels=LabelChoice(
            classes=tuple(LabelClass(value=at, name=name, takes=(name,)) for at, name in enumerate(classes, start=1))
        )
        if classes
        else None,
        notes=(note,) if ordered else (),
        leftover=tuple(path for path in tree.files if path not in part),
    )


def _above_image(tree: Tree, folder: Path) -> Path | None:
    """Return the folder above ``DICOM_anon``, in which or below which this one lies; None for others."""
    inside = (place for place in (folder, *folder.parents) if place.is_relative_to(tree.root) and place != tree.root)
    return next((place.parent for place in inside if place.name.casefold() == _IMAGE), None)


def _by_name(path: Path) -> tuple[tuple[int, int, str], ...]:
    return natural_key(path.name)


def _named(candidate: Candidate, unit: Path, folder: Path, options: LayoutOptions, *, alone: bool) -> Candidate:
    """Name it ``MR_1_T1DUAL_InPhase`` where the folders are CHAOS's own; ids stay hashes elsewhere."""
    inside = [name for name in folder.relative_to(unit).parts if name.casefold() != _IMAGE]
    number, sequence = name_of(unit, options), ""
    if number in _SEQUENCES:
        number, sequence = name_of(unit.parent, options), number
    if candidate.series is not None and inside:
        # The two phases may share their SeriesInstanceUID, and are two sources all the same.
        uid = "\n".join([candidate.series.uid, *inside])
        candidate = replace(candidate, series=replace(candidate.series, uid=uid))
    known = _PATIENT.fullmatch(number) and (set(inside) <= _PHASES if sequence == "T1DUAL" else not inside)
    if not known or not alone:
        return candidate
    patient = f"{candidate.modality or 'MR'}_{number}"
    name = "_".join([patient, *([sequence] if sequence else []), *inside])
    return replace(candidate, stem=name, stem_is_id=True, patient=patient, patient_secret=f"CHAOS {patient}")


def _with_masks(
    tree: Tree, candidate: Candidate, series: Series, names: Sequence[Path], masks: Sequence[Path]
) -> tuple[Candidate, bool, str]:
    """Give a series its masks in the order of its slices.

    Returns
    -------
    Candidate
        With the label, or as it was.
    bool
        Whether the masks were paired by order.
    str
        Why there is no label, else nothing.
    """
    if len(series.paths) != len(series.frames):
        return candidate, False, "the image is one file of many slices: nobody knows which mask is of which slice"
    by_name = {stem(mask).casefold(): mask for mask in masks}
    mask_of = {path: by_name[stem(path).casefold()] for path in series.paths if stem(path).casefold() in by_name}
    by_order = not mask_of
    if by_order:
        if len(masks) != len(names):
            reason = (
                f"{len(masks)} masks for the {len(names)} slices of {candidate.shown}, and their names differ: nobody "
                f"knows which is of which"
            )
            return candidate, False, reason
        mask_of = dict(zip(names, masks, strict=True))
    lacking = [path for path in series.paths if path not in mask_of]
    if lacking:
        reason = (
            f"{len(lacking)} of the {len(series.paths)} slices of {candidate.shown} have no mask of their name, the "
            f"first of them {lacking[0].name}"
        )
        return candidate, False, reason
    label = LabelFiles(reader="picture-stack", paths=tuple(mask_of[path] for path in series.paths))
    shown = f"{tree.shown(masks[0].parent)} ({len(label.paths)} masks)"
    return replace(candidate, label=label, label_shown=shown), by_order, ""


def _values(candidates: Sequence[Candidate]) -> dict[int, str]:
    """Return what the masks' values mean, for the modalities that have masks."""
    modalities = {candidate.modality for candidate in candidates if candidate.label is not None}
    values: dict[int, str] = {}
    if modalities - {"CT"}:
        values |= _MR_VALUES
    if "CT" in modalities:
        values |= _CT_VALUES
    return dict(sorted(values.items()))
