"""What every record says of how it was made."""

from __future__ import annotations

import subprocess
from functools import cache
from importlib.metadata import version
from pathlib import Path

_DECIDE_RESULTS = ("*.py", "*.safetensors")


@cache
def code_version() -> str:
    """Return samkit's version, with the git commit where it runs from a checkout: ``0.1.0+1a2b3c4``.

    ``-dirty`` where code or weights are not those of the commit. What a benchmark writes, or a page, changes neither.
    """
    root = Path(__file__).resolve().parent.parent
    released = version("samkit")
    if not (root / ".git").exists():
        return released
    try:
        commit = _git(root, "describe", "--always", "--abbrev=7")
        changed = _git(root, "status", "--porcelain", "--untracked-files=no", "--", *_DECIDE_RESULTS)
    except (OSError, subprocess.CalledProcessError):
        return released
    return f"{released}+{commit}-dirty" if changed else f"{released}+{commit}"


def _git(root: Path, *words: str) -> str:
    command = ["git", "-C", str(root), *words]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()  # noqa: S603 - fixed words
