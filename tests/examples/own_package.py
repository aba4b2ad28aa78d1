"""A package of the user's beside samkit, which names what it brings in its entry points."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

Shell = Callable[..., tuple[int, str]]
"""Runs ``samkit`` with some words; returns the exit code, and what was said in single spaces."""


def shell_with_package(site: Path, entry_points: Mapping[str, str], module: str) -> Shell:
    """Install ``own_package``, a module with such a text, into a folder; return what runs samkit with it.

    Parameters
    ----------
    site
        The folder, made here.
    entry_points
        The line of each group.
    module
        Its source.
    """
    installed = site / "own_package-1.dist-info"
    installed.mkdir(parents=True)
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: own-package\nVersion: 1\n")
    groups = "".join(f"[{group}]\n{line}\n" for group, line in entry_points.items())
    (installed / "entry_points.txt").write_text(groups)
    (site / "own_package.py").write_text(module)

    def call(*arguments: object) -> tuple[int, str]:
        ended = subprocess.run(
            [Path(sys.executable).with_name("samkit"), *map(str, arguments)],
            env={**os.environ, "PYTHONPATH": str(site)},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        return ended.returncode, " ".join((ended.stdout + ended.stderr).split())

    return call
