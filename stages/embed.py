"""embed: slices -> embeddings. Read the slices of a shard, encode them, write them, and only then say so.

Shapes: B slices in a micro-batch, N rows of a shard, C channels, h w cells, S pixels of the square.
"""

from __future__ import annotations

import time
import uuid
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray

from ..heads.base import MASK_DECODER_FILE
from ..store.documents import canonical_json
from ..store.embeddings import Embeddings, ShardPlan
from ..store.errors import UnusableVoxels, WeightsError
from ..store.journal import ShardRecord
from ..store.keys import Recipe, RowKey
from ..store.places import Place
from ..store.precision import EXACT, StoredRows
from ..store.provenance import code_version, peak_memory_bytes
from ..store.slices import SliceFinder
from ..store.workspace import Workspace, open_workspace
from .encoders.base import Encoder, find_encoder

# On a processor, batches of SAM at 1024 gain nothing and cost memory; at 256 eight images share the
# per-layer overhead. In between, about the same number of pixels at once.
_CPU_PIXELS_AT_ONCE = 8 * 256 * 256
_GPU_PIXELS_AT_ONCE = 8 * 1024 * 1024


@dataclass(frozen=True, kw_only=True, slots=True)
class ComputeClass:
    """What rows are computed by. Within one class, equal slices give bitwise equal rows."""

    #: "cpu", "cuda" or "mps".
    device: str
    #: Which implementation of the encoder, see `Encoder.kernel_paths`.
    kernel_path: str
    #: Threads of one worker on a processor.
    threads: int
    #: Slices encoded at once; a last, smaller batch is filled up, so that a row never depends on how many follow it.
    micro_batch: int

    def to_json(self) -> dict[str, Any]:
        """Return the class as it is kept in ``compute.json`` and every record."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Read a compute class."""
        return cls(**value)


