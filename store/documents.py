"""What is written as JSON: canonical text for ids, and sealed documents, which tell when they were changed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

from .errors import DamagedStore
from .places import Place

# The field of a document, and the last line of a log's segment, that holds the digest of the rest.
SEAL = "seal"
_DIGEST_BYTES = 16


def canonical_json(value: object) -> str:
    """Return the one JSON text of ``value``: sorted keys, no spaces, no NaN.

    Floats are written as Python's shortest text that reads back as the same
    number, which is the same on every machine.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=False)


def readable_json(value: object) -> bytes:
    """Return ``value`` as indented JSON for files that people open."""
    return (json.dumps(value, indent=1, allow_nan=False, ensure_ascii=False) + "\n").encode()


def bytes_digest(data: bytes | memoryview) -> str:
    """Return the BLAKE2b of some bytes, 32 hex digits."""
    return hashlib.blake2b(data, digest_size=_DIGEST_BYTES).hexdigest()


def sealed(value: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``value`` with the field ``seal``: the digest of the canonical JSON of all others."""
    return {**value, SEAL: bytes_digest(canonical_json(value).encode())}


def sealed_json(value: Mapping[str, Any]) -> bytes:
    """Return ``value`` as a file whose content is told by its own seal, see `read_sealed`."""
    return readable_json(sealed(value))


_RESTORE = "Restore it from a copy, or remove it and run the same command again."


def read_json(place: Place, remedy: str = _RESTORE) -> Any:  # noqa: ANN401 - JSON is whatever the file holds
    """Read one JSON file.

    Parameters
    ----------
    place
        The file.
    remedy
        What to do next where it is damaged, a sentence.

    Raises
    ------
    DamagedStore
        When the file is gone, or its text is not JSON, as after a disk fault.
    """
    try:
        return parse_json(place.read_bytes(), place, remedy)
    except FileNotFoundError as error:
        message = f"{place} is missing. Restore it from a copy, or run `samkit verify` to see what depends on it."
        raise DamagedStore(message) from error


def parse_json(data: bytes, place: object, remedy: str = _RESTORE) -> Any:  # noqa: ANN401 - whatever the text holds
    """Read JSON text; ``place`` names it in the message of the DamagedStore that is raised where it is none."""
    try:
        return json.loads(data)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        message = (
            f"{place}: this file is not readable as JSON ({error}). samkit writes it whole or not at all, so the disk "
            f"or another program has changed it. {remedy}"
        )
        raise DamagedStore(message) from error


def read_sealed(place: Place, expected: Iterable[str], remedy: str) -> dict[str, Any]:
    """Read a document and compare its content with its seal.

    Parameters
    ----------
    place
        The file.
    expected
        The fields it has, the seal apart.
    remedy
        What to do next, a sentence.

    Raises
    ------
    DamagedStore
        When it is not JSON, has other fields, or does not match its seal.
    """
    return unsealed(read_json(place, remedy), place, expected, remedy)


def unsealed(value: object, place: object, expected: Iterable[str], remedy: str) -> dict[str, Any]:
    """Return the content of a document that was read already; see `read_sealed`."""
    kept = dict(check_fields(place, value, (*expected, SEAL), remedy))
    seal = kept.pop(SEAL)
    if bytes_digest(canonical_json(kept).encode()) != seal:
        message = (
            f"{place}: its content does not match its seal: the disk or another program has changed it after it was "
            f"written. {remedy}"
        )
        raise DamagedStore(message)
    return kept


def check_fields(place: object, value: object, expected: Iterable[str], remedy: str) -> Mapping[str, Any]:
    """Return ``value`` if it is a JSON object with exactly the fields ``expected``.

    Parameters
    ----------
    place
        What is being read, as the message shall name it.
    remedy
        What to do next, a sentence.

    Raises
    ------
    DamagedStore
        Naming the fields that are missing and those that are not known.
    """
    known = set(expected)
    if isinstance(value, dict) and set(value) == known:
        return value
    if isinstance(value, dict):
        missing, unknown = sorted(known - set(value)), sorted(set(value) - known)
        found = f"the fields {missing} are missing and {unknown} are not known"
    else:
        found = f"a {type(value).__name__} where an object with the fields {sorted(known)} belongs"
    message = f"{place}: {found}. It was changed by hand or written by another version of samkit. {remedy}"
    raise DamagedStore(message)


# -- logs: many records in one file ----------------------------------------------------------------


def sealed_lines(lines: Iterable[bytes]) -> bytes:
    """Return JSON lines as one file that ends in a line with the digest of all bytes before it."""
    body = b"".join(line + b"\n" for line in lines)
    return body + canonical_json({SEAL: bytes_digest(body)}).encode() + b"\n"


def read_sealed_lines(data: bytes, place: object, remedy: str) -> tuple[list[bytes], str]:
    """Return the lines of such a file and its seal.

    Raises
    ------
    DamagedStore
        When the file was changed or cut off.
    """
    body, _, last = data.removesuffix(b"\n").rpartition(b"\n")
    body += b"\n"
    seal = bytes_digest(body)
    if not data.endswith(b"\n") or last != canonical_json({SEAL: seal}).encode():
        message = (
            f"{place}: its content does not match the seal in its last line: the disk or another program has changed "
            f"it, or cut it off. {remedy}"
        )
        raise DamagedStore(message)
    return body.splitlines(), seal
