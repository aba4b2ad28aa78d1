"""Shards computed by the workers of a dask cluster: of this machine, one a device, or of one that runs already.

A shard is computed by one worker, and counts when its journal record is there. There are no locks: correctness comes
from the journal alone, whoever is killed when.
"""

from __future__ import annotations

import contextlib
import pickle
import queue as queues
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..store.errors import DeviceError, SamkitError
from ..store.local import LocalPlace
from . import console
from .clients import local_client, lost_scheduler, scheduler_client
from .console import counted
from .dispatch import MOST_WORKERS_LOST, SHARDS_AT_ONCE, Dispatcher
from .versions import difference, looker, versions

if TYPE_CHECKING:
    from distributed import Client, Future

    from ..stages.embed import EmbedJob, ShardResult
    from ..stages.encoders.base import Encoder
    from ..stages.encoders.compute import ComputeClass
    from ..store.embeddings import ShardPlan
    from ..store.journal import Journal, ShardRecord
    from .shards import ShardQueue
    from .stations import Opened

# How often the scheduler is asked who is there: that long a shard lies idle whose worker was lost.
_SECONDS_BETWEEN_LOOKS = 1.0
# A process of this machine that was killed is back in a few seconds, if it can be at all.
_SECONDS_TO_COME_BACK = 120.0
# Until then workers that do not answer are not spoken of: they may be starting, or at somebody else's task.
_SECONDS_OF_PATIENCE = 10.0
# A result is on its way when its task has ended.
_SECONDS_TO_FETCH = 10.0
# A network file system may show a new file late: NFS keeps what it knows of a folder for up to a minute.
_SECONDS_TO_APPEAR = 90.0
# A message names so many slices, and counts the rest.
_NAMED = 3


def map_by_dask(
    job: EmbedJob, queue: ShardQueue, devices: Sequence[str], *, scheduler: str | None = None
) -> Generator[ShardResult]:
    """Compute shards by workers of a dask cluster, yielding what became of each.

    Parameters
    ----------
    job
        What the workers need; those of a ``scheduler`` use its device.
    queue
        The shards.
    devices
        A process of this machine is started for each, unless there is a ``scheduler``.
    scheduler
        Of a cluster that runs already: its address, or a scheduler file.

    Raises
    ------
    DeviceError
        When the scheduler cannot be reached or is lost, or no worker can do the work.
    """
    # Others have other working directories.
    workspace = LocalPlace(job.workspace.path.absolute()) if isinstance(job.workspace, LocalPlace) else job.workspace
    job = replace(job, workspace=workspace, weights=None if job.weights is None else job.weights.absolute())
    with contextlib.ExitStack() as stack:
        if scheduler is None:
            # What a worker takes is bounded by its encoder and a few shards. By default dask would pause it at 80 % of
            # an equal share of the machine's memory and kill it at 95 %, whatever is free beside it.
            settings = {"distributed.nanny.pre-spawn-environ.MALLOC_ARENA_MAX": "1"}  # see `keep_freed_memory`
            client = stack.enter_context(
                local_client(len(devices), threads=SHARDS_AT_ONCE, memory_limit=0, settings=settings)
            )
            named = {str(number): device for number, device in enumerate(devices)}
        else:
            client = stack.enter_context(scheduler_client(scheduler))
            _check_scheduler(client, scheduler)
            named = {}
        yield from stack.enter_context(_Computing(client, job, queue, devices=named, scheduler=scheduler)).results()


# -- before the first shard ------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class ClusterSurvey:
    """What the workers of a cluster have, before anything is planned."""

    workers: int
    #: Cores a worker may use, those that share cores dividing them; the fewest of all workers.
    threads: int
    #: What ``--precision auto`` means there: bfloat16 where all of them have it.
    precision: str


