"""kill -9 at random moments, again and again, then the same command: nothing tells that it was ever killed.

Ten kills of `samkit embed` in the normal suite; ``make soak`` does a hundred, and as many of the other verbs.
"""

from __future__ import annotations

import random
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
from samkit.store.keys import RowKey

SECONDS_TO_WAIT = 120
ROUNDS = [pytest.param(10, id="ten"), pytest.param(100, id="a-hundred", marks=pytest.mark.soak)]
FEW_ROUNDS = [pytest.param(3, id="three"), pytest.param(30, id="thirty", marks=pytest.mark.soak)]


def is_worker(process: psutil.Process) -> bool:
    try:
        return "spawn_main" in " ".join(process.cmdline())
    except psutil.NoSuchProcess:  # it has ended meanwhile
        return False


def kill_at_a_random_moment(
    arguments: list[object], begins: bytes, within_seconds: float, rng: random.Random, *, a_worker: bool = False
) -> bool:
    """Start a command, wait until it says that it begins, and send SIGKILL somewhere in what follows.

    Returns
    -------
    bool
        Whether it died of that; False where it was done before.
    """
    command = [sys.executable, "-m", "samkit.pipeline.cli", *map(str, arguments)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert process.stdout is not None
    until = time.monotonic() + SECONDS_TO_WAIT
    for line in process.stdout:
        assert time.monotonic() < until
        if begins in line:
            break
    time.sleep(rng.uniform(0, within_seconds))
    victim = psutil.Process(process.pid)
    workers = [child for child in victim.children(recursive=True) if is_worker(child)]
    if a_worker and workers:
        rng.choice(workers).kill()
        process.communicate(timeout=SECONDS_TO_WAIT)
        return True
    killed = process.poll() is None
    process.send_signal(signal.SIGKILL)
    for worker in workers:
        worker.kill()
    process.communicate(timeout=SECONDS_TO_WAIT)
    return killed and process.returncode == -signal.SIGKILL


def writers(workspace: Path) -> dict[str, str]:
    """Which command wrote each finished shard."""
    recipes = package.open_workspace(workspace).recipes().values()
    return {record.shard: record.writer for kept in recipes for record in kept.journal.records.values()}


def rows_by_key(workspace: Path) -> dict[RowKey, np.ndarray]:
    """Every row of the newest recipe, those of views too."""
    embeddings = package.open_workspace(workspace).embeddings("nano")
    keys = sorted(embeddings.journal, key=str)
    return dict(zip(keys, embeddings.read(keys), strict=True))


@pytest.fixture
def many_slices(tmp_path: Path, write_pair: Callable[..., None]) -> Path:
    for seed in range(4):
        write_pair(tmp_path / "data", f"p{seed}", seed=seed, shape=(16, 16, 160), affine=np.diag([1.0, 1.0, 2.0, 1.0]))
    return tmp_path / "data"


@pytest.mark.parametrize("kills", ROUNDS)
def test_embed(samkit, many_slices, tmp_path, rows_of, kills):
    rng = random.Random(kills)
    begin, whole = tmp_path / "begin", tmp_path / "whole"
    assert samkit("ingest", many_slices, "--workspace", begin).code == 0
    shutil.copytree(begin, whole)
    assert samkit("embed", "--size", "64", "--workspace", whole).code == 0
    expected = rows_of(whole)

    done, attempt = 0, 0
    workspace = tmp_path / "killed"
    shutil.copytree(begin, workspace)
    finished: dict[str, str] = {}
    while done < kills:
        attempt += 1
        assert attempt < 10 * kills, "it was never caught"
        # Every fourth has two workers, one of which is killed.
        workers = 2 if attempt % 4 == 0 else 1
        embed = ["embed", "--size", "64", "--workers", workers, "--workspace", workspace]
        done += kill_at_a_random_moment(embed, b"slices:", 1.2, rng, a_worker=workers == 2)
        now = writers(workspace)
        assert finished.items() <= now.items(), "a finished shard was computed again"
        finished = now
        if len(package.open_workspace(workspace).embeddings("nano").journal) == 640:
            for volume_id, rows in rows_of(workspace).items():
                np.testing.assert_array_equal(rows, expected[volume_id])
            shutil.rmtree(workspace)
            shutil.copytree(begin, workspace)
            finished = {}

    assert samkit("embed", "--size", "64", "--workspace", workspace).code == 0
    assert finished.items() <= writers(workspace).items()
    for volume_id, rows in rows_of(workspace).items():
        np.testing.assert_array_equal(rows, expected[volume_id])
    assert samkit("verify", "--workspace", workspace).code == 0


@pytest.mark.parametrize("kills", FEW_ROUNDS)
def test_embed_a_bank_of_views(samkit, many_slices, tmp_path, kills):
    rng = random.Random(kills)
    begin, whole = tmp_path / "begin", tmp_path / "whole"
    assert samkit("ingest", many_slices, "--workspace", begin).code == 0
    shutil.copytree(begin, whole)
    bank = ["embed", "--size", "32", "--views", "flip-rows", "--views-for", "all"]
    assert samkit(*bank, "--workspace", whole).code == 0
    expected = rows_by_key(whole)
    assert len(expected) == 2 * 640

    done, attempt = 0, 0
    while done < kills:
        workspace = tmp_path / f"killed{attempt}"
        shutil.copytree(begin, workspace)
        # In turn this process and two workers, one of which is killed; then the same command ends it.
        workers = 1 + attempt % 2
        command = [*bank, "--workers", workers, "--workspace", workspace]
        done += kill_at_a_random_moment(command, b"to compute", 2.0, rng, a_worker=workers == 2)
        finished = writers(workspace)
        assert samkit(*command).code == 0
        assert finished.items() <= writers(workspace).items(), "a finished shard was computed again"
        found = rows_by_key(workspace)
        assert found.keys() == expected.keys()
        assert all(np.array_equal(row, expected[key]) for key, row in found.items())
        attempt += 1
        assert attempt < 10 * kills, "it was never caught"


@pytest.mark.parametrize("kills", FEW_ROUNDS)
def test_ingest(samkit, many_slices, tmp_path, files_of, kills):
    rng = random.Random(kills)
    whole, workspace = tmp_path / "whole", tmp_path / "killed"
    assert samkit("ingest", many_slices, "--workspace", whole).code == 0
    for _ in range(kills):
        kill_at_a_random_moment(["ingest", many_slices, "--workspace", workspace], b"volumes", 0.3, rng)
        if (workspace / "workspace.json").exists():
            opened = package.open_workspace(workspace)
            assert all(volume.intact() for volume in opened.volumes.values())
            if len(opened.volumes) == 4:
                shutil.rmtree(workspace)
    assert samkit("ingest", many_slices, "--workspace", workspace).code == 0
    finished, uninterrupted = (
        {p: b for p, b in files_of(w / "slices").items() if "/." not in f"/{p}"} for w in (workspace, whole)
    )
    assert finished == uninterrupted


@pytest.mark.parametrize("kills", FEW_ROUNDS)
def test_train_head(samkit, job, tmp_path, files_of, kills):
    rng = random.Random(kills)
    whole = tmp_path / "whole"
    shutil.copytree(job.workspace, whole)
    train = ["train-head", "linear", "--volumes", "2", "--steps", "200", "--workspace"]
    assert samkit(*train, whole).code == 0
    for _ in range(kills):
        kill_at_a_random_moment([*train, job.workspace], b"linear on nano", 1.0, rng)
        runs = package.open_workspace(job.workspace).runs
        if "linear@2#0" in [run.alias for run in runs.values()]:  # it was done before: it has to be whole
            assert samkit("verify", *job.flag).code == 0
            shutil.rmtree(Path(runs.find("linear@2#0").folder))
    assert samkit(*train, job.workspace).code == 0
    folders = [Path(package.open_workspace(w).runs.find("linear@2#0").folder) for w in (job.workspace, whole)]
    finished, uninterrupted = (files_of(folder) for folder in folders)
    assert {**finished, "run.json": b""} == {**uninterrupted, "run.json": b""}
    assert samkit("verify", *job.flag).code == 0
