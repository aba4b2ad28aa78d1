"""predict: masks for the volumes of the workspace, or for new files."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

from ...heads.base import asks_reference, load_head
from ...heads.classes import class_values
from ...heads.feeding import check_embedded, tiling_of
from ...heads.inference import check_promptable
from ...heads.metrics import ClassScore
from ...heads.tiling import Tiling, row_keys
from ...stages.encoders.base import Encoder, load_recipe
from ...stages.encoders.devices import find_device
from ...stages.encoders.memory import keep_freed_memory
from ...stages.intake.job import IngestOptions, Refused, Taken
from ...stages.mask_files import (
    check_format_of_sources,
    check_format_of_volumes,
    check_not_ingested,
    check_targets,
    grid_of,
    mask_names,
    masks_of_sources,
    masks_of_volumes,
    warning_of_shear,
)
from ...stages.predict import Predicted, ingest_recipes_of, ingested_otherwise, predict_volume
from ...stages.readers.intensity import IntensityRule
from ...stages.readers.labels import LabelChoice, unmatched
from ...stages.readers.layouts import Found, LayoutOptions
from ...stages.readers.mask_writer import MaskFile, MaskFormat
from ...stages.readers.naming import natural_key
from ...stages.training.ways import way_of, windows_of
from ...store.embeddings import Embeddings
from ...store.errors import InputError, UsageError
from ...store.keys import Recipe
from ...store.local import LocalPlace
from ...store.runs import Run
from ...store.slices import Volume
from ...store.workspace import Workspace, open_workspace
from .. import console
from ..console import counted
from ..exit_codes import DONE, SOME_FAILED
from ..processes import SourceReaders
from ..workers import Workers
from .embed import describe_encoder, embed_all
from .hints import workspace_flag
from .ingest import found_in, ingest_found
from .scratch import scratch_inside
from .unfinished import UnfinishedMasks
from .weights import weights_of

LoadEncoder: TypeAlias = Callable[[], tuple[Encoder, Path | None]]
"""Gives an encoder, and the checkpoint that it came from."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PredictOptions:
    """What the user chooses."""

    #: Folder of the masks.
    output: Path
    mask_format: MaskFormat = "nifti"
    #: Write what the head says of each class beside each mask.
    probabilities: bool = False
    #: A checkpoint, or "seeded"; None for what the run's recipe names.
    weights: str | None = None
    device: str = "cpu"
    layout: LayoutOptions
    #: Replace masks that are there.
    overwrite: bool = False


def run_predict(workspace_path: str, *, run_name: str, source: Path | None, options: PredictOptions) -> int:
    """Write masks for the workspace's volumes, or for files."""
    keep_freed_memory()
    find_device(options.device)
    workspace = open_workspace(workspace_path)
    run = workspace.runs.find(run_name)
    if source is not None:
        if asks_reference(run.settings.head, run.settings.head_config):
            message = (
                f"{run.id} is prompted from the reference, which files to be predicted do not have. Take a run of a "
                f"head that needs no prompt: samkit status"
            )
            raise UsageError(message)
        _check_outside(workspace, options.output)
        options = replace(options, layout=_volume_as_in(run, options.layout))
        with SourceReaders() as readers, found_in(source, options.layout, options.output, readers) as found:
            return _predict_found(workspace, run, source, found, options, readers=readers)
    if options.mask_format == "dicom-seg":
        output = shlex.quote(str(options.output))
        message = (
            f"--format dicom-seg: a DICOM-SEG refers to the DICOM files that it was drawn on, and a workspace keeps no "
            f"path to them. Name their folder (what is embedded already is not encoded again): "
            f"samkit predict {run.id} FOLDER --format dicom-seg --output {output}{workspace_flag(workspace_path)}"
        )
        raise UsageError(message)
    return _predict_ingested(workspace, run, options)


