"""Workers compute what one process computes, to the last bit."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

import samkit as package
from samkit.pipeline.cluster import ShardFailure, _Queue, map_shards
from samkit.stages.synthesis.anatomy import draw_subject
from samkit.stages.synthesis.files import write_nifti_pair
from samkit.store.embeddings import ShardPlan
from samkit.store.errors import DamagedStore, StoreError, UnusableVoxels, WeightsError
from samkit.store.journal import ShardRecord
from samkit.store.keys import RowKey


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


def shards(count: int) -> list[ShardPlan]:
    return [ShardPlan(recipe_id="r", keys=(RowKey(slice_digest=f"{number:032x}"),)) for number in range(count)]


class TestTheQueue:
    """Which shard is next, and what happens when another command turns out to work on the same ones."""

    def queue(self, plans: list[ShardPlan], writer: str = "mine"):
        return _Queue(SimpleNamespace(writer=writer), plans)  # type: ignore[arg-type]

    def test_alone_the_order_is_the_plans(self):
        plans, queue = shards(9), self.queue(shards(9))
        taken = []
        while (plan := queue.next()) is not None:
            taken.append(plan)
            queue.learn(record("mine"))
        assert taken == plans

    def test_in_company_the_rest_is_taken_in_an_order_of_ones_own_and_nothing_is_lost(self):
        plans = shards(40)
        orders = []
        for writer in ("one", "two"):
            queue = self.queue(plans, writer)
            taken = [queue.next()]
            queue.learn(record("somebody else"))
            while (plan := queue.next()) is not None:
                taken.append(plan)
            assert sorted(plan.id for plan in taken) == sorted(plan.id for plan in plans)
            orders.append([plan.id for plan in taken])
        assert orders[0] != orders[1]

    def test_a_failure_is_not_company(self):
        queue = self.queue(shards(9))
        queue.next()
        queue.learn(ShardFailure(rows=1, reason="torn"))
        assert queue.next() == shards(9)[1]


def record(writer: str) -> ShardRecord:
    return ShardRecord(
        shard="s",
        data="s-0",
        recipe="r",
        keys=(),
        checksums=(),
        descriptions={},
        row_shape=(1, 1, 1),
        dtype="float16",
        compute={},
        seconds=0,
        peak_memory_bytes=0,
        code_version="test",
        writer=writer,
    )


class TestAFailure:
    """Of a shard, which costs only the shard; or of what all shards need, which ends the run."""

    @pytest.fixture
    def computing(self, monkeypatch):
        """Compute shards with a worker that fails, and say how many it was given."""
        given = []

        def compute(error: Exception) -> list[ShardRecord | ShardFailure]:
            class Failing:
                def __init__(self, *_: object) -> None: ...

                def __call__(self, plan: ShardPlan) -> ShardRecord:
                    given.append(plan)
                    raise error

            monkeypatch.setattr("samkit.stages.embed.ShardWorker", Failing)
            return list(map_shards(SimpleNamespace(writer="me"), shards(3), ["cpu"]))

        compute.given = given
        return compute

    @pytest.mark.parametrize("error", [UnusableVoxels("not finite"), DamagedStore("torn")])
    def test_of_its_own_slices_costs_only_the_shard(self, computing, error):
        assert computing(error) == [ShardFailure(rows=1, reason=str(error))] * 3

    @pytest.mark.parametrize("error", [StoreError("no connection"), WeightsError("other weights"), OSError(28, "full")])
    def test_of_what_every_shard_needs_ends_the_run_at_once(self, computing, error):
        with pytest.raises(type(error)):
            computing(error)
        assert len(computing.given) == 1
