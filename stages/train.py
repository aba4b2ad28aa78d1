"""train: embeddings + labels -> a run. Draw subjects, fit a head to them, score it on the test subjects, keep it.

Shapes: N slices, C channels, h w cells of the embedding, G cells of the logit grid.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from itertools import tee

import numpy as np
import torch
from torch import Tensor

from ..heads.base import Head, SolvedHead, head_bytes, seeded
from ..heads.chunks import ChunkHead, LabelledChunks
from ..heads.classes import class_values
from ..heads.feeding import AS_THEY_ARE, LabelledInput, LabelledSlices, LabelledSquares
from ..heads.fitting import Step, fit
from ..heads.inference import classes_of_plane, segment_volume
from ..heads.losses import IGNORED
from ..heads.metrics import judge
from ..heads.patches import LabelledPatches
from ..heads.seen import Seen, Sees
from ..store.arrays import array_files, inside
from ..store.documents import bytes_digest, readable_json, sealed_json
from ..store.embeddings import Embeddings
from ..store.errors import MissingRun, UsageError
from ..store.provenance import code_version
from ..store.runs import Run
from ..store.slices import Volume
from ..store.workspace import Workspace
from .encoders.memory import forget_peak_memory, free_memory_bytes, peak_memory_bytes, telling_of_memory
from .training.plan import RunPlan, TrainOptions, labelled_volumes, plan_run, training_volumes
from .training.ways import recorded_ways

# Features of the draw are kept in memory when they take no more than this share of what is free.
_MEMORY_SHARE = 0.5
_VALIDATION_BATCH = 32

Progress = Callable[[str, int, int], None]


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
    DeviceError
        Where memory runs out.
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
        Alike but for ``fit``, and in that of one batch size, and with or without a subject to stop by.

    Other parameters, and what is raised, are those of `train`.
    """
    first = options[0]
    alike = all(replace(one, fit=first.fit) == first and one.fit.batch_size == first.fit.batch_size for one in options)
    plans = [plan_run(workspace, embeddings, head_class, one) for one in options] if alike else []
    if not alike or any(plan.draw != plans[0].draw for plan in plans):
        message = (
            "runs are trained together where they differ in steps, rates and decay alone, on the same batches, and "
            "have one subject to stop by or none. Train the others by themselves, with stages.train.train."
        )
        raise UsageError(message)
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
        there.check_writable()
        forget_peak_memory()  # a worker trains many runs
        material = _material(workspace, embeddings, head_class, plans[0], first)
        device = torch.device(first.device)
        in_steps = material.training is not None and not issubclass(head_class, SolvedHead)
        with telling_of_memory(device, f"fitting {first.head}", _more_memory(first, in_steps=in_steps)):
            fitted = _fitted(list(todo.values()), material, device, progress)
        for (plan, _), result in zip(todo.values(), fitted, strict=True):
            with telling_of_memory(device, f"scoring {first.head}", _more_memory(first, in_steps=False)):
                _score_and_keep(plan, first.device, material, result, progress)
    runs = workspace.runs
    return [runs[plan.settings.run_id] for plan in plans]


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
        nonlocal memory_bytes
        if embeddings is None:
            return LabelledPatches(volumes, views=views)
        rows: LabelledSlices | LabelledSquares
        if head_class.sees.squares:
            rows = LabelledSquares(embeddings.recipe, volumes, views=views)
        else:
            with_slices = head_class.sees is Sees.FEATURES_AND_SLICES
            rows = LabelledSlices(embeddings, volumes, memory_bytes, plan.tiling, views=views, with_slices=with_slices)
            memory_bytes -= rows.kept_bytes  # what is left is for the subject to stop by
        if isinstance(plan.head, ChunkHead):
            return LabelledChunks(rows, volumes, plan.head, 1 + len(workspace.label_names), views=views)
        return rows

    started = time.perf_counter()
    training = None if head_class.zero_shot else labelled(training_volumes(workspace, plan.draw), options.views)
    seconds = time.perf_counter() - started
    validate = None
    if plan.draw.validation is not None:
        volumes, names = labelled_volumes(workspace, [plan.draw.validation]), workspace.label_names
        _check_shows_a_class(volumes, names)
        validate = _validator(labelled(volumes), names, torch.device(options.device), plan.draw.validation)
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
        "parameters": {part: asdict(count) for part, count in head.parameters_by_part().items()},
        "training_slices": sum(len(volume.slice_digests) for volume in training_volumes(workspace, draw)),
        # More than the slices where large ones were cut into tiles.
        "training_rows": 0 if training is None else len(training),
        "training_volumes": [volume.id for volume in training_volumes(workspace, draw)],
        "features_streamed": training is not None and training.streamed,
        "peak_memory_bytes": peak_memory_bytes(),
        "device": device,
        # A head that is fitted on a processor is bitwise the same by as many threads; by others its sums are rounded
        # otherwise.
        "threads": torch.get_num_threads(),
        "head_sha256": hashlib.sha256(weights).hexdigest(),
        "code_version": code_version(),
        "torch_version": torch.__version__,
        "encoder_recipe": None if embeddings is None else embeddings.recipe.to_json(),
        "encoder_trained": embeddings is None or embeddings.trained,
        **recorded_ways(training_volumes(workspace, draw) or plan.test, workspace.volumes.values()),
        "files": {name: bytes_digest(content) for name, content in sorted(files.items())},
    }
    manifest = {"settings": settings.to_json(), "record": record, "scores": [one.to_json() for one in scored]}
    # The last file: on an object store it is what tells that the run is there.
    files["run.json"] = sealed_json(manifest)
    folder = workspace.path / "runs" / settings.run_id
    # The same run, trained by somebody else meanwhile, stays.
    folder.publish_folder(files, keep=(folder / "run.json").exists)


