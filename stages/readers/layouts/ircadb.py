"""3D-IRCADb-01 (Soler et al. 2010), however it was unpacked: image and masks as DICOM, a folder of masks a structure.

    3Dircadb1.N/PATIENT_DICOM/image_0 ...             the CT, files without endings
                MASKS_DICOM/<structure>/image_0 ...   0 and 255
                LABELLED_DICOM/                       all zones in one, in codes that nobody documented: left out
                MESHES_VTK/                           surfaces: left out

Inner zips hold a folder of their own name, so PATIENT_DICOM/PATIENT_DICOM is as usual as PATIENT_DICOM alone.

Liver tumours are the folders ``livertumor*`` (livertumor, livertumors, livertumor01 ...), which gives the 15 patients
with tumours that the dataset states. ``tumor`` of patient 7 lies mostly outside the liver, ``leftsurretumor`` and
``rightsurretumor`` of patient 5 are adrenal, ``livercyst``, ``liverkyst`` and ``liverkyste`` are cysts: none of them
is a liver tumour. Whether the mask of the liver covers its tumours differs, so the liver is the union. LiTS 28 to 44
and 46 to 48 are patients of this dataset.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path

from ..base import LabelFiles
from ..dicom_headers import is_dicom
from ..dicom_series import triage
from ..labels import parse_labels
from ..naming import natural_key
from .base import LABEL, Candidate, LayoutOptions, Pairing, Refusal, Tree, name_of, unzipped_name
from .dicom import other_refusals, scans
from .files import kind_of

__all__ = ["ircadb"]

_IMAGE, _MASKS = "patient_dicom", "masks_dicom"
_LEFT_OUT = ("labelled_dicom", "labeled_dicom", "meshes_vtk")
_PATIENT = re.compile(r"3D-?ircadb-?\d+[._-]\d+", re.IGNORECASE)

_CHOICE = "liver=liver|livertumor*,tumour=livertumor*"
_TUMOURS = "livertumor*"
_NO_LIVER_TUMOURS = ("tumor", "*surretumor", "livercyst*", "liverkyst*")


@dataclass(slots=True)
class _Patient:
    """What one patient's folders hold."""

    name: str
    """Of the folder, or of the zip that it was."""
    image: list[Path] = field(default_factory=list)
    masks: dict[str, list[Path]] = field(default_factory=dict)
    """By structure."""
    masks_folder: Path | None = None


def ircadb(tree: Tree, options: LayoutOptions) -> Pairing | None:
    """``PATIENT_DICOM`` and ``MASKS_DICOM`` side by side, doubled and nested as they may be."""
    patients, part, labelled = _patients(tree, options)
    if not any(patient.masks for patient in patients) and not any(
        patient.image and _PATIENT.fullmatch(patient.name) for patient in patients
    ):
        return None
    candidates: list[Candidate] = []
    refused: list[Refusal] = []
    for patient in patients:
        found, lacking = _of_patient(tree, patient, options)
        candidates += found
        refused += lacking
    structures = {name for patient in patients for name in patient.masks}
    liver = any(name.casefold() == "liver" for name in structures)
    return Pairing(
        layout="3D-IRCADb",
        candidates=candidates,
        refused=refused,
        labels=parse_labels(_CHOICE) if liver else None,
        overlap="last" if liver else None,
        notes=(
            *(_told(structures) if liver else ()),
            *(("LABELLED_DICOM is left out: its codes are not documented, MASKS_DICOM says the same",) * labelled),
        ),
        leftover=tuple(path for path in tree.files if path not in part),
    )


