"""What runs inside the workers of a dask cluster: the place where a command's encoder stands.

A station is a dask plugin of one worker: it keeps the encoder between shards, and frees it when the command ends or
dies. It is put into each worker by a task that runs there and finds the workspace and the weights. Registered with the
scheduler, it would be sent to all that join later, and a worker that cannot import it would fail to start: on a cluster
that others use, for whatever they compute. And it would stay there when a command is killed.
"""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import socket
import threading
import traceback
import uuid
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from distributed import WorkerPlugin, get_worker
from distributed.utils import sync

from ..store.errors import DeviceError, SamkitError, WeightsError
from ..store.keys import Recipe
from ..store.workspace import open_workspace

if TYPE_CHECKING:
    from distributed import Worker

    from ..stages.embed import EmbedJob, Read, ShardResult, ShardWorker
    from ..stages.encoders.compute import ComputeClass
    from ..store.embeddings import ShardPlan
    from ..store.prefetch import Prefetched


Words = ParamSpec("Words")
Answer = TypeVar("Answer")

# A name of this process.
_PROCESS = uuid.uuid4().hex


class UnfitWorker(Exception):
    """A worker cannot compute any shard of this command; the reason is for the user."""


class StationGone(Exception):
    """The worker was started anew since its station was opened."""


class WorkerFault(Exception):
    """A worker met an error that nobody expects; its traceback is the message."""


def _plainly(work: Callable[Words, Answer]) -> Callable[Words, Answer]:
    """Let only errors travel that arrive.

    An exception is sent with what caused it. What cannot be read at the other end, as some of a store's library, comes
    as something else, or not at all: and then the command would wait for ever.
    """

    @wraps(work)
    def plain(*words: Words.args, **named: Words.kwargs) -> Answer:
        try:
            return work(*words, **named)
        except (UnfitWorker, SamkitError) as error:
            failed: Exception = type(error)(str(error))
        except StationGone:
            failed = StationGone()
        except Exception as error:  # noqa: BLE001 - it is raised again, at the other end
            if isinstance(error, OSError) and error.errno is not None:
                failed = OSError(error.errno, error.strerror, error.filename)
            else:
                failed = WorkerFault("".join(traceback.format_exception(error)))
        # Out here it has no context.
        raise failed

    return plain


# -- a worker is made ready ------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class Opened:
    """A station that waits for shards."""

    #: Of the process: a worker that was started anew has another, be it under the same address.
    process: str
    #: What the encoder runs on, as far as it decides the last bits of a row.
    hardware: str


@_plainly
def open_station(packed_job: bytes, devices: Mapping[str, str], token: str) -> Opened:
    """Look whether this worker can compute shards of a job, and make it ready to; nothing is loaded yet.

    Parameters
    ----------
    packed_job
        The pickled `EmbedJob`: the scheduler unpacks what it hands on, and has no use for torch. Its device is that of
        workers that ``devices`` does not name.
    devices
        By names of workers, which stay where the address changes: a worker that was killed is started anew.
    token
        The key of the task that calls this. The station stands for as long as somebody holds its result.

    Raises
    ------
    UnfitWorker
        When the workspace, the weights or the device is not there.
    """
    worker = get_worker()
    job: EmbedJob = pickle.loads(packed_job)  # noqa: S301 - a scheduler is trusted like a shell
    if devices:  # a process of this command's own: what zarr says of a read that its end cuts short is of no use
        logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    mine = replace(job, device=devices.get(str(worker.name), job.device))
    try:
        opened = Opened(process=_PROCESS, hardware=_hardware(mine.device))
        workspace = open_workspace(mine.workspace)
        workspace.embeddings(mine.recipe.id)
        mine = replace(mine, weights=weights_here(mine.recipe, mine.weights))
    except (SamkitError, OSError) as error:
        raise UnfitWorker(str(error)) from error
    station = Station(mine, token)
    answer = sync(worker.loop, worker.plugin_add, plugin=station, name=station_name(job))
    if answer["status"] != "OK":
        message = f"its station could not be set up: {answer}"
        raise UnfitWorker(message)
    return opened


def station_name(job: EmbedJob) -> str:
    """Return the plugin's name: every command has a station of its own."""
    return f"samkit-{job.writer}"


def weights_here(recipe: Recipe, weights: Path | None) -> Path | None:
    """Return a recipe's checkpoint on this machine: where the command has it, in samkit itself, or on the shelf here.

    Raises
    ------
    WeightsError
        When it is in none of these places.
    """
    from ..stages.encoders.base import weights_at_hand
    from ..stages.encoders.shelf import WeightsShelf

    if weights is None or weights.exists():
        return weights
    kept = weights_at_hand(recipe)
    if kept is None:
        message = (
            f"the weights of {recipe.encoder} are not there: no {weights}, and none with sha256 "
            f"{recipe.weights_sha256[:16]}.. on the shelf ({WeightsShelf().folder}). Put the file into a folder that "
            f"all workers see, or onto the shelf there: samkit weights add FILE"
        )
        raise WeightsError(message)
    return kept


