"""Ids and subjects: stems where they are safe, keyed hashes elsewhere."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from samkit.stages.readers.naming import (
    compiled_subject,
    frame_stripped,
    hashed_id,
    hashed_subject,
    identity_of_text,
    keyed_hash,
    natural_key,
    patient_and_moment,
    patient_and_number,
    stem,
)
from samkit.store.errors import UsageError

KEY = b"0123456789abcdef"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("spleen_2.nii.gz", "spleen_2"),
        ("spleen_2.nii", "spleen_2"),
        ("a.b.nii.gz", "a.b"),
        ("case0001.npy.h5", "case0001"),
        ("patient001_frame01.h5", "patient001_frame01"),
        ("X.NII.GZ", "X"),
        ("scan.seg.nrrd", "scan"),
        ("scan.nrrd", "scan"),
        ("scan.mha", "scan"),
        ("xray.JPEG", "xray"),
        ("slide.tiff", "slide"),
        ("rtstruct.dcm", "rtstruct"),
        ("1.2.840.dcm", "1.2.840"),
        ("IM-0001", "IM-0001"),
    ],
)
def test_a_stem_is_the_name_without_its_endings(name: str, expected: str):
    assert stem(Path("folder") / name) == expected


def test_frames_of_a_patient_share_it():
    assert frame_stripped("patient001_frame01") == frame_stripped("patient001_frame12") == "patient001"


@pytest.mark.parametrize("stem_of_slice", ["patient001_frame01_slice_3", "patient001_frame01_slice12"])
def test_slices_of_a_frame_share_its_patient(stem_of_slice: str):
    assert frame_stripped(stem_of_slice) == "patient001"


@pytest.mark.parametrize("with_channel", ["patient001_frame01_0000", "patient001_frame01_slice_3_0001"])
def test_a_frame_with_a_channel_of_nnu_net_behind_shares_its_patient(with_channel: str):
    assert frame_stripped(with_channel) == "patient001"


def test_only_a_frame_is_stripped():
    assert frame_stripped("frame_07") == "frame_07"


@pytest.mark.parametrize(
    ("stem_of_file", "expected"),
    [
        ("p07_visit2", ("p07", "visit2")),
        ("P1-T1", ("P1", "T1")),
        ("case_003_left", ("case_003", "left")),
        ("sub12_follow-up1", ("sub12", "follow-up1")),
        ("case_003", None),
        ("liver_t1", None),
        ("p07_x2", None),
        ("patient00_slice000", ("patient00", "slice000")),
        ("case_0001_slice_012", ("case_0001", "slice_012")),
        ("p00_s1", ("p00", "s1")),
        ("BraTS20_Training_001_z000", ("BraTS20_Training_001", "z000")),
    ],
)
def test_a_patient_and_which_file_of_his_it_is_are_told_by_the_end_of_a_name(stem_of_file, expected):
    assert patient_and_moment(stem_of_file) == expected


@pytest.mark.parametrize(
    ("stem_of_file", "expected"),
    [("patient00_000", ("patient00", "000")), ("p00-1", ("p00", "1")), ("liver_7", None), ("p07", None)],
)
def test_a_patient_and_the_number_of_his_file_are_told_by_the_end_of_a_name(stem_of_file, expected):
    assert patient_and_number(stem_of_file) == expected


def test_numbers_in_names_sort_as_numbers():
    names = ["image_10", "image_9", "Image_1", "image", "image_01", "image_1b", "10", "9"]
    expected = ["9", "10", "image", "Image_1", "image_01", "image_1b", "image_9", "image_10"]
    assert sorted(names, key=natural_key) == expected


@given(st.text(), st.text())
def test_the_natural_order_is_total(one: str, other: str):
    assert (natural_key(one) == natural_key(other)) == (one == other)
    assert (natural_key(one) < natural_key(other)) or (natural_key(one) >= natural_key(other))


def test_the_hash_is_hmac_sha256():
    # RFC 4231, test case 2
    expected = "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
    assert keyed_hash(b"Jefe", "what do ya want for nothing?") == expected


@given(st.text())
def test_ids_and_subjects_of_one_text_differ(text: str):
    assert hashed_id(KEY, text)[1:] != hashed_subject(KEY, text)[1:]


def test_another_key_gives_other_ids():
    assert hashed_id(KEY, "a") != hashed_id(b"another", "a")


def test_a_path_and_a_series_never_have_one_identity():
    assert identity_of_text(KEY, "path", "1.2.3") != identity_of_text(KEY, "series", "1.2.3")


def test_a_broken_subject_expression_is_a_usage_error():
    with pytest.raises(UsageError, match=r"--subject '\(patient'"):
        compiled_subject("(patient")
