"""embed: what is missing is computed, wherever it is computed."""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch

from ...stages.embed import (
    EmbedJob,
    ShardFailure,
    Timing,
    create_derived,
    derive_shard,
    prepare_embeddings,
    source_of,
    time_encoder,
)
from ...stages.encoders.base import Encoder, find_encoder, load_recipe, weights_named_by
from ...stages.encoders.compute import ComputeClass, choose_compute, device_kind
from ...stages.encoders.devices import find_device, resolve_precision, usable_cores
from ...stages.encoders.memory import free_memory_bytes, keep_freed_memory
from ...stages.encoders.nano import NANO
from ...stages.encoders.shelf import WeightsShelf
from ...store.embeddings import Embeddings
from ...store.errors import DeviceError, InputError, UsageError, WorkspaceBusy
from ...store.keys import NECK, Recipe, RowKey, block_of
from ...store.lease import lease
from ...store.precision import STORAGE_PRECISIONS, stored_row_bytes
from ...store.runs import check_name
from ...store.slices import SliceFinder
from ...store.workspace import Workspace, open_workspace
from .. import console
from ..cluster import ClusterSurvey, compute_of_cluster, survey_cluster
from ..console import counted
from ..exit_codes import DONE, SOME_FAILED
from ..plan import plan_embedding
from ..shards import map_shards
from ..workers import ONE_PROCESSOR, Workers
from .costs import check_room, row_bytes_of, say_changes, say_cost, say_other_recipes, say_plan
from .hints import after_embedding, workspace_flag
from .repair import drop_unreadable_records, retire_damaged
from .rows import EVERY_SLICE, RowChoice, choose_rows, every_slice
from .weights import remember_weights, weights_file_of, weights_of

# Records of shards are gathered into one file of the journal every so often; on a GPU that is every few minutes.
_SHARDS_BETWEEN_COMPACTIONS = 256
# How long the work takes is only worth finding out, by encoding a batch twice, where it is this many batches.
_TIMED_OF = 40


def run_embed(
    workspace_path: str,
    *,
    encoder_name: str,
    weights: str | None,
    size: int | None,
    workers: Workers,
    precision: str | None,
    pixel_normalisation: str | None,
    tap: str | None = None,
    recipe_id: str | None,
    rows: RowChoice = EVERY_SLICE,
    storage_precision: str | None = None,
    dry_run: bool = False,
    repair: bool = False,
) -> int:
    """Compute every row that is missing; or, with ``dry_run``, say what that would cost and write nothing.

    Where nothing is said of weights, size, precision and pixels, the current recipe of that encoder goes on, in
    another storage precision or at another tap if one is named.
    """
    keep_freed_memory()
    if storage_precision is not None:
        check_name("storage precision", storage_precision, STORAGE_PRECISIONS)
    workspace = open_workspace(workspace_path)
    if not workspace.volumes:
        message = f"{workspace_path} holds no volumes. Ingest some first: samkit ingest FOLDER"
        raise InputError(message)
    if repair and dry_run:
        message = "--repair takes damaged rows away and --dry-run writes nothing. Look first: samkit verify"
        raise UsageError(message)
    chosen = choose_rows(workspace, rows, write=not dry_run)
    device = workers.devices[0]
    # Workers have the device, be they a cluster's or processes of this machine, and would lack what lay on it here; the
    # encoder says here what its rows look like. One worker is this process; a trial run tries the device.
    cluster = None if workers.scheduler is None else survey_cluster(workers.scheduler, device)
    here = device if cluster is None and (dry_run or len(workers.devices) == 1) else "cpu"
    if repair:
        drop_unreadable_records(workspace)
    goes_on = recipe_id is None and (weights, size, precision, pixel_normalisation) == (None,) * 4
    if weights is None and (named := weights_named_by(encoder_name)) is not None:
        weights = str(named)
    encoder_name = find_encoder(encoder_name).name
    if goes_on:
        recipe_id = _current_recipe(workspace, encoder_name, tap)
    if recipe_id is not None:
        kept = workspace.embeddings(recipe_id)
        # A tap is gone on with where it or its recipe is named; without a word, what the encoder ends with is meant.
        inner = goes_on and kept.recipe.block is not None
        recipe = replace(
            kept.recipe,
            storage_precision=storage_precision or kept.recipe.storage_precision,
            tap=tap or (NECK if inner else kept.recipe.tap),
        )
        if goes_on and storage_precision is None and recipe == kept.recipe:
            _say_goes_on(recipe)
        if repair:
            retire_damaged(workspace, recipe)
        if not dry_run and _derive(workspace, recipe, chosen.keys(recipe.input_px)):
            return _say_next(workspace, workspace.embeddings(recipe.id))
        weights_file = weights_of(recipe, weights, trained=kept.trained)
        encoder = load_recipe(recipe, weights_file, here)
    else:
        asked = precision or "auto"
        if cluster is None:
            asked = resolve_precision(asked, find_device(device))
        weights_file = weights_file_of(encoder_name, weights)
        encoder = find_encoder(encoder_name).load(
            weights_file,
            size=size,
            device=here,
            precision=asked if cluster is None or asked != "auto" else cluster.precision,
            storage_precision=storage_precision or STORAGE_PRECISIONS[0],
            pixel_normalisation=pixel_normalisation,
            tap=tap,
        )
        WeightsShelf().check(weights_file, encoder.recipe.weights_sha256)
        if repair:
            retire_damaged(workspace, encoder.recipe)
        if not dry_run:
            _derive(workspace, encoder.recipe, chosen.keys(encoder.recipe.input_px))
    console.say(f"encoder {describe_encoder(encoder)}")
    if weights_file == NANO.own_weights:
        console.say(
            f"{NANO.name} comes with samkit and was trained on drawn pictures alone: quick, to try with. For results: "
            f"samkit weights get sam_vit_b, then samkit embed --encoder sam_vit_b{workspace_flag(workspace_path)}"
        )
    if not dry_run:
        remember_weights(encoder, weights_file)
    wanted = chosen.keys(encoder.recipe.input_px)
    chosen.say(encoder.recipe.input_px, row_bytes_of(encoder))
    if dry_run:
        return say_cost(workspace, encoder, workers, wanted)
    done = embed_all(workspace, encoder, weights_file, workers, wanted=wanted, cluster=cluster)
    _say_embedded(done)
    if done.failures:
        for failure in done.failures:
            console.complain(f"{counted(failure.rows, done.noun)} not embedded: {failure.reason}")
        console.say("next: mend what is named above, then the same command: it goes on with what is missing")
        return SOME_FAILED
    return _say_next(workspace, done.embeddings)