def _hardware(device: str) -> str:
    """Return the kind of processor or GPU; a device that is not there is refused."""
    import torch

    from ..stages.encoders.devices import CPU_BFLOAT16, find_device

    found = find_device(device)
    if found.type == "cuda":
        return torch.cuda.get_device_name(found)
    if found.type == "mps":
        return "Metal"
    able = torch.cpu.get_capabilities()
    return " ".join([torch.backends.cpu.get_cpu_capability(), *(name for name in CPU_BFLOAT16 if able.get(name))])


# -- shards ----------------------------------------------------------------------------------------


class Station(WorkerPlugin):
    """A command's encoder in a worker, and the one thread in which it runs.

    Tasks run in the worker's own threads, one a shard: they read, hand the slices to the encoder's thread, and write.
    """

    def __init__(self, job: EmbedJob, token: str) -> None:
        self._job = job
        self._token = token
        self._loading: Future[ShardWorker] | None = None
        self._reading: set[Prefetched[Read]] = set()
        self._lock = threading.Lock()
        self._closed = False

    def setup(self, worker: Worker) -> None:
        """Keep the worker; dask calls this in its event loop."""
        self._worker = worker
        self.process = _PROCESS
        # One thread: the order of sums depends on the number of OpenMP's threads, which is a setting of the thread.
        self._encoder = ThreadPoolExecutor(1, thread_name_prefix="samkit-encode")

    def transition(self, key: object, start: str, finish: str, **_: object) -> None:
        """Close the station when nobody holds its token any more: the command has ended, or its process was killed."""
        if key == self._token and start == "memory" and finish in ("released", "forgotten"):
            self._worker.loop.add_callback(self._worker.plugin_remove, name=station_name(self._job))

    def teardown(self, worker: Worker) -> None:  # noqa: ARG002 - dask's
        """Free the encoder, after the micro-batch that it is at; dask calls this in the worker's event loop."""
        with self._lock:
            self._closed = True
            for slices in self._reading:
                slices.close()
        self._encoder.submit(self._free)
        self._encoder.shutdown(wait=False)

    def compute(self, plan: ShardPlan) -> ShardResult:
        """Compute and keep one shard, unless somebody else has; several threads may be here at once.

        Raises
        ------
        UnfitWorker
            When the encoder cannot be loaded here, or the device is too small for it.
        """
        from ..stages.embed import ShardResult

        try:
            worker = self._loaded()
            if (record := worker.standing(plan)) is not None:
                return ShardResult(record=record)
            with self._slices(worker, plan) as slices:
                encoded = self._encoder.submit(worker.encode, plan, slices).result()
        except (DeviceError, WeightsError) as error:
            raise UnfitWorker(str(error)) from error
        if self._closed:
            raise StationGone
        return worker.write(encoded)

    @contextlib.contextmanager
    def _slices(self, worker: ShardWorker, plan: ShardPlan) -> Iterator[Prefetched[Read]]:
        """Read the slices of a shard inside the block, unless the station is closed."""
        with worker.read(plan) as slices:
            with self._lock:
                if self._closed:
                    raise StationGone
                self._reading.add(slices)
            try:
                yield slices
            finally:
                with self._lock:
                    self._reading.discard(slices)

    def _loaded(self) -> ShardWorker:
        """Return the encoder at work, loaded with the first shard."""
        from ..stages.encoders.memory import keep_freed_memory

        keep_freed_memory()  # before the encoder's thread starts: where a thread's memory is, is decided then
        with self._lock:
            if self._closed:
                raise StationGone
            if self._loading is None:
                self._loading = self._encoder.submit(self._load)
            loading = self._loading
        return loading.result()

    def _load(self) -> ShardWorker:
        from ..stages.embed import ShardWorker

        return ShardWorker(self._job)

    def _free(self) -> None:
        self._loading = None
        if self._job.device.startswith("cuda"):
            import torch

            torch.cuda.empty_cache()


@_plainly
def compute_shard(plan: ShardPlan, station: str, process: str) -> ShardResult:
    """Compute one shard at the station of this worker.

    Raises
    ------
    StationGone
        When there is none, or that of another process under the same address.
    """
    found = get_worker().plugins.get(station)
    if not isinstance(found, Station) or found.process != process:
        raise StationGone
    return found.compute(plan)


# -- before the first shard ------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class Survey:
    """What a worker says of itself before anything is planned."""

    #: Where, and on which of its cores: workers for which this is the same share them.
    place: str
    #: How many cores that are.
    cores: int
    #: What ``--precision auto`` means there.
    precision: str


@_plainly
def survey(device: str) -> Survey:
    """Say what this worker has.

    Raises
    ------
    DeviceError
        When it does not have the device.
    """
    from ..stages.encoders.devices import find_device, resolve_precision, usable_cores

    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    return Survey(
        place=f"{socket.gethostname()} {cores}",
        cores=usable_cores(),
        precision=resolve_precision("auto", find_device(device)),
    )


@_plainly
def choose_compute_here(recipe: Recipe, weights: Path | None, device: str) -> ComputeClass:
    """Decide how a recipe's rows are computed, by this worker's card and its memory.

    Raises
    ------
    DeviceError
        When it does not have the device, or the device is too small.
    WeightsError
        When the weights are not there.
    """
    from ..stages.encoders.base import load_recipe
    from ..stages.encoders.compute import choose_compute

    return choose_compute(load_recipe(recipe, weights_here(recipe, weights), device), device, workers=1)
