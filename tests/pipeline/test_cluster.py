"""Workers compute what one process computes, to the last bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import samkit as package
from samkit.stages.synthesis.anatomy import draw_subject
from samkit.stages.synthesis.files import write_nifti_pair


@pytest.fixture
def threads():
    """Put the number of threads back."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_two_workers_write_the_rows_that_one_process_writes(threads, samkit, tmp_path, rows_of):
    for seed in range(2):  # 80 slices: two shards, so that both workers have one
        phantom = draw_subject(seed, shape=(40, 24, 24), spacing_mm=(9.0, 9.0, 9.0))
        write_nifti_pair(tmp_path / "data", f"p{seed}", phantom)
    for workers in ("1", "2"):
        # Two workers share the threads; one process is given as many as one of them, for one compute class.
        torch.set_num_threads(int(workers))
        flag = ("--workspace", tmp_path / f"by-{workers}")
        assert samkit("ingest", tmp_path / "data", *flag).code == 0
        ended = samkit("embed", "--size", "64", "--workers", workers, *flag)
        assert ended.code == 0, ended.said
        assert "80 slices embedded" in ended.said
    one, two = (package.open_workspace(tmp_path / f"by-{workers}").embeddings("nano") for workers in ("1", "2"))
    assert two.compute == one.compute
    assert two.recipe == one.recipe
    alone, shared = rows_of(tmp_path / "by-1"), rows_of(tmp_path / "by-2")
    assert all(np.array_equal(shared[name], rows) for name, rows in alone.items())


def test_rows_begun_by_one_process_are_gone_on_with_by_two_in_the_same_compute_class(samkit, job):
    before = package.open_workspace(job.workspace).embeddings("nano").compute
    ended = samkit("embed", "--size", "64", "--workers", "2", *job.flag)
    assert ended.code == 0
    assert "0 to compute" in ended.said
    assert package.open_workspace(job.workspace).embeddings("nano").compute == before