def _more_memory(options: TrainOptions, *, in_steps: bool) -> str:
    """Tell what to type where memory runs out."""
    fewer = options.fit.batch_size // 2
    smaller = f"fewer slices a step, --batch-size {fewer}, which is an experiment of its own" if fewer else ""
    other = "fewer --workers where several runs are trained at once" if options.device == "cpu" else "--device cpu"
    remedies = [smaller] if in_steps and smaller else []
    return f"Nothing of the run is kept. Free some (who uses it?), or give {' or '.join([*remedies, other])}."


def _check_shows_a_class(volumes: Sequence[Volume], label_names: Mapping[int, str]) -> None:
    """Refuse a subject to stop by whose score would be 0 whatever a head finds."""
    for volume in volumes:
        label = volume.read_label()
        if label is not None and np.isin(label, class_values(label_names)[1:]).any():
            return
    raise _shows_no_class(volumes[0].subject, label_names)


def _shows_no_class(subject: str, label_names: Mapping[int, str], where: str = "") -> UsageError:
    return UsageError(
        f"the subject kept to stop by, {subject}, shows none of {', '.join(label_names.values())}{where}: its score "
        f"would be 0 from the first step to the last. Leave out --validation, or take another draw: --draws"
    )


def _validator(
    labelled: LabelledInput, label_names: Mapping[int, str], device: torch.device, subject: str
) -> Callable[[Head], float]:
    """Return a function that scores a head on the draw's validation subject.

    The score chooses when to stop and nothing else. It is of the training grid, tile by tile where planes were cut, so
    that a pixel under two tiles counts in both; what the run is judged by is stitched. Networks on slices answer each
    as they do afterwards, in windows. It raises `UsageError` where that grid has no cell of any class: they are thinner
    than its cells.
    """
    classes = len(label_names)

    def answered(head: Head, seen: Seen) -> Tensor:
        if isinstance(seen, Tensor) and head.sees is Sees.SLICES:
            return torch.from_numpy(np.stack([classes_of_plane(head, plane) for plane in seen.numpy()]))
        predicted: Tensor = head(seen.to(device)).argmax(dim=1).cpu()
        return predicted

    @torch.inference_mode()
    def validate(head: Head) -> float:
        counts = torch.zeros(3, classes)  # both, predicted, labelled
        for seen, labels in labelled.in_order(_VALIDATION_BATCH):
            predicted = answered(head, seen)
            inside = labels != IGNORED
            for number in range(classes):
                mine, theirs = (predicted == number + 1) & inside, labels == number + 1
                counts[:, number] += torch.tensor([(mine & theirs).sum(), mine.sum(), theirs.sum()])
        both, predicted_count, labelled_count = counts
        occurs = labelled_count > 0
        if not occurs.any():
            raise _shows_no_class(subject, label_names, " on the grid of cells that heads answer on")
        return float((2 * both / (predicted_count + labelled_count).clamp(min=1))[occurs].mean())

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
