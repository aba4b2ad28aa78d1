"""What a run will be, decided before anything takes time, and what it is refused for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ...heads.base import MASK_DECODER_FILE, Head, HeadContext, SolvedHead, check_options
from ...heads.chunks import ChunkHead, check_chunks
from ...heads.feeding import AS_THEY_ARE, check_embedded, tiling_of
from ...heads.patches import patch_shape
from ...heads.recipes import FitOptions
from ...heads.sampling import FRAMES, NO_DRAW, SUBJECTS, Draw, draw_frames, draw_subjects, make_split, scored_subjects
from ...heads.seen import Sees
from ...heads.tiling import Tiling
from ...store.embeddings import Embeddings
from ...store.errors import InputError, MissingEmbeddings, UsageError
from ...store.keys import NECK, Recipe
from ...store.pretrained import PretrainingSettings
from ...store.runs import NO_ENCODER, RunSettings, check_name
from ...store.slices import Volume
from ...store.splits import DEFAULT_SPLIT, Split
from ...store.workspace import Workspace
from ..encoders.base import find_encoder
from .beginnings import live_encoder_of, mask_decoder_of, read_cnn_weights, read_pretrained
from .ways import told_way, way_of


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainOptions:
    """What the user chooses of a run."""

    head: str
    #: How many to draw.
    subjects: int
    #: Of what: `sampling.SUBJECTS`, or `sampling.FRAMES`, labelled volumes one by one.
    counted: str = SUBJECTS
    draw: int
    split: str = DEFAULT_SPLIT
    seed: int = 0
    fit: FitOptions
    device: str = "cpu"
    #: Bytes of features that may be kept in memory; None for half of what is free.
    memory_bytes: int | None = None
    #: The overlap of the tiles that planes larger than the encoder's input are cut into; None for resized planes.
    tiles: float | None = None
    #: Of the slices that a head is fitted to, canonical texts; it is validated and scored on slices as they are.
    views: tuple[str, ...] = AS_THEY_ARE
    #: What is asked for among the head's own, see `heads.base.Head.options`.
    head_options: Mapping[str, str] = field(default_factory=dict)
    #: A checkpoint for the CNN of a head that has one.
    cnn_weights: Path | None = None
    #: Of what a head learns without labels before, where it does; None for its own.
    pretraining_steps: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class RunPlan:
    """A run before it is trained."""

    #: What it will be, and be called.
    settings: RunSettings
    draw: Draw
    #: To be scored.
    test: tuple[Volume, ...]
    tiling: Tiling | None
    #: As it begins; without what it learns before, where that has not been learned yet.
    head: Head
    #: What it begins from: `stages.pretrain` makes it. None for most heads.
    pretraining: PretrainingSettings | None


def plan_run(
    workspace: Workspace,
    embeddings: Embeddings | None,
    head_class: type[Head],
    options: TrainOptions,
    *,
    keeps_split: bool = True,
) -> RunPlan:
    """Decide everything about a run, and refuse what cannot be, before anything takes time.

    Parameters and what is raised are those of `train`; a split that is made by this is kept, unless told otherwise.
    """
    _check_fits(head_class, embeddings, options)
    tiling = None if embeddings is None else tiling_of(embeddings, options.tiles)
    split = split_of(workspace, options.split)
    draw, test = _parts(workspace, embeddings, split, head_class, options)
    if keeps_split and split != workspace.split(split.name):
        # Another command may have made it meanwhile, from other subjects: the one that stands parts them.
        split = workspace.keep_split(split)
        draw, test = _parts(workspace, embeddings, split, head_class, options)
    input_shape = None if embeddings is None else embeddings.row_shape
    live = None
    if embeddings is not None and (head_class.sees.squares or head_class.sees.chunks):
        live = live_encoder_of(embeddings.recipe, trained=embeddings.trained)
    pretraining = _pretraining_of(workspace, split, head_class, options)
    if head_class.sees is Sees.SLICES:
        patch_shape([*drawn_volumes(workspace, draw), *test])  # refuses unlike numbers of channels before the fit
    head = head_class.build(
        HeadContext(
            input_shape=input_shape or patch_shape(training_volumes(workspace, draw)),
            class_count=1 + len(workspace.label_names),
            mask_decoder=None if embeddings is None else mask_decoder_of(embeddings),
            cnn_weights=None if options.cnn_weights is None else read_cnn_weights(options.cnn_weights),
            pretrained=None if pretraining is None else read_pretrained(workspace, pretraining),
            live_encoder=live,
            block=None if embeddings is None else embeddings.recipe.block,
            options=check_options(head_class, options.head_options),
            seed=options.seed,
        )
    )
    if isinstance(head, ChunkHead):
        check_chunks(head, [*drawn_volumes(workspace, draw), *test])
    fitting = {} if issubclass(head_class, SolvedHead) or head_class.zero_shot else options.fit.to_json()
    settings = settings_of(
        workspace,
        embeddings,
        options,
        split=split,
        draw=draw,
        head_config=head.config,
        fitting=fitting,
        revision=head.revision,
    )
    return RunPlan(settings=settings, draw=draw, test=tuple(test), tiling=tiling, head=head, pretraining=pretraining)


def embeddings_for(
    workspace: Workspace, head_class: type[Head], head_options: Mapping[str, str], name: str | None
) -> Embeddings | None:
    """Return the embeddings that a head is trained on, by what it sees and what is named.

    Parameters
    ----------
    workspace
        Where they are.
    head_class, head_options
        What is trained, and what was asked for among its own.
    name
        An encoder's name, a recipe's id, or None for the newest of all that fit.

    Raises
    ------
    MissingEmbeddings
        When there are none, or none at a block that the head can begin from.
    """
    if not head_class.sees.recipe:
        return None
    if head_class.sees is not Sees.CHUNKS or not issubclass(head_class, ChunkHead):
        return workspace.embeddings(name)
    found = workspace.recipes_named(name)
    if name in (found[-1].recipe.id, found[-1].folder.name):
        return found[-1]
    ends = [kept for kept in found if kept.recipe.block is None]
    current = workspace.whole(ends or found)[-1].recipe
    asked = check_options(head_class, head_options)

    def wanted(recipe: Recipe) -> int | None:
        """Return the block of the recipe's encoder that the head enters, None where it has none."""
        depth = find_encoder(recipe.encoder).block_count
        return None if depth is None else head_class.entered_block(asked, depth)

    taps = [kept for kept in found if kept.recipe.block is not None]
    fitting = [kept for kept in taps if (kept.recipe.block or 0) <= (wanted(kept.recipe) or 0)]
    if not fitting:
        block = wanted(current)
        remedy = f"Make it: samkit embed --encoder {current.encoder} --tap block:{block}"
        if block is None:
            remedy = (
                f"Of {current.encoder} only its end can be had. Take one of samkit's own: samkit embed --encoder nano, "
                f"and samkit train-head {head_class.name} --encoder nano says which tap"
            )
        message = (
            f"{head_class.name} trains the last blocks of an encoder, and {workspace.path} does not have what enters "
            f"them. {remedy}"
        )
        raise MissingEmbeddings(message)
    complete = workspace.whole(fitting)
    # As what other heads are trained on, but for the tap; of these the latest block: the less there is to run.
    alike = [kept for kept in complete if _but_for_the_tap(kept.recipe) == _but_for_the_tap(current)] or complete
    return max(enumerate(alike), key=lambda one: (one[1].recipe.block or 0, one[0]))[1]


