"""Reading by several processes: the same store, and a crash costs one source."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import dask
import numpy as np
import pytest
from synthetic.catalogue import CATALOGUE
from synthetic.series import write_series

import samkit as package
from samkit.pipeline import processes
from samkit.pipeline.forks import Processes
from samkit.pipeline.processes import SourceReaders
from samkit.stages.ingest import ingest
from samkit.stages.intake.job import IngestOptions
from samkit.stages.intake.labels import read_label_values
from samkit.stages.readers.dicom_headers import files_under
from samkit.stages.readers.dicom_series import read_headers
from samkit.stages.readers.layouts import LayoutOptions, find_sources
from samkit.stages.readers.windows import Window

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


def wait_until(done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not done() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert done()


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


SLOW = """
import pathlib
import time
from samkit.stages.intake import volume

def read_slowly(source):
    pathlib.Path({reading!r}).touch()
    time.sleep(60)

volume.read_image = read_slowly
"""


def test_ctrl_c_stops_all_processes_without_their_tracebacks(scans, tmp_path):
    preload = tmp_path / "slow.py"
    preload.write_text(SLOW.format(reading=str(tmp_path / "reading")))
    command = [sys.executable, "-m", "samkit.pipeline.cli", "ingest", scans, *INGEST, "--workers", "2"]
    running = subprocess.Popen(
        [*command, "--workspace", tmp_path / "w"],
        env={**os.environ, "DASK_DISTRIBUTED__WORKER__PRELOAD": str(preload)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    wait_until((tmp_path / "reading").exists)
    os.killpg(running.pid, signal.SIGINT)  # as a terminal does: to all of them
    said, _ = running.communicate(timeout=20)
    assert running.returncode == 130
    assert said.splitlines()[-1].startswith("error: interrupted.")
    assert "Traceback" not in said


def test_processes_find_the_values_in_labels_that_one_process_finds(write_pair, tmp_path, monkeypatch):
    for number, value in enumerate((1, 7, 3)):
        write_pair(tmp_path / "d", f"case{number}", seed=number, label_value=value)
    (tmp_path / "d/labelsTr/case2.nii.gz").write_bytes(b"torn")
    sources = find_sources(tmp_path / "d", LayoutOptions(id_key=b"key")).sources
    monkeypatch.setattr(processes, "_WORTH_PROCESSES_BYTES", 0)
    with SourceReaders(2) as readers:
        found = list(readers.label_values(sources, None))
    assert found == list(read_label_values(sources, None)) == [{1}, {7}, frozenset()]


class TestHeaders:
    def test_processes_find_what_one_process_finds(self, tmp_path, monkeypatch):
        for number, make in enumerate(("ct", "enhanced mr", "b-values", "header cut off")):
            CATALOGUE[make](tmp_path / "scans" / str(number), number)
        (tmp_path / "scans" / "damaged.dcm").write_bytes(b"no header at all")
        paths = list(files_under(tmp_path / "scans"))
        monkeypatch.setattr(processes, "_FILES_AT_ONCE", 3)
        with SourceReaders(2) as readers:
            readers._processes.start()
            wait_until(lambda: readers._processes.ready)
            assert list(readers.headers(paths)) == list(read_headers(paths))

    def test_they_are_read_here_while_the_processes_start(self, scans):
        paths = list(files_under(scans))
        with SourceReaders(2) as readers:
            assert list(readers.headers(paths)) == list(read_headers(paths))


class TestWhereSourcesAreRead:
    """In this process, or in others: told by whether any were started."""

    @pytest.fixture(autouse=True)
    def _two_cores(self, monkeypatch):
        monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1}, raising=False)

    @pytest.fixture
    def started(self, monkeypatch) -> list[int]:
        calls: list[int] = []
        start = Processes.start

        def told(self: Processes) -> None:
            calls.append(self.workers)
            start(self)

        monkeypatch.setattr(Processes, "start", told)
        return calls

    def ingest(self, folder: Path, workspace: Path, asked: int | None = None) -> None:
        with SourceReaders(asked) as readers:
            readers.expect(folder)
            found = find_sources(folder, LayoutOptions(id_key=b"key", read_headers=readers.headers))
            options = IngestOptions(windows=(Window.parse("400/40"),))
            assert list(ingest(workspace, found, options, read=readers.sources))

    def test_little_data_is_read_here(self, scans, tmp_path, started):
        self.ingest(scans, tmp_path / "w")
        assert not started

    def test_what_is_asked_for_is_used(self, scans, tmp_path, started):
        self.ingest(scans, tmp_path / "w", asked=3)
        assert set(started) == {3}

    def test_compressed_series_are_read_by_processes(self, tmp_path, started):
        for number, make in enumerate(("ct rle", "ct jpeg-ls")):
            CATALOGUE[make](tmp_path / "scans" / str(number), number)
        self.ingest(tmp_path / "scans", tmp_path / "w")
        assert set(started) == {2}

    def test_a_single_source_needs_no_process(self, scans, tmp_path, started):
        self.ingest(scans / "a", tmp_path / "w", asked=2)
        assert not started

    def test_much_data_is_expected(self, scans, started, monkeypatch):
        monkeypatch.setattr(processes, "_WORTH_PROCESSES_BYTES", 1000)
        with SourceReaders() as readers:
            readers.expect(scans)
        assert started == [2]

    def test_one_core_is_one_process(self, scans, started, monkeypatch):
        monkeypatch.setattr("os.sched_getaffinity", lambda _: {0}, raising=False)
        monkeypatch.setattr(processes, "_WORTH_PROCESSES_BYTES", 1000)
        with SourceReaders() as readers:
            readers.expect(scans)
        assert not started
