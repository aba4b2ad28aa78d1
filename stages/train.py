"""train: embeddings + labels -> a run. Draw subjects, fit a head to them, score it on the test subjects, keep it.

Shapes: N slices, C channels, h w cells of the embedding, G cells of the logit grid.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..heads.base import (
    LOGIT_CELLS_PER_FEATURE_CELL,
    MASK_DECODER_FILE,
    Head,
    HeadContext,
    MaskDecoderWeights,
    head_bytes,
    seeded,
)
from ..heads.fitting import FitOptions, Step, fit
from ..heads.frame import Frame
from ..heads.inference import class_values, segment, to_class_index
from ..heads.losses import IGNORED
from ..heads.metrics import ScoredVolume, judge
from ..heads.sampling import Draw, draw_subjects, make_split
from ..store.arrays import write_array
from ..store.embeddings import Embeddings
from ..store.errors import MissingEmbeddings, UsageError
from ..store.files import published_folder, readable_json
from ..store.keys import RowKey
from ..store.provenance import code_version, peak_memory_bytes
from ..store.runs import Run, RunSettings
from ..store.slices import Volume
from ..store.splits import Split
from ..store.workspace import Workspace

# Features of the draw are kept in memory when they take no more than this share of what is free.
_MEMORY_SHARE = 0.5
_VALIDATION_BATCH = 32

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainOptions:
    """What the user chooses of a run."""

    head: str
    #: Labelled subjects to draw.
    subjects: int
    draw: int
    split: str = "default"
    seed: int = 0
    fit: FitOptions
    device: str = "cpu"
    #: Bytes of features that may be kept in memory; None for half of what is free.
    memory_bytes: int | None = None


class TrainingSlices:
    """The labelled slices of some volumes: features by index, labels on the logit grid.

    Features are read once and kept in memory where they fit, and streamed from the store where they do not.
    """

    def __init__(self, embeddings: Embeddings, volumes: Sequence[Volume], memory_bytes: int) -> None:
        self._embeddings = embeddings
        self._keys: list[RowKey] = [key for volume in volumes for key in volume.row_keys()]
        _check_embedded(embeddings, volumes, what="drawn")
        found = embeddings.journal.find(self._keys[0])
        self.feature_shape: tuple[int, int, int] = found[0].row_shape if found else (0, 0, 0)
        grid = self.feature_shape[1] * LOGIT_CELLS_PER_FEATURE_CELL
        self.labels = torch.from_numpy(np.concatenate([_grid_label(volume, embeddings, grid) for volume in volumes]))
        row_bytes = int(np.prod(self.feature_shape)) * np.dtype(embeddings.recipe.storage_precision).itemsize
        self.streamed = row_bytes * len(self._keys) > memory_bytes
        self._kept = None if self.streamed else torch.from_numpy(embeddings.read(self._keys))

    def __len__(self) -> int:
        return len(self._keys)

    def features(self, indices: Sequence[int]) -> torch.Tensor:
        """Return the features of some slices, (B, C, h, w), in the stored precision."""
        if self._kept is not None:
            return self._kept[torch.as_tensor(indices)]
        return torch.from_numpy(self._embeddings.read([self._keys[index] for index in indices]))

    def batches(self, batch_size: int, seed: int, device: torch.device) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield shuffled batches for ever: every slice once before any comes again."""
        random = np.random.default_rng(seed)
        while True:
            order = random.permutation(len(self))
            for first in range(0, len(order), batch_size):
                chosen = order[first : first + batch_size].tolist()
                yield self.features(chosen).to(device), self.labels[torch.as_tensor(chosen)].long().to(device)


def split_of(workspace: Workspace, name: str = "default") -> Split:
    """Return a split, made and kept when first needed; new labelled subjects join its pool."""
    labelled = {volume.subject for volume in workspace.volumes.values() if volume.labelled}
    kept = workspace.split(name)
    if kept is None and name != "default":
        message = f"no split {name!r} in {workspace.path}. Without --split the default one is made."
        raise UsageError(message)
    split = make_split(labelled, name=name) if kept is None else kept.joined_by(labelled)
    if split != kept:
        workspace.keep_split(split)
    return split


