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
        ("IM-0001", "IM-0001"),
    ],
)
def test_a_stem_is_the_name_without_its_endings(name: str, expected: str):
    assert stem(Path("folder") / name) == expected


def test_frames_of_a_patient_share_it():
    assert frame_stripped("patient001_frame01") == frame_stripped("patient001_frame12") == "patient001"


def test_only_a_frame_is_stripped():
    assert frame_stripped("frame_07") == "frame_07"


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
