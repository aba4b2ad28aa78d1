"""embed: what is missing is computed, wherever it is computed."""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ...stages.embed import (
    ComputeClass,
    EmbedJob,
    create_derived,
    derive_shard,
    device_kind,
    load_recipe,
    prepare_embeddings,
    source_of,
)
from ...stages.encoders.base import Encoder, find_encoder
from ...stages.encoders.devices import find_device, gpu_devices
from ...store.embeddings import Embeddings
from ...store.errors import InputError, UsageError, WorkspaceBusy
from ...store.keys import Recipe
from ...store.lease import lease
from ...store.precision import STORAGE_PRECISIONS, stored_row_bytes
from ...store.runs import check_name
from ...store.workspace import Workspace, open_workspace
from .. import console
from ..cluster import ShardFailure, map_shards
from ..console import counted
from ..exit_codes import DONE, SOME_FAILED
from ..plan import plan_embedding
from .costs import check_room, row_bytes_of, say_changes, say_cost, say_other_recipes, say_plan
from .hints import workspace_flag
from .repair import drop_unreadable_records, retire_damaged
from .weights import weights_file_of, weights_of

# Records of shards are gathered into one file of the journal every so often; on a GPU that is every few minutes.
_SHARDS_BETWEEN_COMPACTIONS = 256


def run_embed(
    workspace_path: str,
    *,
    encoder_name: str,
    weights: str | None,
    size: int | None,
    device: str,
    gpus: int | None,
    workers: int,
    precision: str | None,
    pixel_normalisation: str | None,
    recipe_id: str | None,
    storage_precision: str | None = None,
    dry_run: bool = False,
    repair: bool = False,
) -> int:
    """Embed every slice that has no row yet; or, with ``dry_run``, say what that would cost and write nothing.

    Where nothing is said of weights, size, precision and pixels, the current recipe of that encoder goes on, in
    another storage precision if one is named.
    """
    if storage_precision is not None:
        check_name("storage precision", storage_precision, STORAGE_PRECISIONS)
    workspace = open_workspace(workspace_path)
    if not workspace.volumes:
        message = f"{workspace_path} holds no volumes. Ingest some first: samkit ingest FOLDER"
        raise InputError(message)
    if repair and dry_run:
        message = "--repair takes damaged rows away and --dry-run writes nothing. Look first: samkit verify"
        raise UsageError(message)
    devices = _devices(device, gpus, workers)
    if repair:
        drop_unreadable_records(workspace)
    find_encoder(encoder_name)
    goes_on = recipe_id is None and (weights, size, precision, pixel_normalisation) == (None,) * 4
    if goes_on:
        recipe_id = _current_recipe(workspace, encoder_name)
    if recipe_id is not None:
        kept = workspace.embeddings(recipe_id)
        recipe = replace(kept.recipe, storage_precision=storage_precision or kept.recipe.storage_precision)
        if goes_on and storage_precision is None:
            _say_goes_on(recipe)
        if repair:
            retire_damaged(workspace, recipe)
        if not dry_run and _derive(workspace, recipe):
            return _say_next(workspace_path)
        weights_file = weights_of(recipe, weights, trained=kept.trained)
        encoder = load_recipe(recipe, weights_file, devices[0])
    else:
        weights_file = weights_file_of(encoder_name, weights)
        encoder = find_encoder(encoder_name).load(
            weights_file,
            size=size,
            device=devices[0],
            precision=precision or "auto",
            storage_precision=storage_precision or STORAGE_PRECISIONS[0],
            pixel_normalisation=pixel_normalisation or "sam",
        )
        if repair:
            retire_damaged(workspace, encoder.recipe)
        if not dry_run:
            _derive(workspace, encoder.recipe)
    console.say(f"encoder {describe_encoder(encoder)}")
    if dry_run:
        return say_cost(workspace, encoder, devices)
    started = time.perf_counter()
    embeddings, computed, failures = embed_all(workspace, encoder, weights_file, devices)
    seconds = time.perf_counter() - started
    rate = f", {computed / seconds:.1f} slices/s" if computed else ""
    console.say(
        f"{computed} slices embedded in {seconds:.1f} s{rate}; {len(embeddings.journal)} rows, "
        f"{console.readable_bytes(embeddings.size_bytes)} in {embeddings.folder.name}"
    )
    if failures:
        for failure in failures:
            console.complain(f"a shard of {counted(failure.rows, 'slice')} was not embedded: {failure.reason}")
        flag = workspace_flag(workspace_path)
        console.say(f"next: mend what is named above, then samkit embed --recipe {embeddings.recipe.id}{flag}")
        return SOME_FAILED
    return _say_next(workspace_path)


