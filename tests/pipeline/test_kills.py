"""Killed with SIGKILL at some moment, the same command finishes, and nothing tells that it was ever killed."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest

import samkit as package

SECONDS_TO_WAIT = 60


def start(*arguments: object, stdout: int = subprocess.DEVNULL) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "samkit.pipeline.cli", *map(str, arguments)]
    return subprocess.Popen(command, stdout=stdout, stderr=subprocess.DEVNULL)


def kill_when(process: subprocess.Popen[bytes], happened: Callable[[], bool]) -> None:
    """Send SIGKILL as soon as something is seen on disk."""
    wait_until(process, happened)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL


def wait_until(process: subprocess.Popen[bytes], happened: Callable[[], bool]) -> None:
    """Wait until something is seen on disk."""
    until = time.monotonic() + SECONDS_TO_WAIT
    while not happened():
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < until, "what it was to be killed at never happened"
        time.sleep(0.002)


def a_worker_of(process: subprocess.Popen[bytes]) -> psutil.Process:
    """Return one of the processes that work for a command, which others of its children only watch."""
    return next(
        child
        for child in psutil.Process(process.pid).children(recursive=True)
        if child.name().startswith("python") and child.num_threads() > 3 and "spawn_main" in " ".join(child.cmdline())
    )


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


GRID = ("experiment", "--heads", "linear,ridge", "--volumes", "1,2", "--draws", "2", "--steps", "150", "--workers", "2")


def runs_of(workspace: Path) -> dict[str, str]:
    """The head that each run of `GRID` ended with."""
    runs = package.open_workspace(workspace).runs.values()
    return {run.alias: run.record["head_sha256"] for run in runs if run.settings.training.get("steps", 150) == 150}


@pytest.fixture(scope="module")
def grid(tmp_path_factory, finished):
    """What `GRID` gives when nothing is killed."""
    from samkit.pipeline.cli import run

    workspace = tmp_path_factory.mktemp("grid") / "workspace"
    shutil.copytree(finished.workspace, workspace)
    assert run([*GRID, "--workspace", str(workspace)]) == 0
    return runs_of(workspace)


def test_a_grid_killed_midway_goes_on_with_the_runs_that_are_missing(samkit, job, grid):
    process = start(*GRID, "--workspace", job.workspace)
    kill_when(process, lambda: len(list(job.workspace.glob("runs/*/run.json"))) > 1)
    there = len(runs_of(job.workspace))
    assert 0 < there < len(grid)

    ended = samkit(*GRID, *job.flag)
    assert ended.code == 0
    assert re.search(rf"8 runs, ({there}|{there + 1}|{there + 2}) of them there already", ended.said)
    assert runs_of(job.workspace) == grid


def test_a_run_whose_process_is_killed_is_begun_again_and_costs_nothing_else(job, grid):
    process = start(*GRID, "--workspace", job.workspace)
    wait_until(process, lambda: len(list(job.workspace.glob("runs/*/run.json"))) > 1)
    a_worker_of(process).kill()
    assert process.wait(2 * SECONDS_TO_WAIT) == 0
    assert runs_of(job.workspace) == grid


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


def test_two_commands_started_together_share_the_work_and_leave_the_rows_of_one(samkit, many_slices, tmp_path, rows_of):
    shared, alone = tmp_path / "shared", tmp_path / "alone"
    for workspace in (shared, alone):
        assert samkit("ingest", many_slices, "--workspace", workspace).code == 0
    embed = ("embed", "--size", "128", "--workspace")
    both = [start(*embed, shared, stdout=subprocess.PIPE) for _ in range(2)]
    said = [process.communicate(timeout=SECONDS_TO_WAIT)[0].decode() for process in both]
    assert [process.returncode for process in both] == [0, 0]
    computed = [int(re.search(r"(\d+) slices? embedded", text).group(1)) for text in said]
    # A row is the first writer's, so the counts never overlap; that neither did all shows that they shared.
    assert sum(computed) == 640
    assert all(count > 0 for count in computed), said

    assert samkit(*embed, alone).code == 0
    finished, uninterrupted = rows_of(shared), rows_of(alone)
    assert all(np.array_equal(finished[name], rows) for name, rows in uninterrupted.items())
    assert samkit("verify", "--workspace", shared).code == 0
    names = [sorted(file.name for file in w.glob("embeddings/*/journal/*.json")) for w in (shared, alone)]
    assert names[0] == names[1]


def test_a_worker_that_is_killed_costs_only_its_shard(samkit, many_slices, tmp_path, rows_of):
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    for workspace in (killed, whole):
        assert samkit("ingest", many_slices, "--workspace", workspace).code == 0
    embed = ("embed", "--size", "128", "--workers", "2", "--workspace")
    process = start(*embed, killed, stdout=subprocess.PIPE)
    wait_until(process, lambda: any(killed.glob("embeddings/*/journal/[!.]*.json")))
    a_worker_of(process).kill()
    said = process.communicate(timeout=2 * SECONDS_TO_WAIT)[0].decode()
    assert process.returncode == 0, said
    assert samkit(*embed, whole).code == 0
    finished, uninterrupted = rows_of(killed), rows_of(whole)
    assert all(np.array_equal(finished[name], rows) for name, rows in uninterrupted.items())
