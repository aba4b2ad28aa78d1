"""The tree of 3D-IRCADb-01, with what makes it hard: nested zips, doubled paths, names without extension, spellings.

3Dircadb1/3Dircadb1.N/{PATIENT_DICOM,LABELLED_DICOM,MASKS_DICOM,MESHES_VTK}[.zip]
PATIENT_DICOM/image_0 ...      CT, numbered without zeros, so that names sort 0, 1, 10, 11, 2, ...
MASKS_DICOM/<structure>/image_0 ...   the same names, 0 and 255
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from .answers import Answer
from .archives import zip_folder
from .instances import AXIAL, Identity, lattice
from .phantom import Phantom, phantom
from .series import write_series

__all__ = ["PATIENTS", "SHAPE", "IrcadbPatient", "Patient", "write_ircadb"]

SHAPE = (20, 16, 12)
"""Twelve slices, for image_10 and image_11 come before image_2 by name."""

Mask = NDArray[np.bool_]
Packing = Literal["zipped", "flat", "doubled"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Patient:
    """How one patient is written."""

    number: int
    structures: Mapping[str, tuple[str, ...]]
    """Name of the mask folder -> which organs of the phantom it holds."""
    packing: Packing = "zipped"
    """zipped: PATIENT_DICOM.zip that holds a folder PATIENT_DICOM; doubled: PATIENT_DICOM/PATIENT_DICOM; flat."""
    rescale: bool = False
    """With RescaleSlope 1 and RescaleIntercept -1000, in the masks too (where they do not apply); else neither."""
    mask_positions: bool = True
    """Whether the masks say where they lie; without, only their numbers tell."""
    own_uids: bool = True
    """Whether each mask folder is a series of its own; else all bear the UIDs of the CT."""
    ascending: bool = True
    """Whether image_0 is the lowest slice; else the highest."""


_LIVER = {"liver": ("liver",), "bone": ("bone",)}

PATIENTS: tuple[Patient, ...] = (
    Patient(number=1, structures={**_LIVER, "livertumor01": ("tumour_1",), "livertumor02": ("tumour_2",)}),
    Patient(
        number=5,
        structures={**_LIVER, "leftsurretumor": ("kidney",), "rightsurretumor": ("cyst",), "livercyst": ("tumour_1",)},
        packing="flat",
        own_uids=False,
    ),
    Patient(
        number=7,
        structures={**_LIVER, "tumor": ("kidney",), "liverkyst": ("cyst",)},
        packing="flat",
        rescale=True,
        ascending=False,
    ),
    Patient(
        number=11,
        structures={**_LIVER, "leftkidney": ("kidney",)},
        packing="doubled",
        rescale=True,
        mask_positions=False,
        ascending=False,
    ),
    Patient(
        number=17,
        structures={
            "liver": ("liver", "tumour_1", "tumour_2"),
            "livertumor1": ("tumour_1",),
            "livertumor2": ("tumour_2",),
        },
        ascending=False,
        own_uids=False,
    ),
    Patient(
        number=19,
        structures={**_LIVER, "livertumors": ("tumour_1", "tumour_2"), "liverkyste": ("cyst",)},
        packing="doubled",
    ),
)
"""1: two tumours. 5: adrenal tumours and a cyst only. 7: `tumor`, which is not in the liver. 11: none.