def _but_for_the_tap(recipe: Recipe) -> Recipe:
    return replace(recipe, tap=NECK, storage_precision="")


def split_of(workspace: Workspace, name: str = DEFAULT_SPLIT) -> Split:
    """Return a split, made when first needed; new labelled subjects join its pool. `train` keeps it."""
    labelled = workspace.labelled_subjects
    kept = workspace.split(name)
    if kept is None and name != DEFAULT_SPLIT:
        there = f"It has {', '.join(workspace.splits)}. " if workspace.splits else ""
        message = (
            f"no split {name!r} in {workspace.path}. {there}One that was published with a dataset, as synapse-18-12, "
            f"is made when its files are ingested under their published names; one of your own by: samkit split NAME"
        )
        raise UsageError(message)
    return make_split(labelled, name=name) if kept is None else kept.joined_by(labelled)


def labelled_volumes(workspace: Workspace, subjects: Sequence[str]) -> list[Volume]:
    """Return the labelled volumes of some subjects, in the order of the subjects."""
    of_subject: dict[str, list[Volume]] = {subject: [] for subject in subjects}
    for volume in workspace.volumes.values():
        if volume.labelled and volume.subject in of_subject:
            of_subject[volume.subject].append(volume)
    return [volume for subject in subjects for volume in of_subject[subject]]


