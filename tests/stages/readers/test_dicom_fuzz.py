"""Damaged and hostile DICOM: whatever is in the files, the end is a scan or a refusal, and no name gets out."""

from __future__ import annotations

import functools
import re
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pydicom
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.datadict import tag_for_keyword
from pydicom.dataelem import RawDataElement
from synthetic.codecs import LOSSLESS, compress_file
from synthetic.enhanced import enhanced_4d
from synthetic.private import plant_file
from synthetic.series import stored_ct, write_series

from samkit.stages.readers.base import Scan
from samkit.stages.readers.dicom import read_series
from samkit.stages.readers.dicom_headers import frames_of, read_header
from samkit.stages.readers.dicom_series import VolumeChoice, triage
from samkit.store.errors import SamkitError

NAME = "ZQX"
"""Every planted string begins so."""
FUZZ = settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))

KEYWORDS = (
    "SpecificCharacterSet", "SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID",
    "FrameOfReferenceUID", "StudyDate", "SeriesNumber", "PatientID", "Modality", "InstanceNumber", "ImageType",
    "BurnedInAnnotation", "BodyPartExamined", "AcquisitionNumber", "AcquisitionTime", "ContentTime", "TriggerTime",
    "EchoTime", "TemporalPositionIdentifier", "DiffusionBValue", "ImagePositionPatient", "ImageOrientationPatient",
    "PixelSpacing", "SliceThickness", "SpacingBetweenSlices", "Rows", "Columns", "NumberOfFrames",
    "SamplesPerPixel", "PhotometricInterpretation", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation",
    "PlanarConfiguration", "PixelPaddingValue", "PixelPaddingRangeLimit", "RescaleSlope", "RescaleIntercept",
    "RescaleType", "ModalityLUTSequence", "DetectorInformationSequence", "SliceVector",
    "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence", "DirectoryRecordSequence",
)  # fmt: skip
TAGS = [*(tag_for_keyword(keyword) for keyword in KEYWORDS), 0x0019100C, 0x00431039, 0x20011003, 0x7FE00010]
VRS = (
    "AE", "AS", "AT", "CS", "DA", "DS", "DT", "FD", "FL", "IS", "LO", "LT", "OB", "OF", "OW", "PN", "SH", "SL",
    "SQ", "SS", "ST", "TM", "UI", "UL", "UN", "US", "UT",
)  # fmt: skip
LONG = {"OB", "OF", "OW", "SQ", "UN", "UT"}

numbers = st.one_of(
    st.integers(-(2**40), 2**40), st.floats(), st.sampled_from([0, -1, 1, 2**15, 2**16 - 1, 2**31, 1e300, -1e-300])
)
words = st.one_of(
    st.sampled_from(
        [f"{NAME}DOE^JANE", f"{NAME}", "", "\\", "\\\\", "CT\\" + NAME, "nan", "inf", "-0", "1e400", "1,5"]
    ),
    st.lists(numbers, min_size=1, max_size=7).map(lambda found: "\\".join(map(str, found))),
    st.text(max_size=12),
)
values = st.one_of(
    words.map(lambda text: text.encode("utf-8", "ignore")),
    st.binary(max_size=24),
    st.lists(st.integers(0, 2**16 - 1), max_size=4).map(lambda found: struct.pack(f"<{len(found)}H", *found)),
    st.lists(st.floats(width=32), max_size=4).map(lambda found: struct.pack(f"<{len(found)}f", *found)),
)


@st.composite
def elements(draw: st.DrawFn) -> tuple[int, bytes]:
    """A tag, and an element of it in explicit VR: its VR and length may both be wrong."""
    tag, vr, value = draw(st.sampled_from(TAGS)), draw(st.sampled_from(VRS)), draw(values)
    stated = draw(st.one_of(st.just(len(value)), st.integers(0, 2**16 - 1)))
    length = struct.pack("<HI", 0, stated) if vr in LONG else struct.pack("<H", stated)
    return tag, struct.pack("<HH", tag >> 16, tag & 0xFFFF) + vr.encode() + length + value


@functools.cache
def originals(kind: str) -> tuple[bytes, ...]:
    """Three files of a CT with planted names, plain or compressed; or one enhanced MR of several volumes."""
    with TemporaryDirectory() as folder:
        if kind == "enhanced":
            (answer,) = enhanced_4d(Path(folder), key="b-value", choices=(0, 800))
        else:
            answer = write_series(Path(folder), stored=stored_ct()[:, :, :3], slope=1, intercept=-24)
        for path in answer.paths:
            if kind in LOSSLESS:
                compress_file(path, path, LOSSLESS[kind])
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                plant_file(path, NAME)
        return tuple(path.read_bytes() for path in answer.paths)


@functools.cache
def element_places(data: bytes) -> dict[int, tuple[int, int]]:
    """Of each element of known length at the top level: where it begins and ends."""
    places = {}
    for tag, element in pydicom.dcmread(pydicom.filebase.DicomBytesIO(data)).items():
        if isinstance(element, RawDataElement) and element.length != 0xFFFFFFFF:
            before = 12 if element.VR in LONG else 8
            places[int(tag)] = element.value_tell - before, element.value_tell + element.length
    return places


@contextmanager
def written(contents: list[bytes]) -> Iterator[Path]:
    with TemporaryDirectory() as folder:
        for number, content in enumerate(contents):
            Path(folder, f"{number}.dcm").write_bytes(content)
        yield Path(folder)