def _check_outside(workspace: Workspace, output: Path) -> None:
    """Refuse masks of files inside the workspace: they are called as the files are, and a DICOM-SEG names a patient."""
    place = workspace.path
    resolved = output.resolve()
    if isinstance(place, LocalPlace) and place.path.resolve() in (resolved, *resolved.parents):
        message = (
            f"--output {output}: that is inside the workspace, which is made to be passed on without patients' names, "
            f"and masks of files may carry some. Name a folder elsewhere: --output MASKS"
        )
        raise UsageError(message)


def _check_beside(source: Path, output: Path) -> None:
    """Refuse masks below the folder that is searched: the next search would take them for images."""
    resolved = output.resolve()
    if source.is_dir() and source.resolve() in (resolved, *resolved.parents):
        message = (
            f"--output {output}: that is inside {source}, which is searched for images: the next time these masks "
            f"would be taken for some. Name a folder elsewhere: --output MASKS"
        )
        raise UsageError(message)


def _predict_ingested(workspace: Workspace, run: Run, options: PredictOptions) -> int:
    """Write masks for the workspace's volumes; all that can be said against it is said before the first."""
    head = load_head(run.folder).to(find_device(options.device))
    volumes = list(workspace.volumes.values())
    refused = ingested_otherwise(run, volumes, of_own_workspace=True)
    if refused and len(refused) == len(volumes):
        message = f"{counted(len(refused), 'volume')}: {next(iter(refused.values()))}. Nothing was written."
        raise InputError(message)
    volumes = [volume for volume in volumes if volume.id not in refused]
    if asks_reference(run.settings.head, run.settings.head_config):
        for volume in volumes:
            check_promptable(head, volume)
    embeddings = None
    if head.sees.features:
        embeddings = workspace.embeddings(run.settings.recipe_id)
        check_embedded(embeddings, volumes, what="workspace's", tiling=tiling_of(embeddings, run.settings.tiles))
    check_format_of_volumes(options.mask_format, volumes)
    masks = masks_of_volumes(options.output, volumes, options.mask_format, with_probabilities=options.probabilities)
    check_not_ingested(masks, workspace.volumes, options.layout.id_key)
    unfinished = UnfinishedMasks(options.output, run.id)
    check_targets(masks.values(), (), overwrite=options.overwrite, own=unfinished.own())
    options.output.mkdir(parents=True, exist_ok=True)
    done = []
    with console.progress_bar("predicting", len(volumes), "volumes") as bar:
        for volume in volumes:
            with unfinished.writing(masks[volume.id]):
                done.append(predict_volume(run, head, volume, embeddings, masks[volume.id], of_own_workspace=True))
            bar.advance()
    unfinished.finish()
    _warn_of_shear(masks, volumes)
    _tell_predictions(run, done)
    _tell_probabilities(run, masks.values())
    return _tell_refused([Refused(shown=name, reason=reason) for name, reason in refused.items()])


