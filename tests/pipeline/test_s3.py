"""A workspace in s3://, over real HTTP: every verb, a kill and a resume, two at once, damage, and few requests."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import fsspec
import numpy as np
import pytest
from examples.s3_server import CREDENTIALS, s3_server

import samkit as package
from samkit.store.errors import DamagedStore
from samkit.store.places import place_of

pytest.importorskip("s3fs")
pytest.importorskip("moto")

SECONDS_TO_WAIT = 120
EMBED = ("embed", "--size", "64")
TRAIN = ("train-head", "linear", "--volumes", "1", "--steps", "3")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The server, found through the environment; the file it logs its requests to."""
    log = tmp_path_factory.mktemp("s3") / "requests.log"
    with s3_server(log) as address, pytest.MonkeyPatch.context() as patch:
        for name, value in {**CREDENTIALS, "AWS_ENDPOINT_URL": address}.items():
            patch.setenv(name, value)
        fsspec.filesystem("s3", use_listings_cache=False).mkdir("bucket")
        yield log


@pytest.fixture
def url(server: Path, request: pytest.FixtureRequest) -> str:
    """A place for a workspace of the test's own."""
    return f"s3://bucket/{re.sub('[^a-z0-9]+', '-', request.node.name.lower())}/workspace"


@pytest.fixture
def data(tmp_path: Path, write_pair: Callable[..., None]) -> Path:
    for seed in range(3):
        write_pair(tmp_path / "data", f"p{seed}", seed=seed)
    for seed in (7, 8):
        write_pair(tmp_path / "data", f"picture{seed}", seed=seed, shape=(20, 16, 1))
    return tmp_path / "data"


def requests(log: Path) -> int:
    return sum(b"HTTP/1.1" in line for line in log.read_bytes().splitlines())


def start(*arguments: object) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "samkit.pipeline.cli", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def test_every_verb_gives_what_it_gives_in_a_directory(samkit, data, url, tmp_path, rows_of):
    local = tmp_path / "local"
    for place in (url, local):
        for command in (("ingest", data), EMBED, TRAIN, ("report",)):
            ended = samkit(*command, "--workspace", place)
            assert ended.code == 0, ended.said
        ended = samkit(
            "predict",
            "latest",
            "--output",
            tmp_path / f"masks-{'s3' if place == url else 'local'}",
            "--workspace",
            place,
        )
        assert ended.code == 0, ended.said
        assert samkit("verify", "--recompute", "3", "--workspace", place).code == 0
    remote_rows, local_rows = rows_of(url), rows_of(local)
    assert remote_rows.keys() == local_rows.keys()
    assert all(np.array_equal(remote_rows[name], rows) for name, rows in local_rows.items())
    runs = [package.open_workspace(place).runs.find("latest") for place in (url, local)]
    assert runs[0].id == runs[1].id
    assert runs[0].scores == runs[1].scores
    assert (place_of(url) / "report" / "index.html").read_bytes().lower().startswith(b"<!doctype html>")
    status = [json.loads(samkit("status", "--json", "--workspace", place).out) for place in (url, local)]
    assert status[0]["dataset"] == status[1]["dataset"]
    masks = [sorted((tmp_path / f"masks-{name}").iterdir()) for name in ("s3", "local")]
    assert [mask.read_bytes() for mask in masks[0]] == [mask.read_bytes() for mask in masks[1]]


def test_embed_killed_midway_goes_on_to_the_rows_of_an_uninterrupted_run(samkit, url, tmp_path, write_pair, rows_of):
    for seed in range(2):
        write_pair(tmp_path / "data", f"p{seed}", seed=seed, shape=(16, 16, 160), affine=np.diag([1.0, 1.0, 2.0, 1.0]))
    local = tmp_path / "local"
    for place in (url, local):
        assert samkit("ingest", tmp_path / "data", "--workspace", place).code == 0
    process = start("embed", "--size", "128", "--workspace", url)
    until = time.monotonic() + SECONDS_TO_WAIT
    embeddings = place_of(url) / "embeddings"
    while not any((embeddings / name / "journal").children() for name in embeddings.children()):
        assert process.poll() is None
        assert time.monotonic() < until
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    before = package.open_workspace(url).embeddings("nano").journal.records
    assert 0 < sum(len(record.keys) for record in before.values()) < 320

    for place, workers in ((url, 2), (local, 1)):
        ended = samkit("embed", "--size", "128", "--workers", workers, "--workspace", place)
        assert ended.code == 0, ended.said
    after = package.open_workspace(url).embeddings("nano").journal.records
    assert {shard: record.writer for shard, record in before.items()}.items() <= {
        shard: record.writer for shard, record in after.items()
    }.items()
    assert all(np.array_equal(rows_of(url)[name], rows) for name, rows in rows_of(local).items())


