"""Reading by several processes: the same store, and a crash costs one source."""

from __future__ import annotations

import json
from pathlib import Path

import dask
import numpy as np
import pytest
from synthetic.catalogue import CATALOGUE
from synthetic.series import write_series

import samkit as package
from samkit.pipeline.processes import choose_workers
from samkit.stages.readers.layouts import LayoutOptions, find_sources

# Put into every process that reads: a decoder that takes its process down over one file, as codecs written in C do.
CRASH = """
import os
from samkit.stages.intake import volume
from samkit.stages.readers.base import read_image

def read_or_die(source):
    if any(path.parent.name == "deadly" for path in source.image):
        os.abort()
    return read_image(source)

volume.read_image = read_or_die
"""


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    """Four series and, between them, one of a single slice, which is packed."""
    for number, name in enumerate(("a", "b", "deadly", "z")):
        write_series(tmp_path / "scans" / name, seed=number)
    write_series(
        tmp_path / "scans" / "one", stored=np.arange(400, dtype=np.int16).reshape(20, 20, 1), seed=9, modality="MR"
    )
    return tmp_path / "scans"


INGEST = ("--window", "400/40")


def test_two_processes_write_the_store_of_one(samkit, scans, tmp_path, files_of):
    for workers in ("1", "2"):
        finished = samkit("ingest", scans, *INGEST, "--workers", workers, "--workspace", tmp_path / workers)
        assert finished.code == 0, finished.said
    one, two = (package.open_workspace(tmp_path / workers) for workers in ("1", "2"))
    assert {name: volume.record for name, volume in one.volumes.items()} == {
        name: volume.record for name, volume in two.volumes.items()
    }
    assert files_of(tmp_path / "1" / "slices") == files_of(tmp_path / "2" / "slices")


def test_results_are_told_in_the_order_of_the_sources(samkit, scans, tmp_path):
    told = samkit("ingest", scans, *INGEST, "--workers", "2", "--json", "--workspace", tmp_path / "w").out
    assert [one["shown"] for one in json.loads(told)["taken"]] == ["a", "b", "deadly", "one/0001.dcm", "z"]


def test_a_crash_in_a_decoder_costs_its_source_alone(samkit, scans, tmp_path):
    preload = tmp_path / "crash.py"
    preload.write_text(CRASH)
    with dask.config.set({"distributed.worker.preload": [str(preload)]}):
        finished = samkit("ingest", scans, *INGEST, "--workers", "2", "--workspace", tmp_path / "w")
    assert finished.code == 3
    assert "4 taken" in finished.said
    assert "killed the process that did, 2 times" in finished.said
    assert len(package.open_workspace(tmp_path / "w").volumes) == 4


class TestHowMany:
    def sources(self, folder: Path):
        return find_sources(folder, LayoutOptions(id_key=b"key")).sources

    def test_little_data_is_read_in_this_process(self, scans):
        assert choose_workers(self.sources(scans), None) == 1

    def test_what_is_asked_for_is_used(self, scans):
        assert choose_workers(self.sources(scans), 3) == 3

    def test_compressed_series_are_read_by_processes(self, tmp_path, monkeypatch):
        for number, make in enumerate(("ct rle", "ct jpeg-ls")):
            CATALOGUE[make](tmp_path / str(number), number)
        monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1}, raising=False)
        assert choose_workers(self.sources(tmp_path), None) == 2

    def test_a_single_source_needs_no_second_process(self, scans):
        assert choose_workers(self.sources(scans / "a"), None) == 1
