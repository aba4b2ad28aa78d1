"""From a folder (or a file) to named volumes: which layout it is, what each volume is called, what was refused."""

from __future__ import annotations

import os
import shlex
from collections import defaultdict
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Literal

from ....store.errors import InputError, UsageError
from ..base import SourceFiles
from ..labels import LabelChoice, Overlap
from ..naming import (
    compiled_subject,
    hashed_id,
    hashed_subject,
    identity_of_text,
    series_hash,
    stem,
)
from .acdc import acdc
from .base import (
    UNKNOWN,
    Candidate,
    LayoutOptions,
    Pairing,
    Rule,
    Tree,
    hash_of_name,
    identity_text,
    name_of,
    with_hashes,
)
from .bids import bids
from .chaos import chaos
from .ircadb import ircadb
from .loose import loose_files, merged, of_structures, single_file
from .patients import may_be_one_patient
from .stems import homes_of_pairs, images_and_labels, training_folders
from .synapse import synapse
from .totalsegmentator import totalsegmentator

if TYPE_CHECKING:
    import re
    from collections.abc import Iterable, Iterator

__all__ = ["Found", "IdMapRow", "Triaged", "find_sources", "named", "paired"]

# In the order in which they are asked: the most particular first. What none of them knows is loose.
_ANYWHERE: tuple[Rule, ...] = (ircadb, chaos, acdc, synapse)
_AT_THE_ROOT: tuple[Rule, ...] = (training_folders, images_and_labels, bids)
_LAST: tuple[Rule, ...] = (totalsegmentator,)


@dataclass(frozen=True, kw_only=True, slots=True)
class Triaged:
    """One series or file that was found: a row of the table of ``--dry-run``."""

    shown: str
    modality: str
    """"?" where nobody states it."""
    size: str
    """``512 x 512 x 120``, or ``20 files``; empty where it is not known."""
    decision: Literal["taken", "refused"]
    why: str
    """The reason, or what to tell of one that is taken: its label, a tilt in millimetres."""


@dataclass(frozen=True, kw_only=True, slots=True)
class IdMapRow:
    """What leads from an id back to a patient: for a file that the user asks for, outside the workspace."""

    id: str
    subject: str
    shown: str = field(repr=False)
    patient_id: str = field(repr=False)
    """PatientID; empty for what is not DICOM."""
    series_uid: str = field(repr=False)
    """SeriesInstanceUID; empty for what is not DICOM."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """What a folder holds."""

    layout: str
    """For the terminal; several kinds of loose files are joined with "and"."""
    sources: list[SourceFiles]
    """Sorted by path; ids are unique."""
    refused: list[tuple[str, str]]
    """(path as shown, reason); for the terminal only."""
    label_names: dict[int, str] | None
    """What the dataset calls the values in its label files, 0 included where it is named; None where nothing does."""
    labels: LabelChoice | None = None
    """Which classes to make of the labels; None: one a value, named by its number."""
    overlap: Overlap | None = None
    """Whose a voxel of two classes is, where the layout knows."""
    label_suffix: str | None = None
    """The one ending that all labels share, where labels are told by their ending (BIDS, loose files)."""
    splits: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Named splits of the dataset's authors: the subjects on the test side that are there."""
    notes: tuple[str, ...] = ()
    """What holds for the whole dataset, one sentence each."""
    table: list[Triaged] = field(default_factory=list)
    """One row for every series or file, in path order; a label that was taken is in the row of its image."""
    secrets: list[IdMapRow] = field(default_factory=list, repr=False)
    """For ``--id-map``, in the order of `sources`."""


