"""What each verb does: open, plan, run the stages, tell the user. One function a verb."""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

from ..heads.base import find_head, load_head
from ..heads.feeding import check_embedded
from ..heads.fitting import FitOptions
from ..heads.sampling import draw_subjects
from ..stages.embed import ComputeClass, EmbedJob, device_kind, load_recipe, prepare_embeddings
from ..stages.encoders.base import Encoder, find_encoder
from ..stages.encoders.devices import find_device, gpu_devices
from ..stages.encoders.weights import WeightsShelf
from ..stages.ingest import IngestOptions, Refused, Taken, ingest
from ..stages.predict import (
    Predicted,
    check_ingested_alike,
    check_not_sources,
    check_targets,
    mask_names,
    predict_volume,
    scratch_inside,
)
from ..stages.readers.intensity import Window
from ..stages.readers.layouts import Found, LayoutOptions, find_sources
from ..stages.report import reportable, tabulate, write_report
from ..stages.train import TrainOptions, labelled_volumes, split_of, train
from ..store.embeddings import Embeddings
from ..store.errors import InputError, UnusableVoxels, UsageError, WeightsError
from ..store.keys import Recipe
from ..store.runs import Run, stale_because
from ..store.workspace import DEFAULT_WORKSPACE, Workspace, open_workspace
from . import console
from .cluster import ShardFailure, map_shards
from .config import id_key
from .console import counted
from .plan import plan_embedding

DONE, SOME_FAILED = 0, 3
# What `--weights` says for numbers that come from a seed.
SEEDED = "seeded"


# -- ingest ----------------------------------------------------------------------------------------


def run_ingest(source: Path, workspace: Path, layout: LayoutOptions, options: IngestOptions) -> int:
    """Ingest a folder or a file and print what became of each source."""
    found = find_sources(source, layout)
    console.say(f"{source}: {found.layout}, {counted(len(found.sources), 'volume')}")
    results = _ingest(workspace, found, replace(options, shown=str(source)))
    taken = [result for result in results if isinstance(result, Taken)]
    refused = [result for result in results if isinstance(result, Refused)]
    if taken:
        rows = [
            [
                result.shown,
                result.id,
                result.change,
                str(result.slices),
                ",".join(map(str, result.label_values)) if result.labelled else "no label",
                "; ".join(result.notes),
            ]
            for result in taken
        ]
        console.table(
            "Taken", ["source", "volume", "change", "slices", "label values", "notes"], rows, numbers_from=None
        )
    if refused:
        rows = [[result.shown, result.reason] for result in refused]
        console.table("Refused", ["source", "why"], rows, numbers_from=None)
    unlabelled = sum(not result.labelled for result in taken)
    console.say(
        f"{len(taken)} taken ({sum(result.change == 'unchanged' for result in taken)} unchanged, "
        f"{unlabelled} without a label), {len(refused)} refused"
    )
    if taken:
        console.say(f"next: samkit embed{_workspace_flag(workspace)}")
    return SOME_FAILED if refused else DONE


def _ingest(workspace: Path, found: Found, options: IngestOptions) -> list[Taken | Refused]:
    results = []
    with console.progress_bar("ingesting", len(found.sources) + len(found.refused), "volumes") as bar:
        for result in ingest(workspace, found, options):
            results.append(result)
            bar.advance()
    return results


# -- embed -----------------------------------------------------------------------------------------


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
        weights_file = _weights_of(recipe, weights, trained=kept.trained)
        encoder = load_recipe(recipe, weights_file, devices[0])
    else:
        weights_file = _weights_file(encoder_name, weights)
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
    flag = _workspace_flag(workspace_path)
    if failures:
        for failure in failures:
            console.complain(f"a shard of {counted(failure.rows, 'slice')} was not embedded: {failure.reason}")
        console.say(f"next: mend what is named above, then samkit embed --recipe {embeddings.recipe.id}{flag}")
        return SOME_FAILED
    console.say(f"next: samkit train-head autosam --volumes 1 --draws 3{flag}")
    return DONE