def draw_of(workspace: Workspace, split: Split, head_class: type[Head], options: TrainOptions) -> Draw:
    """Return what is drawn for a run: nothing for a head that is scored as it is.

    One subject is kept to stop by where the fit asks for it, and where there is a fit.

    Raises
    ------
    UsageError
        When there are fewer than asked for.
    """
    if head_class.zero_shot:
        return NO_DRAW
    check_name("count", options.counted, [SUBJECTS, FRAMES])
    if options.counted == SUBJECTS:
        draw = draw_subjects(split, options.subjects, options.draw, workspace.labelled_subjects)
        stops = not issubclass(head_class, SolvedHead) and options.fit.validate_every is not None
        return draw if stops else replace(draw, validation=None)
    if options.fit.validate_every is not None:
        message = (
            f"--count {FRAMES}: frames are drawn one by one, so that no subject is left to stop by. Leave out "
            f"--validation, or count subjects."
        )
        raise UsageError(message)
    subject_of = {volume.id: volume.subject for volume in workspace.volumes.values() if volume.labelled}
    return draw_frames(split, options.subjects, options.draw, subject_of)


def drawn_volumes(workspace: Workspace, draw: Draw) -> list[Volume]:
    """Return the labelled volumes of a draw, that of the validation subject included."""
    volumes = labelled_volumes(workspace, draw.subjects)
    return volumes if draw.volumes is None else [volume for volume in volumes if volume.id in draw.volumes]


def training_volumes(workspace: Workspace, draw: Draw) -> list[Volume]:
    """Return the labelled volumes of a draw that a head is fitted to."""
    return [volume for volume in drawn_volumes(workspace, draw) if volume.subject in draw.training]


def classes_not_shown(workspace: Workspace, draw: Draw) -> list[str]:
    """Return the classes of which no volume that a head is fitted to has a voxel: it cannot learn them."""
    shown = {value for volume in training_volumes(workspace, draw) for value in volume.record.label_values}
    return [name for value, name in workspace.label_names.items() if value not in shown]


def scored_otherwise(workspace: Workspace, split: Split, draw: Draw) -> str | None:
    """Say how test volumes were ingested in a way that no volume was which a head is fitted to; None where none was.

    `stages.predict.ingested_otherwise` refuses to show such to the head.
    """
    known = [way_of(volume.ingest_recipe) for volume in training_volumes(workspace, draw)]
    test = _test_volumes(workspace, split)
    others = [way for volume in test if (way := way_of(volume.ingest_recipe)) not in known]
    if not known or not others:
        return None
    differing = [name for name, value in others[0].items() if value != known[0][name]]
    return (
        f"{len(others)} of {len(test)} test volumes were ingested with {told_way(others[0], differing)}, and what a "
        f"head is fitted to with {told_way(known[0], differing)}"
    )


