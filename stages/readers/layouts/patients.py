"""Where several subjects may be one patient, who could be trained on and scored at once: told, never decided.

By what files and folders are called, and by what DICOM leaves out. Nobody's name is told.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from typing import TYPE_CHECKING

from ..naming import natural_key, patient_and_moment, patient_and_number
from .dicom import patient_of_series

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from ..base import SourceFiles
    from .base import Candidate

__all__ = ["may_be_one_patient"]

# A note lists so many ends of names.
_LISTED = 6


def may_be_one_patient(candidates: Sequence[Candidate], sources: Iterable[SourceFiles]) -> Iterator[str]:
    """Say where subjects may be one patient, and what to type then.

    Parameters
    ----------
    candidates
        What a layout found, refused ones too.
    sources
        Those that are taken, with their subjects.
    """
    of_study = sum(_is_of_study(one) for one in candidates if one.reason is None)
    if of_study:
        yield (
            f"{of_study} DICOM series without a PatientID: their subject was taken from their study "
            f"(StudyInstanceUID). Where a patient has several studies, or several patients share one: --subject finds "
            f"it in the names of folders"
        )
    subject_of = {source.shown: source.subject for source in sources}
    files = [(one, subject_of[one.shown]) for one in candidates if one.series is None and one.shown in subject_of]
    yield from _called_alike(files)
    yield from _in_folders_alike(files)


def _is_of_study(candidate: Candidate) -> bool:
    """Tell whether a subject is that of a study, and neither a PatientID nor what the layout knows better."""
    series = candidate.series
    if series is None or series.patient_id or not series.study_uid:
        return False
    return candidate.patient_secret == patient_of_series(series)


def _called_alike(files: Sequence[tuple[Candidate, str]]) -> Iterator[str]:
    """Tell of files that are called alike but for their ends: visits, sequences, slices."""

    def several(split: Callable[[str], tuple[str, str] | None]) -> dict[tuple[Path, str], list[str]]:
        """Return the ends of the files of each patient who has several, each a subject of its own."""
        ends: defaultdict[tuple[Path, str], dict[str, str]] = defaultdict(dict)
        for one, subject in files:
            if (parts := split(one.stem)) is not None:
                ends[one.image[0].parent, parts[0]][subject] = parts[1]
        return {patient: list(its.values()) for patient, its in ends.items() if len(its) > 1}

    numbered = several(patient_and_number)
    if len(numbered) < 2:  # a single series of numbers counts patients
        numbered = {}
    alike = {**numbered, **several(patient_and_moment)}
    if not alike:
        return
    ends = sorted({end for its in alike.values() for end in its}, key=natural_key)
    listed = ", ".join(f"_{end}" for end in ends[:_LISTED]) + (", ..." if ends[_LISTED:] else "")
    yield (
        f"{sum(map(len, alike.values()))} files are called alike but for their ends ({listed}), and each is a subject "
        f"of its own. Where these are files of one patient, who could be trained on and scored at once: "
        f"--subject '{_without(ends)}'"
    )


def _without(ends: Iterable[str]) -> str:
    """Return an expression for what stands before such ends, and for all of a name without one."""
    kinds = dict.fromkeys(re.sub(r"\d+", lambda _: r"\d+", end) for end in ends)
    # What ends in a bare number may be the number of a patient: one is looked for before it.
    patient = r".*?\d.*?" if r"\d+" in kinds else ".+?"
    return f"({patient})([-_ ]({'|'.join(kinds)}))?$"


def _in_folders_alike(files: Sequence[tuple[Candidate, str]]) -> Iterator[str]:
    """Tell of folders with several files each, called as those of other folders are: a patient's each, probably."""
    in_folder: defaultdict[Path, dict[str, str]] = defaultdict(dict)
    for one, subject in files:
        in_folder[one.image[0].parent][one.stem] = subject
    folders = [its for its in in_folder.values() if len({*its.values()}) > 1]
    repeated = Counter(name for its in folders for name in its)
    of_patients = sum(any(repeated[name] > 1 for name in its) for its in folders)
    if of_patients:
        yield (
            f"{of_patients} folders hold several files each, called as those of other folders are, and each is a "
            f"subject of its own. Where a folder is a patient's, who could be trained on and scored at once: "
            f"--subject '([^/]+)/'"
        )