def find_sources(folder_or_file: Path, options: LayoutOptions) -> Found:
    """Find the volumes in a folder, or take one file.

    Parameters
    ----------
    folder_or_file
        As the user typed it; `SourceFiles.shown` is relative to it.
    options
        Ids, subjects, channel, label suffix, and which volume of what is 4-D.

    Returns
    -------
    Found
        Sources in the order of their paths. An image without a label is a source whose label is None.

    Raises
    ------
    UsageError
        There is no such folder; several channels and none chosen; a channel or a label suffix that is not there; a
        broken subject expression.
    InputError
        Nothing in it is understood; ``dataset.json`` is broken.
    """
    subject = compiled_subject(options.subject_regex)
    if not folder_or_file.exists():
        message = (
            f"{folder_or_file}: there is no such file or folder. Check the spelling; `ls {folder_or_file.parent}`."
        )
        raise UsageError(message)
    pairing = paired(folder_or_file, options)
    if pairing is None or not (pairing.candidates or pairing.refused):
        if not options.already_refused:
            raise InputError(_nothing(folder_or_file, options.shown_root or folder_or_file))
        pairing = Pairing(layout="nothing that could be unpacked", candidates=[])
    return named(pairing, options, subject)


def paired(folder_or_file: Path, options: LayoutOptions) -> Pairing | None:
    """Return what the first layout that recognises a folder found, with what else lies there; None for nothing."""
    if folder_or_file.is_file() and folder_or_file.name.upper() == "DICOMDIR":
        folder_or_file = folder_or_file.parent  # what it names lies there
    if folder_or_file.is_file():
        return single_file(folder_or_file, options)
    tree = Tree.of(folder_or_file, options)
    found = _in_folder(tree, options) or Pairing(layout="nothing that can be read", candidates=[])
    return replace(found, refused=[*found.refused, *tree.closed_rows])


def _in_folder(tree: Tree, options: LayoutOptions) -> Pairing | None:
    trees = [tree if root == tree.root else tree.at(root) for root in tree.roots()]
    asked = [
        *((rule, tree) for rule in _ANYWHERE),
        *((rule, one) for rule in _AT_THE_ROOT for one in trees),
        *((rule, tree) for rule in _LAST),
    ]
    for rule, there in asked:
        found = rule(there, options)
        if found is not None:
            return _with_structures(_with_leftover(tree, found, options))
    return _of_pairs_below(tree, options) or loose_files(tree, options)


def _of_pairs_below(tree: Tree, options: LayoutOptions) -> Pairing | None:
    """Return what folders of images and of labels hold that lie further down: ``train/images``, two tasks in one."""
    homes = [home for home in homes_of_pairs(tree) if home != tree.root]
    found = [
        pairing
        for home in homes
        if (pairing := training_folders(tree.at(home), options) or images_and_labels(tree.at(home), options))
        is not None
    ]
    if not found:
        return None
    leftover = [path for path in tree.files if not any(path.is_relative_to(home) for home in homes)]
    whole = merged(found)
    return _with_structures(_with_leftover(tree, replace(whole, leftover=(*whole.leftover, *leftover)), options))


def _with_leftover(tree: Tree, pairing: Pairing, options: LayoutOptions) -> Pairing:
    """Add the scans that lie in the folder and are no part of its layout."""
    if not pairing.leftover:
        return pairing
    there: dict[Path, list[Path]] = defaultdict(list)
    for path in pairing.leftover:
        there[path.parent].append(path)
    rest = loose_files(replace(tree, folders={folder: tuple(files) for folder, files in there.items()}), options)
    return pairing if rest is None else merged([pairing, rest])


def _with_structures(pairing: Pairing) -> Pairing:
    """Choose one class a structure where neither the layout nor the dataset says more."""
    if pairing.labels is not None:
        return pairing
    choice, told = of_structures(pairing.candidates)
    return replace(
        pairing, labels=choice, notes=(*pairing.notes, *(note for note in told if note not in pairing.notes))
    )