def settings_of(
    workspace: Workspace,
    embeddings: Embeddings | None,
    options: TrainOptions,
    *,
    split: Split,
    draw: Draw,
    head_config: dict[str, Any],
    fitting: dict[str, Any],
    revision: int,
) -> RunSettings:
    """Return everything that decides a run's result; ``fitting`` is empty for a head that is solved."""
    return RunSettings(
        head=options.head,
        head_config=head_config,
        encoder=NO_ENCODER if embeddings is None else embeddings.recipe.encoder,
        recipe_id=NO_ENCODER if embeddings is None else embeddings.recipe.id,
        split=split.name,
        split_digest=split.digest,
        subjects=draw.count,
        counted=options.counted,
        draw=draw.number,
        drawn=draw.subjects,
        validation=draw.validation,
        drawn_volumes=_contents(drawn_volumes(workspace, draw)),
        scored_volumes=_contents(_test_volumes(workspace, split)),
        label_names=workspace.label_names,
        training=fitting,
        seed=options.seed,
        tiles=options.tiles,
        views=options.views,
        revision=revision,
    )


def _parts(
    workspace: Workspace,
    embeddings: Embeddings | None,
    split: Split,
    head_class: type[Head],
    options: TrainOptions,
) -> tuple[Draw, list[Volume]]:
    """Return the draw and the volumes to be scored, all of them embedded: refused before the minutes of fitting."""
    draw = draw_of(workspace, split, head_class, options)
    test = _test_volumes(workspace, split)
    _check_no_twins(workspace, drawn_volumes(workspace, draw), test)
    if embeddings is not None and head_class.sees.features:
        tiling = tiling_of(embeddings, options.tiles)
        check_embedded(embeddings, test, what="test", tiling=tiling)
        check_embedded(embeddings, drawn_volumes(workspace, draw), what="drawn", tiling=tiling)
        training = training_volumes(workspace, draw)
        check_embedded(embeddings, training, what="drawn", tiling=tiling, views=options.views, split=split.name)
    return draw, test


def _check_no_twins(workspace: Workspace, drawn: Sequence[Volume], test: Sequence[Volume]) -> None:
    """Refuse a scan that is there twice, under two subjects, among what is drawn and what is scored.

    Drawn and scored, a head would be scored on what it was trained on; drawn twice or scored twice, it would count as
    two subjects.

    Raises
    ------
    InputError
        With all of them, and what to do: what no run was trained or scored on is taken away, which makes none stale.
    """
    alike: dict[tuple[str, ...], list[Volume]] = {}
    for volume in (*drawn, *test):
        alike.setdefault(volume.slice_digests, []).append(volume)
    twins = [volumes for volumes in alike.values() if len({volume.subject for volume in volumes}) > 1]
    if not twins:
        return
    used = {
        volume_id
        for run in workspace.runs.values()
        for volume_id in (*run.settings.drawn_volumes, *run.settings.scored_volumes)
    }
    first, second = twins[0][:2]
    drawn_ids = {volume.id for volume in drawn}
    of_either = ["drawn" if volume.id in drawn_ids else "scored" for volume in (first, second)]
    # The first one that runs know stays; of scans that none knows, the first.
    gone = [volume.id for volumes in twins for volume in sorted(volumes, key=lambda one: one.id not in used)[1:]]
    more = f" (and {len(twins) - 1} more such scans)" if twins[1:] else ""
    message = (
        f"{first.id} of subject {first.subject}, which is {of_either[0]}, and {second.id} of subject {second.subject}, "
        f"which is {of_either[1]}, have the same slices{more}: one scan that was ingested twice, from another folder "
        f"or under another name. It would count as two subjects, or a head be scored on what it was trained on. Keep "
        f"one: samkit remove {' '.join(gone)}"
    )
    raise InputError(message)


