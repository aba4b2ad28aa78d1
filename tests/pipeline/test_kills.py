"""Killed with SIGKILL at some moment, the same command finishes, and nothing tells that it was ever killed."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import samkit as package

SECONDS_TO_WAIT = 60


def start(*arguments: object, stdout: int = subprocess.DEVNULL) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "samkit.pipeline.cli", *map(str, arguments)]
    return subprocess.Popen(command, stdout=stdout, stderr=subprocess.DEVNULL)


def kill_when(process: subprocess.Popen[bytes], happened: Callable[[], bool]) -> None:
    """Send SIGKILL as soon as something is seen on disk."""
    until = time.monotonic() + SECONDS_TO_WAIT
    while not happened():
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < until, "what it was to be killed at never happened"
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL


@pytest.fixture
def many_slices(tmp_path: Path, samkit: Callable[..., object], write_pair: Callable[..., None]) -> Path:
    """A folder of 640 slices: ten shards, so that there is a middle to be killed in."""
    for seed in range(4):
        write_pair(tmp_path / "data", f"p{seed}", seed=seed, shape=(16, 16, 160), affine=np.diag([1.0, 1.0, 2.0, 1.0]))
    return tmp_path / "data"


def test_embed_killed_midway_goes_on_to_the_rows_of_an_uninterrupted_run(samkit, many_slices, tmp_path, rows_of):
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    for workspace in (killed, whole):
        assert samkit("ingest", many_slices, "--workspace", workspace).code == 0
    embed = ("embed", "--size", "128", "--workspace")
    kill_when(start(*embed, killed), lambda: any(killed.glob("embeddings/*/journal/[!.]*.json")))
    there = len(package.open_workspace(killed).embeddings("nano").journal)
    assert 0 < there < 640

    ended = samkit(*embed, killed)
    assert ended.code == 0
    assert f"640 slices: {there} have a row, {640 - there} to compute" in ended.said
    assert samkit(*embed, whole).code == 0
    finished, uninterrupted = rows_of(killed), rows_of(whole)
    assert all(np.array_equal(finished[name], rows) for name, rows in uninterrupted.items())


def test_train_head_killed_midway_leaves_no_run_and_then_makes_the_one_it_would_have_made(samkit, job, tmp_path):
    never_killed = tmp_path / "never-killed"
    shutil.copytree(job.workspace, never_killed)
    train = ("train-head", "linear", "--volumes", "2", "--steps", "400", "--workspace")
    process = start(*train, job.workspace, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert b"linear on nano" in process.stdout.readline()  # said when the features are about to be read
    fitting_since = time.monotonic()
    kill_when(process, lambda: time.monotonic() - fitting_since > 0.3)
    assert [run.alias for run in package.open_workspace(job.workspace).runs.values()] == ["linear@1#0"]
    assert "linear@2#0" not in samkit("status", *job.flag).said

    for workspace in (job.workspace, never_killed):
        assert samkit(*train, workspace).code == 0
    finished, uninterrupted = (
        package.open_workspace(workspace).runs.find("linear@2#0").folder for workspace in (job.workspace, never_killed)
    )
    assert finished.name == uninterrupted.name
    for file in ("head.safetensors", "steps.json"):
        assert (finished / file).read_bytes() == (uninterrupted / file).read_bytes()


def test_ingest_killed_midway_keeps_what_it_had_and_goes_on(samkit, many_slices, tmp_path):
    workspace = tmp_path / "w"
    kill_when(start("ingest", many_slices, "--workspace", workspace), lambda: any(workspace.glob("slices/[!.]*")))
    ended = samkit("ingest", many_slices, "--workspace", workspace)
    assert ended.code == 0
    assert len(package.open_workspace(workspace).volumes) == 4
    assert all(volume.label is not None for volume in package.open_workspace(workspace).volumes.values())
