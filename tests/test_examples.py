"""The scripts of docs/examples run as they stand, on a small workspace."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from samkit.stages.synthesis.anatomy import draw_subject
from samkit.stages.synthesis.files import write_nifti_pair

SCRIPTS = sorted((Path(__file__).resolve().parents[1] / "docs" / "examples").glob("*.py"))
SAID = {
    "embeddings_in_numpy": "slice",
    "own_encoder": "first slice: (1, 256, 16, 16), recipe",
    "own_head": "patient",
    "training_loop": "epoch 5: loss",
}


@pytest.fixture(scope="module")
def workspace(tmp_path_factory) -> Path:
    from samkit.pipeline.cli import run

    folder = tmp_path_factory.mktemp("examples")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(folder))
        patch.setenv("SAMKIT_ID_KEY", "key-of-the-tests")
        patch.delenv("SAMKIT_WORKSPACE", raising=False)
        patch.chdir(folder)
        for seed in range(4):
            write_nifti_pair(
                Path("data"), f"patient{seed}", draw_subject(seed, shape=(4, 36, 32), spacing_mm=(10.0, 6.0, 6.0))
            )
        for command in (["ingest", "data"], ["embed", "--size", "64"]):
            assert run(command) == 0
    return folder / "samkit-workspace"


def test_every_script_is_run_here():
    assert {script.stem for script in SCRIPTS} == set(SAID)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_a_script_runs_and_says_something(workspace, script):
    ended = subprocess.run(
        [sys.executable, str(script), str(workspace)], capture_output=True, text=True, timeout=300, check=False
    )
    assert ended.returncode == 0, ended.stderr
    assert SAID[script.stem] in ended.stdout
