"""h5 volumes: an ``image`` and, where there is one, a ``label`` in each file.

ACDC and Synapse are passed around like this. The files of ACDC (``patient001_frame01.h5``, HiLab-git/WSL4MIS) keep the
challenge's values. Those of Synapse (``case0001.npy.h5``, Beckschen/TransUNet) were renumbered, and copies are said to
differ in how: their values stay numbers. The stems of these two are ids; a file of another name may be anybody's.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from ....store.errors import UnreadableFile
from ..base import LabelFiles
from ..hdf5 import has_label
from ..labels import LabelChoice
from ..naming import stem
from .acdc import ACDC_LABELS, is_acdc_stem
from .base import LayoutOptions, Pairing, Tree
from .files import candidate_of, patient_of
from .synapse import SPLIT, is_test_case

__all__ = ["h5_volumes", "label_inside"]

_INSIDE = "in the same file"
_SYNAPSE = re.compile(r"case(?P<case>\d{4})(_slice\d+)?")


def h5_volumes(tree: Tree, files: Sequence[Path], options: LayoutOptions) -> Pairing | None:
    """Files that end in ``.h5`` or ``.hdf5``."""
    if not files:
        return None
    cases = [_SYNAPSE.fullmatch(stem(path)) for path in files]
    known = [case is not None or is_acdc_stem(stem(path)) for path, case in zip(files, cases, strict=True)]
    is_synapse, is_acdc = all(cases), all(is_acdc_stem(stem(path)) for path in files)
    candidates = [
        candidate_of(
            tree,
            path,
            options,
            label=label,
            label_shown=_INSIDE if label else "",
            stem_is_id=is_known,
            patient=f"case{case['case']}" if case else None,
            patient_secret=None if is_known else patient_of(path, options),
            test_of=SPLIT if is_synapse and case and is_test_case(int(case["case"])) else None,
        )
        for path, case, is_known, label in zip(files, cases, known, map(label_inside, files), strict=True)
    ]
    labelled = any(candidate.label is not None for candidate in candidates)
    notes = []
    if is_acdc and labelled:
        listed = ", ".join(f"{value} {name}" for value, name in ACDC_LABELS.items() if value)
        notes.append(f"named as ACDC's files are: labels are taken as {listed}")
    if is_synapse and labelled:
        notes.append(
            "named as TransUNet's copies of Synapse are: copies are said to number the organs differently, so their "
            "values stay numbers here; look at them, then name them with --labels 1=NAME,2=NAME"
        )
    return Pairing(
        layout="h5 volumes",
        candidates=candidates,
        label_names=dict(ACDC_LABELS) if is_acdc and labelled else None,
        labels=LabelChoice.of_names(ACDC_LABELS) if is_acdc and labelled else None,
        notes=tuple(notes),
    )


def label_inside(path: Path) -> LabelFiles | None:
    """Return the label that a file holds itself, if it does."""
    try:
        return LabelFiles(reader="hdf5", paths=(path,)) if has_label(path) else None
    except UnreadableFile:
        return None  # reading the image says what is wrong with the file