def _check_fits(head_class: type[Head], embeddings: Embeddings | None, options: TrainOptions) -> None:
    """Refuse a head that cannot be trained on these embeddings, or without any."""
    asked = (options.subjects, options.counted, options.draw, options.views)
    if head_class.zero_shot and asked != (0, SUBJECTS, 0, AS_THEY_ARE):
        message = (
            f"{options.head} is scored as it is, without training: it draws nobody and sees no views. Ask for "
            f"--volumes 0, and leave --count, --views and --draws out."
        )
        raise UsageError(message)
    if head_class.sees is Sees.FEATURES_AND_BOXES:
        if options.tiles is not None:
            message = f"--tiles: {options.head} is prompted with boxes, which may lie across tiles. Leave the flag out."
            raise UsageError(message)
        decoder = None if embeddings is None else mask_decoder_of(embeddings)
        if embeddings is not None and decoder is not None and not decoder.prompt_encoder:
            message = (
                f"{options.head} needs SAM's prompt encoder, and {embeddings.folder.name} was made without it, by an "
                f"earlier samkit or from a checkpoint without one. Embed again into a fresh workspace: samkit embed"
            )
            raise UsageError(message)
    if (head_class.sees.squares or head_class.sees.chunks) and options.tiles is not None:
        message = f"--tiles: {options.head} sees slices whole, at the size of its encoder. Leave the flag out."
        raise UsageError(message)
    if head_class.sees is Sees.SLICES:
        if embeddings is not None or options.tiles is not None:
            message = f"{options.head} sees slices, not features: it is trained without an encoder and without tiles."
            raise UsageError(message)
        return
    if embeddings is None:
        message = f"{options.head} is trained on embeddings, and none were given. Make them: samkit embed"
        raise UsageError(message)
    inner = embeddings.recipe.block is not None and not (head_class.sees.chunks or head_class.sees.squares)
    if inner and head_class.needs_mask_decoder:
        message = (
            f"{options.head} starts from SAM's mask decoder, which reads what the encoder ends with, and the rows of "
            f"{embeddings.folder.name} are of {embeddings.recipe.tap}. Name another recipe with --encoder: samkit "
            f"status lists them; samkit embed makes it"
        )
        raise UsageError(message)
    if head_class.needs_mask_decoder and MASK_DECODER_FILE not in embeddings.attachments:
        message = (
            f"{options.head} starts from SAM's mask decoder, and {embeddings.folder.name} has none: its encoder is not "
            f"SAM, or its checkpoint was an image encoder alone. Train another head: samkit train-head linear"
        )
        raise UsageError(message)


def _pretraining_of(
    workspace: Workspace, split: Split, head_class: type[Head], options: TrainOptions
) -> PretrainingSettings | None:
    """Return what a head that learns without labels begins from: of all volumes but the test part's and the unused.

    Nor of a copy of a test scan: it is no subject of the split without a label, but shows what is scored.
    """
    if head_class.contrast is None:
        return None
    contrast = head_class.contrast
    if options.pretraining_steps is not None:
        contrast = replace(contrast, steps=options.pretraining_steps)
    apart = {*split.test, *split.unused}
    scored = {volume.slice_digests for volume in workspace.volumes.values() if volume.subject in split.test}
    volumes = [
        volume
        for volume in workspace.volumes.values()
        if volume.subject not in apart and volume.slice_digests not in scored
    ]
    return PretrainingSettings(
        head=head_class.name,
        slices={volume.id: volume.content.partition("/")[0] for volume in volumes},
        channels=patch_shape(volumes)[0],
        training=contrast.to_json(),
        seed=options.seed,
    )


def _test_volumes(workspace: Workspace, split: Split) -> list[Volume]:
    return labelled_volumes(workspace, scored_subjects(split, workspace.labelled_subjects))


def _contents(volumes: Sequence[Volume]) -> dict[str, str]:
    return {volume.id: volume.content for volume in volumes}