def _predict_found(
    workspace: Workspace, run: Run, source: Path, found: Found, options: PredictOptions, *, readers: SourceReaders
) -> int:
    """Ingest files as the run's were, in a workspace that is gone afterwards, and embed what is not embedded yet."""
    check_format_of_sources(options.mask_format, found.sources)
    names = mask_names(found.sources, ids_only=options.layout.ids == "hash")
    unfinished = UnfinishedMasks(options.output, run.id)

    def check(masks: Mapping[str, MaskFile]) -> None:
        check_not_ingested(masks, workspace.volumes, options.layout.id_key, found.sources)
        check_targets(masks.values(), found.sources, overwrite=options.overwrite, own=unfinished.own())

    check(
        masks_of_sources(
            options.output, found.sources, options.mask_format, names, with_probabilities=options.probabilities
        )
    )
    _check_beside(source, options.output)
    head = load_head(run.folder).to(find_device(options.device))
    console.say(f"{source}: {found.layout}, {counted(len(found.sources), 'volume')}; run {run.id}")

    @cache
    def load_encoder() -> tuple[Encoder, Path | None]:
        recipe = Recipe.from_json(run.record["encoder_recipe"])
        weights_file = weights_of(recipe, options.weights, trained=run.record["encoder_trained"])
        encoder = load_recipe(recipe, weights_file, options.device)
        console.say(f"encoder {describe_encoder(encoder)}")
        return encoder, weights_file

    kept = next(iter(workspace.recipes(f"*--{run.settings.recipe_id}").values()), None)
    tiling = _tiling_of(run)
    if options.weights is not None and not head.sees.features:
        message = (
            f"--weights {options.weights}: {run.id} sees the slices themselves, without an encoder beside it. Leave "
            f"the flag out."
        )
        raise UsageError(message)
    if head.sees.features and (options.weights is not None or not _probably_embedded(workspace, kept, found, tiling)):
        load_encoder()  # what is wrong with the weights is said before everything is read
    found = _with_labels_as_in(run, found, source)
    with scratch_inside(options.output) as folder:
        results = ingest_found(folder / "workspace", found, _ingest_options_of(run), readers)
        refused = [result for result in results if isinstance(result, Refused)]
        shown = {result.id: result.shown for result in results if isinstance(result, Taken)}
        for result in results:
            for note in result.notes if isinstance(result, Taken) else ():
                console.warn(f"{result.shown}: {note}")
        if shown:
            scratch = open_workspace(folder / "workspace")
            volumes = sorted(scratch.volumes.values(), key=lambda volume: natural_key(shown[volume.id]))
            reasons = ingested_otherwise(run, volumes, of_own_workspace=False)
            volumes = [volume for volume in volumes if volume.id not in reasons]
            _warn_of_several_windows(run, volumes)
            check_format_of_volumes(options.mask_format, volumes)
            # Now that all grids are known: the mask of a sheared one has another name.
            masks = masks_of_volumes(
                options.output, volumes, options.mask_format, names, with_probabilities=options.probabilities
            )
            check(masks)
            rows: dict[str, Embeddings] = {}
            if head.sees.features:
                rows, not_encoded = _rows_of(scratch, volumes, kept, load_encoder, options.device, tiling=tiling)
                reasons |= not_encoded
            refused += [Refused(shown=shown[name], reason=reason) for name, reason in reasons.items()]
            volumes = [volume for volume in volumes if volume.id not in reasons]
            series = {one.id: one.series for one in found.sources}
            done = []
            with console.progress_bar("predicting", len(volumes), "volumes") as bar:
                for one in volumes:
                    mask, files = masks[one.id], series[one.id]
                    try:
                        with unfinished.writing(mask):
                            done.append(
                                predict_volume(
                                    run, head, one, rows.get(one.id), mask, series=files, of_own_workspace=False
                                )
                            )
                    except InputError as error:  # the format does not fit after all: it costs this mask
                        refused.append(Refused(shown=shown[one.id], reason=str(error)))
                    bar.advance()
            unfinished.finish()
            _warn_of_shear(masks, volumes)
            _tell_predictions(run, done, shown=shown)
            _tell_probabilities(run, masks.values())
    return _tell_refused(refused)


def _tell_refused(refused: Sequence[Refused]) -> int:
    if refused:
        told = [[result.shown, result.reason] for result in refused]
        console.table("Refused", ["source", "why"], told, numbers_from=None)
    return SOME_FAILED if refused else DONE


def _tiling_of(run: Run) -> Tiling | None:
    """Return how the planes of the run's volumes were cut, which its workspace may have no recipe of any more."""
    overlap = run.settings.tiles
    if overlap is None:
        return None
    return Tiling(input_px=Recipe.from_json(run.record["encoder_recipe"]).input_px, overlap=overlap)


def _probably_embedded(workspace: Workspace, kept: Embeddings | None, found: Found, tiling: Tiling | None) -> bool:
    """Tell by their keyed hashes whether all sources are volumes of the workspace with rows of the run's recipe.

    Probably: a file may have changed since. What counts is the pixels, when they are read.
    """
    known = {volume.record.identity: volume for volume in workspace.volumes.values()}
    volumes = [known.get(source.identity) for source in found.sources]
    return kept is not None and all(
        volume is not None and not kept.journal.missing(row_keys(volume, tiling)) for volume in volumes
    )


