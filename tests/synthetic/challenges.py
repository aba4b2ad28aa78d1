"""The trees of CHAOS (PNG masks beside DICOM), ACDC (NIfTI frames) and Synapse/BTCV (img and label)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .answers import Answer
from .instances import Identity, lattice
from .phantom import SHAPE, Phantom, phantom
from .series import stored_ct, stored_mr, write_series

__all__ = ["ACDC_NAMES", "CHAOS_MR_VALUES", "SYNAPSE_NAMES", "CaseAnswer", "write_acdc", "write_chaos", "write_synapse"]

CHAOS_MR_VALUES = {63: "liver", 126: "right kidney", 189: "left kidney", 252: "spleen"}
ACDC_NAMES = {1: "RV", 2: "Myo", 3: "LV"}
SYNAPSE_NAMES = dict(
    enumerate(
        (
            "spleen", "right kidney", "left kidney", "gallbladder", "esophagus", "liver", "stomach", "aorta",
            "inferior vena cava", "portal and splenic vein", "pancreas", "right adrenal gland", "left adrenal gland",
        ),
        start=1,
    )
)  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class CaseAnswer:
    """One labelled volume of a challenge."""

    id: str
    """As its publication numbers it: "CT/1", "patient001_frame01", "0005"."""
    subject: str
    image: tuple[Path, ...]
    """One NIfTI file, or DICOM files in the order of the slices."""
    label: tuple[Path, ...]
    """One NIfTI file, or PNG files in the order of the slices; empty without a label."""
    values: NDArray[np.float64]
    """(i, j, k) of the image."""
    labels: NDArray[np.uint8] | None
    """(i, j, k) on the image's own lattice, the numbers of the files."""
    affine: NDArray[np.float64]
    """To RAS+ millimetres."""
    names: Mapping[int, str]
    phase: str = ""
    """ACDC: "ED" or "ES"; CHAOS's T1DUAL: "InPhase" or "OutPhase"."""


def write_chaos(
    root: Path, *, ct: Sequence[int] = (1, 2), mr: Sequence[int] = (1, 3), seed: int = 0
) -> tuple[CaseAnswer, ...]:
    """Write ``Train_Sets/{CT,MR}``: ``DICOM_anon`` beside ``Ground``.

    Ground truth of CT is numbered, 0 and 255, in the order of the DICOM names, and these run from the highest slice
    down (patient 2: up). That of MR bears the names of the DICOM files; T1DUAL has two phases under one ground truth,
    which is named as the in-phase files are, the odd numbers being out of phase.
    """
    train, cases = root / "Train_Sets", []
    for number in ct:
        folder = train / "CT" / str(number)
        descending = number % 2 == 1

        def name(k: int, slices: int, *, down: bool = descending) -> str:
            n = slices - 1 - k if down else k
            return f"i{n:04d},0000b.dcm"

        answer = write_series(
            folder / "DICOM_anon",
            stored=stored_ct(seed=seed + number) + np.int16(1024),
            identity=Identity(seed=seed + number, study="ct"),
            slope=1,
            intercept=-1024,
            name=name,
        )
        mask = phantom(seed=seed + number).masks["liver"]
        places = range(SHAPE[2])[::-1] if descending else range(SHAPE[2])
        labels = [_png(folder / "Ground" / f"liver_GT_{n:03d}.png", mask[:, :, k] * 255) for n, k in enumerate(places)]
        cases.append(
            _chaos_case(f"CT/{number}", answer, labels[::-1] if descending else labels, mask * 255, {255: "liver"})
        )
    for number in mr:
        cases += _chaos_mr(train / "MR" / str(number), number, seed + 100 + number)
    return tuple(cases)


def _chaos_mr(folder: Path, number: int, seed: int) -> list[CaseAnswer]:
    body, grid, cases = phantom(seed=seed), lattice((1.6, 1.6, 5.5)), []
    organs = ("liver", "kidney", "cyst", "tumour_1")  # standing for liver, right kidney, left kidney, spleen
    grey = np.zeros(SHAPE, np.uint8)
    for value, organ in zip(CHAOS_MR_VALUES, organs, strict=True):
        grey[body.masks[organ]] = value
    sequences = {"T1DUAL": ("InPhase", "OutPhase"), "T2SPIR": ("",)}
    for place, (sequence, phases) in enumerate(sequences.items()):
        labels: list[Path] = []
        for phase in phases:
            step = len(phases)

            def name(k: int, slices: int, *, step: int = step, odd: bool = phase == "OutPhase") -> str:
                return f"IMG-{4 + step:04d}-{step * (slices - k) - odd:05d}.dcm"

            answer = write_series(
                folder / sequence / "DICOM_anon" / phase,
                stored=stored_mr(seed=seed) + np.uint16(7 * len(cases)),
                affine_lps=grid,
                modality="MR",
                identity=Identity(seed=seed, study="mr", series=10 * place + len(cases)),
                name=name,
            )
            ground = folder / sequence / "Ground"
            labels = labels or [_png(ground / f"{path.stem}.png", grey[:, :, k]) for k, path in enumerate(answer.paths)]
            case = f"MR/{number}/{sequence}" + (f"/{phase}" if phase else "")
            cases.append(_chaos_case(case, answer, labels, grey, CHAOS_MR_VALUES, phase=phase))
    return cases


