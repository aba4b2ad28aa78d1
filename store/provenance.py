"""What every record says of how it was made."""

from __future__ import annotations

import subprocess
from functools import cache
from importlib.metadata import version
from pathlib import Path


@cache
def code_version() -> str:
    """Return samkit's version, with the git commit where it runs from a checkout: ``0.1.0+1a2b3c4``."""
    root = Path(__file__).resolve().parent.parent
    released = version("samkit")
    if not (root / ".git").exists():
        return released
    try:
        found = subprocess.run(  # noqa: S603 - fixed words and our own folder
            ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=7"],  # noqa: S607 - git from PATH
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return released
    return f"{released}+{found.stdout.strip()}"
