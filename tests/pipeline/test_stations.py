"""What stands in a worker of a cluster: one encoder in one thread, whatever is read and written beside it."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import pytest

from samkit.pipeline import stations
from samkit.pipeline.stations import Station, StationGone, UnfitWorker, WorkerFault, weights_here
from samkit.stages.embed import EmbedJob, ShardResult
from samkit.stages.encoders.base import find_encoder
from samkit.stages.encoders.compute import ComputeClass
from samkit.stages.encoders.digests import file_sha256
from samkit.stages.encoders.nano import NANO
from samkit.store.embeddings import ShardPlan
from samkit.store.errors import DeviceError, StoreError, WeightsError
from samkit.store.keys import Recipe, RowKey
from samkit.store.local import LocalPlace
from samkit.store.prefetch import Prefetched

SECONDS_TO_WAIT = 10.0
COMPUTE = ComputeClass(device="cpu", kernel_path="package", threads=1, micro_batch=2)


def shards(count: int) -> list[ShardPlan]:
    return [ShardPlan(recipe_id="r", keys=(RowKey(slice_digest=f"{number:032x}"),)) for number in range(count)]


class Worker:
    """Stands in for `ShardWorker`; its encoder waits until a test lets it go on."""

    loaded_in: ClassVar[list[str]] = []

    def __init__(self, job: EmbedJob) -> None:
        self.loaded_in.append(threading.current_thread().name)
        self.may_encode = threading.Event()
        self.reads = threading.Semaphore(0)
        self.encoded_in: list[str] = []
        self.at_once = self.most_at_once = 0
        self.written: list[ShardPlan] = []

    def standing(self, plan: ShardPlan) -> None:
        return None

    def read(self, plan: ShardPlan) -> Prefetched[int]:
        def endless() -> Iterator[int]:
            self.reads.release()
            while True:
                yield 1

        return Prefetched(endless(), size_bytes=lambda _: 1, ahead_bytes=4)

    def encode(self, plan: ShardPlan, slices: Prefetched[int]) -> ShardPlan:
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        assert self.may_encode.wait(SECONDS_TO_WAIT)
        self.encoded_in.append(threading.current_thread().name)
        self.at_once -= 1
        return plan

    def write(self, encoded: ShardPlan) -> ShardResult:
        self.written.append(encoded)
        return ShardResult(record=None)


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    return find_encoder("nano").load(None, size=64).recipe


@pytest.fixture
def job(tmp_path: Path, recipe: Recipe) -> EmbedJob:
    return EmbedJob(workspace=LocalPlace(tmp_path), recipe=recipe, weights=None, device="cpu", compute=COMPUTE)


@pytest.fixture
def station(job: EmbedJob, monkeypatch: pytest.MonkeyPatch) -> Iterator[Station]:
    monkeypatch.setattr("samkit.stages.embed.ShardWorker", Worker)
    monkeypatch.setattr(Worker, "loaded_in", [])
    made = Station(job, "token")
    made.setup(SimpleNamespace(loop=None, plugins={}))  # type: ignore[arg-type]
    yield made
    made._encoder.shutdown()


class TestAStation:
    def test_loads_nothing_before_the_first_shard(self, station):
        assert not Worker.loaded_in

    def test_loads_the_encoder_once_and_runs_it_in_one_thread_one_shard_at_a_time(self, station):
        with ThreadPoolExecutor(3) as tasks:
            computing = [tasks.submit(station.compute, plan) for plan in shards(3)]
            worker = station._loaded()
            worker.may_encode.set()
            for one in computing:
                one.result(SECONDS_TO_WAIT)
        assert len(Worker.loaded_in) == 1
        assert set(worker.encoded_in) == set(Worker.loaded_in)
        assert worker.most_at_once == 1
        assert sorted(plan.id for plan in worker.written) == sorted(plan.id for plan in shards(3))

    def test_reads_other_shards_while_it_encodes_one(self, station):
        with ThreadPoolExecutor(3) as tasks:
            first = tasks.submit(station.compute, shards(1)[0])
            worker = station._loaded()
            assert worker.reads.acquire(timeout=SECONDS_TO_WAIT)
            while not worker.at_once:
                pass
            # The encoder is at the first; the others come now.
            others = [tasks.submit(station.compute, plan) for plan in shards(3)[1:]]
            assert worker.reads.acquire(timeout=SECONDS_TO_WAIT)
            assert worker.reads.acquire(timeout=SECONDS_TO_WAIT)
            worker.may_encode.set()
            for one in (first, *others):
                one.result(SECONDS_TO_WAIT)

    def test_that_is_closed_writes_nothing_more_and_frees_the_encoder(self, station):
        with ThreadPoolExecutor(3) as tasks:
            computing = [tasks.submit(station.compute, plan) for plan in shards(2)]
            worker = station._loaded()
            for _ in computing:
                assert worker.reads.acquire(timeout=SECONDS_TO_WAIT)
            station.teardown(station._worker)
            worker.may_encode.set()
            for one in computing:
                with pytest.raises(StationGone):
                    one.result(SECONDS_TO_WAIT)
        assert not worker.written
        station._encoder.shutdown()
        assert station._loading is None

    def test_that_is_closed_takes_no_shard(self, station):
        station.teardown(station._worker)
        with pytest.raises(StationGone):
            station.compute(shards(1)[0])

    @pytest.mark.parametrize("error", [WeightsError("other weights"), DeviceError("too small")])
    def test_whose_encoder_cannot_be_loaded_is_of_an_unfit_worker(self, station, monkeypatch, error):
        def fail(*_: object) -> None:
            raise error

        monkeypatch.setattr("samkit.stages.embed.ShardWorker", fail)
        with pytest.raises(UnfitWorker, match=str(error)):
            station.compute(shards(1)[0])
        station.teardown(station._worker)

    def test_closes_when_its_token_is_given_back(self, station):
        removed = []
        station._worker = SimpleNamespace(
            loop=SimpleNamespace(add_callback=lambda remove, name: remove(name)), plugin_remove=removed.append
        )
        station.transition("another", "memory", "released")
        station.transition("token", "executing", "memory")
        assert not removed
        station.transition("token", "memory", "released")
        assert removed == [stations.station_name(station._job)]


class TestWeights:
    @pytest.fixture
    def on_the_shelf(self, job: EmbedJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        kept = SimpleNamespace(path=tmp_path / "shelf" / "kept.pth")

        class Shelf:
            folder = tmp_path / "shelf"

            def find(self, *, sha256: str) -> object:
                return kept if sha256 == job.recipe.weights_sha256 else None

        monkeypatch.setattr("samkit.stages.encoders.base.WeightsShelf", Shelf)
        return kept.path

    def test_that_are_seeded_need_no_file(self, job):
        assert weights_here(job.recipe, None) is None

    def test_are_taken_from_where_the_command_has_them(self, job, on_the_shelf, tmp_path):
        (tmp_path / "weights.pth").touch()
        assert weights_here(job.recipe, tmp_path / "weights.pth") == tmp_path / "weights.pth"

    def test_that_are_not_there_are_found_on_this_machines_shelf_by_their_digest(self, job, on_the_shelf, tmp_path):
        assert weights_here(job.recipe, tmp_path / "weights.pth") == on_the_shelf

    def test_that_come_with_samkit_are_found_in_the_samkit_of_this_machine(self, job):
        recipe = replace(job.recipe, encoder="nano", weights_sha256=file_sha256(NANO.own_weights))
        assert weights_here(recipe, Path("/elsewhere/samkit/nano.safetensors")) == NANO.own_weights

    def test_that_are_nowhere_are_refused_with_both_places(self, job, tmp_path):
        with pytest.raises(WeightsError, match=r"no \S+weights.pth, and none with sha256 .* samkit weights add FILE"):
            weights_here(job.recipe, tmp_path / "weights.pth")


class TestErrorsThatTravel:
    def arrived(self, error: Exception) -> Exception:
        @stations._plainly
        def fail() -> None:
            raise error

        with pytest.raises(Exception) as raised:
            fail()
        assert raised.value.__context__ is raised.value.__cause__ is None
        return pickle.loads(pickle.dumps(raised.value))  # type: ignore[no-any-return]

    def test_of_samkit_arrive_as_what_they_are_without_what_caused_them(self):
        error = StoreError("no connection")
        error.__cause__ = RuntimeError(threading.Lock())  # which cannot be sent
        arrived = self.arrived(error)
        assert type(arrived) is StoreError
        assert str(arrived) == "no connection"

    def test_of_the_system_arrive_with_number_and_place(self):
        arrived = self.arrived(OSError(28, "No space left on device", "/w/features"))
        assert isinstance(arrived, OSError)
        assert (arrived.errno, arrived.strerror, arrived.filename) == (28, "No space left on device", "/w/features")

    def test_that_nobody_expects_arrive_with_their_traceback(self):
        arrived = self.arrived(ZeroDivisionError("one and a half"))
        assert type(arrived) is WorkerFault
        assert "in fail" in str(arrived)
        assert str(arrived).rstrip().endswith("ZeroDivisionError: one and a half")
