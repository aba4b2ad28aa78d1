"""Where shards are computed: in this process, or by workers of a local dask cluster.

Both do the same: each shard is computed by one worker, and counts when its journal record
is there. No locks of our own; the scheduler hands out work, the journal makes it right.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from ..stages.embed import EmbedJob, ShardWorker
from ..stages.encoders.base import Encoder
from ..store.embeddings import ShardPlan
from ..store.errors import DeviceError, SamkitError
from ..store.journal import ShardRecord


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
        for plan in shards:
            yield _computed(worker, plan)
    else:
        yield from _map_by_dask(job, shards, devices)


def _computed(worker: ShardWorker, plan: ShardPlan) -> ShardRecord | ShardFailure:
    try:
        return worker(plan)
    except SamkitError as error:
        return ShardFailure(rows=len(plan.keys), reason=str(error))


def _map_by_dask(
    job: EmbedJob, shards: Sequence[ShardPlan], devices: Sequence[str]
) -> Iterator[ShardRecord | ShardFailure]:
    # dask is only imported when there is more than one worker: one process needs none of it.
    import dask
    from distributed import Client, KilledWorker, LocalCluster, as_completed

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
        futures = client.map(_compute_on_worker, shards, job=job, device_of=device_of, retries=2, pure=False)
        try:
            for future in as_completed(futures):
                yield future.result()
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
