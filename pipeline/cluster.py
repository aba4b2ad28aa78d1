"""Where work is done: in this process, or by workers of a local dask cluster. The only module that knows dask.

Both do the same: each shard is computed by one worker, and counts when its journal record
is there. No locks of our own; the scheduler hands out work, the journal makes it right.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import multiprocessing
import os
import random
import signal
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent import futures
from dataclasses import dataclass, replace
from multiprocessing import forkserver, resource_tracker
from typing import TYPE_CHECKING, Any, Self, TypeVar

from ..store.errors import DamagedStore, DeviceError, InputError

if TYPE_CHECKING:
    from distributed import Client

    from ..stages.embed import EmbedJob, ShardWorker
    from ..stages.encoders.base import Encoder
    from ..store.embeddings import ShardPlan
    from ..store.journal import ShardRecord

# Shards handed to the scheduler for each worker.
_SHARDS_AHEAD = 2
# Results that come in order may wait for a slow one: so many, for each worker.
_TASKS_AHEAD = 3
#: A task that killed its process is tried once more: the system may have killed it for want of memory.
TRIES = 2

Task = TypeVar("Task")
Result = TypeVar("Result")


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardFailure:
    """A shard that could not be computed; the others go on."""

    rows: int
    reason: str


def map_shards(
    job: EmbedJob, shards: Sequence[ShardPlan], devices: Sequence[str], encoder: Encoder | None = None
) -> Iterator[ShardRecord | ShardFailure]:
    """Compute shards, yielding each record as it is committed; a shard that is refused costs only itself.

    Parameters
    ----------
    job
        What the workers need.
    shards
        The plan; order of completion is free.
    devices
        One worker a device; one device is served in this process, with ``encoder`` if it is loaded already.
    """
    if len(devices) == 1:
        from ..stages.embed import ShardWorker  # torch, which reading sources does without

        worker = ShardWorker(job, encoder)
        queue = _Queue(job, shards)
        while (plan := queue.next()) is not None:
            result = _computed(worker, plan)
            queue.learn(result)
            yield result
    else:
        yield from _map_by_dask(job, shards, devices)


@contextlib.contextmanager
def local_client(workers: int, settings: Mapping[str, Any] | None = None) -> Iterator[Client]:
    """Start a dask cluster of so many processes on this machine, one thread each, and stop it afterwards.

    Parameters
    ----------
    workers
        Processes.
    settings
        dask's own, by their names.
    """
    import dask
    from distributed import Client, LocalCluster

    with contextlib.ExitStack() as stack:
        scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix="samkit-dask-"))
        stack.enter_context(dask.config.set({"distributed.worker.daemon": True, **(settings or {})}))
        cluster = stack.enter_context(
            LocalCluster(
                n_workers=workers,
                threads_per_worker=1,
                processes=True,
                dashboard_address=None,
                local_directory=scratch,
                env=dict(os.environ),  # as it is now: processes may be forked from one that is older
                # What a user should know of a killed worker is said by whoever waits for its result.
                silence_logs=logging.CRITICAL,
            )
        )
        # No default client: that would be one of the thread which starts it.
        yield stack.enter_context(contextlib.closing(Client(cluster, set_as_default=False)))


class Processes:
    """Processes of this machine, one task at a time each; they start in the background, while this one goes on.

    They are forked from a server that has imported what the tasks need: a process more costs milliseconds, and its
    memory is shared until it is written to.
    """

    def __init__(self, workers: int, *, imports: Sequence[str]) -> None:
        """Take so many processes; none is started yet.

        Parameters
        ----------
        workers
            How many.
        imports
            Modules that the tasks need.
        """
        self.workers = workers
        self._imports = ("__main__", "distributed", *imports)
        self._stack = contextlib.ExitStack()
        self._client: futures.Future[Client] | None = None

    def __enter__(self) -> Self:
        """Nothing is started yet: most commands need no processes."""
        return self

    def __exit__(self, *_: object) -> None:
        """Stop the processes."""
        if self._client is not None:
            futures.wait([self._client])
        self._stack.close()

    def start(self) -> None:
        """Start the processes, unless they are; returns at once."""
        if self._client is None:
            starter = futures.ThreadPoolExecutor(1, thread_name_prefix="samkit-start")
            self._client = starter.submit(self._started)
            starter.shutdown(wait=False)

    @property
    def ready(self) -> bool:
        """Whether the processes wait for tasks."""
        return self._client is not None and self._client.done()

    def _started(self) -> Client:
        _run_fork_server(self._imports)
        settings = {
            "distributed.worker.multiprocessing-method": "forkserver",
            # One task a process at a time: a crash costs nobody else a try.
            "distributed.scheduler.worker-saturation": 1.0,
            "distributed.scheduler.allowed-failures": TRIES - 1,
        }
        return self._stack.enter_context(local_client(self.workers, settings))

    def map_in_order(
        self, work: Callable[[Task], Result], tasks: Iterable[Task], *, killed: Callable[[Task], Result]
    ) -> Iterator[Result]:
        """Do independent tasks, yielding the results in the order of the tasks; the processes are started if need be.

        Parameters
        ----------
        work
            A function that travels, with what it needs.
        tasks
            Handed out as results are taken: few are under way at any time.
        killed
            What stands for the result of a task that killed its process twice; the others go on.
        """
        from distributed import Future, KilledWorker

        self.start()
        assert self._client is not None
        client = self._client.result()
        waiting = iter(tasks)
        running: deque[tuple[Task, Future[Result]]] = deque()

        def submit(count: int) -> None:
            for task in itertools.islice(waiting, count):
                running.append((task, client.submit(work, task, pure=False)))

        submit(_TASKS_AHEAD * self.workers)
        while running:
            task, future = running.popleft()
            try:
                result = future.result()
            except KilledWorker:
                result = killed(task)
            future.release()
            submit(1)
            yield result


#: Of a process that is one of as many as there are cores: none needs threads of its own. And memory that a plane or a
#: shard has used is for the next one: giving it back and asking again cost a seventh of the time (page faults).
_ENVIRONMENT = {
    **{f"{library}_NUM_THREADS": "1" for library in ("OMP", "MKL", "OPENBLAS")},
    "ZARR_THREADING__MAX_WORKERS": "1",
    "MALLOC_TRIM_THRESHOLD_": str(1 << 30),
    "MALLOC_MMAP_THRESHOLD_": str(1 << 25),
}


def _run_fork_server(imports: Sequence[str]) -> None:
    """Start the process that others are forked from, in the environment that they need before any import.

    It and they are deaf to Ctrl-C, which reaches all processes of a terminal: this one hears it, and stops them.
    """
    before = {name: os.environ.get(name) for name in _ENVIRONMENT}
    resource_tracker.ensure_running()  # which would end the deafness
    heard = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    os.environ.update(_ENVIRONMENT)
    try:
        multiprocessing.get_context("forkserver").set_forkserver_preload(list(imports))
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, heard)
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


class _Queue:
    """The shards still to be computed: in order, until it shows that another command computes the same ones.

    Two commands that start together would go in step and compute everything twice. The first shard that turns out
    to be the other's tells that we are two; from then on each takes what is left in an order of its own, and what
    the other has finished is passed over. So at most the shards in flight are computed twice, without any lock.
    """

    def __init__(self, job: EmbedJob, shards: Sequence[ShardPlan]) -> None:
        self._writer = job.writer
        self._left = list(reversed(shards))
        self._alone = True

    def next(self) -> ShardPlan | None:
        """Return the next shard to compute, or None."""
        return self._left.pop() if self._left else None

    def learn(self, result: ShardRecord | ShardFailure) -> None:
        """Look whose shard it was."""
        if self._alone and not isinstance(result, ShardFailure) and result.writer != self._writer:
            self._alone = False
            random.Random(self._writer).shuffle(self._left)  # noqa: S311 - an order, no secret


def _computed(worker: ShardWorker, plan: ShardPlan) -> ShardRecord | ShardFailure:
    try:
        return worker(plan)
    except (InputError, DamagedStore) as error:
        # Of these slices alone. A store that cannot be reached, a full disk or other weights end the run: the next
        # shard would be computed for nothing.
        return ShardFailure(rows=len(plan.keys), reason=str(error))


def _map_by_dask(
    job: EmbedJob, shards: Sequence[ShardPlan], devices: Sequence[str]
) -> Iterator[ShardRecord | ShardFailure]:
    # dask is only imported when there is more than one worker: one process needs none of it.
    from distributed import Future, KilledWorker, as_completed

    with local_client(len(devices)) as client:
        addresses = sorted(client.scheduler_info(n_workers=-1)["workers"])
        device_of = dict(zip(addresses, devices, strict=True))
        queue = _Queue(job, shards)

        def submit(count: int) -> list[Future[ShardRecord | ShardFailure]]:
            plans = itertools.takewhile(lambda plan: plan is not None, (queue.next() for _ in range(count)))
            return [
                client.submit(_compute_on_worker, plan, job=job, device_of=device_of, retries=2, pure=False)
                for plan in plans
            ]

        # A worker never waits for its next shard, and the scheduler holds a few, however many there are.
        running = as_completed(submit(_SHARDS_AHEAD * len(devices)), loop=client.loop)
        try:
            for future in running:
                result = future.result()
                queue.learn(result)
                running.update(submit(1))
                yield result
        except KilledWorker as error:
            message = (
                "a worker was killed several times over the same shard; the system's memory is the usual cause. Shards "
                "that were finished are kept: run the same command with fewer --workers, or with a smaller --size."
            )
            raise DeviceError(message) from error


_workers: dict[EmbedJob, ShardWorker] = {}


def _compute_on_worker(plan: ShardPlan, *, job: EmbedJob, device_of: dict[str, str]) -> ShardRecord | ShardFailure:
    """Run in a dask worker: the encoder is loaded with the first shard and kept for the others."""
    from distributed import get_worker

    from ..stages.embed import ShardWorker

    mine = replace(job, device=device_of.get(get_worker().address, job.device))
    if mine not in _workers:
        _workers[mine] = ShardWorker(mine)
    return _computed(_workers[mine], plan)