def _say_goes_on(recipe: Recipe) -> None:
    """Say what a command that names no recipe goes on with: the newest one, however its rows are kept."""
    others = " or ".join(f"--store {other}" for other in STORAGE_PRECISIONS if other != recipe.storage_precision)
    console.say(f"goes on with recipe {recipe.id}, rows in {recipe.storage_precision} (others: {others})")


def _say_next(workspace: Workspace, embeddings: Embeddings) -> int:
    console.say(f"next: {after_embedding(workspace, embeddings)}")
    return DONE


def _derive(workspace: Workspace, recipe: Recipe, wanted: Sequence[RowKey]) -> bool:
    """Keep the rows of a float32 recipe in the precision of another, where there are such: no encoder is needed.

    Returns
    -------
    bool
        Whether all rows that are wanted are there now, so that nothing is left to encode.
    """
    source = source_of(workspace, recipe)
    if source is None or source.row_shape is None:
        return False
    there = [key for key in wanted if key in source.journal]
    target = create_derived(workspace, source, recipe)
    row_bytes = stored_row_bytes(source.row_shape, recipe.storage_precision)
    plan = plan_embedding(recipe.id, target.journal, there, row_bytes)
    if not plan.shards:
        if complete := len(there) == len(wanted):
            say_plan(plan)
        return complete
    check_room(workspace, plan)
    writer = uuid.uuid4().hex[:8]
    with console.progress_bar("deriving", plan.missing, "slices") as bar:
        for shard in plan.shards:
            derive_shard(shard, source, target, writer=writer)
            bar.advance(len(shard.keys))
    _compact(workspace, target)
    console.say(
        f"{counted(plan.missing, 'row')} of {target.folder.name} derived in {recipe.storage_precision} from "
        f"{source.folder.name}, without the encoder"
    )
    return len(there) == len(wanted)