def _current_recipe(workspace: Workspace, encoder_name: str) -> str | None:
    """Return the id of the workspace's newest recipe of an encoder, or None before the first."""
    recipes = list(workspace.recipes(f"{encoder_name}--*"))
    return recipes[-1] if recipes else None


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


def _weights_file(encoder_name: str, weights: str | None) -> Path | None:
    """Return the checkpoint to load: the file named, else the shelf's newest; None for seeded weights."""
    find_encoder(encoder_name)
    if weights == SEEDED:
        return None
    if weights is not None:
        return Path(weights)
    kept = WeightsShelf().find(encoder=encoder_name)
    if kept is not None:
        return kept.path
    if encoder_name == "nano":
        return None
    message = (
        f"{encoder_name} needs its checkpoint, and none is on the shelf. Give the file: --weights FILE, or keep it for "
        f"later commands: samkit weights add FILE. To try the machinery with untrained numbers: --weights {SEEDED}"
    )
    raise WeightsError(message)


def _weights_of(recipe: Recipe, weights: str | None, *, trained: bool) -> Path | None:
    """Return the checkpoint to load for a recipe: the file named, else the shelf's; None for seeded weights.

    Whether they are the recipe's is for `load_recipe` to say.
    """
    if weights is not None:
        return None if weights == SEEDED else Path(weights)
    return shelved_weights(recipe) if trained else None


def shelved_weights(recipe: Recipe) -> Path:
    """Return the shelf's checkpoint with the digest of a recipe.

    Raises
    ------
    WeightsError
        When it is not there; the digest and the commands are named.
    """
    kept = WeightsShelf().find(sha256=recipe.weights_sha256)
    if kept is None:
        message = (
            f"the weights of {recipe.encoder} (sha256 {recipe.weights_sha256[:16]}..) are not at hand. "
            f"Give the file: --weights FILE, or keep it for later commands: samkit weights add FILE"
        )
        raise WeightsError(message)
    return kept.path


def _row_bytes(encoder: Encoder) -> int:
    channels, height, width = encoder.embedding_shape
    return channels * height * width * (2 if encoder.recipe.storage_precision == "float16" else 4)


# -- train-head ------------------------------------------------------------------------------------


def run_train(
    workspace_path: Path,
    *,
    head: str,
    subjects: int,
    draws: int,
    encoder: str | None,
    split: str,
    seed: int,
    device: str,
    fit: FitOptions,
    memory_bytes: int | None,
) -> int:
    """Train a head on each draw, score it, and print the table of this head."""
    head_class = find_head(head)
    if subjects < 1:
        message = f"--volumes {subjects}: give at least 1 labelled subject."
        raise UsageError(message)
    if draws < 1:
        message = f"--draws {draws}: give at least 1."
        raise UsageError(message)
    find_device(device)
    workspace = open_workspace(workspace_path)
    embeddings = workspace.embeddings(encoder)
    parted = split_of(workspace, split)
    first = draw_subjects(parted, subjects, 0)
    volumes = len(labelled_volumes(workspace, first.subjects))
    untrained = "" if embeddings.trained else " (untrained)"
    console.say(
        f"{head} on {embeddings.recipe.encoder}{untrained} {embeddings.recipe.id}: {subjects} of {len(parted.pool)} "
        f"subjects ({counted(volumes, 'labelled volume')} in the first draw), "
        f"scored on {counted(len(parted.test), 'test subject')}"
    )
    runs = []
    for draw in range(draws):
        options = TrainOptions(
            head=head,
            subjects=subjects,
            draw=draw,
            split=split,
            seed=seed,
            fit=fit,
            device=device,
            memory_bytes=memory_bytes,
        )
        before = set(workspace.runs)
        with console.progress_bar("fitting", fit.steps, "steps") as bar:
            run = train(workspace, embeddings, head_class, options, progress=bar.reach)
        runs.append(run)
        told = f"{sum(run.record['seconds'].values()):.1f} s" if run.id not in before else "was there already"
        console.say(f"draw {draw}: trained on {', '.join(run.record['training_volumes'])}; {run.id}, {told}")
    console.results_table(tabulate(runs))
    flag = _workspace_flag(workspace_path)
    console.say(f"next: samkit report{flag}, or samkit predict {runs[0].id} --output masks{flag}")
    return DONE


