"""How a file or a folder appears on disk: whole, or not at all.

Everything is written under a hidden name beside its final one, flushed to the
disk, and renamed. A kill at any byte leaves at most a hidden ``.*.part``, which no
reader ever looks at.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from .errors import DamagedStore

PART_SUFFIX = ".part"

# What POSIX answers when a folder is renamed onto one that is not empty.
_TAKEN = (errno.ENOTEMPTY, errno.EEXIST)


def canonical_json(value: object) -> str:
    """Return the one JSON text of ``value``: sorted keys, no spaces, no NaN.

    Floats are written as Python's shortest text that reads back as the same
    number, which is the same on every machine.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=False)


def readable_json(value: object) -> bytes:
    """Return ``value`` as indented JSON for files that people open."""
    return (json.dumps(value, indent=1, allow_nan=False, ensure_ascii=False) + "\n").encode()


def read_json(path: Path) -> Any:  # noqa: ANN401 - JSON is whatever the file holds
    """Read one JSON file.

    Raises
    ------
    DamagedStore
        When the text is not JSON, as after a disk fault.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        message = (
            f"{path}: this file is not readable as JSON ({error}). samkit writes it whole or not at all, so the disk "
            f"or another program has changed it. Restore it from a copy, or remove it and run the same command again."
        )
        raise DamagedStore(message) from error


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


def publish(path: Path, data: bytes) -> None:
    """Write ``data`` to ``path``, replacing what was there in one step."""
    with _hidden_beside(path) as part:
        _write_synced(part, data)
        part.replace(path)
    _sync_folder(path.parent)


def publish_if_absent(path: Path, data: bytes) -> bool:
    """Write ``data`` to ``path`` unless something is there already.

    Returns
    -------
    bool
        Whether this call was the one that wrote it. Of two writers exactly one is told True.
    """
    with _hidden_beside(path) as part:
        _write_synced(part, data)
        try:
            # A hard link fails if the name is taken, where a rename would silently replace it.
            os.link(part, path)
        except FileExistsError:
            return False
    _sync_folder(path.parent)
    return True


@contextmanager
def published_folder(path: Path, keep: Callable[[], bool] = lambda: False) -> Iterator[Path]:
    """Give a hidden folder to fill; move it to ``path`` only if the block succeeds.

    Parameters
    ----------
    path
        Where the folder shall appear.
    keep
        Asked only if a folder is at ``path`` already, another writer's or an earlier one's: whether that one stays
        and this copy is discarded. By default it is replaced; a kill between the two renames leaves neither.
    """
    with _hidden_beside(path) as part:
        part.mkdir()
        yield part
        for file in sorted(part.rglob("*")):
            if file.is_file():
                with file.open("rb") as opened:
                    os.fsync(opened.fileno())
        for folder in [part, *(entry for entry in part.rglob("*") if entry.is_dir())]:
            _sync_folder(folder)
        while not _move_if_absent(part, path) and not keep():
            with _hidden_beside(path) as retired, suppress(FileNotFoundError):
                # Not found: another writer has just retired it; whoever moves first now is asked about in turn.
                path.replace(retired)
    _sync_folder(path.parent)


@contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Let one process at a time into the block; the system lets go of the lock when its process dies."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def free_bytes(path: Path) -> int:
    """Return what is free on the disk that ``path`` lies on, or will lie on."""
    there = next(place for place in (path.absolute(), *path.absolute().parents) if place.exists())
    return shutil.disk_usage(there).free


def file_digests(folder: Path) -> dict[str, str]:
    """Return the digest of every file below ``folder``, by its path there."""
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return {file.relative_to(folder).as_posix(): file_digest(file) for file in files}


def remove_folder(folder: Path) -> None:
    """Remove a folder; under a hidden name first, so that nobody sees half of it."""
    with _hidden_beside(folder) as retired, suppress(FileNotFoundError):
        folder.replace(retired)


def file_digest(path: Path) -> str:
    """Return the BLAKE2b of a file's bytes, 32 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def size_bytes(folder: Path) -> int:
    """Return the bytes of all files below ``folder``; 0 if it is not there."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


@contextmanager
def _hidden_beside(path: Path) -> Iterator[Path]:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}{PART_SUFFIX}")
    try:
        yield part
    finally:
        if part.is_dir():
            shutil.rmtree(part)
        else:
            part.unlink(missing_ok=True)


def _move_if_absent(part: Path, path: Path) -> bool:
    """Rename a folder unless a folder with something in it has the name; the system decides, so one writer wins."""
    try:
        part.replace(path)
    except OSError as error:
        if error.errno not in _TAKEN:
            raise
        return False
    return True


def _write_synced(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    """Make a rename in ``folder`` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
