"""train: embeddings + labels -> a run. Draw subjects, fit a head to them, score it on the test subjects, keep it.

Shapes: N slices, C channels, h w cells of the embedding, G cells of the logit grid.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import tee
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load as load_safetensors
from torch import Tensor

from ..heads.base import (
    MASK_DECODER_FILE,
    CnnWeights,
    Head,
    HeadContext,
    MaskDecoderWeights,
    PretrainedWeights,
    Sees,
    SolvedHead,
    check_options,
    head_bytes,
    seeded,
)
from ..heads.feeding import AS_THEY_ARE, LabelledInput, LabelledSlices, check_embedded, tiling_of
from ..heads.fitting import Step, fit
from ..heads.inference import segment_volume
from ..heads.losses import IGNORED
from ..heads.metrics import judge
from ..heads.patches import LabelledPatches, patch_shape
from ..heads.recipes import FitOptions
from ..heads.sampling import FRAMES, NO_DRAW, SUBJECTS, Draw, draw_frames, draw_subjects, make_split, scored_subjects
from ..heads.tiling import Tiling
from ..store.arrays import array_files, inside
from ..store.documents import bytes_digest, readable_json, sealed_json
from ..store.embeddings import Embeddings
from ..store.errors import MissingRun, UsageError
from ..store.pretrained import WEIGHTS, PretrainingSettings
from ..store.provenance import code_version
from ..store.runs import NO_ENCODER, Run, RunSettings, check_name
from ..store.slices import Volume
from ..store.splits import Split
from ..store.workspace import Workspace
from .encoders.checkpoints import read_resnet
from .encoders.digests import file_sha256
from .encoders.memory import forget_peak_memory, free_memory_bytes, peak_memory_bytes

# Features of the draw are kept in memory when they take no more than this share of what is free.
_MEMORY_SHARE = 0.5
_VALIDATION_BATCH = 32
_DIGITS_OF_DIGEST = 8

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainOptions:
    """What the user chooses of a run."""

    head: str
    #: How many to draw.
    subjects: int
    #: Of what: `sampling.SUBJECTS`, or `sampling.FRAMES`, labelled volumes one by one.
    counted: str = SUBJECTS
    draw: int
    split: str = "default"
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


def split_of(workspace: Workspace, name: str = "default") -> Split:
    """Return a split, made when first needed; new labelled subjects join its pool. `train` keeps it."""
    labelled = labelled_subjects(workspace)
    kept = workspace.split(name)
    if kept is None and name != "default":
        there = f"It has {', '.join(workspace.splits)}. " if workspace.splits else ""
        message = f"no split {name!r} in {workspace.path}. {there}Make it: samkit split {name}"
        raise UsageError(message)
    return make_split(labelled, name=name) if kept is None else kept.joined_by(labelled)


def settings_of(
    workspace: Workspace,
    embeddings: Embeddings | None,
    options: TrainOptions,
    *,
    split: Split,
    draw: Draw,
    head_config: dict[str, Any],
    fitting: dict[str, Any],
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
    )


def labelled_subjects(workspace: Workspace) -> set[str]:
    """Return the subjects that have a labelled volume in the workspace now: those who may be drawn and scored."""
    return {volume.subject for volume in workspace.volumes.values() if volume.labelled}


def labelled_volumes(workspace: Workspace, subjects: Sequence[str]) -> list[Volume]:
    """Return the labelled volumes of some subjects, in the order of the subjects."""
    of_subject: dict[str, list[Volume]] = {subject: [] for subject in subjects}
    for volume in workspace.volumes.values():
        if volume.labelled and volume.subject in of_subject:
            of_subject[volume.subject].append(volume)
    return [volume for subject in subjects for volume in of_subject[subject]]


def draw_of(workspace: Workspace, split: Split, options: TrainOptions) -> Draw:
    """Return what is drawn for a run.

    Raises
    ------
    UsageError
        When there are fewer than asked for.
    """
    check_name("count", options.counted, [SUBJECTS, FRAMES])
    if options.counted == SUBJECTS:
        return draw_subjects(split, options.subjects, options.draw, labelled_subjects(workspace))
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


def _ingest_recipe_of(training: Sequence[Volume], others: Iterable[Volume]) -> dict[str, Any]:
    """Return how the first of these volumes was ingested, with which volume was chosen wherever there were several.

    Those that it was trained on come first, but a 3-D one says nothing of it.
    """
    chosen: dict[str, Any] = {}
    for volume in (*training, *others):
        chosen = {**volume.ingest_recipe.get("volume", {}), **chosen}
    return {**training[0].ingest_recipe, "volume": chosen}


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
    workspace: Workspace, embeddings: Embeddings | None, head_class: type[Head], options: TrainOptions
) -> RunPlan:
    """Decide everything about a run, and refuse what cannot be, before anything takes time. Keeps the split.

    Parameters and what is raised are those of `train`.
    """
    _check_fits(head_class, embeddings, options)
    tiling = None if embeddings is None else tiling_of(embeddings, options.tiles)
    split = split_of(workspace, options.split)
    draw, test = _parts(workspace, embeddings, split, head_class, options)
    if split != workspace.split(split.name):
        # Another command may have made it meanwhile, from other subjects: the one that stands parts them.
        split = workspace.keep_split(split)
        draw, test = _parts(workspace, embeddings, split, head_class, options)
    solved = issubclass(head_class, SolvedHead) or head_class.zero_shot
    if solved or options.fit.validate_every is None:  # there is nothing to stop, so that no subject is kept for it
        draw = replace(draw, validation=None)
    input_shape = None if embeddings is None else embeddings.row_shape
    pretraining = _pretraining_of(workspace, split, head_class, options)
    head = head_class.build(
        HeadContext(
            input_shape=input_shape or patch_shape(training_volumes(workspace, draw)),
            class_count=1 + len(workspace.label_names),
            mask_decoder=None if embeddings is None else mask_decoder_of(embeddings),
            cnn_weights=None if options.cnn_weights is None else read_cnn_weights(options.cnn_weights),
            pretrained=None if pretraining is None else read_pretrained(workspace, pretraining),
            options=check_options(head_class, options.head_options),
            seed=options.seed,
        )
    )
    fitting = {} if solved else options.fit.to_json()
    settings = settings_of(
        workspace, embeddings, options, split=split, draw=draw, head_config=head.config, fitting=fitting
    )
    return RunPlan(settings=settings, draw=draw, test=tuple(test), tiling=tiling, head=head, pretraining=pretraining)


def train(
    workspace: Workspace,
    embeddings: Embeddings | None,
    head_class: type[Head],
    options: TrainOptions,
    *,
    progress: Progress = lambda _what, _done, _total: None,
) -> Run:
    """Train one head on one draw and score it; a run that exists with the same settings is returned as it is.

    The run's folder appears whole when everything is done: a kill at any moment leaves nothing that counts,
    and the same command trains it again.

    Parameters
    ----------
    workspace, embeddings
        Where labels and features come from; no embeddings for a head that sees slices.
    head_class
        See `heads.base.find_head`.
    options
        The draw and the fit.
    progress
        Called with (what, done, total).

    Raises
    ------
    UsageError
        More subjects than there are, no labels, no test subject left, or a head that does not fit the embeddings.
    MissingEmbeddings
        Slices, or tiles of slices, that have not been embedded.
    """
    return train_together(workspace, embeddings, head_class, [options], progress=progress)[0]


def train_together(
    workspace: Workspace,
    embeddings: Embeddings | None,
    head_class: type[Head],
    options: Sequence[TrainOptions],
    *,
    progress: Progress = lambda _what, _done, _total: None,
) -> list[Run]:
    """Train runs that differ in how they are fitted and in nothing that is read, in one pass over the features.

    Each is bitwise the run that `train` makes of it alone: rows are read once and given to all heads in turn, each of
    which goes on with random numbers of its own.

    Parameters
    ----------
    options
        Alike but for ``fit``, and in that of one batch size.

    Other parameters, and what is raised, are those of `train`.
    """
    first = options[0]
    if any(replace(one, fit=first.fit) != first or one.fit.batch_size != first.fit.batch_size for one in options):
        message = (
            "runs are trained together where they differ in steps, rates and decay alone, on the same batches. Train "
            "the others by themselves, with stages.train.train."
        )
        raise UsageError(message)
    plans = [plan_run(workspace, embeddings, head_class, one) for one in options]
    there = workspace.runs
    todo = {plan.settings.run_id: (plan, one) for plan, one in zip(plans, options, strict=True)}
    todo = {run_id: pair for run_id, pair in todo.items() if run_id not in there}
    for plan, _ in todo.values():
        if plan.pretraining is not None and plan.pretraining.id not in workspace.pretrainings:
            message = (
                f"{first.head} begins from the pretraining {plan.pretraining.id}, which is not there. samkit "
                f"train-head and samkit experiment make it; a program calls stages.pretrain.pretrain with the plan's."
            )
            raise MissingRun(message)
    if todo:
        forget_peak_memory()  # a worker trains many runs
        material = _material(workspace, embeddings, head_class, plans[0], first)
        fitted = _fitted(list(todo.values()), material, torch.device(first.device), progress)
        for (plan, _), result in zip(todo.values(), fitted, strict=True):
            _score_and_keep(plan, first.device, material, result, progress)
    runs = workspace.runs
    return [runs[plan.settings.run_id] for plan in plans]


def read_cnn_weights(file: Path) -> CnnWeights:
    """Read a torchvision checkpoint of a CNN, named by its digest.

    Raises
    ------
    WeightsError
        For a file that cannot be read as one.
    """
    tensors = read_resnet(file)
    return CnnWeights(name=f"imagenet {file_sha256(file)[:_DIGITS_OF_DIGEST]}", tensors=tensors)


def read_pretrained(workspace: Workspace, settings: PretrainingSettings) -> PretrainedWeights:
    """Return what a pretraining has learned, or its name alone while it is not there.

    Raises
    ------
    DamagedStore
        When its weights are not what was written.
    """
    there = workspace.pretrainings
    tensors = load_safetensors(there[settings.id].read(WEIGHTS)) if settings.id in there else {}
    return PretrainedWeights(name=settings.id, tensors=tensors)


def mask_decoder_of(embeddings: Embeddings) -> MaskDecoderWeights | None:
    """Return the encoder's own mask decoder, which `embed` kept beside the recipe, or None."""
    data = embeddings.attachment(MASK_DECODER_FILE)
    return None if data is None else MaskDecoderWeights.from_bytes(data)