def _patients(tree: Tree, options: LayoutOptions) -> tuple[list[_Patient], set[Path], bool]:
    """Sort the files by patient; also return all that are part of the layout, and whether LABELLED_DICOM is there."""
    patients: dict[tuple[str, ...], _Patient] = {}
    part: set[Path] = set()
    labelled = False
    for folder, files in tree.folders.items():
        names = [unzipped_name(name) for name in folder.relative_to(tree.root).parts]
        kinds = [name.casefold() for name in names]
        at = next((place for place, kind in enumerate(kinds) if kind in (_IMAGE, _MASKS, *_LEFT_OUT)), None)
        if at is None:
            continue
        part.update(files if kinds[at] != _IMAGE else (path for path in files if kind_of(path) is None))
        if kinds[at] in _LEFT_OUT:
            labelled |= kinds[at] != "meshes_vtk"
            continue
        # 3Dircadb1.1/3Dircadb1.1 is one patient, whichever of the two the zip came from.
        key = tuple(kind for place, kind in enumerate(kinds[:at]) if place == 0 or kind != kinds[place - 1])
        name = names[at - 1] if at else name_of(tree.root, options)
        patient = patients.setdefault(key, _Patient(name=name))
        if kinds[at] == _IMAGE:
            patient.image += [path for path in files if kind_of(path) is None]
            continue
        patient.masks_folder = patient.masks_folder or tree.root.joinpath(
            *folder.relative_to(tree.root).parts[: at + 1]
        )
        inside = [name for name in names[at + 1 :] if name.casefold() != _MASKS]
        if inside:  # files beside the structures' folders are notes of somebody
            patient.masks.setdefault(inside[0], []).extend(path for path in files if _may_be_mask(path))
    return (
        [patients[key] for key in sorted(patients, key=lambda key: [natural_key(name) for name in key])],
        part,
        labelled,
    )


def _may_be_mask(path: Path) -> bool:
    """Keep Thumbs.db and the like out; files without ending, as the dataset's are, are not opened for it."""
    return path.suffix.lower() in ("", ".dcm", ".ima") or (kind_of(path) is None and is_dicom(path))


def _of_patient(tree: Tree, patient: _Patient, options: LayoutOptions) -> tuple[list[Candidate], list[Refusal]]:
    folder = triage(patient.image, options.volume, read=options.read_headers)
    found = scans(tree, folder, options)
    refused = other_refusals(tree, folder)
    refused += [
        tree.refusal(item.path, "a label object where 3D-IRCADb has the image") for item in folder.label_objects
    ]
    known = _PATIENT.fullmatch(patient.name) is not None
    taken = [candidate for candidate in found if candidate.reason is None]
    structures = tuple(
        (name, tuple(sorted(files, key=lambda path: natural_key(path.name))))
        for name, files in sorted(patient.masks.items(), key=lambda item: natural_key(item[0]))
        if files
    )
    label = None
    masks = "" if patient.masks_folder is None else tree.shown(patient.masks_folder)
    if structures and len(taken) == 1:
        label = LabelFiles(
            reader="mask-series",
            paths=tuple(path for _, files in structures for path in files),
            structures=structures,
            names=tuple(name for name, _ in structures),
            series=taken[0].series,
        )
    elif structures and patient.masks_folder is not None:
        reason = (
            f"the image beside it holds {len(taken)} series: nobody knows which one these masks were drawn on"
            if taken
            else "its image was refused, or is not there"
        )
        refused.append(tree.refusal(patient.masks_folder, reason, modality=LABEL))
    named = []
    for candidate in found:
        own = candidate if len(taken) > 1 else replace(candidate, stem=patient.name)
        if candidate.reason is None:
            own = replace(
                own,
                stem_is_id=known,
                patient=patient.name if known else None,
                patient_secret=patient.name if known else candidate.patient_secret,
                label=label,
                label_shown="" if label is None else f"{masks} ({len(structures)} structures)",
            )
        named.append(own)
    return named, refused


def _told(structures: Iterable[str]) -> tuple[str, ...]:
    """Say which folders count as what, and which do not."""
    ordered = sorted(structures, key=natural_key)
    tumours = [name for name in ordered if fnmatchcase(name.casefold(), _TUMOURS)]
    none = [name for name in ordered if any(fnmatchcase(name.casefold(), pattern) for pattern in _NO_LIVER_TUMOURS)]
    others = [name for name in ordered if name not in tumours and name not in none and name.casefold() != "liver"]
    told = [
        f"3D-IRCADb: liver is the union of liver and {_TUMOURS}, tumour is {_TUMOURS} "
        f"(here: {', '.join(tumours) or 'none'}); where both, tumour. Never counted as liver tumours: "
        f"{', '.join(_NO_LIVER_TUMOURS)} (here: {', '.join(none) or 'none'}). --labels chooses otherwise"
    ]
    if others:
        told.append(f"further structures, which --labels NAME=PATTERN takes: {', '.join(others)}")
    return tuple(told)