17: other numbering, and a liver that covers its tumours. 19: `livertumors`, and a cyst.
"""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class IrcadbPatient:
    """What one patient holds. For zipped ones `ct.paths` are names inside of the archive, under `folder`."""

    number: int
    folder: Path
    """.../3Dircadb1.N"""
    ct: Answer
    """`paths` in the order of the slices."""
    masks: Mapping[str, Mask]
    """By name of the structure, (column, row, slice)."""

    @property
    def liver_tumour(self) -> Mask:
        """Union of all `livertumor*`, possibly empty; no cyst, no adrenal tumour, not `tumor`."""
        held = [mask for name, mask in self.masks.items() if name.startswith("livertumor")]
        return np.logical_or.reduce([np.zeros(SHAPE, bool), *held])

    @property
    def liver(self) -> Mask:
        """The organ with what grows in it: `liver` or any liver tumour."""
        return self.masks["liver"] | self.liver_tumour


def write_ircadb(
    root: Path, *, patients: Sequence[Patient] = PATIENTS, seed: int = 0, outer_zip: bool = False
) -> tuple[IrcadbPatient, ...]:
    """Write ``root/3Dircadb1/3Dircadb1.N`` of each patient; with `outer_zip` ``root/3Dircadb1.zip`` in its place."""
    top = root / "3Dircadb1"
    answers = tuple(_write_patient(top / f"3Dircadb1.{one.number}", one, seed=seed + one.number) for one in patients)
    (top / "CreativeCommons_Attribution.pdf").write_bytes(b"%PDF-1.4")
    if outer_zip:
        zip_folder(top, root / "3Dircadb1.zip")
        shutil.rmtree(top)
    return answers


def _write_patient(folder: Path, patient: Patient, *, seed: int) -> IrcadbPatient:
    body = phantom(SHAPE, seed=seed)
    masks = {name: _union(body, organs) for name, organs in patient.structures.items()}
    ct = _write_stack(
        folder / "PATIENT_DICOM", patient, seed, body.hounsfield + (1000 if patient.rescale else 0), "ct", series=1
    )
    for number, (name, mask) in enumerate(masks.items()):
        stored = (mask * 255).astype(np.int16 if number % 2 else np.uint8)
        _write_stack(
            folder / "MASKS_DICOM" / name,
            patient,
            seed,
            stored,
            name,
            series=1 if not patient.own_uids else 10 + number,
        )
    codes = sum(((n + 1) * mask for n, mask in enumerate(masks.values())), np.zeros(SHAPE, np.int64))
    _write_stack(folder / "LABELLED_DICOM", patient, seed, codes.astype(np.uint8) * 8, "labelled", series=2)
    (folder / "MESHES_VTK").mkdir()
    (folder / "MESHES_VTK" / "liver.vtk").write_text("# vtk DataFile Version 3.0\nliver\nASCII\nDATASET POLYDATA\n")
    for part in ("PATIENT_DICOM", "LABELLED_DICOM", "MASKS_DICOM", "MESHES_VTK"):
        _pack(folder / part, patient.packing, seed)
    (folder / "licence.pdf").write_bytes(b"%PDF-1.4")
    doubled = ("PATIENT_DICOM", "PATIENT_DICOM") if patient.packing == "doubled" else ("PATIENT_DICOM",)
    paths = tuple(folder.joinpath(*doubled, path.name) for path in ct.paths)
    return IrcadbPatient(number=patient.number, folder=folder, ct=replace(ct, paths=paths), masks=masks)


def _write_stack(
    folder: Path, patient: Patient, seed: int, stored: NDArray[np.generic], part: str, *, series: int
) -> Answer:
    is_mask = part != "ct"

    def change(k: int, dataset: Dataset) -> None:
        if is_mask and not patient.mask_positions:
            del dataset.ImagePositionPatient, dataset.ImageOrientationPatient, dataset.InstanceNumber

    number = (lambda k: k) if patient.ascending else (lambda k: SHAPE[2] - 1 - k)
    return write_series(
        folder,
        stored=stored,
        affine_lps=AXIAL if patient.ascending else lattice((0.7, 0.7, 1.6)),
        identity=Identity(seed=seed, patient="liver", study=str(patient.number), series=series),
        slope=1 if patient.rescale else None,
        intercept=-1000 if patient.rescale else None,
        name=lambda k, slices: f"image_{number(k)}",
        instance_number=lambda k: number(k) + 1,
        part=lambda k: f"{part}{k}",
        change=change,
    )


def _union(body: Phantom, organs: Sequence[str]) -> Mask:
    return np.logical_or.reduce([body.masks[organ] for organ in organs])


def _pack(folder: Path, packing: Packing, seed: int) -> None:
    """Turn a folder into the archive or the doubled folder that stands for it; archives hold it in a shuffled order."""
    if packing == "zipped":
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        order = [files[n] for n in np.random.default_rng(seed).permutation(len(files))]
        zip_folder(folder, folder.with_name(f"{folder.name}.zip"), order=order)
        shutil.rmtree(folder)
    elif packing == "doubled":
        inner = folder.rename(folder.with_name("moving"))
        folder.mkdir()
        inner.rename(folder / folder.name)