@dataclass(frozen=True, kw_only=True, slots=True)
class Embedded:
    """What became of a call of `embed_all`."""

    embeddings: Embeddings
    #: Rows that were computed here.
    computed: int
    failures: Sequence[ShardFailure]
    timing: Timing
    #: Wall time of the computation.
    seconds: float
    workers: int
    #: What to call a row, see `plan.EmbeddingPlan`.
    noun: str
    #: The fewest slices encoded at once, where memory ran out; else None.
    backed_off_to: int | None


def embed_all(
    workspace: Workspace,
    encoder: Encoder,
    weights: Path | None,
    workers: Workers = ONE_PROCESSOR,
    *,
    wanted: Sequence[RowKey] | None = None,
    cluster: ClusterSurvey | None = None,
) -> Embedded:
    """Compute the rows that a recipe lacks.

    Parameters
    ----------
    workspace, encoder, weights
        Whose slices, by which encoder, loaded from which checkpoint.
    workers
        Who computes.
    wanted
        The rows that shall be there; None for one of every slice as it is.
    cluster
        What the workers of a scheduler have.
    """
    if wanted is None:
        wanted = every_slice(workspace)
    workers = _settled(workers, workspace, encoder, wanted)
    device = workers.devices[0]
    elsewhere = None
    if workers.scheduler is not None and cluster is not None:
        elsewhere = partial(compute_of_cluster, workers.scheduler, encoder, weights, device, cluster)
    elif len(workers.devices) > 1 and device_kind(device) != "cpu":
        elsewhere = partial(_compute_of_a_worker, encoder.recipe, weights, workers)
    embeddings = prepare_embeddings(workspace, encoder, device, len(workers.devices), compute=elsewhere)
    fixed = ComputeClass.from_json(embeddings.compute or {})
    if fixed.device != device_kind(device):
        console.warn(
            f"the rows of recipe {encoder.recipe.id} were begun on {fixed.device}; those made on {device} agree "
            f"with them within a relative error of {encoder.recipe.tolerance:g}, not bitwise"
        )
    say_other_recipes(workspace, encoder)
    plan = plan_embedding(encoder.recipe.id, embeddings.journal, wanted, row_bytes_of(encoder))
    say_changes(workspace, plan)
    say_plan(plan)
    failures: list[ShardFailure] = []
    others: set[str] = set()
    computed = committed = 0
    timing, micro_batch = Timing(), fixed.micro_batch
    started = time.perf_counter()
    if plan.shards:
        check_room(workspace, plan)
        job = EmbedJob(
            workspace=workspace.path,
            recipe=encoder.recipe,
            weights=weights,
            device=device,
            compute=fixed,
        )
        with (
            console.progress_bar("embedding", plan.missing, f"{plan.noun}s") as bar,
            contextlib.closing(map_shards(job, plan.shards, workers, encoder)) as results,
        ):
            for result in results:
                failures += result.failures
                timing += result.timing
                record = result.record
                if record is None:
                    continue
                bar.advance(len(record.keys))
                committed += 1
                if committed % _SHARDS_BETWEEN_COMPACTIONS == 0:
                    _compact(workspace, embeddings)
                if record.writer == job.writer:
                    computed += len(record.keys)
                    micro_batch = min(micro_batch, record.compute["micro_batch"])
                elif record.writer not in others:
                    others.add(record.writer)
                    console.say("another samkit embeds the same slices: the two share what is left between them")
    seconds = time.perf_counter() - started
    embeddings.journal.refresh()
    _compact(workspace, embeddings)
    return Embedded(
        embeddings=embeddings,
        computed=computed,
        failures=failures,
        timing=timing,
        seconds=seconds,
        workers=len(workers.devices) if cluster is None else cluster.workers,
        noun=plan.noun,
        backed_off_to=micro_batch if micro_batch < fixed.micro_batch else None,
    )


def _compute_of_a_worker(recipe: Recipe, weights: Path | None, workers: Workers) -> ComputeClass:
    """Decide how several workers with a GPU each compute, by the first one that can; afterwards nothing is left on it.

    Raises
    ------
    DeviceError
        Where none can; what is wrong with each is said.
    """
    refused = []
    for device in dict.fromkeys(workers.devices):
        sharing = workers.devices.count(device)
        try:
            return choose_compute(load_recipe(recipe, weights, device), device, len(workers.devices), sharing=sharing)
        except DeviceError as error:  # full of somebody else's work; its own worker will be told so too
            refused.append(str(error))
        finally:
            if device_kind(device) == "cuda":
                torch.cuda.empty_cache()
    raise DeviceError("; ".join(refused))