def choose_compute(encoder: Encoder, device: str, workers: int) -> ComputeClass:
    """Decide how an encoder's rows are computed, when its first shard is planned; workers share the processor."""
    kind, threads = device_kind(device), max(1, torch.get_num_threads() // workers)
    pixels = _CPU_PIXELS_AT_ONCE if kind == "cpu" else _GPU_PIXELS_AT_ONCE
    micro_batch = max(1, pixels // encoder.recipe.input_px**2)
    path = encoder.kernel_paths[0]
    return ComputeClass(device=kind, kernel_path=path, threads=threads, micro_batch=min(micro_batch, 64))


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


class ShardWorker:
    """One process's way of computing shards: the encoder loaded once, the workspace open."""

    def __init__(self, job: EmbedJob, encoder: Encoder | None = None) -> None:
        self._job = job
        workspace = open_workspace(job.workspace)
        self._slices = SliceFinder(workspace.volumes)
        self._embeddings = workspace.embeddings(job.recipe.id)
        self._encoder = load_recipe(job.recipe, job.weights, job.device) if encoder is None else encoder

    def __call__(self, plan: ShardPlan) -> ShardRecord:
        """Compute and keep one shard, unless somebody else has meanwhile; return the record that stands."""
        if self._embeddings.journal.look_for(plan.id):
            return self._embeddings.journal.records[plan.id]
        # A record says what its rows were made by, which may be another device than the one they were begun on.
        compute = replace(self._job.compute, device=device_kind(self._job.device))
        return embed_shard(
            plan, self._slices, self._encoder, self._embeddings, compute=compute, writer=self._job.writer
        )


def load_recipe(recipe: Recipe, weights: Path | None, device: str) -> Encoder:
    """Load the encoder that a recipe describes.

    Raises
    ------
    WeightsError
        When the weights are not those of the recipe; both digests are named.
    """
    encoder = find_encoder(recipe.encoder).load(
        weights,
        size=recipe.input_px,
        device=device,
        precision=recipe.compute_precision,
        storage_precision=recipe.storage_precision,
        pixel_normalisation=recipe.pixel_normalisation,
    )
    if encoder.recipe != recipe:
        message = (
            f"the weights at hand are not those of recipe {recipe.id}: "
            f"{'; '.join(recipe.differences(encoder.recipe))}. Give the file it was made with: --weights FILE, "
            f"or put it on the shelf: samkit weights add FILE"
        )
        raise WeightsError(message)
    return encoder


def prepare_embeddings(workspace: Workspace, encoder: Encoder, device: str, workers: int = 1) -> Embeddings:
    """Open the recipe's embeddings, with what heads will need of the encoder, and fix its compute class once.

    Workers share the processor's threads.

    A recipe whose rows were begun on a processor goes on with the same threads and micro-batch. Where the device
    asked for is of another kind, its rows agree with the others within the recipe's tolerance, not bitwise.
    """
    decoder = encoder.mask_decoder
    attachments = {} if decoder is None else {MASK_DECODER_FILE: decoder.to_bytes()}
    embeddings = workspace.create_embeddings(encoder.recipe, trained=encoder.trained, attachments=attachments)
    if embeddings.compute is None:
        embeddings.fix_compute(choose_compute(encoder, device, workers).to_json())
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


def device_kind(device: str) -> str:
    """Return "cpu", "cuda" or "mps" of a device's name, ``cuda:1``."""
    return device.split(":", maxsplit=1)[0]


def embed_shard(
    plan: ShardPlan,
    slices: SliceFinder,
    encoder: Encoder,
    embeddings: Embeddings,
    *,
    compute: ComputeClass,
    writer: str,
) -> ShardRecord:
    """Compute and keep the rows of one shard; return the record that stands, this one's or another writer's.

    Raises
    ------
    UnusableVoxels
        When the encoder answers with numbers that are not finite, or not in the storage precision; nothing is stored.
    """
    started = time.perf_counter()
    if compute.device == "cpu" and torch.get_num_threads() != compute.threads:
        # The order of sums depends on it, and rows of one recipe are bitwise those of one class.
        torch.set_num_threads(compute.threads)
    precision = embeddings.recipe.storage_precision
    rows = StoredRows.empty((len(plan.keys), *encoder.embedding_shape), precision)
    for position, features in _encoded(plan.keys, slices, encoder, compute):
        stored = StoredRows.of(features, precision)
        _check_finite(stored, plan.keys[position : position + len(features)], embeddings.recipe)
        rows.put(position, stored)
    return embeddings.write(
        plan,
        rows,
        compute=compute.to_json(),
        seconds=time.perf_counter() - started,
        peak_memory_bytes=peak_memory_bytes(),
        code_version=code_version(),
        writer=writer,
    )


def time_encoder(
    keys: Sequence[RowKey], slices: SliceFinder, encoder: Encoder, compute: ComputeClass, at_least_seconds: float = 3.0
) -> tuple[float, int]:
    """Encode some slices as `embed_shard` would, storing nothing; return (seconds a slice, slices timed).

    The first micro-batch is encoded twice and timed once: the first pass pays for memory and kernels being set up.
    """
    if compute.device == "cpu":
        torch.set_num_threads(compute.threads)
    chosen = keys[: compute.micro_batch]
    for _ in _encoded(chosen, slices, encoder, compute):
        pass
    started, timed = time.perf_counter(), 0
    for _, features in _encoded(keys, slices, encoder, compute):
        timed += len(features)
        if time.perf_counter() - started > at_least_seconds:
            break
    return (time.perf_counter() - started) / timed, timed


def _encoded(
    keys: Sequence[RowKey], slices: SliceFinder, encoder: Encoder, compute: ComputeClass
) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """Yield (first position, features (B, C, h, w)) by micro-batches of a fixed size."""
    for start in range(0, len(keys), compute.micro_batch):
        batch = keys[start : start + compute.micro_batch]
        prepared = [encoder.prepare(torch.from_numpy(slices.read(key)[None])) for key in batch]
        filled = prepared + prepared[-1:] * (compute.micro_batch - len(prepared))
        yield start, encoder.encode(torch.cat(filled), compute.kernel_path)[: len(batch)].cpu().numpy()


def _check_finite(rows: StoredRows, keys: Sequence[RowKey], recipe: Recipe) -> None:
    finite = rows.finite()
    if not finite.all():
        bad = keys[int(np.argmin(finite))]
        message = (
            f"the encoder {recipe.encoder} answered with numbers that are not finite in {recipe.storage_precision} "
            f"for the slice {bad.slice_digest}. Nothing of this shard was stored. Damaged weights are the usual cause: "
            f"compare with another copy, `samkit weights add FILE`; with bfloat16, try --precision float32; features "
            f"beyond 65504 do not fit float16 and int8: --store float32."
        )
        raise UnusableVoxels(message)