# -- predict ---------------------------------------------------------------------------------------


def run_predict(
    workspace_path: Path,
    *,
    run_name: str,
    source: Path | None,
    output: Path,
    weights: str | None,
    device: str,
    layout: LayoutOptions,
    overwrite: bool = False,
) -> int:
    """Write masks for the workspace's volumes, or for new files."""
    find_device(device)
    workspace = open_workspace(workspace_path)
    run = workspace.runs.find(run_name)
    if source is not None:
        return _predict_new(run, source, output, weights=weights, device=device, layout=layout, overwrite=overwrite)
    head = load_head(run.folder).to(find_device(device))
    embeddings = workspace.embeddings(run.settings.recipe_id)
    volumes = list(workspace.volumes.values())
    targets = {volume.id: output / f"{volume.id}.nii.gz" for volume in volumes}
    # All that can be said against it is said before the first mask is written.
    check_ingested_alike(run, volumes)
    check_embedded(embeddings, volumes, what="workspace's")
    check_not_sources(targets, volumes, layout.id_key)
    check_targets(targets.values(), (), overwrite=overwrite)
    output.mkdir(parents=True, exist_ok=True)
    done = []
    with console.progress_bar("predicting", len(volumes), "volumes") as bar:
        for volume in volumes:
            done.append(predict_volume(run, head, volume, embeddings, targets[volume.id]))
            bar.advance()
    _tell_predictions(run, done)
    return DONE


def _predict_new(
    run: Run,
    source: Path,
    output: Path,
    *,
    weights: str | None,
    device: str,
    layout: LayoutOptions,
    overwrite: bool,
) -> int:
    """Ingest and embed new files as the run's were, in a workspace that is gone afterwards."""
    found = find_sources(source, layout)
    names = {one.id: f"{one.id}.nii.gz" for one in found.sources} if layout.ids == "hash" else mask_names(found.sources)
    targets = {volume_id: output / name for volume_id, name in names.items()}
    files = [path for one in found.sources for path in (*one.image, one.label) if path is not None]
    check_targets(targets.values(), files, overwrite=overwrite)
    head = load_head(run.folder).to(find_device(device))
    recipe = Recipe.from_json(run.record["encoder_recipe"])
    weights_file = _weights_of(recipe, weights, trained=run.record["encoder_trained"])
    encoder = load_recipe(recipe, weights_file, device)
    console.say(
        f"{source}: {found.layout}, {counted(len(found.sources), 'volume')}; "
        f"run {run.id}, encoder {describe_encoder(encoder)}"
    )
    options = _ingest_options_of(run)
    if found.label_names is not None and _foreground(found.label_names) != dict(run.settings.label_names):
        # Equal numbers with other names mean other things: a score would compare a liver with a spleen.
        console.warn(f"the labels of {source} have other names than those of the run; nothing is scored against them")
        found = replace(found, sources=[replace(one, label=None) for one in found.sources])
    with scratch_inside(output) as folder:
        path = folder / "workspace"
        results = _ingest(path, found, options)
        refused = [result for result in results if isinstance(result, Refused)]
        taken = [result for result in results if isinstance(result, Taken)]
        for result in taken:
            for note in result.notes:
                console.warn(f"{result.shown}: {note}")
        done = []
        if taken:
            workspace = open_workspace(path)
            embeddings, _, failures = embed_all(workspace, encoder, weights_file, [device])
            if failures:
                raise UnusableVoxels(failures[0].reason)
            done = [
                predict_volume(run, head, volume, embeddings, targets[volume.id])
                for volume in workspace.volumes.values()
            ]
            _tell_predictions(run, done, shown={result.id: result.shown for result in taken})
    if refused:
        rows = [[result.shown, result.reason] for result in refused]
        console.table("Refused", ["source", "why"], rows, numbers_from=None)
    return SOME_FAILED if refused else DONE


