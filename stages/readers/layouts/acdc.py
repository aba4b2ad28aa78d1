"""ACDC as it is published (Bernard et al. 2018): ``patientNNN/`` with ``Info.cfg`` and the ED and ES frames in NIfTI.

database/training/patient001/Info.cfg                      ED: 1, ES: 12 (and more that is not read: height, weight)
                             patient001_4d.nii.gz          the whole cycle; has no labels and is left out
                             patient001_frame01.nii.gz     end-diastole
                             patient001_frame01_gt.nii.gz  1 right ventricle, 2 myocardium, 3 left ventricle
         testing/patient101/...                            the challenge's test set
"""

from __future__ import annotations

import re
from pathlib import Path

from ..labels import LabelChoice
from ..naming import stem
from .base import Candidate, LayoutOptions, Pairing, Refusal, Tree, name_of
from .files import candidate_of, files_of, label_of

__all__ = ["ACDC_LABELS", "acdc", "is_acdc_stem"]

ACDC_LABELS = {0: "background", 1: "RV", 2: "Myo", 3: "LV"}

_PATIENT = re.compile(r"patient\d{3}")
_STEM = re.compile(r"patient\d{3}_frame\d{2}(_slice_?\d+)?")
_FRAME = re.compile(r"(?P<patient>patient\d{3})_frame(?P<frame>\d{2})(?P<label>_gt)?")
_INFO = re.compile(rb"^\s*(ED|ES)\s*:\s*(\d+)\s*$", re.MULTILINE)
_PHASES = {"ED": "end-diastole", "ES": "end-systole"}
_SPLIT = "acdc-100-50"


def is_acdc_stem(name: str) -> bool:
    """Tell whether a stem is one of ACDC's, also as the h5 copies of it have them."""
    return _STEM.fullmatch(name) is not None


def acdc(tree: Tree, options: LayoutOptions) -> Pairing | None:
    """``patientNNN`` folders with an ``Info.cfg``."""
    folders = {
        folder: info
        for folder, files in tree.folders.items()
        if _PATIENT.fullmatch(folder.name) and (info := _info(files)) is not None
    }
    if not folders:
        return None
    candidates: list[Candidate] = []
    refused: list[Refusal] = []
    cycles = 0
    for folder, info in sorted(folders.items()):
        scans = files_of(tree.within(folder), "nifti")
        cycles += sum(stem(path) == f"{folder.name}_4d" for path in scans)
        found, lacking = _of_patient(tree, folder, scans, _phases(info), options)
        candidates += found
        refused += lacking
    notes = (
        f"ACDC: labels are taken as {', '.join(f'{value} {name}' for value, name in ACDC_LABELS.items() if value)}",
        *([f"{cycles} cine file(s) (patientNNN_4d) left out: only the ED and ES frames have labels"] if cycles else []),
    )
    part = {path for folder in folders for path in tree.within(folder)}
    return Pairing(
        layout="ACDC",
        candidates=candidates,
        refused=refused,
        label_names=dict(ACDC_LABELS),
        labels=LabelChoice.of_names(ACDC_LABELS),
        notes=notes,
        leftover=tuple(path for path in tree.files if path not in part),
    )


def _of_patient(
    tree: Tree, folder: Path, scans: list[Path], phases: dict[int, str], options: LayoutOptions
) -> tuple[list[Candidate], list[Refusal]]:
    frames: dict[int, Path] = {}
    labels: dict[int, Path] = {}
    refused: list[Refusal] = []
    for path in scans:
        found = _FRAME.fullmatch(stem(path))
        if found and found["patient"] == folder.name:
            (labels if found["label"] else frames).setdefault(int(found["frame"]), path)
        elif stem(path) != f"{folder.name}_4d":
            reason = f"not named as ACDC's files are ({folder.name}_frameNN, {folder.name}_frameNN_gt)"
            refused.append(tree.refusal(path, reason))
    for frame, phase in phases.items():
        if frame not in frames:
            missing = folder / f"{folder.name}_frame{frame:02d}.nii.gz"
            reason = f"it is not there, and Info.cfg says that {phase} is frame {frame}"
            refused.append(tree.refusal(missing, reason, modality="MR"))
    for frame, path in labels.items():
        if frame not in frames:
            reason = f"a label without its image {folder.name}_frame{frame:02d}"
            refused.append(tree.refusal(path, reason, label=label_of(path, options)))
    candidates = [
        candidate_of(
            tree,
            path,
            options,
            label=label_of(labels[frame], options) if frame in labels else None,
            label_shown=tree.shown(labels[frame]) if frame in labels else "",
            modality="MR",
            patient=folder.name,
            notes=(phases.get(frame, "neither end-diastole nor end-systole, says Info.cfg"),),
            test_of=_SPLIT if name_of(folder.parent, options) == "testing" else None,
        )
        for frame, path in sorted(frames.items())
    ]
    return candidates, refused


def _info(files: tuple[Path, ...]) -> Path | None:
    return next((path for path in files if path.name.lower() == "info.cfg"), None)


def _phases(info: Path) -> dict[int, str]:
    """Read which frame is which moment; nothing else of the file is looked at."""
    try:
        content = info.read_bytes()
    except OSError:
        return {}
    return {int(frame): _PHASES[phase.decode()] for phase, frame in _INFO.findall(content)}
