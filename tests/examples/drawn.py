"""A workspace made by the command line from drawn subjects, for modules that need one of their own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from samkit.pipeline.cli import run
from samkit.stages.synthesis.anatomy import draw_subject
from samkit.stages.synthesis.files import write_nifti_pair


def drawn_workspace(
    folder: Path,
    commands: Sequence[Sequence[str]],
    *,
    shape: tuple[int, int, int],
    spacing_mm: tuple[float, float, float],
    subjects: int = 4,
) -> Path:
    """Draw subjects into ``data``, run commands beside it, and return the workspace that they made."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(folder))
        patch.setenv("SAMKIT_ID_KEY", "key-of-the-tests")
        patch.delenv("SAMKIT_WORKSPACE", raising=False)
        patch.chdir(folder)
        for seed in range(subjects):
            write_nifti_pair(Path("data"), f"patient{seed}", draw_subject(seed, shape=shape, spacing_mm=spacing_mm))
        for command in commands:
            assert run(list(command)) == 0
    return folder / "samkit-workspace"
