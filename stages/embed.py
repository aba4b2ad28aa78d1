"""embed: slices -> embeddings. Read the slices of a shard, encode them, write them, and only then say so.

Shapes: B slices in a micro-batch, N rows of a shard, C channels, h w cells, S pixels of the square.
"""

from __future__ import annotations

import time
import uuid
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..heads.base import MASK_DECODER_FILE
from ..heads.views import image_of
from ..store.documents import canonical_json
from ..store.embeddings import Embeddings, ShardPlan
from ..store.errors import DamagedStore, InputError, UnusableVoxels
from ..store.journal import ShardRecord
from ..store.keys import Recipe, RowKey
from ..store.places import Place
from ..store.precision import EXACT, StoredRows
from ..store.prefetch import Prefetched
from ..store.provenance import code_version
from ..store.slices import SliceFinder
from ..store.workspace import Workspace, open_workspace
from .encoders.base import Encoder, load_recipe
from .encoders.compute import ComputeClass, choose_compute, device_kind, too_small
from .encoders.memory import is_out_of_memory, peak_memory_bytes

# Slices that wait for the encoder: a few dozen of 512 x 512, at most.
_AHEAD_BYTES = 64 << 20
# A message names so many slices, and counts the rest.
_NAMED = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class EmbedJob:
    """Everything a worker needs to compute shards of one recipe: plain values that travel between processes."""

    workspace: Place
    recipe: Recipe
    #: The checkpoint; None for seeded weights.
    weights: Path | None
    device: str
    compute: ComputeClass
    #: A random name of this command, kept in every record it writes.
    writer: str = field(default_factory=lambda: uuid.uuid4().hex[:8])


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardFailure:
    """Slices that could not be embedded, for one reason; the others go on."""

    rows: int
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Timing:
    """What an encoder did with its time, in seconds of the wall; times of several shards add up."""

    #: Slices were prepared and encoded.
    encoding: float = 0.0
    #: It waited for slices to be read.
    reading: float = 0.0
    #: It waited between two shards: for the one before to be written, or for the next to be handed out.
    between: float = 0.0

    def __add__(self, other: Timing) -> Timing:
        return Timing(
            encoding=self.encoding + other.encoding,
            reading=self.reading + other.reading,
            between=self.between + other.between,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardResult:
    """What became of a shard."""

    #: The record that stands, this command's or another's; None where no row of it could be computed.
    record: ShardRecord | None
    failures: tuple[ShardFailure, ...] = ()
    timing: Timing = field(default_factory=Timing)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class EncodedShard:
    """Rows that are computed and not written yet."""

    plan: ShardPlan
    rows: StoredRows
    compute: ComputeClass
    failures: tuple[ShardFailure, ...]
    started: float
    timing: Timing


#: A slice that was read, (channels, rows, columns) in [0, 1], or why it could not be.
Read = NDArray[np.float16] | InputError | DamagedStore


class ShardWorker:
    """One process's way of computing shards: the encoder loaded once, the workspace open.

    A shard takes three steps. `encode` is for one thread at a time, and may run beside `read` of the next shard
    (which is a thread by itself) and `write` of the one before, so that the encoder waits for the disk only where the
    disk cannot keep up. Whatever runs beside each other, rows are the same.
    """

    def __init__(self, job: EmbedJob, encoder: Encoder | None = None) -> None:
        self._job = job
        workspace = open_workspace(job.workspace)
        self._slices = SliceFinder(workspace.volumes)
        self._embeddings = workspace.embeddings(job.recipe.id)
        self._encoder = load_recipe(job.recipe, job.weights, job.device) if encoder is None else encoder
        # A record says what its rows were made by, which may be another device than the one they were begun on.
        self._compute = replace(job.compute, device=device_kind(job.device))
        self._ended: float | None = None

    def __call__(self, plan: ShardPlan) -> ShardResult:
        """Compute and keep one shard, unless somebody else has meanwhile."""
        if (record := self.standing(plan)) is not None:
            return ShardResult(record=record)
        with self.read(plan) as slices:
            return self.write(self.encode(plan, slices))

    def standing(self, plan: ShardPlan) -> ShardRecord | None:
        """Return the record of a shard that somebody has finished, or None."""
        journal = self._embeddings.journal
        return journal.records[plan.id] if journal.look_for(plan.id) else None

    def read(self, plan: ShardPlan) -> Prefetched[Read]:
        """Begin to read the slices of a shard, in a thread; leaving the block ends it."""
        return Prefetched(
            _read(plan.keys, self._slices.apart()),
            size_bytes=lambda read: read.nbytes if isinstance(read, np.ndarray) else 0,
            ahead_bytes=_AHEAD_BYTES,
        )

    def encode(self, plan: ShardPlan, slices: Prefetched[Read]) -> EncodedShard:
        """Compute the rows of a shard, and end the reading of its slices.

        Where memory runs out, the shard begins anew with half as many slices at once, and so do later ones; its record
        says so.

        Raises
        ------
        DeviceError
            When memory does not hold one slice.
        """
        while True:
            with slices:
                try:
                    return self._encode(plan, slices)
                except (RuntimeError, MemoryError) as error:
                    if not is_out_of_memory(error):
                        raise
                    if self._compute.micro_batch == 1:
                        raise too_small(self._encoder, torch.device(self._job.device)) from error
            # Outside of the handler: the exception holds the frames, and they the memory.
            self._compute = replace(self._compute, micro_batch=self._compute.micro_batch // 2)
            if self._compute.device == "cuda":
                torch.cuda.empty_cache()
            slices = self.read(plan)

    def _encode(self, plan: ShardPlan, slices: Iterable[Read]) -> EncodedShard:
        started = time.perf_counter()
        between = 0.0 if self._ended is None else started - self._ended
        waited = _Waited(slices)
        recipe = self._embeddings.recipe
        rows = StoredRows.empty((len(plan.keys), *self._encoder.embedding_shape), recipe.storage_precision)
        good: list[int] = []
        bad: list[RowKey] = []
        reasons: Counter[str] = Counter()
        for positions, stored in _encoded(waited, self._encoder, self._compute, reasons):
            for position, row, finite in zip(positions, range(len(positions)), stored.finite(), strict=True):
                if finite:
                    rows.put(len(good), stored.take(slice(row, row + 1)))
                    good.append(position)
                else:
                    bad.append(plan.keys[position])
        if bad:
            named = ", ".join(self._slices.place_of(key) for key in bad[:_NAMED])
            more = f" and {len(bad) - _NAMED} more" if len(bad) > _NAMED else ""
            reasons[_not_finite(recipe, named + more)] = len(bad)
        self._ended = time.perf_counter()
        timing = Timing(
            encoding=self._ended - started - waited.seconds,
            reading=waited.seconds,
            between=between,
        )
        kept = ShardPlan(recipe_id=plan.recipe_id, keys=tuple(plan.keys[position] for position in good))
        return EncodedShard(
            plan=kept,
            rows=rows.take(slice(len(good))),
            compute=self._compute,
            failures=tuple(ShardFailure(rows=count, reason=reason) for reason, count in reasons.items()),
            started=started,
            timing=timing,
        )

    def write(self, encoded: EncodedShard) -> ShardResult:
        """Keep the rows of a shard, and only then say so."""
        record = None
        if encoded.plan.keys:
            record = self._embeddings.write(
                encoded.plan,
                encoded.rows,
                compute=encoded.compute.to_json(),
                seconds=time.perf_counter() - encoded.started,
                peak_memory_bytes=peak_memory_bytes(),
                code_version=code_version(),
                writer=self._job.writer,
            )
        return ShardResult(record=record, failures=encoded.failures, timing=encoded.timing)


def _read(keys: Sequence[RowKey], slices: SliceFinder) -> Iterator[Read]:
    for key in keys:
        try:
            yield image_of(slices, key)
        except (InputError, DamagedStore) as error:
            # Of this slice alone. A store that cannot be reached ends the run: the next one would fail as well.
            yield error


class _Waited:
    """An iterator that counts the seconds for which its items were waited for."""

    def __init__(self, items: Iterable[Read]) -> None:
        self._items = iter(items)
        self.seconds = 0.0

    def __iter__(self) -> Iterator[Read]:
        while True:
            began = time.perf_counter()
            item = next(self._items, None)
            self.seconds += time.perf_counter() - began
            if item is None:
                return
            yield item


def _encoded(
    slices: Iterable[Read], encoder: Encoder, compute: ComputeClass, reasons: Counter[str]
) -> Iterator[tuple[list[int], StoredRows]]:
    """Yield (positions, rows) by micro-batches of a fixed size; slices that could not be read are counted by reason."""
    if compute.device == "cpu" and torch.get_num_threads() != compute.threads:
        # The order of sums depends on it, and rows of one recipe are bitwise those of one class.
        torch.set_num_threads(compute.threads)
    positions: list[int] = []
    prepared: list[Tensor] = []

    def encode() -> tuple[list[int], StoredRows]:
        filled = prepared + prepared[-1:] * (compute.micro_batch - len(prepared))
        features = encoder.encode(torch.cat(filled), compute.kernel_path)[: len(prepared)]
        if encoder.recipe.storage_precision == "float16":
            features = features.half()  # before it travels; what is too large becomes infinite
        rows = StoredRows.of(features.cpu().numpy(), encoder.recipe.storage_precision)
        done = list(positions)
        positions.clear()
        prepared.clear()
        return done, rows

    for position, read in enumerate(slices):
        if isinstance(read, Exception):
            reasons[str(read)] += 1
            continue
        positions.append(position)
        # Slice by slice: a plane may be a hundred times as large as the square that is made of it.
        prepared.append(encoder.prepare(torch.from_numpy(read[None])))
        if len(prepared) == compute.micro_batch:
            yield encode()
    if prepared:
        yield encode()


def prepare_embeddings(
    workspace: Workspace,
    encoder: Encoder,
    device: str,
    workers: int = 1,
    *,
    compute: Callable[[], ComputeClass] | None = None,
) -> Embeddings:
    """Open the recipe's embeddings, with what heads will need of the encoder, and fix its compute class once.

    Workers share the processor's threads; where they are elsewhere, ``compute`` asks them for a class instead.

    A recipe whose rows were begun on a processor goes on with the same threads and micro-batch. Where the device
    asked for is of another kind, its rows agree with the others within the recipe's tolerance, not bitwise.
    """
    decoder = encoder.mask_decoder
    attachments = {} if decoder is None else {MASK_DECODER_FILE: decoder.to_bytes()}
    embeddings = workspace.create_embeddings(encoder.recipe, trained=encoder.trained, attachments=attachments)
    if embeddings.compute is None:
        chosen = choose_compute(encoder, device, workers) if compute is None else compute()
        embeddings.fix_compute(chosen.to_json())
    return embeddings


def source_of(workspace: Workspace, recipe: Recipe) -> Embeddings | None:
    """Return the float32 rows that a recipe's rows can be derived from without the encoder, or None."""
    if recipe.storage_precision == EXACT:
        return None
    exact = replace(recipe, storage_precision=EXACT)
    return workspace.recipes(exact.folder_name).get(exact.id)


def derive_shard(plan: ShardPlan, source: Embeddings, target: Embeddings, *, writer: str) -> list[ShardRecord]:
    """Keep rows of a float32 recipe in another precision: bitwise what encoding them again would keep.

    Rows that were made by unlike compute classes become shards of their own: a record says what its rows were made by.

    Raises
    ------
    UnusableVoxels
        When numbers do not fit the other precision; nothing of the shard is stored.
    """
    made_by: dict[str, list[RowKey]] = defaultdict(list)
    for key in plan.keys:
        found = source.journal.find(key)
        made_by[canonical_json({} if found is None else found[0].compute)].append(key)
    plans = [ShardPlan(recipe_id=plan.recipe_id, keys=tuple(keys)) for keys in made_by.values()]
    return [_derive_rows(one, source, target, writer) for one in plans]


def _derive_rows(plan: ShardPlan, source: Embeddings, target: Embeddings, writer: str) -> ShardRecord:
    started = time.perf_counter()
    first = source.journal.find(plan.keys[0])
    rows = StoredRows.of(source.read(plan.keys), target.recipe.storage_precision)
    _check_finite(rows, plan.keys, target.recipe)
    return target.write(
        plan,
        rows,
        compute={} if first is None else first[0].compute,
        seconds=time.perf_counter() - started,
        peak_memory_bytes=peak_memory_bytes(),
        code_version=code_version(),
        writer=writer,
    )


def create_derived(workspace: Workspace, source: Embeddings, recipe: Recipe) -> Embeddings:
    """Open the embeddings of a recipe derived from another, with that one's attachments and compute class."""
    attachments = {name: source.attachment(name) or b"" for name in source.attachments}
    target = workspace.create_embeddings(recipe, trained=source.trained, attachments=attachments)
    if source.compute is not None:
        target.fix_compute(source.compute)
    return target


def time_encoder(
    keys: Sequence[RowKey], slices: SliceFinder, encoder: Encoder, compute: ComputeClass, at_least_seconds: float = 3.0
) -> tuple[float, int]:
    """Encode some slices as a `ShardWorker` would, storing nothing; return (seconds a slice, slices timed).

    The first micro-batch is encoded twice and timed once: the first pass pays for memory and kernels being set up.
    """
    for _ in _encoded(_read(keys[: compute.micro_batch], slices), encoder, compute, Counter()):
        pass
    started, timed = time.perf_counter(), 0
    for positions, _ in _encoded(_read(keys, slices), encoder, compute, Counter()):
        timed += len(positions)
        if time.perf_counter() - started > at_least_seconds:
            break
    return (time.perf_counter() - started) / max(1, timed), timed


def _check_finite(rows: StoredRows, keys: Sequence[RowKey], recipe: Recipe) -> None:
    finite = rows.finite()
    if not finite.all():
        raise UnusableVoxels(_not_finite(recipe, f"the slice {keys[int(np.argmin(finite))].slice_digest}"))


def _not_finite(recipe: Recipe, place: str) -> str:
    return (
        f"the encoder {recipe.encoder} answered with numbers that are not finite in {recipe.storage_precision} "
        f"for {place}; nothing was stored of it. Damaged weights are the usual cause: "
        f"compare with another copy, `samkit weights add FILE`; with bfloat16, try --precision float32; features "
        f"beyond 65504 do not fit float16 and int8: --store float32."
    )