def _settled(workers: Workers, workspace: Workspace, encoder: Encoder, wanted: Sequence[RowKey]) -> Workers:
    """Return how many processes share the work, where nobody has said: a few slices tell how long it takes."""
    if workers.asked or workers.scheduler is not None or workers.devices != ("cpu",):
        return workers
    kept = workspace.recipes(encoder.recipe.folder_name).get(encoder.recipe.id)
    fixed = None if kept is None or kept.compute is None else ComputeClass.from_json(kept.compute)
    cores = min(torch.get_num_threads(), usable_cores())
    if fixed is not None and (fixed.device != "cpu" or 2 * fixed.threads > cores):
        return workers  # rows go on by the threads that they were begun with
    missing = wanted if kept is None else kept.journal.missing(wanted)
    compute = choose_compute(encoder, "cpu", 1) if fixed is None else fixed
    if len(missing) < _TIMED_OF * compute.micro_batch:
        return workers
    seconds, _ = time_encoder(missing[: compute.micro_batch], SliceFinder(workspace.volumes), encoder, compute)
    free_bytes = free_memory_bytes(torch.device("cpu"))
    return workers.for_work(seconds=seconds * len(missing), cores=cores, free_bytes=free_bytes)


def _say_embedded(done: Embedded) -> None:
    """Say what was computed, how fast, and what the encoder waited for."""
    rate = f", {done.computed / done.seconds:.3g} {done.noun}s/s" if done.computed else ""
    there = f"{len(done.embeddings.journal)} rows"
    console.say(
        f"{counted(done.computed, done.noun)} embedded in {done.seconds:.1f} s{rate}; {there}, "
        f"{console.readable_bytes(done.embeddings.size_bytes)} in {done.embeddings.folder.name}"
    )
    if done.computed:
        console.say(busy_line(done.timing, done.seconds * done.workers))
    if done.backed_off_to is not None:
        console.warn(
            f"memory ran out: {counted(done.backed_off_to, 'slice')} at once instead of more; the records of these "
            f"shards say so, and their rows agree with the others within the recipe's tolerance, not bitwise"
        )


def busy_line(timing: Timing, seconds: float) -> str:
    """Say which share of the time the encoders were busy, and what they waited for.

    Parameters
    ----------
    timing
        Of all workers together.
    seconds
        Wall time, times workers.

    >>> busy_line(Timing(encoding=9.0, reading=0.5, between=0.3), 10.0)
    'the encoder was busy 90 % of the time; it waited 5 % for slices, 3 % for the shard before, 2 % to start and end'
    """
    shares = [100 * part / seconds for part in (timing.encoding, timing.reading, timing.between)]
    busy, reading, between = shares
    return (
        f"the encoder was busy {busy:.0f} % of the time; it waited {reading:.0f} % for slices, {between:.0f} % for "
        f"the shard before, {max(0.0, 100 - sum(shares)):.0f} % to start and end"
    )


def _compact(workspace: Workspace, embeddings: Embeddings) -> None:
    """Gather the journal's records where there are many, unless somebody keeps house at this moment."""
    with contextlib.suppress(WorkspaceBusy), lease(workspace.path, "samkit embed"):
        embeddings.compact()


def describe_encoder(encoder: Encoder) -> str:
    """Say in one line which encoder this is and where its numbers come from."""
    recipe = encoder.recipe
    channels, height, width = encoder.embedding_shape
    origin = (
        f"weights {recipe.weights_sha256[:8]}" if encoder.trained else "seeded weights, for trying, not for results"
    )
    tap = "" if recipe.block is None else f" of what enters its block {recipe.block}"
    return (
        f"{recipe.encoder} ({origin}), {recipe.input_px} px, {recipe.compute_precision}, "
        f"{channels}x{height}x{width} a slice in {recipe.storage_precision}{tap}, recipe {recipe.id}"
    )


def _current_recipe(workspace: Workspace, encoder_name: str, tap: str | None) -> str | None:
    """Return the id of the workspace's newest recipe of an encoder, or None before the first.

    One with the tap that is asked for, or of what the encoder ends with, goes before one of which only the rest can be
    taken over.
    """
    recipes = workspace.recipes(f"{encoder_name}--*")
    alike = [one for one, kept in recipes.items() if kept.recipe.block == (None if tap is None else block_of(tap))]
    return next(reversed(alike or [*recipes]), None)
