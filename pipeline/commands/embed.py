"""embed: what is missing is computed, wherever it is computed."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ...stages.embed import (
    ComputeClass,
    EmbedJob,
    SliceFinder,
    choose_compute,
    device_kind,
    load_recipe,
    prepare_embeddings,
    time_encoder,
)
from ...stages.encoders.base import Encoder, find_encoder
from ...stages.encoders.devices import find_device, gpu_devices
from ...stages.ingest import recipe_differences
from ...store.embeddings import Embeddings
from ...store.errors import DiskFull, InputError, UsageError
from ...store.files import free_bytes
from ...store.verify import damaged_shards, unreadable_records
from ...store.workspace import Workspace, open_workspace
from .. import console
from ..cluster import ShardFailure, map_shards
from ..console import counted
from ..exit_codes import DONE, SOME_FAILED
from ..plan import EmbeddingPlan, plan_embedding
from .hints import workspace_flag
from .weights import weights_file_of, weights_of

# The array's description, its data, the journal record.
_FILES_PER_SHARD = 3


def run_embed(
    workspace_path: Path,
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
    dry_run: bool = False,
    repair: bool = False,
) -> int:
    """Embed every slice that has no row yet; or, with ``dry_run``, say what that would cost and write nothing.

    Where nothing is said of weights, size, precision and pixels, the current recipe of that encoder goes on.
    """
    workspace = open_workspace(workspace_path)
    if not workspace.volumes:
        message = f"{workspace_path} holds no volumes. Ingest some first: samkit ingest FOLDER"
        raise InputError(message)
    if repair and dry_run:
        message = "--repair takes damaged rows away and --dry-run writes nothing. Look first: samkit verify"
        raise UsageError(message)
    devices = _devices(device, gpus, workers)
    if repair:
        _drop_unreadable_records(workspace)
    find_encoder(encoder_name)
    if recipe_id is None and (weights, size, precision, pixel_normalisation) == (None,) * 4:
        recipe_id = _current_recipe(workspace, encoder_name)
    if recipe_id is not None:
        kept = workspace.embeddings(recipe_id)
        recipe = kept.recipe
        weights_file = weights_of(recipe, weights, trained=kept.trained)
        encoder = load_recipe(recipe, weights_file, devices[0])
    else:
        weights_file = weights_file_of(encoder_name, weights)
        encoder = find_encoder(encoder_name).load(
            weights_file,
            size=size,
            device=devices[0],
            precision=precision or "auto",
            pixel_normalisation=pixel_normalisation or "sam",
        )
    console.say(f"encoder {describe_encoder(encoder)}")
    if repair:
        _retire_damaged(workspace, encoder)
    if dry_run:
        return _say_cost(workspace, encoder, devices)
    started = time.perf_counter()
    embeddings, computed, failures = embed_all(workspace, encoder, weights_file, devices)
    seconds = time.perf_counter() - started
    rate = f", {computed / seconds:.1f} slices/s" if computed else ""
    console.say(
        f"{computed} slices embedded in {seconds:.1f} s{rate}; {len(embeddings.journal)} rows, "
        f"{console.readable_bytes(embeddings.size_bytes)} in {embeddings.folder.name}"
    )
    flag = workspace_flag(workspace_path)
    if failures:
        for failure in failures:
            console.complain(f"a shard of {counted(failure.rows, 'slice')} was not embedded: {failure.reason}")
        console.say(f"next: mend what is named above, then samkit embed --recipe {embeddings.recipe.id}{flag}")
        return SOME_FAILED
    console.say(f"next: samkit train-head autosam --volumes 1 --draws 3{flag}")
    return DONE


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
    _say_other_recipes(workspace, encoder)
    plan = plan_embedding(encoder.recipe.id, embeddings.journal, workspace.volumes.values(), _row_bytes(encoder))
    _say_changes(workspace, plan)
    _say_plan(plan)
    failures: list[ShardFailure] = []
    others: set[str] = set()
    computed = 0
    if plan.shards:
        _check_room(workspace, plan)
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
                if result.writer == job.writer:
                    computed += len(result.keys)
                elif result.writer not in others:
                    others.add(result.writer)
                    console.say("another samkit embeds the same slices: the two share what is left between them")
    embeddings.journal.refresh()
    return embeddings, computed, failures


def _say_cost(workspace: Workspace, encoder: Encoder, devices: Sequence[str]) -> int:
    """Say what embedding would take in rows, files, bytes and time, from a few real slices; write nothing."""
    recipe = encoder.recipe
    kept = workspace.recipes(recipe.folder_name).get(recipe.id)
    _say_other_recipes(workspace, encoder)
    journal = None if kept is None else kept.journal
    plan = plan_embedding(recipe.id, journal, workspace.volumes.values(), _row_bytes(encoder))
    _say_changes(workspace, plan)
    _say_plan(plan)
    free = free_bytes(workspace.path)
    console.say(
        f"{counted(_FILES_PER_SHARD * len(plan.shards), 'file')}, {console.readable_bytes(plan.missing_bytes)} in "
        f"{recipe.storage_precision}; {console.readable_bytes(free)} free"
    )
    if free < plan.missing_bytes:
        console.warn("the disk has no room for that: free some space, or name a --workspace on another one")
    if plan.shards:
        compute = choose_compute(recipe, devices[0], len(devices))
        if kept is not None and kept.compute is not None:
            compute = ComputeClass.from_json(kept.compute)
        keys = [key for shard in plan.shards for key in shard.keys]
        slices = SliceFinder(workspace.volumes.values())
        seconds, timed = time_encoder(keys, slices, encoder, replace(compute, device=device_kind(devices[0])))
        console.say(
            f"about {console.readable_seconds(plan.missing * seconds / len(devices))} on {' '.join(devices)}: "
            f"{len(devices) / seconds:.3g} slices/s, from {counted(timed, 'slice')} encoded on {devices[0]}"
        )
    console.say("dry run: nothing was written. The same command without --dry-run computes them.")
    return DONE


def _drop_unreadable_records(workspace: Workspace) -> None:
    """Remove journal records that do not read as such, of every recipe: nothing could be opened with them there."""
    for folder in sorted((workspace.path / "embeddings").glob("[!.]*")):
        for path, fault in unreadable_records(folder):
            console.warn(fault)
            path.unlink()


def _retire_damaged(workspace: Workspace, encoder: Encoder) -> None:
    """Take the damaged shards of a recipe away, so that their rows are missing and computed like any other."""
    kept = workspace.recipes(encoder.recipe.folder_name).get(encoder.recipe.id)
    if kept is None:
        return
    faults = dict(damaged_shards(kept))
    for shard, fault in faults.items():
        console.warn(fault)
        kept.retire(shard)
    console.say(f"{counted(len(faults), 'damaged shard')} of {kept.folder.name} taken away")


def _check_room(workspace: Workspace, plan: EmbeddingPlan) -> None:
    """Refuse to begin what the disk has no room for: hours later it would end there anyway."""
    free = free_bytes(workspace.path)
    if free < plan.missing_bytes:
        message = (
            f"{workspace.path}: the rows to compute take {console.readable_bytes(plan.missing_bytes)} and "
            f"{console.readable_bytes(free)} are free; none was begun. Free some space, name a --workspace on another "
            f"disk, or give a smaller --size."
        )
        raise DiskFull(message)


def _say_plan(plan: EmbeddingPlan) -> None:
    console.say(
        f"{counted(plan.wanted, 'slice')}: {plan.present} have a row, {plan.missing} to compute "
        f"({console.readable_bytes(plan.missing_bytes)} in {counted(len(plan.shards), 'shard')})"
    )


def _say_changes(workspace: Workspace, plan: EmbeddingPlan) -> None:
    """Say why volumes that were ingested before need new rows: which field of their ingest differs, in how many."""
    missing = {key for shard in plan.shards for key in shard.keys}
    volumes: Counter[str] = Counter()
    slices: Counter[str] = Counter()
    for volume in workspace.volumes.values():
        before = volume.record.predecessor
        new = missing & set(volume.row_keys())
        if before is None or not new:
            continue
        told = "; ".join(recipe_differences(before["ingest_recipe"], volume.ingest_recipe))
        volumes[told or "other pixels at the source"] += 1
        slices[told or "other pixels at the source"] += len(new)
    for told, count in volumes.items():
        changed = counted(slices[told], "slice")
        console.say(f"{told} in {count} of {counted(len(workspace.volumes), 'volume')}: {changed} to compute for it")


def _say_other_recipes(workspace: Workspace, encoder: Encoder) -> None:
    for other in workspace.recipes(f"{encoder.recipe.encoder}--*").values():
        if other.recipe != encoder.recipe:
            told = "; ".join(other.recipe.differences(encoder.recipe))
            console.say(f"{other.folder.name} is another recipe and is kept: {told}")


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
        f"{channels}x{height}x{width} a slice, recipe {recipe.id}"
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


def _row_bytes(encoder: Encoder) -> int:
    channels, height, width = encoder.embedding_shape
    return channels * height * width * (2 if encoder.recipe.storage_precision == "float16" else 4)
