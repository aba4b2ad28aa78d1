"""A folder for what was unpacked: beside the workspace, where the user wants patients' images, gone afterwards."""

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

_PREFIX = ".samkit-unpacked-"


@contextmanager
def scratch_beside(workspace: str | Path) -> Iterator[Path]:
    """Give the place of a hidden folder that does not exist yet; what is made there is removed afterwards.

    It lies in the folder that holds the workspace, or, for one behind a URL, in the system's temporary folder. What a
    killed command left there is removed first: its process is gone.
    """
    place = place_of(workspace)
    home = place.path.resolve().parent if isinstance(place, LocalPlace) else Path(tempfile.gettempdir())
    for left in home.glob(f"{_PREFIX}*"):
        host, _, rest = left.name.removeprefix(_PREFIX).partition("-")
        process = rest.partition("-")[0]
        # A folder that machines share may hold what another one is reading right now.
        if host == _host() and process.isdecimal() and not psutil.pid_exists(int(process)):
            shutil.rmtree(left, ignore_errors=True)
    scratch = home / f"{_PREFIX}{_host()}-{os.getpid()}-{os.urandom(4).hex()}"
    try:
        yield scratch
    finally:
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(scratch)


def _host() -> str:
    """Return which machine this is, without its name."""
    return hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]