def _ingest_options_of(run: Run) -> IngestOptions:
    """Return the ingest options that the run's volumes were made with."""
    recipe = run.record["ingest_recipe"]
    window = None if recipe["window"] is None else Window(**recipe["window"])
    return IngestOptions(
        window=window,
        intensity="auto" if window is not None else "percentiles",
        axis=recipe["axis"],
        label_names=run.settings.label_names,
        spare_labels=True,
    )


def _foreground(label_names: Mapping[int, str]) -> dict[int, str]:
    return {value: name for value, name in label_names.items() if value != 0}


def _tell_predictions(run: Run, done: Sequence[Predicted], shown: Mapping[str, str] | None = None) -> None:
    rows = []
    for predicted in done:
        name = predicted.volume_id if shown is None else shown[predicted.volume_id]
        note = "trained on" if predicted.trained_on else ""
        if predicted.scores is None:
            rows.append([name, predicted.path.name, "", "", "", "", "", note])
            continue
        for number, score in enumerate(predicted.scores.scores):
            cells = [
                "-" if score.dice is None else f"{100 * score.dice:.1f}",
                "-" if score.iou is None else f"{100 * score.iou:.1f}",
                "-" if score.hd95 is None else f"{score.hd95:.1f} {score.distance_unit}",
                "-" if score.assd is None else f"{score.assd:.1f} {score.distance_unit}",
            ]
            first = [name, predicted.path.name] if number == 0 else ["", ""]
            told = score.outcome if score.outcome != "scored" else ""
            rows.append([*first, score.class_name, *cells, "; ".join(filter(None, [note, told]))])
    columns = ["volume", "mask", "class", "Dice %", "IoU %", "HD95", "ASSD", "note"]
    console.table(f"Masks of {run.id}", columns, rows, numbers_from=3)
    console.say(f"{counted(len(done), 'mask')} in {done[0].path.parent}" if done else "no masks were written")


# -- report and status -----------------------------------------------------------------------------


def run_report(workspace_path: Path, output: Path | None, *, as_json: bool) -> int:
    """Print the table of all runs and write the page."""
    workspace = open_workspace(workspace_path)
    runs, left_out = reportable(workspace)
    rows = tabulate(runs)
    page = write_report(workspace, output or workspace.path / "report")
    for left in left_out:
        console.warn(f"left out: {left.run_id} ({left.alias}) because {left.reason}")
    if as_json:
        console.say(json.dumps([asdict(row) for row in rows], indent=1))
        return DONE
    console.results_table(rows)
    console.say(f"report: {page}")
    return DONE


def run_status(workspace_path: Path, *, as_json: bool) -> int:
    """Say what exists, what is missing or stale, and how large it is."""
    workspace = open_workspace(workspace_path)
    status = status_of(workspace)
    if as_json:
        console.say(json.dumps(status, indent=1))
        return DONE
    dataset = status["dataset"]
    console.say(
        f"{workspace.path}: {counted(dataset['volumes'], 'volume')} of {counted(dataset['subjects'], 'subject')}, "
        f"{dataset['labelled']} labelled, {dataset['slices']} slices; labels {dataset['labels'] or 'none'}"
    )
    if dataset["geometry_unknown"]:
        console.say(
            f"geometry unknown for {dataset['geometry_unknown']} volumes: distances are in voxels, masks have no affine"
        )
    if status["embeddings"]:
        columns = ["embeddings", "rows", "missing", "orphaned", "size", "made by"]
        rows = [
            [
                entry["name"] + ("" if entry["trained"] else " (untrained)"),
                str(entry["rows"]),
                str(entry["missing"]),
                str(entry["orphaned"]),
                console.readable_bytes(entry["bytes"]),
                entry["compute"],
            ]
            for entry in status["embeddings"]
        ]
        console.table("Embeddings", columns, rows)
    if status["runs"]:
        rows = [[entry["id"], entry["alias"], entry["recipe"], entry["stale"] or ""] for entry in status["runs"]]
        console.table("Runs", ["run", "alias", "embeddings", "stale"], rows, numbers_from=None)
    console.say(f"next: {status['next']}")
    return DONE


