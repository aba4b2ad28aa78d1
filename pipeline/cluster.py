"""Where work is done: in this process, or by workers of a local dask cluster. The only module that knows dask.

Both do the same: each shard is computed by one worker, and counts when its journal record
is there. No locks of our own; the scheduler hands out work, the journal makes it right.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import random
import tempfile
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

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
                # What a user should know of a killed worker is said by whoever waits for its result.
                silence_logs=logging.CRITICAL,
            )
        )
        yield stack.enter_context(Client(cluster))


def map_in_order(
    work: Callable[[Task], Result], tasks: Sequence[Task], workers: int, *, killed: Callable[[Task], Result]
) -> Iterator[Result]:
    """Do independent tasks in several processes, yielding the results in the order of the tasks.

    Parameters
    ----------
    work
        A function that travels, with what it needs.
    tasks
        Handed out as results are taken: few are under way at any time.
    workers
        Processes.
    killed
        What stands for the result of a task that killed its process twice; the others go on.
    """
    from distributed import Future, KilledWorker

    settings = {
        # One task a process at a time: a crash costs nobody else a try.
        "distributed.scheduler.worker-saturation": 1.0,
        "distributed.scheduler.allowed-failures": TRIES - 1,
        # As many processes as cores: none needs threads to compress.
        "distributed.nanny.pre-spawn-environ": {
            **{f"{library}_NUM_THREADS": 1 for library in ("OMP", "MKL", "OPENBLAS")},
            "ZARR_THREADING__MAX_WORKERS": 1,
        },
    }
    with local_client(workers, settings) as client:
        waiting = deque(tasks)
        running: deque[tuple[Task, Future[Result]]] = deque()

        def submit() -> None:
            if waiting:
                task = waiting.popleft()
                running.append((task, client.submit(work, task, pure=False)))

        for _ in range(_TASKS_AHEAD * workers):
            submit()
        while running:
            task, future = running.popleft()
            try:
                result = future.result()
            except KilledWorker:
                result = killed(task)
            future.release()
            submit()
            yield result


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
        running = as_completed(submit(_SHARDS_AHEAD * len(devices)))
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