def test_ingest_and_train_head_killed_midway_go_on(samkit, data, url):
    process = start("ingest", data, "--workspace", url)
    until = time.monotonic() + SECONDS_TO_WAIT
    while not (place_of(url) / "slices").children():
        assert process.poll() is None
        assert time.monotonic() < until
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert samkit("ingest", data, "--workspace", url).code == 0
    assert len(package.open_workspace(url).volumes) == 5
    assert samkit(*EMBED, "--workspace", url).code == 0

    process = start("train-head", "linear", "--volumes", "1", "--steps", "5000", "--workspace", url)
    assert process.stdout is not None
    assert b"linear on nano" in process.stdout.readline()
    time.sleep(0.3)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert len(package.open_workspace(url).runs) == 0
    assert samkit(*TRAIN, "--workspace", url).code == 0
    assert samkit("verify", "--workspace", url).code == 0


def test_two_commands_at_once_leave_the_rows_of_one(samkit, url, tmp_path, write_pair, rows_of):
    for seed in range(2):
        write_pair(tmp_path / "data", f"p{seed}", seed=seed, shape=(16, 16, 160), affine=np.diag([1.0, 1.0, 2.0, 1.0]))
    local = tmp_path / "local"
    for place in (url, local):
        assert samkit("ingest", tmp_path / "data", "--workspace", place).code == 0
    both = [start("embed", "--size", "64", "--workspace", url) for _ in range(2)]
    said = [process.communicate(timeout=SECONDS_TO_WAIT)[0].decode() for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert samkit("embed", "--size", "64", "--workspace", local).code == 0
    assert all(np.array_equal(rows_of(url)[name], rows) for name, rows in rows_of(local).items())
    assert samkit("verify", "--workspace", url).code == 0


def test_a_changed_object_is_refused_and_repaired(samkit, data, url):
    assert samkit("ingest", data, "--workspace", url).code == 0
    assert samkit(*EMBED, "--workspace", url).code == 0
    embeddings = package.open_workspace(url).embeddings("nano")
    (record,) = embeddings.journal.records.values()
    place = embeddings.folder / "features" / record.data / "0.0.0.0"
    content = bytearray(place.read_bytes())
    content[100] ^= 1
    place.publish(bytes(content))
    with pytest.raises(DamagedStore, match=r"does not match its checksum.*p0"):
        embeddings["p0"]
    assert samkit("verify", "--workspace", url).code == 1
    place.publish(bytes(content[:100]))
    with pytest.raises(DamagedStore, match="byte 100, inside a row"):
        embeddings["p0"]
    assert samkit("embed", "--repair", "--workspace", url).code == 0
    assert samkit("verify", "--workspace", url).code == 0


def test_gc_reclaims_what_a_removed_volume_held(samkit, data, url, rows_of):
    for command in (("ingest", data), EMBED):
        assert samkit(*command, "--workspace", url).code == 0
    before = rows_of(url)
    assert samkit("remove", "p1", "picture7", "--workspace", url).code == 0
    assert samkit("gc", "--older-than", "0", "--workspace", url).code == 0
    assert samkit("verify", "--workspace", url).code == 0
    after = rows_of(url)
    assert set(before) - set(after) == {"p1", "picture7"}
    assert all(np.array_equal(rows, before[name]) for name, rows in after.items())
    assert len(package.open_workspace(url).embeddings("nano").journal) == 9
    assert not any(name.startswith("p1--") for name in (place_of(url) / "slices").children())


def test_opening_takes_few_requests_however_many_shards_there_are(
    samkit, url, server, tmp_path, write_pair, monkeypatch
):
    monkeypatch.setattr("samkit.store.embeddings.ROWS_PER_SHARD", 2)
    monkeypatch.setattr("samkit.store.embeddings._RECORDS_WORTH_COMPACTING", 16)
    for seed in range(2):
        write_pair(tmp_path / "data", f"p{seed}", seed=seed, shape=(16, 16, 40), affine=np.diag([1.0, 1.0, 2.0, 1.0]))
    for command in (("ingest", tmp_path / "data"), EMBED):
        assert samkit(*command, "--workspace", url).code == 0
    before = requests(server)
    embeddings = package.open_workspace(url).embeddings("nano")
    assert len(embeddings.journal.records) == 40
    assert len(embeddings.journal) == 80
    assert requests(server) - before < 25


def test_a_server_that_is_not_there_is_one_clear_message(samkit, tmp_path, monkeypatch, server):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    said = subprocess.run(
        [sys.executable, "-m", "samkit.pipeline.cli", "status", "--workspace", "s3://bucket/nowhere"],
        capture_output=True,
        text=True,
        timeout=SECONDS_TO_WAIT,
        check=False,
    )
    assert said.returncode == 1
    assert "Traceback" not in said.stderr
    assert "s3://bucket/nowhere/workspace.json: the object store answered" in " ".join(said.stderr.split())
