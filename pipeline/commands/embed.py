"""embed: what is missing is computed, wherever it is computed."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from ...stages.embed import ComputeClass, EmbedJob, device_kind, load_recipe, prepare_embeddings
from ...stages.encoders.base import Encoder, find_encoder
from ...stages.encoders.devices import find_device, gpu_devices
from ...store.embeddings import Embeddings
from ...store.errors import InputError, UsageError
from ...store.workspace import Workspace, open_workspace
from .. import console
from ..cluster import ShardFailure, map_shards
from ..console import counted
from ..exit_codes import DONE, SOME_FAILED
from ..plan import plan_embedding
from .hints import workspace_flag
from .weights import weights_file_of, weights_of


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
) -> int:
    """Embed every slice that has no row yet.

    Where nothing is said of weights, size, precision and pixels, the current recipe of that encoder goes on.
    """
    workspace = open_workspace(workspace_path)
    if not workspace.volumes:
        message = f"{workspace_path} holds no volumes. Ingest some first: samkit ingest FOLDER"
        raise InputError(message)
    devices = _devices(device, gpus, workers)
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
    """Compute the rows that a recipe lacks; return its embeddings, how many were computed, and what failed."""
    embeddings = prepare_embeddings(workspace, encoder, devices[0], len(devices))
    fixed = ComputeClass.from_json(embeddings.compute or {})
    if fixed.device != device_kind(devices[0]):
        console.warn(
            f"the rows of recipe {encoder.recipe.id} were begun on {fixed.device}; those made on {devices[0]} agree "
            f"with them within a relative error of {encoder.recipe.tolerance:g}, not bitwise"
        )
    for other in workspace.recipes(f"{encoder.recipe.encoder}--*").values():
        if other.recipe != encoder.recipe:
            told = "; ".join(other.recipe.differences(encoder.recipe))
            console.say(f"{other.folder.name} is another recipe and is kept: {told}")
    row_bytes = _row_bytes(encoder)
    plan = plan_embedding(embeddings, workspace.volumes.values(), row_bytes)
    console.say(
        f"{counted(plan.wanted, 'slice')}: {plan.present} have a row, {plan.missing} to compute "
        f"({console.readable_bytes(plan.missing * row_bytes)} in {counted(len(plan.shards), 'shard')})"
    )
    failures: list[ShardFailure] = []
    if plan.shards:
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
                else:
                    bar.advance(len(result.keys))
    embeddings.journal.refresh()
    return embeddings, plan.missing - sum(failure.rows for failure in failures), failures


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