def _say_goes_on(recipe: Recipe) -> None:
    """Say what a command that names no recipe goes on with: the newest one, however its rows are kept."""
    others = " or ".join(f"--store {other}" for other in STORAGE_PRECISIONS if other != recipe.storage_precision)
    console.say(f"goes on with recipe {recipe.id}, rows in {recipe.storage_precision} (others: {others})")


def _say_next(workspace_path: str) -> int:
    console.say(f"next: samkit train-head autosam --volumes 1 --draws 3{workspace_flag(workspace_path)}")
    return DONE


def _derive(workspace: Workspace, recipe: Recipe) -> bool:
    """Keep the rows of a float32 recipe in the precision of another, where there are such: no encoder is needed.

    Returns
    -------
    bool
        Whether that gave every slice its row, so that nothing is left to encode.
    """
    source = source_of(workspace, recipe)
    if source is None or source.row_shape is None:
        return False
    there = [volume for volume in workspace.volumes.values() if not source.journal.missing(volume.row_keys())]
    target = create_derived(workspace, source, recipe)
    row_bytes = stored_row_bytes(source.row_shape, recipe.storage_precision)
    plan = plan_embedding(recipe.id, target.journal, there, row_bytes)
    if not plan.shards:
        if complete := len(there) == len(workspace.volumes):
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
    return len(there) == len(workspace.volumes)


def embed_all(
    workspace: Workspace, encoder: Encoder, weights: Path | None, devices: Sequence[str]
) -> tuple[Embeddings, int, list[ShardFailure]]:
    """Compute the rows that a recipe lacks; return its embeddings, how many were computed here, and what failed."""
    embeddings = prepare_embeddings(workspace, encoder, devices[0], len(devices))
    fixed = ComputeClass.from_json(embeddings.compute or {})
    if fixed.device != device_kind(devices[0]):
        console.warn(
            f"the rows of recipe {encoder.recipe.id} were begun on {fixed.device}; those made on {devices[0]} agree "
            f"with them within a relative error of {encoder.recipe.tolerance:g}, not bitwise"
        )
    say_other_recipes(workspace, encoder)
    plan = plan_embedding(encoder.recipe.id, embeddings.journal, workspace.volumes.values(), row_bytes_of(encoder))
    say_changes(workspace, plan)
    say_plan(plan)
    failures: list[ShardFailure] = []
    others: set[str] = set()
    computed = committed = 0
    if plan.shards:
        check_room(workspace, plan)
        job = EmbedJob(
            workspace=workspace.path,
            recipe=encoder.recipe,
            weights=weights,
            device=devices[0],
            compute=fixed,
        )
        with console.progress_bar("embedding", plan.missing, "slices") as bar:
            for result in map_shards(job, plan.shards, devices, encoder):
                if isinstance(result, ShardFailure):
                    failures.append(result)
                    continue
                bar.advance(len(result.keys))
                committed += 1
                if committed % _SHARDS_BETWEEN_COMPACTIONS == 0:
                    _compact(workspace, embeddings)
                if result.writer == job.writer:
                    computed += len(result.keys)
                elif result.writer not in others:
                    others.add(result.writer)
                    console.say("another samkit embeds the same slices: the two share what is left between them")
    embeddings.journal.refresh()
    _compact(workspace, embeddings)
    return embeddings, computed, failures


def _compact(workspace: Workspace, embeddings: Embeddings) -> None:
    """Gather the journal's records where there are many, unless somebody keeps house at this moment."""
    with contextlib.suppress(WorkspaceBusy), lease(workspace.path, "samkit embed"):
        embeddings.compact()


def describe_encoder(encoder: Encoder) -> str:
    """Say in one line which encoder this is and whether it was trained."""
    recipe = encoder.recipe
    channels, height, width = encoder.embedding_shape
    origin = (
        f"weights {recipe.weights_sha256[:8]}"
        if encoder.trained
        else "UNTRAINED: seeded weights, for trying, not for results"
    )
    return (
        f"{recipe.encoder} ({origin}), {recipe.input_px} px, {recipe.compute_precision}, "
        f"{channels}x{height}x{width} a slice in {recipe.storage_precision}, recipe {recipe.id}"
    )


def _current_recipe(workspace: Workspace, encoder_name: str) -> str | None:
    """Return the id of the workspace's newest recipe of an encoder, or None before the first."""
    recipes = list(workspace.recipes(f"{encoder_name}--*"))
    return recipes[-1] if recipes else None


def _devices(device: str, gpus: int | None, workers: int) -> list[str]:
    """Return one device a worker."""
    if gpus is not None:
        if gpus < 1:
            message = f"--gpus {gpus}: give 1 or more, or leave the flag out for the processor."
            raise UsageError(message)
        return gpu_devices(gpus)
    if workers < 1:
        message = f"--workers {workers}: give 1 or more."
        raise UsageError(message)
    find_device(device)
    return [device] * workers