# -- parts -----------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Material:
    """What runs are made from, and how long it took to read."""

    workspace: Workspace
    embeddings: Embeddings | None
    #: None for a head that is not trained.
    training: LabelledInput | None
    #: Of the subject that is kept to stop by, where there is one.
    validate: Callable[[Head], float] | None
    seconds: float


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Fitted:
    """What fitting one head told; the head itself is the plan's."""

    steps: list[Step]
    seconds: float


def _material(
    workspace: Workspace,
    embeddings: Embeddings | None,
    head_class: type[Head],
    plan: RunPlan,
    options: TrainOptions,
) -> _Material:
    memory_bytes = options.memory_bytes
    if memory_bytes is None:
        memory_bytes = int(free_memory_bytes(torch.device("cpu")) * _MEMORY_SHARE)

    def labelled(volumes: Sequence[Volume], views: Sequence[str] = AS_THEY_ARE) -> LabelledInput:
        if embeddings is None:
            return LabelledPatches(volumes)
        with_slices = head_class.sees is Sees.FEATURES_AND_SLICES
        return LabelledSlices(embeddings, volumes, memory_bytes, plan.tiling, views=views, with_slices=with_slices)

    started = time.perf_counter()
    training = None if head_class.zero_shot else labelled(training_volumes(workspace, plan.draw), options.views)
    seconds = time.perf_counter() - started
    validate = None
    if plan.draw.validation is not None:
        classes = len(workspace.label_names)
        validate = _validator(
            labelled(labelled_volumes(workspace, [plan.draw.validation])), classes, torch.device(options.device)
        )
    return _Material(workspace=workspace, embeddings=embeddings, training=training, validate=validate, seconds=seconds)