def named(pairing: Pairing, options: LayoutOptions, subject: re.Pattern[str] | None) -> Found:
    """Give ids and subjects to what a layout found; refuse the second of two equal ids."""
    sources: dict[str, SourceFiles] = {}
    rows: list[tuple[tuple[str, ...], Triaged]] = []
    refused = list(options.already_refused)
    rows += [((), _refused_row(shown, reason)) for shown, reason in options.already_refused]
    for one in pairing.refused:
        refused.append((one.shown, one.reason))
        rows.append((one.path.parts, _refused_row(one.shown, one.reason, modality=one.modality, size=one.size)))
    secrets: list[IdMapRow] = []
    tests: dict[str, set[str]] = defaultdict(set)
    for candidate in pairing.candidates:
        source, reason = _source(candidate, options, subject, sources)
        if source is None:
            refused.append((candidate.shown, reason))
            row = _refused_row(candidate.shown, reason, modality=candidate.modality, size=candidate.size)
        else:
            sources[source.id] = source
            secrets.append(_secret(source))
            if candidate.test_of is not None:
                tests[candidate.test_of].add(source.subject)
            row = Triaged(
                shown=candidate.shown,
                modality=candidate.modality or UNKNOWN,
                size=candidate.size,
                decision="taken",
                why="; ".join(_told(candidate)),
            )
        rows.append((min(path.parts for path in candidate.image), row))
    return Found(
        layout=pairing.layout,
        sources=list(sources.values()),
        refused=refused,
        label_names=pairing.label_names,
        labels=pairing.labels,
        overlap=pairing.overlap,
        label_suffix=pairing.label_suffix,
        splits={name: tuple(sorted(subjects)) for name, subjects in tests.items()},
        notes=(*pairing.notes, *_notes(pairing, sources.values(), options)),
        table=[row for _, row in sorted(rows, key=lambda item: item[0])],
        secrets=secrets,
    )


def _notes(pairing: Pairing, sources: Iterable[SourceFiles], options: LayoutOptions) -> Iterator[str]:
    if options.ids == "auto" and any(source.called and source.series is None for source in sources):
        yield (
            "ids are keyed hashes, as file names may be those of patients: --ids stem takes the names, --id-map FILE "
            "says which is which"
        )
    if options.subject_regex is None:
        yield from may_be_one_patient(pairing.candidates, sources)
    if pairing.refused and not pairing.candidates and all(row.is_label for row in pairing.refused):
        folder = "FOLDER" if options.shown_root is None else shlex.quote(str(options.shown_root))
        yield f"labels and no images. If the images are in the workspace already: samkit ingest --labels-from {folder}"


def _source(
    candidate: Candidate,
    options: LayoutOptions,
    subject: re.Pattern[str] | None,
    taken: dict[str, SourceFiles],
) -> tuple[SourceFiles | None, str]:
    """Return the source, or the reason for which there is none."""
    if candidate.reason is not None:
        return None, candidate.reason
    hashed = options.ids == "hash" or (options.ids == "auto" and not candidate.stem_is_id)
    identity = _identity(candidate, options)
    volume_id = hashed_id(options.id_key, identity) if hashed else candidate.stem
    if volume_id in taken:
        reason = (
            f"its id {volume_id} is taken by {taken[volume_id].shown}; rename one of them, or give ids by path: "
            f"--ids hash"
        )
        return None, reason
    patient = _subject(candidate, subject, options.id_key, volume_id, hashed=hashed)
    if patient is None:
        pattern = shlex.quote(options.subject_regex or "")
        hint = "" if "/" in pattern else " (with a / in it, as in '([^/]+)/', it is searched in folders too)"
        return None, f"--subject {pattern} finds nothing in {candidate.stem!r}{hint}"
    source = SourceFiles(
        id=volume_id,
        subject=patient,
        subject_is_typed=subject is not None,
        image=candidate.image,
        label=None if candidate.label is None else with_hashes(candidate.label, options),
        reader=candidate.reader,
        modality=candidate.modality,
        identity=identity,
        called=_called(candidate, options) if hashed else (),
        series_hash=None if candidate.series is None else series_hash(options.id_key, candidate.series.series_uid),
        volume_index=candidate.volume_index,
        chosen=candidate.chosen,
        series=candidate.series,
        shown=candidate.shown,
        notes=tuple(note for note in candidate.notes if candidate.series is None or note not in candidate.series.notes),
    )
    return source, ""