def require_an_end(contents: list[bytes], **choice) -> None:
    """Triage and read: a result or a `SamkitError`, no warning, and no planted name in what is said."""
    with written(contents) as folder, warnings.catch_warnings():
        warnings.simplefilter("error")
        found = triage(folder, VolumeChoice(**choice))
        said = [repr(found)]
        for finding in found.findings:
            assert (finding.series is None) is (finding.reason is not None)
            if finding.series is None:
                continue
            try:
                scan = read_series(finding.series)
            except SamkitError as error:
                said.append(str(error))
                continue
            require_a_scan(scan)
            said.append(repr(scan.notes) + repr(scan.modality))
        assert NAME not in " ".join(said).replace(str(folder), "")


def require_a_scan(scan: Scan) -> None:
    assert scan.values.shape[:3] == scan.grid.shape
    assert scan.values.dtype.kind in "iuf"
    if scan.affine is not None:
        assert np.isfinite(scan.affine).all()
        assert abs(np.linalg.det(scan.affine[:3, :3])) > 0


@FUZZ
@given(st.lists(st.tuples(st.integers(0, 2), elements()), min_size=1, max_size=4))
def test_any_element_may_hold_anything(changes: list[tuple[int, tuple[int, bytes]]]):
    contents = list(originals("plain"))
    for number, (tag, element) in changes:
        begin, end = element_places(originals("plain")[number]).get(tag, (None, None))
        if begin is None or contents[number] != originals("plain")[number]:
            begin = end = contents[number].find(struct.pack("<HH", 0x0008, 0x0016))
        contents[number] = contents[number][:begin] + element + contents[number][end:]
    require_an_end(contents)


@FUZZ
@given(st.lists(st.tuples(st.integers(0, 2), st.sampled_from(TAGS)), min_size=1, max_size=6))
def test_any_element_may_be_missing(losses: list[tuple[int, int]]):
    contents = list(originals("plain"))
    for number, tag in losses:
        whole = originals("plain")[number]
        if contents[number] == whole and tag in element_places(whole):
            begin, end = element_places(whole)[tag]
            contents[number] = whole[:begin] + whole[end:]
    require_an_end(contents)


@FUZZ
@given(
    st.sampled_from(["plain", "enhanced", "rle", "jpeg 2000", "jpeg-ls"]),
    st.lists(st.tuples(st.floats(0, 1), st.binary(min_size=1, max_size=4)), min_size=1, max_size=6),
)
def test_any_byte_may_be_another(kind: str, changes: list[tuple[float, bytes]]):
    """But for lossless JPEG: over a damaged stream GDCM ends the process, which is why others read them."""
    first, *others = originals(kind)
    data = bytearray(first)
    for where, put in changes:
        place = 132 + int(where * (len(data) - 133 - len(put)))
        data[place : place + len(put)] = put
    require_an_end([bytes(data), *others], time_index=0)


@FUZZ
@given(st.sampled_from(["plain", "enhanced", *LOSSLESS]), st.floats(0, 1), st.binary(max_size=8))
def test_any_file_may_end_anywhere(kind: str, where: float, end: bytes):
    first, *others = originals(kind)
    require_an_end([first[: int(where * len(first))] + end, *others], b_value=800)


@functools.cache
def inner_elements() -> list[tuple[int, int, int]]:
    """Of each element within the functional groups: where its tag and its value begin, and where it ends."""
    data = originals("enhanced")[0]
    shared, per_frame = 0x52009229, 0x52009230
    begin = min(element_places(data)[tag][0] for tag in (shared, per_frame))
    end = max(element_places(data)[tag][1] for tag in (shared, per_frame))
    places = []
    for match in re.finditer(
        rb"(?s)[\x08\x18\x20\x28\x00].[\x00-\xff]{2}(DS|IS|US|UL|FD|CS|SH|LO|DT)(..)", data[begin:end]
    ):
        value = begin + match.end()
        places.append((begin + match.start(), value, min(end, value + struct.unpack("<H", match.group(2))[0])))
    return places


@FUZZ
@given(
    st.lists(st.tuples(st.integers(0, 10**6), st.sampled_from(["tag", "VR", "value"]), values), min_size=1, max_size=5)
)
def test_any_element_of_a_functional_group_may_be_another(changes: list[tuple[int, str, bytes]]):
    data = bytearray(originals("enhanced")[0])
    for number, what, put in changes:
        tag, value, end = inner_elements()[number % len(inner_elements())]
        first, last = {"tag": (tag, tag + 4), "VR": (tag + 4, tag + 6), "value": (value, end)}[what]
        data[first:last] = put.ljust(last - first)[: last - first]
    require_an_end([bytes(data)], time_index=1)


@FUZZ
@given(st.binary(max_size=400), st.booleans())
def test_any_file_may_be_called_dicom(content: bytes, preamble: bool):
    require_an_end([b"\0" * 128 + b"DICM" + content if preamble else content])


def test_what_is_fuzzed_is_taken_before_it_is_changed():
    for kind in ("plain", "enhanced", *LOSSLESS):
        with written(list(originals(kind))) as folder:
            (finding,) = triage(folder, VolumeChoice(time_index=0)).findings
            assert finding.series is not None, finding.reason
            assert read_series(finding.series).values.any()
            assert frames_of(folder / "0.dcm", read_header(folder / "0.dcm"))[0].patient_id.startswith(NAME)
    assert len(element_places(originals("plain")[0])) > 30