def _chaos_case(
    case: str, answer: Answer, labels: list[Path], grey: NDArray[Any], names: Mapping[int, str], *, phase: str = ""
) -> CaseAnswer:
    assert answer.values is not None
    assert answer.affine is not None
    return CaseAnswer(
        id=case,
        subject="/".join(case.split("/")[:2]),
        image=answer.paths,
        label=tuple(labels),
        values=answer.values,
        labels=grey.astype(np.uint8),
        affine=answer.affine,
        names=names,
        phase=phase,
    )


def _png(path: Path, plane: NDArray[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.ascontiguousarray(plane.T.astype(np.uint8))).save(path)
    return path


def write_acdc(
    root: Path, *, patients: Mapping[int, tuple[int, int]] | None = None, seed: int = 0
) -> tuple[CaseAnswer, ...]:
    """Write ``training/patientNNN``: Info.cfg, a 4-D cine, two frames and their ``_gt``.

    `patients` are number -> (frame of ED, frame of ES), counted from 1; by default 1 and 2, and 90, whose ED comes
    after its ES. Patient 150 and above lie in ``testing``.
    """
    cases = []
    for number, (diastole, systole) in (patients or {1: (1, 4), 2: (1, 3), 90: (4, 2)}).items():
        name = f"patient{number:03d}"
        folder = root / ("testing" if number > 100 else "training") / name
        folder.mkdir(parents=True, exist_ok=True)
        frames = max(diastole, systole) + 1
        facts = {"ED": diastole, "ES": systole, "Group": "DCM", "Height": "184.0", "NbFrame": frames, "Weight": "95.0"}
        (folder / "Info.cfg").write_text("".join(f"{key}: {value}\n" for key, value in facts.items()))
        affine = np.diag([1.5, 1.5625, 10.0, 1.0])
        cine = np.stack([stored_mr(seed=seed + number) + np.uint16(11 * n) for n in range(frames)], axis=-1)
        _nifti(folder / f"{name}_4d.nii.gz", cine.astype(np.int16), affine)
        labels = _numbered(phantom(seed=seed + number), {"liver": 1, "kidney": 2, "cyst": 3})
        for phase, frame in (("ED", diastole), ("ES", systole)):
            stem = f"{name}_frame{frame:02d}"
            image = cine[..., frame - 1].astype(np.int16)
            cases.append(
                CaseAnswer(
                    id=stem,
                    subject=name,
                    image=(_nifti(folder / f"{stem}.nii.gz", image, affine),),
                    label=(_nifti(folder / f"{stem}_gt.nii.gz", labels, affine),),
                    values=image.astype(np.float64),
                    labels=labels,
                    affine=affine,
                    names=ACDC_NAMES,
                    phase=phase,
                )
            )
    (root / "MANDATORY_CITATION.md").write_text("Cite the challenge.\n")
    return tuple(cases)


def write_synapse(
    root: Path, *, numbers: Sequence[int] = (1, 2, 5, 6), test: Sequence[int] = (61,), seed: int = 0
) -> tuple[CaseAnswer, ...]:
    """Write ``RawData/Training/{img,label}`` and ``RawData/Testing/img``: ``img0001.nii.gz``, ``label0001.nii.gz``.

    All thirteen organs are there. The label of case 1 lies on the image's lattice but is stored with its rows the
    other way round, and says so; labels of even cases are float64.
    """
    cases = []
    for number in (*numbers, *test):
        part = root / "RawData" / ("Testing" if number in test else "Training")
        affine = np.diag([-0.76, 0.76, 3.0, 1.0])
        affine[:3, 3] = (12.0, -30.0, -211.5)
        values = stored_ct(seed=seed + number)
        labels = _thirteen(phantom(seed=seed + number))
        image = _nifti(part / "img" / f"img{number:04d}.nii.gz", values, affine)
        label: tuple[Path, ...] = ()
        if number not in test:
            stored = nib.Nifti1Image(labels if number % 2 else labels.astype(np.float64), affine)
            if number == 1:
                stored = stored.as_reoriented([[0, 1], [1, -1], [2, 1]])
            label = (
                _nifti(part / "label" / f"label{number:04d}.nii.gz", np.asanyarray(stored.dataobj), stored.affine),
            )
        cases.append(
            CaseAnswer(
                id=f"{number:04d}",
                subject=f"{number:04d}",
                image=(image,),
                label=label,
                values=values.astype(np.float64),
                labels=labels if label else None,
                affine=affine,
                names=SYNAPSE_NAMES,
            )
        )
    return tuple(cases)


def _thirteen(body: Phantom) -> NDArray[np.uint8]:
    """Cut the phantom's organs up into thirteen."""
    labels = _numbered(body, {"liver": 6, "kidney": 2, "cyst": 4, "tumour_1": 7, "tumour_2": 11, "bone": 8})
    inside = np.argwhere(labels == 6)
    for part, value in zip(np.array_split(inside, 8), (1, 3, 5, 6, 9, 10, 12, 13), strict=True):
        labels[tuple(part.T)] = value
    return labels


def _numbered(body: Phantom, numbers: Mapping[str, int]) -> NDArray[np.uint8]:
    labels = np.zeros(body.hounsfield.shape, np.uint8)
    for organ, number in numbers.items():
        labels[body.masks[organ]] = number
    return labels


def _nifti(path: Path, values: NDArray[Any], affine: NDArray[np.float64]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(values, affine)
    image.set_qform(affine, 1)
    image.set_sform(affine, 1)
    image.header.set_xyzt_units("mm")
    nib.save(image, path)
    return path