def _fitted(
    pairs: Sequence[tuple[RunPlan, TrainOptions]], material: _Material, device: torch.device, progress: Progress
) -> list[_Fitted]:
    """Fit heads in place, a step of each in turn."""
    training, (_, first) = material.training, pairs[0]
    heads = [plan.head.to(device) for plan, _ in pairs]
    told: list[list[Step]] = [[] for _ in pairs]
    seconds = [0.0] * len(pairs)
    started = time.perf_counter()
    with _repeatable(first.seed, device):
        if training is None:
            heads[0].eval()
        elif isinstance(heads[0], SolvedHead):
            heads[0].solve(_told(training, device, progress))
            heads[0].eval()
        else:
            batches = tee(training.batches(first.fit.batch_size, first.seed, device), len(pairs))
            fits = {
                number: fit(heads[number], batches[number], one.fit, rows=len(training), validate=material.validate)
                for number, (_, one) in enumerate(pairs)
            }
            del batches  # what a head that has stopped early did not take would be kept for it
            budget = max(one.fit.for_rows(len(training)).steps for _, one in pairs)
            randomness = [_random_state(device)] * len(pairs)
            while fits:
                for number in list(fits):
                    began = time.perf_counter()
                    _set_random_state(randomness[number], device)
                    step = next(fits[number], None)
                    randomness[number] = _random_state(device)
                    seconds[number] += time.perf_counter() - began
                    if step is None:
                        del fits[number]
                    else:
                        told[number].append(step)
                progress("fitting", max(map(len, told)), budget)
    if len(pairs) == 1:
        seconds = [time.perf_counter() - started]
    return [_Fitted(steps=steps, seconds=taken) for steps, taken in zip(told, seconds, strict=True)]


