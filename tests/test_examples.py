"""The scripts of docs/examples run as they stand, on a small workspace."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from examples.drawn import drawn_workspace

SCRIPTS = sorted((Path(__file__).resolve().parents[1] / "docs" / "examples").glob("*.py"))
SAID = {
    "embeddings_in_numpy": "slice",
    "own_encoder": "first slice: (1, 256, 16, 16), recipe",
    "own_head": "patient",
    "training_loop": "epoch 5: loss",
}


@pytest.fixture(scope="module")
def workspace(tmp_path_factory) -> Path:
    commands = (["ingest", "data"], ["embed", "--size", "64"])
    folder = tmp_path_factory.mktemp("examples")
    return drawn_workspace(folder, commands, shape=(4, 36, 32), spacing_mm=(10.0, 6.0, 6.0))


def test_every_script_is_run_here():
    assert {script.stem for script in SCRIPTS} == set(SAID)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_a_script_runs_and_says_something(workspace, script):
    ended = subprocess.run(
        [sys.executable, str(script), str(workspace)], capture_output=True, text=True, timeout=300, check=False
    )
    assert ended.returncode == 0, ended.stderr
    assert SAID[script.stem] in ended.stdout