def _rows_of(
    scratch: Workspace,
    volumes: Sequence[Volume],
    kept: Embeddings | None,
    load_encoder: LoadEncoder,
    device: str,
    *,
    tiling: Tiling | None,
) -> tuple[dict[str, Embeddings], dict[str, str]]:
    """Return where the rows of each volume are, and why some have not all of theirs, both by their ids.

    Slices that the workspace has rows of are not encoded again: a row belongs to the pixels of a slice, whatever file
    they came from.
    """
    keys = {volume.id: row_keys(volume, tiling) for volume in volumes}
    rows = {name: kept for name, wanted in keys.items() if kept is not None and not kept.journal.missing(wanted)}
    not_encoded: dict[str, str] = {}
    if rows:
        console.say(f"{len(rows)} of {counted(len(volumes), 'volume')} embedded in the workspace already")
    if len(rows) < len(volumes):
        encoder, weights_file = load_encoder()
        left = [key for name, wanted in keys.items() if name not in rows for key in wanted]
        done = embed_all(scratch, encoder, weights_file, Workers(devices=(device,)), wanted=left)
        why = "; ".join(dict.fromkeys(failure.reason for failure in done.failures))
        not_encoded = {name: why for name in keys if name not in rows and done.embeddings.journal.missing(keys[name])}
        rows |= {name: done.embeddings for name in keys if name not in {*rows, *not_encoded}}
    return rows, not_encoded


def _with_labels_as_in(run: Run, found: Found, source: Path) -> Found:
    """Choose of the labels what the run's were; leave out those that mean other things.

    A score would compare a liver with a spleen.
    """
    if run.record.get("other_label_recipes") and any(one.label is not None for one in found.sources):
        console.warn(
            f"the labels that {run.id} was trained on were taken in several ways (--labels), and nothing says which "
            f"fits those of {source}; nothing is scored against them. Volumes of the workspace are scored: samkit "
            f"predict {run.id}, without a source"
        )
        return replace(found, sources=[replace(one, label=None) for one in found.sources])
    choice = _label_choice_of(run)
    names = found.label_names or {}
    if choice.selects:
        known = [*names.values(), *(name for one in found.sources if one.label is not None for name in one.label.names)]
        patterns = sum(len(class_.takes) for class_ in choice.classes)
        alike = not known or len(unmatched(choice, known, names)) < patterns
    else:
        alike = not names or {value: name for value, name in names.items() if value != 0} == choice.names
    if not alike:
        console.warn(f"the labels of {source} have other names than those of the run; nothing is scored against them")
        found = replace(found, sources=[replace(one, label=None) for one in found.sources])
    labels = run.record["ingest_recipe"]["labels"] or {}
    return replace(found, labels=choice, overlap=labels.get("overlap"))


def _label_choice_of(run: Run) -> LabelChoice:
    labels = run.record["ingest_recipe"]["labels"]
    if labels is not None:
        choice = LabelChoice.from_json(labels["choice"])
        if choice.names == dict(run.settings.label_names):
            return choice
    return LabelChoice.of_names(run.settings.label_names)


def _volume_as_in(run: Run, layout: LayoutOptions) -> LayoutOptions:
    """Take the volume of 4-D files, and the channel, that the run was trained on, where none is asked for."""
    chosen = run.record["ingest_recipe"]["volume"]
    asked = layout.volume
    if (asked.time_index, asked.b_value, asked.echo) == (None, None, None):
        asked = replace(asked, **{name: chosen.get(name) for name in ("time_index", "b_value", "echo")})
    if layout.channel is not None:
        return replace(layout, volume=asked)
    return replace(layout, volume=asked, channel=chosen.get("channel"), channel_is_preferred=True)