def _score_and_keep(plan: RunPlan, device: str, material: _Material, fitted: _Fitted, progress: Progress) -> None:
    """Score a fitted head on the test subjects, and write the run: its folder appears whole."""
    settings, draw, head, training = plan.settings, plan.draw, plan.head, material.training
    workspace, embeddings = material.workspace, material.embeddings
    started = time.perf_counter()
    scored = []
    # All of the run waits in memory, because its folder appears whole. Predictions wait as they are kept, compressed
    # label maps: a few kB a slice (zstd of planes of few values), small beside the features of one volume.
    files: dict[str, bytes] = {}
    for number, volume in enumerate(plan.test):
        prediction = segment_volume(head, volume, workspace.label_names, embeddings, plan.tiling)
        files |= inside(f"predictions/{volume.id}", array_files(prediction))
        scored.append(judge(volume, prediction))
        progress("scoring", number + 1, len(plan.test))
    seconds = {"features": material.seconds, "fitting": fitted.seconds, "scoring": time.perf_counter() - started}
    weights = head_bytes(head)
    files["head.safetensors"] = weights
    files["steps.json"] = readable_json([step.to_json() for step in fitted.steps])
    record = {
        # By this runs are ordered: times of files do not survive a copy.
        "finished": round(time.time(), 3),
        "seconds": {name: round(value, 3) for name, value in seconds.items()},
        "steps": len(fitted.steps),
        "trainable_parameters": head.parameter_count(),
        "training_slices": sum(len(volume.slice_digests) for volume in training_volumes(workspace, draw)),
        # More than the slices where large ones were cut into tiles.
        "training_rows": 0 if training is None else len(training),
        "training_volumes": [volume.id for volume in training_volumes(workspace, draw)],
        "features_streamed": training is not None and training.streamed,
        "peak_memory_bytes": peak_memory_bytes(),
        "device": device,
        "head_sha256": hashlib.sha256(weights).hexdigest(),
        "code_version": code_version(),
        "torch_version": torch.__version__,
        "encoder_recipe": None if embeddings is None else embeddings.recipe.to_json(),
        "encoder_trained": embeddings is None or embeddings.trained,
        "ingest_recipe": _ingest_recipe_of(training_volumes(workspace, draw) or plan.test, workspace.volumes.values()),
        "files": {name: bytes_digest(content) for name, content in sorted(files.items())},
    }
    manifest = {"settings": settings.to_json(), "record": record, "scores": [one.to_json() for one in scored]}
    # The last file: on an object store it is what tells that the run is there.
    files["run.json"] = sealed_json(manifest)
    folder = workspace.path / "runs" / settings.run_id
    # The same run, trained by somebody else meanwhile, stays.
    folder.publish_folder(files, keep=(folder / "run.json").exists)


