"""From a folder (or a file) to the volumes in it: which layout it is, what each volume is called, what was refused.

    layout                          told by                                ids      subject
    medical segmentation decathlon  imagesTr, labelsTr, dataset.json       stem     the id
    nnU-Net raw                     the same, with _0000, _0001 channels   stem     the id
    images and labels               images, labels                         stem     the id, ACDC's _frameNN left out
    BIDS                            sub-*, derivatives                     stem     sub-XX
    h5 volumes                      .h5, .hdf5                             stem     the id, ACDC's _frameNN left out
    DICOM series                    files that start as DICOM does         hashed   PatientID, hashed
    NIfTI files                     .nii, .nii.gz                          hashed   the same, hashed
    single file                     one of the above                       hashed   as above

Everything a user should know of is either a source or a refused row: nothing is left out in silence except hidden
files, files of other kinds, and derivatives that are no labels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...store.errors import InputError, UsageError
from .base import SourceFiles
from .layout_rules import RULES, Candidate, LayoutOptions, Pairing, single_file
from .naming import compiled_subject, hashed_id, hashed_subject, identity_of_text

if TYPE_CHECKING:
    import re
    from pathlib import Path

__all__ = ["Found", "LayoutOptions", "find_sources"]


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
    """From ``dataset.json``, 0 included where it is named; None where nothing names the labels."""
    label_suffix: str | None
    """The one ending that all labels share, where labels are told by their ending (BIDS, loose NIfTI files)."""


def find_sources(folder_or_file: Path, options: LayoutOptions) -> Found:
    """Find the volumes in a folder, or take one file.

    Parameters
    ----------
    folder_or_file
        As the user typed it; `SourceFiles.shown` is relative to it.
    options
        Ids, subjects, channel and label suffix.

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
    pairing = (
        single_file(folder_or_file)
        if folder_or_file.is_file()
        else next((found for rule in RULES if (found := rule(folder_or_file, options)) is not None), None)
    )
    if pairing is None or not (pairing.candidates or pairing.refused):
        raise InputError(_nothing(folder_or_file))
    return _named(pairing, options, subject)


def _named(pairing: Pairing, options: LayoutOptions, subject: re.Pattern[str] | None) -> Found:
    """Give ids and subjects; refuse the second of two equal ids."""
    sources: dict[str, SourceFiles] = {}
    refused = list(pairing.refused)
    for candidate in pairing.candidates:
        hashed = options.ids == "hash" or (options.ids == "auto" and not candidate.stem_is_id)
        kind, text = (
            ("path", str(candidate.image[0].resolve()))
            if candidate.series_uid is None
            else ("series", candidate.series_uid)
        )
        identity = identity_of_text(options.id_key, kind, text)
        volume_id = hashed_id(options.id_key, identity) if hashed else candidate.stem
        if volume_id in sources:
            reason = (
                f"its id {volume_id} is taken by {sources[volume_id].shown}; rename one of them, or give ids by path: "
                f"--ids hash"
            )
            refused.append((candidate.shown, reason))
            continue
        patient = _subject(candidate, subject, options.id_key, volume_id, hashed=hashed)
        if patient is None:
            reason = f"--subject {options.subject_regex!r} finds nothing in {candidate.stem!r}"
            refused.append((candidate.shown, reason))
            continue
        sources[volume_id] = SourceFiles(
            id=volume_id,
            subject=patient,
            image=candidate.image,
            label=candidate.label,
            reader=candidate.reader,
            modality=candidate.modality,
            identity=identity,
            shown=candidate.shown,
        )
    return Found(
        layout=pairing.layout,
        sources=list(sources.values()),
        refused=refused,
        label_names=pairing.label_names,
        label_suffix=pairing.label_suffix,
    )


def _subject(
    candidate: Candidate, pattern: re.Pattern[str] | None, key: bytes, volume_id: str, *, hashed: bool
) -> str | None:
    """Return the subject, or None where the user's expression finds nothing (or an empty text)."""
    if pattern is not None:
        match = pattern.search(candidate.stem)
        found = (match.group(1) if pattern.groups else match.group(0)) if match else None
        if not found:
            return None
        return hashed_subject(key, found) if hashed else str(found)
    if hashed or candidate.patient is None:  # a PatientID is hashed even where stems are ids
        return hashed_subject(key, candidate.patient_secret or volume_id)
    return candidate.patient


def _nothing(place: Path) -> str:
    what = "the file is of no kind" if place.is_file() else "the folder holds nothing"
    return (
        f"{place}: {what} that samkit reads. Understood are: imagesTr/ and labelsTr/ with dataset.json (Medical "
        f"Segmentation Decathlon, nnU-Net); images/ and labels/; BIDS (sub-*/, derivatives/); NIfTI files (.nii, "
        f".nii.gz), labels beside them ending in _gt, _seg, _label or _mask; h5 files (.h5, .hdf5) with `image` and "
        f"`label`; DICOM series. Is it the right folder? Archives (.zip) must be unpacked first."
    )