def settings_of(
    workspace: Workspace, embeddings: Embeddings, head_config: dict[str, Any], draw: Draw, options: TrainOptions
) -> RunSettings:
    """Return everything that decides a run's result."""
    split = split_of(workspace, options.split)
    return RunSettings(
        head=options.head,
        head_config=head_config,
        encoder=embeddings.recipe.encoder,
        recipe_id=embeddings.recipe.id,
        split=split.name,
        split_digest=split.digest,
        subjects=options.subjects,
        draw=options.draw,
        drawn=draw.subjects,
        validation=draw.validation,
        label_digests={
            volume.id: str(volume.record.label_digest) for volume in labelled_volumes(workspace, draw.subjects)
        },
        label_names=workspace.label_names,
        training=options.fit.to_json(),
        seed=options.seed,
    )


def labelled_volumes(workspace: Workspace, subjects: Sequence[str]) -> list[Volume]:
    """Return the labelled volumes of some subjects, in the order of the subjects."""
    return [
        volume
        for subject in subjects
        for volume in workspace.volumes.values()
        if volume.subject == subject and volume.labelled
    ]


def train(
    workspace: Workspace,
    embeddings: Embeddings,
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
        Where labels and features come from.
    head_class
        See `heads.base.find_head`.
    options
        The draw and the fit.
    progress
        Called with (what, done, total).

    Raises
    ------
    UsageError
        More subjects than there are, or no labels.
    MissingEmbeddings
        Slices that have not been embedded.
    """
    split = split_of(workspace, options.split)
    draw = draw_subjects(split, options.subjects, options.draw)
    memory_bytes = _free_memory_bytes() if options.memory_bytes is None else options.memory_bytes
    started = time.perf_counter()
    test = labelled_volumes(workspace, split.test)
    # Before the minutes of fitting, not after them.
    _check_embedded(embeddings, test, what="test")
    training = TrainingSlices(embeddings, labelled_volumes(workspace, draw.training), memory_bytes)
    head = head_class.build(
        HeadContext(
            feature_shape=training.feature_shape,
            class_count=1 + len(workspace.label_names),
            mask_decoder=mask_decoder_of(embeddings),
            seed=options.seed,
        )
    )
    settings = settings_of(workspace, embeddings, head.config, draw, options)
    if settings.run_id in workspace.runs:
        return workspace.runs[settings.run_id]
    seconds = {"features": time.perf_counter() - started}

    started = time.perf_counter()
    device = torch.device(options.device)
    validation = _validator(workspace, embeddings, draw, memory_bytes, device)
    steps: list[Step] = []
    with _repeatable(options.seed, device):
        batches = training.batches(options.fit.batch_size, options.seed, device)
        for step in fit(head.to(device), batches, options.fit, validate=validation):
            steps.append(step)
            progress("fitting", step.number + 1, options.fit.steps)
    seconds["fitting"] = time.perf_counter() - started

    started = time.perf_counter()
    scored: list[ScoredVolume] = []
    predictions: dict[str, NDArray[np.unsignedinteger[Any]]] = {}
    for number, volume in enumerate(test):
        predictions[volume.id] = segment(head, embeddings[volume.id], _frame(volume, embeddings), workspace.label_names)
        scored.append(judge(volume, predictions[volume.id]))
        progress("scoring", number + 1, len(test))
    seconds["scoring"] = time.perf_counter() - started

    record = {
        "seconds": {name: round(value, 3) for name, value in seconds.items()},
        "steps": len(steps),
        "trainable_parameters": head.parameter_count(),
        "training_slices": len(training),
        "training_volumes": [volume.id for volume in labelled_volumes(workspace, draw.training)],
        "features_streamed": training.streamed,
        "peak_memory_bytes": peak_memory_bytes(),
        "device": options.device,
        "code_version": code_version(),
        "torch_version": torch.__version__,
        "encoder_recipe": embeddings.recipe.to_json(),
        "encoder_trained": embeddings.trained,
        "ingest_recipe": labelled_volumes(workspace, draw.training)[0].ingest_recipe,
    }
    return _keep(workspace, settings, head, steps=steps, scored=scored, predictions=predictions, record=record)


def mask_decoder_of(embeddings: Embeddings) -> MaskDecoderWeights | None:
    """Return the encoder's own mask decoder, which `embed` kept beside the recipe, or None."""
    data = embeddings.kept(MASK_DECODER_FILE)
    return None if data is None else MaskDecoderWeights.from_bytes(data)


# -- parts -----------------------------------------------------------------------------------------


def _check_embedded(embeddings: Embeddings, volumes: Sequence[Volume], *, what: str) -> None:
    keys = [key for volume in volumes for key in volume.row_keys()]
    missing = embeddings.journal.missing(keys)
    if missing:
        message = (
            f"{len(missing)} of {len(set(keys))} slices of the {what} volumes have no embedding under "
            f"{embeddings.recipe.folder_name}. Run `samkit embed --recipe {embeddings.recipe.id}`."
        )
        raise MissingEmbeddings(message)


def _frame(volume: Volume, embeddings: Embeddings) -> Frame:
    _, _, rows, columns = volume.record.shape
    return Frame(rows=rows, columns=columns, input_px=embeddings.recipe.input_px)


def _grid_label(volume: Volume, embeddings: Embeddings, grid: int) -> NDArray[np.uint8]:
    """Return a volume's labels as class indices on the logit grid, (slices, G, G)."""
    label = to_class_index(np.asarray(volume.label), class_values(volume.label_names))
    return _frame(volume, embeddings).label_to_grid(label, grid)


def _validator(
    workspace: Workspace, embeddings: Embeddings, draw: Draw, memory_bytes: int, device: torch.device
) -> Callable[[Head], float] | None:
    """Return a function that scores a head on the draw's validation subject, or None without one."""
    if draw.validation is None:
        return None
    slices = TrainingSlices(embeddings, labelled_volumes(workspace, [draw.validation]), memory_bytes)
    classes = len(workspace.label_names)

    @torch.inference_mode()
    def validate(head: Head) -> float:
        counts = torch.zeros(3, classes)  # both, predicted, labelled
        for first in range(0, len(slices), _VALIDATION_BATCH):
            indices = range(first, min(first + _VALIDATION_BATCH, len(slices)))
            predicted = head(slices.features(indices).to(device)).argmax(dim=1).cpu()
            labels = slices.labels[torch.as_tensor(indices)]
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


def _keep(
    workspace: Workspace,
    settings: RunSettings,
    head: Head,
    *,
    steps: Sequence[Step],
    scored: Sequence[ScoredVolume],
    predictions: dict[str, NDArray[np.unsignedinteger[Any]]],
    record: dict[str, Any],
) -> Run:
    folder = workspace.path / "runs" / settings.run_id
    with published_folder(folder) as part:
        (part / "head.safetensors").write_bytes(head_bytes(head))
        (part / "steps.json").write_bytes(readable_json([step.to_json() for step in steps]))
        for volume_id, prediction in predictions.items():
            write_array(part / "predictions" / volume_id, prediction)
        manifest = {
            "settings": settings.to_json(),
            "record": record,
            "scores": [volume.to_json() for volume in scored],
        }
        (part / "run.json").write_bytes(readable_json(manifest))
    return workspace.runs[settings.run_id]


@contextmanager
def _repeatable(seed: int, device: torch.device) -> Iterator[None]:
    """Make torch use the seed's random numbers and, on a processor, kernels whose results repeat, inside the block."""
    before = torch.are_deterministic_algorithms_enabled()
    # CUDA has no such kernel for the cross-entropy of a plane, and torch would stop there instead of computing it.
    torch.use_deterministic_algorithms(mode=before or device.type == "cpu")
    try:
        with seeded(seed):
            yield
    finally:
        torch.use_deterministic_algorithms(mode=before)


def _free_memory_bytes() -> int:
    pages = os.sysconf("SC_AVPHYS_PAGES") if "SC_AVPHYS_PAGES" in os.sysconf_names else os.sysconf("SC_PHYS_PAGES")
    return int(pages * os.sysconf("SC_PAGE_SIZE") * _MEMORY_SHARE)