def _parts(
    workspace: Workspace,
    embeddings: Embeddings | None,
    split: Split,
    head_class: type[Head],
    options: TrainOptions,
) -> tuple[Draw, list[Volume]]:
    """Return the draw and the volumes to be scored, all of them embedded: refused before the minutes of fitting."""
    draw = NO_DRAW if head_class.zero_shot else draw_of(workspace, split, options)
    test = _test_volumes(workspace, split)
    if embeddings is not None:
        tiling = tiling_of(embeddings, options.tiles)
        check_embedded(embeddings, test, what="test", tiling=tiling)
        check_embedded(embeddings, drawn_volumes(workspace, draw), what="drawn", tiling=tiling)
        training = training_volumes(workspace, draw)
        check_embedded(embeddings, training, what="drawn", tiling=tiling, views=options.views)
    return draw, test


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
    if head_class.sees is Sees.SLICES:
        if embeddings is not None or options.tiles is not None or options.views != AS_THEY_ARE:
            message = (
                f"{options.head} sees slices, not features: it is trained without an encoder, without tiles, and "
                f"without views, because it augments the slices itself."
            )
            raise UsageError(message)
        return
    if embeddings is None:
        message = f"{options.head} is trained on embeddings, and none were given. Make them: samkit embed"
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
    """Return what a head that learns without labels begins from: of all volumes but the test part's and the unused."""
    if head_class.contrast is None:
        return None
    contrast = head_class.contrast
    if options.pretraining_steps is not None:
        contrast = replace(contrast, steps=options.pretraining_steps)
    apart = {*split.test, *split.unused}
    volumes = [volume for volume in workspace.volumes.values() if volume.subject not in apart]
    return PretrainingSettings(
        head=head_class.name,
        slices={volume.id: volume.content.partition("/")[0] for volume in volumes},
        channels=patch_shape(volumes)[0],
        training=contrast.to_json(),
        seed=options.seed,
    )


def _test_volumes(workspace: Workspace, split: Split) -> list[Volume]:
    return labelled_volumes(workspace, scored_subjects(split, labelled_subjects(workspace)))


def _contents(volumes: Sequence[Volume]) -> dict[str, str]:
    return {volume.id: volume.content for volume in volumes}


def _validator(labelled: LabelledInput, classes: int, device: torch.device) -> Callable[[Head], float]:
    """Return a function that scores a head on the draw's validation subject.

    The score chooses when to stop and nothing else. It is of the training grid, tile by tile where planes were cut, so
    that a pixel under two tiles counts in both; what the run is judged by is stitched.
    """

    @torch.inference_mode()
    def validate(head: Head) -> float:
        counts = torch.zeros(3, classes)  # both, predicted, labelled
        for seen, labels in labelled.in_order(_VALIDATION_BATCH):
            predicted = head(seen.to(device)).argmax(dim=1).cpu()
            inside = labels != IGNORED
            for number in range(classes):
                mine, theirs = (predicted == number + 1) & inside, labels == number + 1
                counts[:, number] += torch.tensor([(mine & theirs).sum(), mine.sum(), theirs.sum()])
        both, predicted_count, labelled_count = counts
        occurs = labelled_count > 0
        return (
            float((2 * both / (predicted_count + labelled_count).clamp(min=1))[occurs].mean()) if occurs.any() else 0.0
        )

    return validate


def _told(training: LabelledInput, device: torch.device, progress: Progress) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield every row once, on the device, telling how many there were."""
    done = 0
    for features, labels in training.in_order(_VALIDATION_BATCH):
        assert isinstance(features, Tensor)  # heads that see slices are fitted
        yield features.to(device), labels.to(device)
        done += len(labels)
        progress("solving", done, len(training))


@contextmanager
def _repeatable(seed: int, device: torch.device) -> Iterator[None]:
    """Make torch use the seed's random numbers and, on a processor, kernels whose results repeat, inside the block."""
    before = torch.are_deterministic_algorithms_enabled()
    filled = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    # CUDA has no such kernel for the cross-entropy of a plane, and torch would stop there instead of computing it.
    torch.use_deterministic_algorithms(mode=before or device.type == "cpu")
    # Nothing here reads memory before it is written; filling it took a tenth of a U-Net's step.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    try:
        with seeded(seed):
            yield
    finally:
        torch.use_deterministic_algorithms(mode=before)
        torch.utils.deterministic.fill_uninitialized_memory = filled  # type: ignore[attr-defined]


def _random_state(device: torch.device) -> tuple[Tensor, Tensor | None]:
    """Return where torch's random numbers are: of the processor, and of the device where that has its own."""
    return torch.get_rng_state(), torch.cuda.get_rng_state(device) if device.type == "cuda" else None


def _set_random_state(state: tuple[Tensor, Tensor | None], device: torch.device) -> None:
    """Go on with the random numbers from where `_random_state` found them."""
    of_processor, of_device = state
    torch.set_rng_state(of_processor)
    if of_device is not None:
        torch.cuda.set_rng_state(of_device, device)