def status_of(workspace: Workspace) -> dict[str, Any]:
    """Return the state of a workspace as plain values."""
    volumes = list(workspace.volumes.values())
    wanted = {key for volume in volumes for key in volume.row_keys()}
    embeddings = []
    for kept in workspace.recipes().values():
        there = set(kept.journal)
        compute = kept.compute or {}
        embeddings.append(
            {
                "name": kept.folder.name,
                "id": kept.recipe.id,
                "recipe": kept.recipe.to_json(),
                "trained": kept.trained,
                "rows": len(there & wanted),
                "missing": len(wanted - there),
                "orphaned": len(there - wanted),
                "bytes": kept.size_bytes,
                "compute": f"{compute.get('device', '?')}, batches of {compute.get('micro_batch', '?')}",
            }
        )
    runs = [
        {
            "id": run.id,
            "alias": run.alias,
            "recipe": f"{run.settings.encoder}--{run.settings.recipe_id}",
            "stale": stale_because(run, workspace.volumes),
        }
        for run in workspace.runs.values()
    ]
    flag = _workspace_flag(workspace.path)
    if not volumes:
        following = f"samkit ingest FOLDER{flag}"
    elif not embeddings:
        following = f"samkit embed{flag}"
    elif all(entry["missing"] for entry in embeddings):
        following = f"samkit embed --recipe {embeddings[-1]['id']}{flag}"
    elif not runs:
        following = f"samkit train-head autosam --volumes 1 --draws 3{flag}"
    else:
        following = f"samkit report{flag}"
    return {
        "workspace": str(workspace.path),
        "dataset": {
            "volumes": len(volumes),
            "subjects": len({volume.subject for volume in volumes}),
            "labelled": sum(volume.labelled for volume in volumes),
            "slices": sum(len(volume.slice_digests) for volume in volumes),
            "geometry_unknown": sum(volume.affine is None for volume in volumes),
            "labels": ", ".join(f"{value}={name}" for value, name in workspace.label_names.items()),
        },
        "embeddings": embeddings,
        "runs": runs,
        "next": following,
    }


# -- weights ---------------------------------------------------------------------------------------


def run_weights_add(file: Path) -> int:
    """Put a checkpoint on the shelf."""
    kept = WeightsShelf().add(file)
    console.say(f"{kept.encoder}: {kept.path} ({console.readable_bytes(kept.size_bytes)}, sha256 {kept.sha256[:16]}..)")
    console.say(f"next: samkit embed --encoder {kept.encoder}")
    return DONE


def run_weights_list() -> int:
    """List the checkpoints on the shelf."""
    shelf = WeightsShelf()
    rows = [[kept.encoder, kept.sha256[:16], console.readable_bytes(kept.size_bytes)] for kept in shelf]
    if rows:
        console.table(f"Weights in {shelf.folder}", ["encoder", "sha256", "size"], rows, numbers_from=2)
    else:
        console.say(f"no weights in {shelf.folder}. Add a checkpoint: samkit weights add FILE")
    return DONE


def layout_options(
    *, ids: Literal["auto", "stem", "hash"], subject: str | None, channel: int | None, label_suffix: str | None
) -> LayoutOptions:
    """Return the options of a layout, with the user's key for hashed ids."""
    return LayoutOptions(
        ids=ids,
        id_key=id_key(),
        subject_regex=subject,
        channel=channel,
        label_suffix=label_suffix,
    )


def _workspace_flag(path: Path) -> str:
    return "" if str(path) == DEFAULT_WORKSPACE else f" --workspace {shlex.quote(str(path))}"