def survey_cluster(scheduler: str, device: str) -> ClusterSurvey:
    """Ask the workers of a cluster what they have; where there are none yet, wait for the first.

    Parameters
    ----------
    scheduler
        Its address, or a scheduler file.
    device
        What each worker is to use: cpu, or cuda for the card that it sees.

    Raises
    ------
    DeviceError
        When the scheduler cannot be reached, or no worker can be used; what is wrong with each is said.
    """
    from .stations import survey

    with scheduler_client(scheduler) as client:
        _check_scheduler(client, scheduler)
        there, refused = _fit_workers(client, scheduler)
        told = _ask(client, scheduler, there, survey, device)
        refused |= {
            there[address]: _reason(answer) for address, answer in told.items() if isinstance(answer, Exception)
        }
        found = [answer for answer in told.values() if not isinstance(answer, Exception)]
    if not found:
        raise _nobody_fits(scheduler, refused)
    sharing = Counter(one.place for one in found)
    return ClusterSurvey(
        workers=len(found),
        threads=min(max(1, one.cores // sharing[one.place]) for one in found),
        precision="bfloat16" if all(one.precision == "bfloat16" for one in found) else "float32",
    )


def compute_of_cluster(
    scheduler: str, encoder: Encoder, weights: Path | None, device: str, found: ClusterSurvey
) -> ComputeClass:
    """Decide how the rows of an encoder are computed by a cluster: its cores and the memory of its cards count.

    Parameters
    ----------
    scheduler
        Its address, or a scheduler file.
    encoder
        As it was loaded here, on the processor.
    weights
        Its checkpoint; None for seeded weights.
    device
        What each worker is to use.
    found
        What its workers have.

    Raises
    ------
    DeviceError
        When no worker can load the encoder; what is wrong with each is said.
    """
    from ..stages.encoders.compute import choose_compute, device_kind
    from .stations import choose_compute_here

    if device_kind(device) == "cpu":
        return replace(choose_compute(encoder, device, 1), threads=found.threads)
    weights = None if weights is None else weights.absolute()
    with scheduler_client(scheduler) as client:
        _check_scheduler(client, scheduler)
        there, refused = _fit_workers(client, scheduler)
        # All at once: the first of them may be at somebody else's task for hours.
        answers = _ask(client, scheduler, there, choose_compute_here, encoder.recipe, weights, device)
        for address, answer in answers.items():
            if not isinstance(answer, Exception):
                chosen: ComputeClass = answer
                return chosen
            refused[there[address]] = _reason(answer)
    raise _nobody_fits(scheduler, refused)


def _fit_workers(client: Client, scheduler: str) -> tuple[dict[str, str], dict[str, str]]:
    """Return the workers of our versions, as they are told of, by address; and why each other is refused."""
    waiting = _Waiting(scheduler=scheduler)
    while True:
        workers = _workers_of(client, scheduler)
        met = _meet(client, workers)
        if met:
            there = {address: workers[address].told for address, reason in met.items() if reason is None}
            refused = {workers[address].told: reason for address, reason in met.items() if reason is not None}
            return there, refused
        waiting.for_workers(present=False)
        time.sleep(_SECONDS_BETWEEN_LOOKS)


def _meet(client: Client, workers: Mapping[str, _Worker]) -> dict[str, str | None]:
    """Ask workers who they are; return by address why each does not fit, or None. Who has gone is left out."""
    if not workers:
        return {}
    ours = versions()
    met: dict[str, str | None] = {}
    for address, answer in client.run(looker(), workers=list(workers), on_error="return").items():
        if isinstance(answer, OSError):
            continue
        if isinstance(answer, Exception):
            met[address] = f"it cannot do what it is sent ({answer!r}): is its Python another than {ours['python']}?"
            continue
        workers[address].host = answer["host"]
        unlike = difference(answer, ours)
        met[address] = None if unlike is None else f"{unlike}. Rows of unlike versions are not mixed"
    return met


def _ask(
    client: Client, scheduler: str, workers: Iterable[str], question: Callable[..., Any], *words: object
) -> dict[str, Any]:
    """Ask workers something; return their answers or errors by address, of those that answer in time.

    Somebody else's task may keep a worker for hours: after the first answer the others have some seconds.
    """
    asked = {
        address: client.submit(question, *words, workers=[address], allow_other_workers=False, pure=False)
        for address in workers
    }
    waiting = _Waiting(scheduler=scheduler)
    until = float("inf")
    while time.monotonic() < until and not all(future.done() for future in asked.values()):
        time.sleep(_SECONDS_BETWEEN_LOOKS / 10)
        if not asked.keys() & _workers_of(client, scheduler).keys():
            break  # all of them have gone
        if until == float("inf") and any(future.done() for future in asked.values()):
            until = time.monotonic() + _SECONDS_OF_PATIENCE
        elif until == float("inf"):
            waiting.for_workers(present=True)
    return {
        address: future.exception() if future.status == "error" else future.result()
        for address, future in asked.items()
        if future.status in ("finished", "error")
    }


def _check_scheduler(client: Client, scheduler: str) -> None:
    """Refuse a scheduler of another environment: it takes every task apart."""
    needed = {name: version for name, version in versions().items() if name != "torch"}
    unlike = difference(client.run_on_scheduler(looker()), needed)
    if unlike is not None:
        message = (
            f"--scheduler {scheduler}: {unlike}. dask wants one environment for the command, the scheduler and the "
            f"workers: install the same there."
        )
        raise DeviceError(message)


def _workers_of(client: Client, scheduler: str) -> dict[str, _Worker]:
    """Return the workers that are there, by address.

    Raises
    ------
    DeviceError
        When the scheduler is lost.
    """
    found = client.scheduler_info(n_workers=-1) if client.status == "running" else {}
    if client.status != "running":
        raise lost_scheduler(scheduler)
    return {
        address: _Worker(address=address, name=str(told["name"]), host=str(told["host"]), threads=int(told["nthreads"]))
        for address, told in found.get("workers", {}).items()
    }


# -- the workers of one command --------------------------------------------------------------------


@dataclass(kw_only=True, slots=True)
class _Worker:
    """A worker that is there, and how far we are with it."""

    address: str
    name: str
    host: str
    threads: int
    #: Why it gets no shards; None where it does, or may.
    refused: str | None = None
    #: Its station stands while this is held.
    token: Future[Opened] | None = None
    opened: Opened | None = None
    #: Whether what it writes was seen to arrive here.
    seen: bool = False

    @property
    def told(self) -> str:
        """What messages call it."""
        return f"worker {self.name} on {self.host}"


@dataclass(frozen=True, kw_only=True, slots=True)
class _Task:
    """A task that is under way."""

    kind: Literal["open", "shard"]
    worker: str
    future: Future[Any]
    plan: ShardPlan | None = None


@dataclass(kw_only=True, slots=True)
class _Waiting:
    """Says once what is waited for, while nobody works."""

    scheduler: str | None
    since: float = field(default_factory=time.monotonic)
    said: str | None = None

    def for_workers(self, *, present: bool) -> None:
        """There is nobody to work, or there are some who do not answer.

        Raises
        ------
        DeviceError
            When processes of this machine do not come back.
        """
        seconds = time.monotonic() - self.since
        if self.scheduler is None:
            if not present and seconds > _SECONDS_TO_COME_BACK:
                message = (
                    f"no worker process has come back for {seconds:.0f} s. What was finished is kept: run the same "
                    f"command again, with fewer workers if memory is short."
                )
                raise DeviceError(message)
            return
        if not present:
            self._say(f"{self.scheduler} has no workers: waiting for one (Ctrl-C ends; what is finished is kept)")
        elif seconds > _SECONDS_OF_PATIENCE:
            self._say(f"the workers of {self.scheduler} have not answered yet: starting, or at other tasks. Waiting")

    def over(self) -> None:
        """Somebody works."""
        self.since, self.said = time.monotonic(), None

    def _say(self, text: str) -> None:
        if self.said != text:
            self.said = text
            console.say(text)


class _Computing:
    """Hands the shards of one command to the workers that are there; used by one thread.

    dask could choose the workers itself. It would not say which of a killed worker's shards was to blame, nor do one
    alone, and it would hand shards to workers that cannot do them.
    """

    def __init__(
        self, client: Client, job: EmbedJob, queue: ShardQueue, *, devices: Mapping[str, str], scheduler: str | None
    ) -> None:
        self._client, self._job, self._queue = client, job, queue
        #: By the names of workers.
        self._devices = devices
        self._scheduler = scheduler
        self._dispatcher = Dispatcher(queue.next)
        #: Those that are there, by address.
        self._workers: dict[str, _Worker] = {}
        #: By key; what is not here any more was given up, and its end is nobody's concern.
        self._tasks: dict[str, _Task] = {}
        self._ended: queues.SimpleQueue[Future[Any]] = queues.SimpleQueue()
        self._waiting = _Waiting(scheduler=scheduler)
        #: Lost before their station was open, by the names of workers.
        self._stillborn: Counter[str] = Counter()
        self._said: set[str] = set()

    def __enter__(self) -> _Computing:
        """Nothing is asked of anybody yet."""
        return self

    def __exit__(self, *_: object) -> None:
        """Give up what is under way, and let the stations be closed."""
        for worker in list(self._workers.values()):
            self._release(worker)

    def results(self) -> Iterator[ShardResult]:
        """Yield what became of each shard."""
        looked = float("-inf")
        while True:
            if time.monotonic() - looked > _SECONDS_BETWEEN_LOOKS:
                looked = time.monotonic()
                for plan in self._look_around():
                    yield self._given_up(plan)
            for handed in self._dispatcher.hand_out():
                self._compute(self._workers[handed.worker], handed.plan)
            if self._dispatcher.done:
                return
            try:
                future = self._ended.get(timeout=_SECONDS_BETWEEN_LOOKS / 2)
            except queues.Empty:
                continue
            for result in self._learn(future):
                self._queue.learn(result)
                yield result

    # -- who is there ------------------------------------------------------------------------------

    def _look_around(self) -> Iterator[ShardPlan]:
        """See who has come and who has gone; yield the shards that have taken too many workers with them."""
        there = _workers_of(self._client, self._told_scheduler)
        for address in [address for address in self._workers if address not in there]:
            yield from self._gone(self._workers[address])
        new = {address: worker for address, worker in there.items() if address not in self._workers}
        met = _meet(self._client, new)
        for address in met:
            if self._stillborn[new[address].name] >= MOST_WORKERS_LOST:
                met[address] = f"it was killed or lost {MOST_WORKERS_LOST} times before it could begin"
        self._workers |= {address: new[address] for address in met}
        for address, reason in met.items():
            if reason is None:
                # Of a process of this machine its device says more.
                new[address].host = self._devices.get(new[address].name, new[address].host)
                self._open(new[address])
            else:
                self._refuse(new[address], reason)
        if self._dispatcher.workers:
            self._waiting.over()
        else:
            self._waiting.for_workers(present=bool(there))

    def _gone(self, worker: _Worker) -> list[ShardPlan]:
        """Forget a worker, which is met again as a new one if it is back; return the shards that are given up."""
        killed = not left_in_peace(event for _, event in self._client.get_events(worker.address))
        lost = sum(task.worker == worker.address and task.plan is not None for task in self._tasks.values())
        self._release(worker)
        del self._workers[worker.address]
        self._stillborn[worker.name] += killed and worker.opened is None and worker.refused is None
        guilty = self._dispatcher.leave(worker.address, killed=killed)
        if lost and killed:
            again = f"{counted(lost - len(guilty), 'shard')} of it are done again, one at a time"
            console.warn(f"{worker.told} was killed or lost at work; {again}")
        elif lost:
            console.say(f"{worker.told} has left; {counted(lost, 'shard')} of it are done again by others")
        return guilty

    def _refuse(self, worker: _Worker, reason: str) -> None:
        """Give a worker no shards; those that it has are for others.

        Raises
        ------
        DeviceError
            When nobody is left who could do them.
        """
        worker.refused = reason
        self._release(worker)
        self._dispatcher.leave(worker.address, killed=False)
        if all(one.refused is not None for one in self._workers.values()):
            raise _nobody_fits(self._told_scheduler, {one.told: one.refused or "" for one in self._workers.values()})
        console.warn(f"{worker.told} is not used: {reason}")

    def _release(self, worker: _Worker) -> None:
        """Give up a worker's tasks, and its station."""
        for key, task in list(self._tasks.items()):
            if task.worker == worker.address:
                del self._tasks[key]
                task.future.release()
        if worker.token is not None:
            worker.token.release()
            worker.token = None

    # -- what they are asked -----------------------------------------------------------------------

    def _open(self, worker: _Worker) -> None:
        from .stations import open_station

        key = f"open-{self._job.writer}-{worker.address}-{time.monotonic_ns()}"
        self._submit("open", worker, open_station, pickle.dumps(self._job), dict(self._devices), key, key=key)

    def _compute(self, worker: _Worker, plan: ShardPlan) -> None:
        from .stations import compute_shard, station_name

        process = "" if worker.opened is None else worker.opened.process
        self._submit("shard", worker, compute_shard, plan, station_name(self._job), process, plan=plan)

    def _submit(
        self,
        kind: Literal["open", "shard"],
        worker: _Worker,
        function: Callable[..., Any],
        *words: object,
        plan: ShardPlan | None = None,
        key: str | None = None,
    ) -> None:
        future = self._client.submit(
            function, *words, workers=[worker.address], allow_other_workers=False, pure=False, key=key
        )
        self._tasks[str(future.key)] = _Task(kind=kind, worker=worker.address, future=future, plan=plan)
        future.add_done_callback(self._ended.put)

    # -- what they answer --------------------------------------------------------------------------

    def _learn(self, future: Future[Any]) -> Iterator[ShardResult]:
        """Take the answer of a task that has ended."""
        task = self._tasks.get(str(future.key))
        if task is None:
            return
        worker = self._workers[task.worker]
        status = future.status
        if status == "error":
            del self._tasks[str(future.key)]
            yield from self._failed(worker, task, future.exception())
            return
        if status == "cancelled":
            # The scheduler is lost, which is said; or somebody has restarted the cluster.
            _workers_of(self._client, self._told_scheduler)
            yield from map(self._given_up, self._gone(worker))
            return
        try:
            answer = future.result(timeout=_SECONDS_TO_FETCH)
        except TimeoutError:  # the worker was lost with its answer, which is seen at the next look
            future.add_done_callback(self._ended.put)
            return
        del self._tasks[str(future.key)]
        if task.kind == "open":
            self._learn_opened(worker, future, answer)
        elif task.plan is not None and self._has_arrived(worker, answer.record):
            self._dispatcher.finish(worker.address, task.plan)
            yield answer

    def _learn_opened(self, worker: _Worker, token: Future[Opened], opened: Opened) -> None:
        worker.token, worker.opened = token, opened
        others = {one.opened.hardware for one in self._workers.values() if one.opened is not None}
        if len(others) > 1:
            self._warn_once(
                "unlike",
                f"the workers are not alike ({'; '.join(sorted(others))}): rows agree within the recipe's tolerance, "
                f"not bitwise",
            )
        if worker.threads == 1 and self._scheduler is not None:
            self._warn_once(
                "threads",
                f"{worker.told} does one task at a time: reading and writing wait for the encoder. Workers started "
                f"with --nthreads {SHARDS_AT_ONCE} do them side by side",
            )
        self._dispatcher.join(worker.address)

    def _failed(self, worker: _Worker, task: _Task, error: BaseException) -> Iterator[ShardResult]:
        """Judge an error: of a worker, which others make good; or of the whole run, which it ends."""
        from distributed import KilledWorker

        from .stations import StationGone, UnfitWorker

        if isinstance(error, StationGone | KilledWorker):
            # The worker was killed and started anew before we looked, or it is leaving.
            yield from map(self._given_up, self._gone(worker))
        elif task.kind != "shard" or isinstance(error, UnfitWorker):
            self._refuse(worker, _reason(error))
        elif isinstance(error, SamkitError) and self._scheduler is not None:
            message = f"{worker.told}: {error}"
            raise type(error)(message) from error
        else:
            raise error

    def _has_arrived(self, worker: _Worker, record: ShardRecord | None) -> bool:
        """Look whether what a worker writes is in the workspace that this command has: once, and of others' records.

        A path may lead to a disk of the worker's own, with a copy of the workspace on it, be it an older one.
        """
        if worker.seen or record is None or self._scheduler is None:
            return True
        until = time.monotonic() + _SECONDS_TO_APPEAR
        while not self._journal.look_for(record.shard):
            if time.monotonic() > until:
                self._refuse(
                    worker,
                    f"what it writes to {self._job.workspace} does not arrive here. The path has to lead to one and "
                    f"the same directory everywhere, and there it is another",
                )
                return False
            time.sleep(_SECONDS_BETWEEN_LOOKS)
        worker.seen = record.writer == self._job.writer
        return True

    @cached_property
    def _journal(self) -> Journal:
        from ..store.workspace import open_workspace

        return open_workspace(self._job.workspace).embeddings(self._job.recipe.id).journal

    # -- what is said ------------------------------------------------------------------------------

    @property
    def _told_scheduler(self) -> str:
        return self._scheduler or "the workers of this machine"

    def _given_up(self, plan: ShardPlan) -> ShardResult:
        """Return what is said of a shard that has killed too many workers."""
        from ..stages.embed import ShardFailure, ShardResult
        from ..store.slices import SliceFinder
        from ..store.workspace import open_workspace

        slices = SliceFinder(open_workspace(self._job.workspace).volumes)
        named = ", ".join(slices.place_of(key) for key in plan.keys[:_NAMED])
        more = f" and {len(plan.keys) - _NAMED} more" if len(plan.keys) > _NAMED else ""
        reason = (
            f"{named}{more}: {MOST_WORKERS_LOST} workers were killed or lost while they embedded these slices, at last "
            f"with nothing else to do. The usual cause is memory: look for the killer in the system's log (dmesg), and "
            f"give fewer --workers, a smaller --size, or machines with more"
        )
        return ShardResult(record=None, failures=(ShardFailure(rows=len(plan.keys), reason=reason),))

    def _warn_once(self, subject: str, text: str) -> None:
        if subject not in self._said:
            self._said.add(subject)
            console.warn(text)


def left_in_peace(events: Iterable[object]) -> bool:
    """Tell whether a worker said that it was leaving: at the end of a job's time, or when a cluster shrinks.

    Parameters
    ----------
    events
        What dask's scheduler has logged of its address, in order; more than one worker may have had it.

    >>> left_in_peace([{"action": "add-worker"}, {"action": "closing-worker"}, {"action": "remove-worker"}])
    True
    >>> left_in_peace([{"action": "add-worker"}, {"action": "remove-worker", "expected": False}])
    False
    """
    closing = peace = False
    for event in events:
        action = event.get("action") if isinstance(event, Mapping) else None
        if action == "add-worker":
            closing = False
        elif action == "closing-worker":
            closing = peace = True
        elif action == "remove-worker" and isinstance(event, Mapping):
            peace = closing or bool(event.get("expected"))
    return peace


def _nobody_fits(scheduler: str, refused: Mapping[str, str]) -> DeviceError:
    """Return the error of a cluster without a worker that could do anything: with each reason once."""
    by_reason: dict[str, list[str]] = {}
    for worker, reason in refused.items():
        by_reason.setdefault(reason, []).append(worker)
    said = ". ".join(
        f"{workers[0]}{f' and {len(workers) - 1} more' if len(workers) > 1 else ''}: {reason.rstrip('.')}"
        for reason, workers in by_reason.items()
    )
    return DeviceError(f"{scheduler}: no worker can be used. {said or 'None has answered'}.")


def _reason(error: BaseException) -> str:
    """Say why a worker cannot be used."""
    from .stations import UnfitWorker, WorkerFault

    if isinstance(error, WorkerFault):
        return str(error).rstrip().rpartition("\n")[2]
    return str(error) if isinstance(error, SamkitError | UnfitWorker) else repr(error)
