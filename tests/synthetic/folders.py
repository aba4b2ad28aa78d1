"""Folders as they are handed out: many studies in one, DICOMDIR, objects that are no images, junk, blank UIDs."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from PIL import Image
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.fileset import FileSet
from pydicom.sequence import Sequence as DicomSequence
from pydicom.uid import (
    EncapsulatedPDFStorage,
    EnhancedSRStorage,
    GrayscaleSoftcopyPresentationStateStorage,
    KeyObjectSelectionDocumentStorage,
    RTDoseStorage,
    TwelveLeadECGWaveformStorage,
    XRayRadiationDoseSRStorage,
)

from .answers import Answer
from .enhanced import enhanced
from .four_d import echoes
from .instances import OBLIQUE, Identity, ds, lattice, new_instance, place, put_pixels, save
from .irregular import localizer, missing_slices, tilted
from .kinds import secondary_capture
from .label_objects import rectangle, write_rtstruct, write_seg
from .phantom import phantom
from .series import blank, shuffled_name, stored_ct, write_series

__all__ = ["FolderAnswer", "blank_uids", "hospital", "on_disc", "write_junk", "write_objects"]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class FolderAnswer:
    root: Path
    series: tuple[Answer, ...]
    """All image series in it, taken and refused."""
    objects: Mapping[str, tuple[Path, ...]] = field(default_factory=dict)
    """By modality: DICOM files that are no images (SR, PR, KO, RTDOSE, DOC, ECG, RTSTRUCT, SEG)."""
    junk: tuple[Path, ...] = ()
    """Files that are no DICOM, some of them named like it."""

    @property
    def taken(self) -> tuple[Answer, ...]:
        return tuple(answer for answer in self.series if answer.fate == "taken")

    @property
    def refused(self) -> tuple[Answer, ...]:
        return tuple(answer for answer in self.series if answer.fate == "refused")


def hospital(root: Path, seed: int = 0) -> FolderAnswer:
    """One folder with many patients and studies, nested and flat, with what an archive exports beside the images.

    The first patient has two studies; two CT series of the first lie flat in one folder, with numbers as names.
    """
    first = Identity(seed=seed)
    flat, others = root / "export" / "0001", iter(range(seed + 1, seed + 100))
    series = [
        write_series(flat, identity=first, seed=seed, slope=1, intercept=0, name=lambda k, slices: f"{k * 5 % 7}"),
        write_series(
            flat,
            identity=replace(first, series=4),
            seed=seed + 50,
            affine_lps=OBLIQUE,
            name=lambda k, slices: f"{10 + k * 5 % 7}",
        ),
        write_series(root / "export" / "0002", identity=replace(first, study="2"), modality="MR", name=shuffled_name),
        enhanced(root / "mr study" / "brain" / "t1", next(others), affine_lps=OBLIQUE),
        *echoes(root / "mr study" / "brain" / "t2", next(others)),
        *localizer(root / "export" / "0003", next(others)),
        *missing_slices(root / "export" / "0004", next(others)),
        *tilted(root / "Schädel" / "DICOM", next(others)),
        *secondary_capture(root / "Schädel" / "DICOM" / "shots", next(others)),
    ]
    objects = write_objects(root / "export" / "others", series[0])
    return FolderAnswer(root=root, series=tuple(series), objects=objects, junk=write_junk(root / "export"))


def on_disc(root: Path, seed: int = 0) -> FolderAnswer:
    """A DICOMDIR over two patients, as a CD holds them: names of eight characters without extension.

    Beside it lies what viewers put on a disc.
    """
    source = root.with_name(f"{root.name}-source")
    series = (
        write_series(source / "a", seed=seed, slope=1, intercept=0),
        write_series(source / "b", seed=seed + 1, modality="MR", affine_lps=OBLIQUE),
    )
    disc = FileSet()
    for answer in series:
        for path in answer.paths:
            disc.add(path)
    root.mkdir(parents=True, exist_ok=True)
    disc.write(root)
    placed = {str(instance.SOPInstanceUID): Path(instance.path) for instance in disc}
    uids = {path: str(dcmread(path, stop_before_pixels=True).SOPInstanceUID) for one in series for path in one.paths}
    series = tuple(replace(one, paths=tuple(placed[uids[path]] for path in one.paths)) for one in series)
    shutil.rmtree(source)
    junk = [root / "AUTORUN.INF", root / "VIEWER" / "viewer.exe", root / "VIEWER" / "HELP.TXT"]
    for path in junk:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"MZ" + b"\0" * 300)
    return FolderAnswer(root=root, series=series, objects={"DICOMDIR": (root / "DICOMDIR",)}, junk=tuple(junk))


def blank_uids(root: Path, seed: int = 0, *, folders: bool = True) -> FolderAnswer:
    """Two series whose UIDs are all empty, anonymised away: SeriesNumber and StudyDate remain.

    With `folders` each lies in a folder of its own; without, both in one, and only SeriesNumber tells them apart.
    """
    uids = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID")
    series = []
    for number in (3, 4):
        answer = write_series(
            root / str(number) if folders else root,
            identity=Identity(seed=seed, series=number),
            stored=stored_ct(seed=seed + number),
            name=lambda k, slices, number=number: f"{number}-{slices - k}.dcm",
            change=blank(*uids, "PatientID"),
        )
        blanks = dict.fromkeys(("patient_id", "series_uid", "study_uid", "frame_of_reference_uid"), "")
        series.append(replace(answer, **blanks))
    return FolderAnswer(root=root, series=tuple(series))


def write_objects(folder: Path, series: Answer) -> dict[str, tuple[Path, ...]]:
    """Write what may lie beside a series and is no image: reports, states, dose, waveforms, labels."""
    who = Identity(patient=series.patient_id, series=900)
    kinds = {
        "SR": ((EnhancedSRStorage, "report"), (XRayRadiationDoseSRStorage, "dose")),
        "PR": ((GrayscaleSoftcopyPresentationStateStorage, "state"),),
        "KO": ((KeyObjectSelectionDocumentStorage, "key"),),
        "DOC": ((EncapsulatedPDFStorage, "letter"),),
        "ECG": ((TwelveLeadECGWaveformStorage, "ecg"),),
    }
    written: dict[str, tuple[Path, ...]] = {}
    for number, (modality, files) in enumerate(kinds.items()):
        paths = []
        for sop_class, name in files:
            dataset = new_instance(
                replace(who, series=900 + number),
                sop_class=sop_class,
                modality=modality,
                part=name,
                StudyInstanceUID=series.study_uid,
                ContentDate="20190523",
            )
            if modality == "DOC":
                dataset.EncapsulatedDocument, dataset.MIMETypeOfEncapsulatedDocument = b"%PDF-1.4 ", "application/pdf"
            if modality == "SR":
                dataset.ValueType, dataset.ContinuityOfContent = "CONTAINER", "SEPARATE"
                dataset.ContentSequence = DicomSequence([_text("Befund unauffällig")])
            paths.append(save(dataset, folder / f"{name}.dcm"))
        written[modality] = tuple(paths)
    written["RTDOSE"] = (_dose(folder / "rtdose.dcm", replace(who, series=950), series),)
    if series.affine is not None:
        masks = phantom(seed=0).masks
        written["SEG"] = (
            write_seg(folder / "seg.dcm", series, {"liver": masks["liver"], "kidney": masks["kidney"]}).path,
        )
        written["RTSTRUCT"] = (
            write_rtstruct(folder / "rtstruct.dcm", series, {"box": [rectangle(2, (4, 9), (5, 11))]}).path,
        )
    return written


def _text(words: str) -> Dataset:
    item = Dataset()
    item.RelationshipType, item.ValueType, item.TextValue = "CONTAINS", "TEXT", words
    return item


def _dose(path: Path, who: Identity, series: Answer) -> Path:
    """A dose grid: multi-frame, with geometry and 32-bit pixels, but no image of a patient."""
    dataset = new_instance(who, sop_class=RTDoseStorage, modality="RTDOSE", StudyInstanceUID=series.study_uid)
    place(dataset, lattice((3, 3, 3)), (0, 0, 0), frame_uid=series.frame_of_reference_uid)
    put_pixels(dataset, np.arange(8 * 6 * 4, dtype=np.uint32).reshape(8, 6, 4))
    dataset.GridFrameOffsetVector, dataset.DoseGridScaling = [0, 3, 6, 9], ds(0.001)
    dataset.DoseUnits, dataset.DoseType, dataset.DoseSummationType = "GY", "PHYSICAL", "PLAN"
    dataset.FrameIncrementPointer = 0x3004000C
    return save(dataset, path)


def write_junk(folder: Path) -> tuple[Path, ...]:
    """Write files that are no DICOM: some named like it, one that begins like it, one that is empty."""
    random = np.random.default_rng(0)
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'ab' * 32}\nsize 524288\n"
    contents = {
        ".DS_Store": b"\0\0\0\1Bud1" + b"\0" * 200,
        "._0001.dcm": b"\0\5\x16\7\0\2\0\0Mac OS X        " + b"\0" * 200,
        "Thumbs.db": b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + b"\0" * 200,
        "notes.txt": ("Patient kommt wieder. " * 20).encode(),
        "empty": b"",
        "empty.dcm": b"",
        "short.dcm": b"DI",
        "pointer.dcm": pointer.encode(),
        "noise.dcm": random.integers(0, 256, 4000, dtype=np.uint8).tobytes(),
        "only magic.dcm": b"\0" * 128 + b"DICM",
        "magic and noise.dcm": b"\0" * 128 + b"DICM" + random.integers(0, 256, 900, dtype=np.uint8).tobytes(),
        "page.dcm": b"<!DOCTYPE html><html><body>404</body></html>",
        "list.csv": b"id;series\n1;2\n",
    }
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, content in contents.items():
        (folder / name).write_bytes(content)
        paths.append(folder / name)
    Image.new("L", (8, 8), 7).save(folder / "key image.png")
    (folder / "a folder.dcm").mkdir(exist_ok=True)
    return (*paths, folder / "key image.png")
