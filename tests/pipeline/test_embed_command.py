"""What `samkit embed` says of its time, of slices that it refuses, and when it is told to stop."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

import samkit as package
from samkit.stages.encoders.sam import SamEncoder

SMALL = ("embed", "--size", "64")


def embeddings_of(job):
    return package.open_workspace(job.workspace).embeddings("nano")


# Time ------------------------------------------------------------------------------------------------------------


def test_the_summary_says_how_busy_the_encoder_was_and_what_it_waited_for(samkit, ingested):
    said = samkit(*SMALL, *ingested.flag).said
    assert "8 slices embedded in" in said
    assert "the encoder was busy" in said
    assert "for slices" in said


def test_of_nothing_to_do_no_time_is_told(samkit, ingested):
    samkit(*SMALL, *ingested.flag)
    assert "the encoder was busy" not in samkit(*SMALL, *ingested.flag).said


def test_long_work_is_shared_by_two_processes_with_the_rows_of_one_of_their_kind(
    samkit, ingested, tmp_path, rows_of, monkeypatch
):
    before, threads = torch.get_num_threads(), len(os.sched_getaffinity(0))
    if threads < 2:
        pytest.skip("two processes share two cores or more")
    torch.set_num_threads(threads)  # a worker of the tests has one
    monkeypatch.setattr("samkit.pipeline.commands.embed._TIMED_OF", 0)
    monkeypatch.setattr("samkit.pipeline.commands.embed.time_encoder", lambda *_: (3600.0, 1))
    assert samkit(*SMALL, *ingested.flag).code == 0
    assert embeddings_of(ingested).compute["threads"] == threads // 2
    alone = tmp_path / "alone"
    assert samkit("ingest", ingested.data, "--workspace", alone).code == 0
    torch.set_num_threads(threads // 2)
    try:
        assert samkit(*SMALL, "--workers", "1", "--workspace", alone).code == 0
    finally:
        torch.set_num_threads(before)
    shared = rows_of(ingested.workspace)
    assert all(np.array_equal(shared[name], rows) for name, rows in rows_of(alone).items())


# What is refused -------------------------------------------------------------------------------------------------


@pytest.fixture
def one_bad(monkeypatch):
    """Answer the third slice with what is no number."""
    right = SamEncoder.encode

    def encode(self, prepared, path=None):
        features = right(self, prepared, path)
        features[2] = float("nan")
        return features

    monkeypatch.setattr(SamEncoder, "encode", encode)


def test_a_slice_without_finite_features_is_named_and_the_others_are_kept(samkit, ingested, one_bad):
    ended = samkit(*SMALL, *ingested.flag)
    assert ended.code == 3
    assert "1 slice not embedded" in ended.said
    assert "for slice 2 of a;" in ended.said
    assert len(embeddings_of(ingested).journal) == 7


def test_the_same_command_tries_only_what_is_missing(samkit, ingested, one_bad, monkeypatch):
    samkit(*SMALL, *ingested.flag)
    monkeypatch.undo()
    monkeypatch.setenv("SAMKIT_ID_KEY", "key-of-the-tests")
    ended = samkit(*SMALL, *ingested.flag)
    assert ended.code == 0
    assert "7 have a row, 1 to compute" in ended.said


def test_where_memory_runs_out_it_goes_on_with_fewer_slices_and_says_so(samkit, ingested, monkeypatch):
    right = SamEncoder.encode

    def encode(self, prepared, path=None):
        if len(prepared) > 2:
            torch.empty(1 << 60, dtype=torch.uint8)  # what torch raises is the real thing
        return right(self, prepared, path)

    monkeypatch.setattr(SamEncoder, "encode", encode)
    ended = samkit(*SMALL, *ingested.flag)
    assert ended.code == 0, ended.said
    assert "memory ran out: 2 slices at once" in ended.said
    (record,) = embeddings_of(ingested).journal.records.values()
    assert record.compute["micro_batch"] == 2


# Stopping --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("heard", [signal.SIGINT, signal.SIGTERM])
def test_told_to_stop_it_ends_in_words_and_the_same_command_goes_on(samkit, write_pair, tmp_path, heard):
    for seed in range(2):
        write_pair(tmp_path / "data", f"p{seed}", seed=seed, shape=(16, 16, 160), affine=np.diag([1.0, 1.0, 2.0, 1.0]))
    workspace = tmp_path / "w"
    assert samkit("ingest", tmp_path / "data", "--workspace", workspace).code == 0
    embed = ("embed", "--size", "256", "--workers", "1", "--workspace", str(workspace))
    process = subprocess.Popen(
        [sys.executable, "-m", "samkit.pipeline.cli", *embed],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    until = time.monotonic() + 60
    while not any(workspace.glob("embeddings/*/journal/[!.]*.json")):
        assert process.poll() is None
        assert time.monotonic() < until
        time.sleep(0.01)
    process.send_signal(heard)
    _, error = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "the same command goes on from there" in " ".join(error.split())
    assert "Traceback" not in error
    ended = samkit(*embed)
    assert ended.code == 0
    assert " 0 have a row" not in ended.said
    assert len(package.open_workspace(workspace).embeddings("nano").journal) == 320
