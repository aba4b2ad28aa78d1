"""Ids and subjects: stable, and giving nobody away. Pure functions of a path, a key and a few options.

A **stem** is a file's name without its endings. Named research layouts use it as the id, because their authors chose
it for publication. Everywhere else an id is ``v`` (a subject ``s``) and twelve hex digits of HMAC-SHA256 under a key
that lives outside the workspace: the same source gets the same id, and without the key nothing leads back.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from typing import TYPE_CHECKING

from ...store.errors import UsageError

if TYPE_CHECKING:
    from pathlib import PurePath

__all__ = [
    "compiled_subject",
    "frame_stripped",
    "hashed_id",
    "hashed_subject",
    "identity_of_text",
    "keyed_hash",
    "natural_key",
    "patient_and_moment",
    "patient_and_number",
    "series_hash",
    "stem",
]

# Longest first. `.npy.h5` is how TransUNet's Synapse copies are called (case0001.npy.h5), `.seg.nrrd` are Slicer's
# segmentations.
_ENDINGS = (
    *(".seg.nrrd", ".seg.nhdr", ".nii.gz", ".npy.h5"),
    *(".hdf5", ".nrrd", ".nhdr", ".jpeg", ".tiff"),
    *(".nii", ".mha", ".mhd", ".png", ".jpg", ".tif", ".bmp", ".dcm", ".ima", ".h5"),
)

# ACDC: patient001_frame01 and patient001_frame12 are two moments of one heart; some h5 copies hold single slices, and
# nnU-Net's copies have its channel behind.
_FRAME = re.compile(r"_frame\d+(_slice_?\d+)?(_\d{4})?$")

# What a file of a patient is called after who it is: a visit, a side, a sequence, a phase of contrast.
_MOMENTS = (
    *("ses", "session", "visit", "v", "scan", "tp", "time", "timepoint", "t", "day", "week", "month", "year"),
    *("baseline", "bl", "follow-?up", "fu", "pre", "post", "ed", "es", "phase", "left", "right"),
    *("t1c", "t1ce", "t1gd", "t1w", "t2w", "flair", "dwi", "adc", "pd", "ct", "mr", "pet"),
    *("art", "arterial", "ven", "venous", "portal", "delayed"),
    *("slice", "sl", "s", "z", "frame", "image", "img", "im"),
)
_MOMENT = re.compile(rf"(?P<patient>.*\d.*)[-_ ](?P<moment>(?:{'|'.join(_MOMENTS)})[-_ ]?\d*)", re.IGNORECASE)
_NUMBERED = re.compile(r"(?P<patient>.*\d.*)[-_ ](?P<number>\d+)")


def stem(path: PurePath) -> str:
    """Return a file's name without the ending of a format that samkit reads, such as ``.nii.gz`` or ``.seg.nrrd``.

    Examples
    --------
    >>> from pathlib import PurePath
    >>> stem(PurePath("images/case0001.npy.h5"))
    'case0001'
    """
    lower = path.name.lower()
    ending = next((ending for ending in _ENDINGS if lower.endswith(ending)), "")
    return path.name[: len(path.name) - len(ending)]


def natural_key(text: str) -> tuple[tuple[int, int, str], ...]:
    """Return a key by which numbers within names sort as numbers: image_2 before image_10.

    Examples
    --------
    >>> sorted(["image_10", "image_2", "Image_1"], key=natural_key)
    ['Image_1', 'image_2', 'image_10']
    """
    parts = [part for part in re.split(r"([0-9]+)", text.casefold()) if part]
    numbered = ((0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts)
    return (*numbered, (-1, 0, text))  # the text itself decides between image_1 and image_01


def frame_stripped(text: str) -> str:
    """Return the patient of an ACDC-like stem: ``patient001`` for ``patient001_frame01``, else the text itself."""
    return _FRAME.sub("", text)


def patient_and_moment(text: str) -> tuple[str, str] | None:
    """Split a stem that may tell which of a patient's files it is; None for any other.

    Examples
    --------
    >>> patient_and_moment("p07_visit2"), patient_and_moment("p07"), patient_and_moment("liver_7")
    (('p07', 'visit2'), None, None)
    """
    found = _MOMENT.fullmatch(text)
    return (found["patient"], found["moment"]) if found else None


def patient_and_number(text: str) -> tuple[str, str] | None:
    """Split a stem that ends in a number of its own, which may be a slice's; None for any other.

    Examples
    --------
    >>> patient_and_number("patient07_012"), patient_and_number("liver_7")
    (('patient07', '012'), None)
    """
    found = _NUMBERED.fullmatch(text)
    return (found["patient"], found["number"]) if found else None


def keyed_hash(key: bytes, text: str) -> str:
    """Return HMAC-SHA256 (RFC 2104) of a text under a key, as 64 hex digits."""
    return hmac.new(key, text.encode("utf-8", "surrogateescape"), hashlib.sha256).hexdigest()


def identity_of_text(key: bytes, kind: str, text: str) -> str:
    """Return which source this is: the keyed hash of its path or series, never of two kinds alike.

    Parameters
    ----------
    key
        The secret of this user, outside every workspace.
    kind
        "path" or "series"; "name" and "folder" for what a source or its label is called, and lies in.
    text
        The resolved path, or what names a volume of a series (`dicom_series.Series.uid`).
    """
    return keyed_hash(key, f"{kind}:{text}")


def series_hash(key: bytes, series_uid: str) -> str | None:
    """Return the keyed hash of a SeriesInstanceUID alone, by which labels find the volumes of the series they name.

    It is no identity: a series may hold several volumes. None where the UID is blank.
    """
    return keyed_hash(key, f"series uid:{series_uid}") if series_uid else None


def hashed_id(key: bytes, identity: str) -> str:
    """Return ``v`` and twelve hex digits: 48 bits, so that a million volumes collide with odds of 1 in 500."""
    return f"v{keyed_hash(key, identity)[:12]}"


def hashed_subject(key: bytes, patient: str) -> str:
    """Return ``s`` and twelve hex digits for whatever names a patient."""
    return f"s{keyed_hash(key, f'subject:{patient}')[:12]}"


def compiled_subject(pattern: str | None) -> re.Pattern[str] | None:
    """Compile the ``--subject`` expression.

    Raises
    ------
    UsageError
        It is no regular expression.
    """
    if pattern is None:
        return None
    try:
        return re.compile(pattern)
    except re.error as error:
        message = (
            f"--subject {pattern!r} is not a regular expression: {error}. For patient001_frame01 write "
            f"--subject '(patient[0-9]+)': the first group, or else the whole match, is the subject."
        )
        raise UsageError(message) from error
