"""Hidden folders for what a command needs in between: where the user wants patients' images, gone afterwards."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from ...store.local import LocalPlace
from ...store.places import place_of

_UNPACKED, _PREDICTED = ".samkit-unpacked-", ".samkit-predict-"


@contextmanager
def scratch_beside(workspace: str | Path) -> Iterator[Path]:
    """Give the place of a hidden folder that does not exist yet; what is made there is removed afterwards.

    It lies in the folder that holds the workspace, or, for one behind a URL, in the system's temporary folder.
    """
    place = place_of(workspace)
    home = place.path.resolve().parent if isinstance(place, LocalPlace) else Path(tempfile.gettempdir())
    with _scratch_in(home, _UNPACKED) as scratch:
        yield scratch


@contextmanager
def scratch_inside(output: Path) -> Iterator[Path]:
    """Give a hidden folder inside the folder of the masks, gone afterwards, and that folder with it if it is empty.

    There, and not in the system's temporary folder: embeddings of a dataset are large, and patients' images stay
    where the user wants their masks.
    """
    made = not output.exists()
    output.mkdir(parents=True, exist_ok=True)
    try:
        with _scratch_in(output, _PREDICTED) as scratch:
            scratch.mkdir(mode=0o700)
            yield scratch
    finally:
        if made and not any(output.iterdir()):
            output.rmdir()


@contextmanager
def _scratch_in(home: Path, prefix: str) -> Iterator[Path]:
    """Give a place in a folder; what a killed command left there is removed first: its process is gone."""
    for left in home.glob(f"{prefix}*"):
        host, _, rest = left.name.removeprefix(prefix).partition("-")
        process = rest.partition("-")[0]
        # A folder that machines share may hold what another one is reading right now.
        if host == _host() and process.isdecimal() and not psutil.pid_exists(int(process)):
            shutil.rmtree(left, ignore_errors=True)
    scratch = home / f"{prefix}{_host()}-{os.getpid()}-{os.urandom(4).hex()}"
    try:
        yield scratch
    finally:
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(scratch)


def _host() -> str:
    """Return which machine this is, without its name."""
    return hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]
