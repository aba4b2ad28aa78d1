"""predict: masks for the volumes of the workspace, or for new files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from ...heads.base import load_head
from ...heads.feeding import check_embedded
from ...stages.embed import load_recipe
from ...stages.encoders.devices import find_device
from ...stages.ingest import IngestOptions, Refused, Taken
from ...stages.predict import (
    Predicted,
    check_ingested_alike,
    check_not_sources,
    check_targets,
    mask_names,
    predict_volume,
    scratch_inside,
)
from ...stages.readers.intensity import Window
from ...stages.readers.layouts import LayoutOptions, find_sources
from ...store.errors import UnusableVoxels
from ...store.keys import Recipe
from ...store.runs import Run
from ...store.workspace import open_workspace
from .. import console
from ..console import counted
from ..exit_codes import DONE, SOME_FAILED
from .embed import describe_encoder, embed_all
from .ingest import ingest_found
from .weights import weights_of


def run_predict(
    workspace_path: str,
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
    weights_file = weights_of(recipe, weights, trained=run.record["encoder_trained"])
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
        results = ingest_found(path, found, options)
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