def _identity(candidate: Candidate, options: LayoutOptions) -> str:
    """Return which source it is; another volume of a 4-D file is another source."""
    series = candidate.series
    if series is not None:
        uid = series.uid
        if options.logical is not None and not series.series_uid:
            # Blank UIDs: the folder is part of what names it, and an unpacked one is another in every run.
            folder = series.frames[0].path.parent
            uid = uid.replace(str(folder.resolve()), options.logical(folder))
        return identity_of_text(options.id_key, "series", uid)
    text = identity_text(candidate.image[0], options)
    if candidate.volume_index is not None:
        text += f"\nvolume {candidate.volume_index}"
    return identity_of_text(options.id_key, "path", text)


def _called(candidate: Candidate, options: LayoutOptions) -> tuple[str, ...]:
    """Return the keyed hashes of what a label may be called that belongs to it: in a folder of its name, or in any."""
    home = Path(os.path.commonpath({path.parent for path in candidate.image}))
    if candidate.series is not None:
        names, folder = [candidate.stem], name_of(home.parent, options)
    else:
        names, folder = [stem(candidate.image[0]), candidate.stem], name_of(home, options)
    hashes = [hash_of_name(names[0], options, folder=folder), *(hash_of_name(name, options) for name in names)]
    return tuple(dict.fromkeys(hashes))


def _subject(
    candidate: Candidate, pattern: re.Pattern[str] | None, key: bytes, volume_id: str, *, hashed: bool
) -> str | None:
    """Return the subject, or None where the user's expression finds nothing (or an empty text)."""
    if pattern is not None:
        folders = PurePath(candidate.shown).parent
        match = pattern.search((folders / candidate.stem).as_posix() if "/" in pattern.pattern else candidate.stem)
        found = (match.group(1) if pattern.groups else match.group(0)) if match else None
        if not found:
            return None
        return hashed_subject(key, found) if hashed else str(found)
    if hashed or candidate.patient is None:  # a PatientID is hashed even where stems are ids
        return hashed_subject(key, candidate.patient_secret or volume_id)
    return candidate.patient


def _secret(source: SourceFiles) -> IdMapRow:
    series = source.series
    return IdMapRow(
        id=source.id,
        subject=source.subject,
        shown=source.shown,
        patient_id="" if series is None else series.patient_id,
        series_uid="" if series is None else series.series_uid,
    )


def _refused_row(shown: str, reason: str, *, modality: str | None = None, size: str = "") -> Triaged:
    return Triaged(shown=shown, modality=modality or UNKNOWN, size=size, decision="refused", why=reason)


def _told(candidate: Candidate) -> list[str]:
    return [*([f"label: {candidate.label_shown}"] if candidate.label_shown else []), *candidate.notes]


def _nothing(searched: Path, place: Path) -> str:
    if searched.is_file():
        return (
            f"{place}: the file is of no kind that samkit reads: NIfTI (.nii, .nii.gz), NRRD and MetaImage (.nrrd, "
            f".mha), pictures (.png, .tif, .jpg), h5 (.h5, .hdf5), DICOM, or a .zip or .tar of these. Is it the right "
            f"file?"
        )
    return (
        f"{place}: the folder holds nothing that samkit reads. Understood are: imagesTr/ and labelsTr/ with "
        f"dataset.json (Medical Segmentation Decathlon, nnU-Net); images/ and labels/ (or masks/); BIDS (sub-*/, "
        f"derivatives/); 3D-IRCADb, CHAOS, ACDC, Synapse (BTCV) and TotalSegmentator as published; NIfTI files (.nii, "
        f".nii.gz), NRRD and MetaImage (.nrrd, .mha), pictures (.png, .tif, .jpg), labels beside them ending in _gt, "
        f"_seg, _label or _mask; h5 files (.h5, .hdf5) with `image` and `label`; DICOM series, with DICOM-SEG or "
        f"RTSTRUCT; a .zip or .tar of any of these. Is it the right folder? Other archives (.7z, .rar) must be "
        f"unpacked first."
    )
