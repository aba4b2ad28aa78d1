"""Known strings in every place that may hold one, so that a search can tell whether any of them got out.

What is needed to place and show the pixels stays as it is; all else that DICOM lets a string be is overwritten.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
from pydicom import dcmread
from pydicom.datadict import DicomDictionary, tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as DicomSequence

from .answers import Answer

__all__ = ["DAY", "UID_ROOT", "plant", "plant_file", "plant_nifti", "plant_series"]

DAY = "17690815"
"""Every planted date: a day on which nobody was scanned."""
CLOCK = "031415.926535"
UID_ROOT = "1.2.826.0.1.3680043.9.7133"
"""Every planted UID lies under it."""
NUMBER = "71.37133713371"
"""Every planted decimal string of a patient (weight, size)."""

# Strings that say how the pixels are stored, where they lie, or what kind of image they are. A reader needs them.
_KEPT = frozenset(
    {
        "SpecificCharacterSet", "ImageType", "SOPClassUID", "Modality", "PatientPosition", "PatientOrientation",
        "PhotometricInterpretation", "PresentationLUTShape", "PixelPresentation", "RescaleType", "ModalityLUTType",
        "LossyImageCompression", "LossyImageCompressionMethod", "BurnedInAnnotation", "RecognizableVisualFeatures",
        "PresentationIntentType", "ConversionType", "FrameType", "VolumetricProperties", "ComplexImageComponent",
        "VolumeBasedCalculationTechnique", "DiffusionDirectionality", "DimensionOrganizationType", "SegmentationType",
        "SegmentationFractionalType", "SegmentsOverlap", "SegmentAlgorithmType", "ContourGeometricType", "StackID",
        "ConcatenationUID", "SOPInstanceUIDOfConcatenationSource", "PixelDataProviderURL", "ColorSpace",
        "DimensionOrganizationUID", "ReferencedSOPClassUID", "QuantityDefinition", "ValueType", "RelationshipType",
    }
)  # fmt: skip
# 0004 is DICOMDIR's, 0002 the file's own header (planted apart).
_GROUPS_LEFT = frozenset({0x0000, 0x0002, 0x0004, 0xFFFA, 0xFFFC, 0xFFFE})
_TEXT = {"AE": 16, "SH": 16, "CS": 16, "LO": 64, "ST": 1024, "LT": 10240, "UT": 10240, "UC": 10240, "UR": 10240}
_LENGTH_OF_TOKEN = 16

# Sequences that no reader of pixels looks into, each filled with strings and with one more sequence inside.
_SEQUENCES = (
    "OtherPatientIDsSequence", "ReferencedStudySequence", "ReferencedPatientSequence", "RequestAttributesSequence",
    "ProcedureCodeSequence", "ReferringPhysicianIdentificationSequence", "OriginalAttributesSequence",
    "ContributingEquipmentSequence", "PerformedProtocolCodeSequence", "InstitutionCodeSequence",
    "PatientInsurancePlanCodeSequence", "IssuerOfPatientIDQualifiersSequence", "ScheduledProtocolCodeSequence",
    "AcquisitionContextSequence", "ScheduledStepAttributesSequence",
)  # fmt: skip
_INSIDE = (
    "PatientName", "PatientID", "AccessionNumber", "InstitutionName", "CodeMeaning", "RequestedProcedureDescription",
    "StudyDate", "StudyTime", "AcquisitionDateTime", "StudyInstanceUID", "PersonName", "TextValue",
)  # fmt: skip


def plant(dataset: Dataset, prefix: str = "ZQX") -> tuple[str, ...]:
    """Overwrite every attribute of a data set that may hold a string, in place, and return the strings.

    Structural UIDs (of study, series, instance, frame of reference, and references to them) are replaced one to one,
    so that what belonged together still does; the same prefix gives the same strings in all slices of a series.

    Parameters
    ----------
    prefix
        At most eight capital letters and digits. Strings are the prefix and the tag, names have two such parts.

    Returns
    -------
    tuple of str
        All strings that now stand in the data set, none shorter than eight characters: search for these.
    """
    if not (prefix.isalnum() and prefix.isupper() and len(prefix) <= _LENGTH_OF_TOKEN - 8):
        message = f"the prefix {prefix!r} is to be at most eight capital letters and digits"
        raise ValueError(message)
    planted: dict[str, None] = dict.fromkeys((DAY, f"{DAY[:4]}-{DAY[4:6]}-{DAY[6:]}", CLOCK, UID_ROOT, NUMBER))
    _replace_uids(dataset, prefix)
    for keyword, vr in _string_attributes():
        planted.update(dict.fromkeys(_put(dataset, keyword, vr, prefix)))
    for keyword in _SEQUENCES:
        if tag_for_keyword(keyword) is not None:
            planted.update(dict.fromkeys(_put_sequence(dataset, keyword, prefix)))
    for keyword in ("PatientWeight", "PatientSize"):
        setattr(dataset, keyword, NUMBER)
    dataset.PatientAge = "099Y"
    planted.update(dict.fromkeys(_plant_private(dataset, prefix)))
    planted.update(dict.fromkeys(_plant_overlay(dataset, prefix)))
    if getattr(dataset, "file_meta", None) is not None:
        planted.update(dict.fromkeys(_plant_meta(dataset, prefix)))
    return tuple(planted)


def plant_file(path: Path, prefix: str = "ZQX") -> tuple[str, ...]:
    """Plant in a DICOM file, in place, its preamble included."""
    dataset = dcmread(path, force=True)
    planted = plant(dataset, prefix)
    dataset.save_as(path)
    return planted


def plant_series(answer: Answer, prefix: str = "ZQX") -> tuple[Answer, tuple[str, ...]]:
    """Plant in all files of a series; return its answer with the ids that it has now, and the strings.

    What a series tells volumes apart by (an acquisition time, a sequence name) is the same in all slices afterwards.
    """
    planted = tuple(dict.fromkeys(word for path in answer.paths for word in plant_file(path, prefix)))
    held = dcmread(answer.paths[0], stop_before_pixels=True, force=True)
    uids = {
        "series_uid": held.SeriesInstanceUID,
        "study_uid": held.StudyInstanceUID,
        "frame_of_reference_uid": held.get("FrameOfReferenceUID", ""),
    }
    return replace(answer, patient_id=str(held.PatientID), **{name: str(uid) for name, uid in uids.items()}), planted


def _string_attributes() -> Iterator[tuple[str, str]]:
    for tag, (vr, _, _, _, keyword) in sorted(DicomDictionary.items()):
        group = tag >> 16
        if group in _GROUPS_LEFT or not keyword or keyword in _KEPT or (vr == "CS" and group in {0x0028, 0x0070}):
            continue
        if vr in _TEXT or vr in {"PN", "DA", "TM", "DT", "UI"}:
            yield keyword, vr


def _token(prefix: str, tag: int) -> str:
    return f"{prefix}{tag:08X}"


def _put(dataset: Dataset, keyword: str, vr: str, prefix: str) -> tuple[str, ...]:
    """Overwrite one attribute; return what to search for."""
    tag = tag_for_keyword(keyword)
    token = _token(prefix, tag or 0)
    if vr == "UI":
        if keyword not in dataset:
            dataset.add_new(keyword, vr, f"{UID_ROOT}.{tag}")
        return ()
    if vr == "PN":
        dataset.add_new(keyword, vr, f"{token}^{token}G")
        return (token,)
    if vr in _TEXT:
        words = token if _TEXT[vr] == _LENGTH_OF_TOKEN else f"{token} said {prefix.lower()}"
        dataset.add_new(keyword, vr, f"https://{token}.example/" if vr == "UR" else words)
        return (token,)
    dataset.add_new(keyword, vr, {"DA": DAY, "TM": CLOCK, "DT": f"{DAY}{CLOCK}"}[vr])
    return ()


def _put_sequence(dataset: Dataset, keyword: str, prefix: str, *, depth: int = 2) -> tuple[str, ...]:
    item = Dataset()
    name = f"{prefix[:4]}{zlib.crc32(f'{keyword}{depth}'.encode()) % 10_000:04d}"
    planted = [word for inside in _INSIDE for word in _put(item, inside, _vr(inside), name)]
    if depth:
        planted += _put_sequence(item, "RequestedProcedureCodeSequence", prefix, depth=depth - 1)
    dataset.add_new(keyword, "SQ", DicomSequence([item]))
    return tuple(planted)


def _vr(keyword: str) -> str:
    return DicomDictionary[tag_for_keyword(keyword) or 0][0]


def _replace_uids(dataset: Dataset, prefix: str) -> None:
    """Move every UID that is there under the root, one to one, in sequences too."""
    for element in dataset.iterall():
        if element.VR != "UI" or element.keyword in _KEPT or element.keyword.endswith("ClassUID") or not element.value:
            continue
        several = isinstance(element.value, (list, tuple)) or element.VM > 1
        element.value = [_moved(uid, prefix) for uid in element.value] if several else _moved(element.value, prefix)


def _moved(uid: str, prefix: str) -> str:
    if str(uid).startswith("1.2.840.10008."):  # the standard's own: transfer syntaxes, well-known frames
        return str(uid)
    low, high = (zlib.crc32(f"{word}{prefix}{uid}".encode()) for word in ("low", "high"))
    return f"{UID_ROOT}.{low}.{high}"


def _plant_private(dataset: Dataset, prefix: str) -> tuple[str, ...]:
    """Private blocks in odd groups: known and unknown creators, strings, names, bytes, a sequence."""
    planted = []
    for group, vendor in ((0x0009, "GEMS_IDEN_01"), (0x0019, "ACME"), (0x0029, "SIEMENS CSA HEADER"), (0x7FE1, "ACME")):
        creator = vendor if vendor != "ACME" else f"{prefix}CREATOR{group:04X}"
        block = dataset.private_block(group, creator, create=True)
        token = f"{prefix}P{group:04X}"
        item = Dataset()
        item.add_new(0x00100010, "PN", f"{token}SEQ^{token}")
        block.add_new(0x41, "LO", f"{token}TEXT")
        block.add_new(0x42, "PN", f"{token}NAME^{token}")
        block.add_new(0x43, "UN", f"{token}BYTES1".ljust(40).encode())
        block.add_new(0x44, "OB", f"{token}BYTES2".ljust(40).encode())
        block.add_new(0x45, "SQ", DicomSequence([item]))
        block.add_new(0x46, "DA", DAY)
        planted += [f"{token}{word}" for word in ("TEXT", "NAME", "BYTES1", "BYTES2", "SEQ")]
        planted += [creator] if vendor == "ACME" else []
    return tuple(planted)


def _plant_overlay(dataset: Dataset, prefix: str) -> tuple[str, ...]:
    """A whole overlay plane with its texts, where the data set has a grid for it."""
    if "Rows" not in dataset or "Columns" not in dataset:
        return ()
    bits = np.zeros(dataset.Rows * dataset.Columns, np.uint8)
    bits[::7] = 1
    data = np.packbits(bits, bitorder="little").tobytes()
    words = {0x60000022: f"{prefix}OVERLAY22", 0x60001500: f"{prefix}OVERLAY15", 0x60004000: f"{prefix}OVERLAY40"}
    for tag, vr, value in (
        (0x60000010, "US", dataset.Rows),
        (0x60000011, "US", dataset.Columns),
        (0x60000040, "CS", "G"),
        (0x60000050, "SS", [1, 1]),
        (0x60000100, "US", 1),
        (0x60000102, "US", 0),
        (0x60003000, "OW", data + b"\0" * (len(data) % 2)),
        *((tag, "LT" if tag & 0xFFFF == 0x4000 else "LO", word) for tag, word in words.items()),
    ):
        dataset.add_new(tag, vr, value)
    return tuple(words.values())


def _plant_meta(dataset: Dataset, prefix: str) -> tuple[str, ...]:
    meta = dataset.file_meta
    titles = ("SourceApplicationEntityTitle", "SendingApplicationEntityTitle", "ReceivingApplicationEntityTitle")
    words = {keyword: f"{prefix}META{number}" for number, keyword in enumerate((*titles, "ImplementationVersionName"))}
    for keyword, word in words.items():
        setattr(meta, keyword, word)
    meta.PrivateInformationCreatorUID = f"{UID_ROOT}.1"
    meta.PrivateInformation = f"{prefix}METABYTES".ljust(20).encode()
    if "SOPInstanceUID" in dataset and dataset.SOPInstanceUID:
        meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.preamble = f"{prefix}PREAMBLE".encode().ljust(128, b"\0")
    return (*words.values(), f"{prefix}METABYTES", f"{prefix}PREAMBLE")


def plant_nifti(path: Path, prefix: str = "ZQX") -> tuple[str, ...]:
    """Plant in a NIfTI-1 file, in place: every text field, extensions, and gzip's file name; return the strings."""
    image = nib.Nifti1Image.from_filename(path)
    loaded = nib.Nifti1Image(np.asanyarray(image.dataobj), image.affine, image.header)
    texts = {"descrip": f"{prefix}DESCRIP", "aux_file": f"{prefix}AUXFILE", "intent_name": f"{prefix}INTENT"}
    for name, word in {**texts, "db_name": f"{prefix}DBNAME"}.items():
        loaded.header[name] = word
    extensions = {2: f"{prefix}DICOMEXT", 4: f"{prefix}AFNIEXT", 6: f"{prefix}COMMENT", 44: f"{prefix}OTHEREXT"}
    for code, word in extensions.items():
        if code == 2:
            held = Dataset()
            held.PatientName = word
            loaded.header.extensions.append(nib.nifti1.Nifti1DicomExtension(code, held))
        else:
            loaded.header.extensions.append(nib.nifti1.Nifti1Extension(code, word.encode()))
    data = loaded.to_bytes()
    if path.name.endswith(".gz"):
        with path.open("wb") as raw, gzip.GzipFile(f"{prefix}GZIPNAME.nii", "wb", fileobj=raw, mtime=0) as packed:
            packed.write(data)
    else:
        path.write_bytes(data)
    inside = (*texts.values(), f"{prefix}DBNAME", *extensions.values())
    return (*inside, f"{prefix}GZIPNAME") if path.name.endswith(".gz") else inside
