"""Where shards are computed: in this process, or by workers of a local dask cluster.

Both do the same: each shard is computed by one worker, and counts when its journal record
is there. No locks of our own; the scheduler hands out work, the journal makes it right.
"""

from __future__ import annotations

import contextlib
import itertools
import random
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from ..stages.embed import EmbedJob, ShardWorker
from ..stages.encoders.base import Encoder
from ..store.embeddings import ShardPlan
from ..store.errors import DamagedStore, DeviceError, InputError
from ..store.journal import ShardRecord

# Shards handed to the scheduler for each worker.
_SHARDS_AHEAD = 2


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
        worker = ShardWorker(job, encoder)
        queue = _Queue(job, shards)
        while (plan := queue.next()) is not None:
            result = _computed(worker, plan)
            queue.learn(result)
            yield result
    else:
        yield from _map_by_dask(job, shards, devices)


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
        if self._alone and isinstance(result, ShardRecord) and result.writer != self._writer:
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
    import dask
    from distributed import Client, Future, KilledWorker, LocalCluster, as_completed

    with contextlib.ExitStack() as stack:
        scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix="samkit-dask-"))
        stack.enter_context(dask.config.set({"distributed.worker.daemon": True}))
        cluster = stack.enter_context(
            LocalCluster(
                n_workers=len(devices),
                threads_per_worker=1,
                processes=True,
                dashboard_address=None,
                local_directory=scratch,
            )
        )
        client = stack.enter_context(Client(cluster))
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

    mine = replace(job, device=device_of.get(get_worker().address, job.device))
    if mine not in _workers:
        _workers[mine] = ShardWorker(mine)
    return _computed(_workers[mine], plan)