def _ingest_options_of(run: Run) -> IngestOptions:
    """Return the ingest options that the run's volumes were made with."""
    recipe, *others = ingest_recipes_of(run)
    labels = recipe["labels"] or {}
    rules = {_rule_of(one) for one in (recipe, *others)}
    return IngestOptions(
        windows=windows_of(recipe),
        # Pictures of 8 bits beside others, each by its own rule, are what "auto" makes.
        intensity=rules.pop() if len(rules) == 1 else "auto",
        non_finite=recipe["non_finite"],
        axis=recipe["axis"],
        label_threshold=labels.get("threshold"),
        resample_labels=labels.get("resampled", False),
        spare_labels=True,
    )


def _rule_of(recipe: Mapping[str, Any]) -> IntensityRule:
    rule = recipe["intensities"][0]["rule"]
    return "auto" if rule == "window" else rule


def _warn_of_several_windows(run: Run, volumes: Iterable[Volume]) -> None:
    """Say in which window files are shown, where the run has several and nothing says which of them is theirs."""
    first, *others = dict.fromkeys(way_of(recipe)["window"] for recipe in ingest_recipes_of(run))
    unknown = sum(volume.record.modality is None for volume in volumes)
    if others and unknown:
        console.warn(
            f"{run.id} was trained on slices in window {' and '.join([first, *others])}; "
            f"{counted(unknown, 'file')} whose modality nothing says: window {first} is taken"
        )


def _warn_of_shear(masks: Mapping[str, MaskFile], volumes: Iterable[Volume]) -> None:
    for volume in volumes:
        warning = warning_of_shear(masks[volume.id], grid_of(volume))
        if warning is not None:
            console.warn(warning)


def _tell_predictions(run: Run, done: Sequence[Predicted], shown: Mapping[str, str] | None = None) -> None:
    scored = any(predicted.scores is not None for predicted in done)
    rows = []
    for predicted in done:
        name = predicted.volume_id if shown is None else shown[predicted.volume_id]
        scores = {} if predicted.scores is None else {one.class_name: one for one in predicted.scores.scores}
        for number, (class_name, voxels) in enumerate(predicted.voxels.items()):
            first = [name, predicted.path.name] if number == 0 else ["", ""]
            notes = ["trained on"] if predicted.trained_on else []
            if class_name in scores and scores[class_name].outcome != "scored":
                notes.append(scores[class_name].outcome)
            measures = _measures(scores.get(class_name)) if scored else []
            rows.append([*first, class_name, _amount(voxels, predicted.voxel_ml), *measures, "; ".join(notes)])
    columns = ["volume", "mask", "class", "found", *(["Dice %", "IoU %", "HD95", "ASSD"] if scored else []), "note"]
    console.table(f"Masks of {run.id}", columns, rows, numbers_from=3)
    console.say(f"{counted(len(done), 'mask')} in {done[0].path.parent}" if done else "no masks were written")


def _tell_probabilities(run: Run, masks: Iterable[MaskFile]) -> None:
    """Say where probabilities are, and of what: their files do not."""
    written = [mask.probabilities.path for mask in masks if mask.probabilities is not None]
    written = [path for path in written if path.exists()]
    if written:
        names = run.settings.label_names
        classes = ["background", *(names[value] for value in class_values(names)[1:])]
        console.say(
            f"beside them {counted(len(written), 'file')} *.probabilities.nii.gz, along the fourth axis: "
            f"{', '.join(classes)}"
        )


def _measures(score: ClassScore | None) -> list[str]:
    if score is None:
        return [""] * 4
    distances = [value if value is None else f"{value:.1f} {score.distance_unit}" for value in (score.hd95, score.assd)]
    overlaps = [None if value is None else f"{100 * value:.1f}" for value in (score.dice, score.iou)]
    return [text or "-" for text in (*overlaps, *distances)]


def _amount(voxels: int, voxel_ml: float | None) -> str:
    """Return how much was found, in millilitres where the spacing is known.

    >>> _amount(1500, 0.001), _amount(12, None)
    ('1.5 ml', '12 voxels')
    """
    return counted(voxels, "voxel") if voxel_ml is None else f"{voxels * voxel_ml:.1f} ml"
