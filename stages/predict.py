"""predict: embeddings + a trained head -> masks on the grid of the source file."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..heads.base import Head
from ..heads.feeding import tiling_of
from ..heads.inference import segment_volume
from ..heads.metrics import CUBIC_MM_PER_ML, ScoredVolume, judge
from ..store.embeddings import Embeddings
from ..store.provenance import code_version
from ..store.runs import Run
from ..store.slices import Volume
from .readers.base import SourceGrid
from .readers.dicom_series import Series
from .readers.geometry import Orientation
from .readers.mask_writer import MaskFile, write_mask, write_probabilities
from .readers.seg_writer import Algorithm
from .training.ways import told_way, way_of, windows_of


@dataclass(frozen=True, kw_only=True, slots=True)
class Predicted:
    """One mask that was written."""

    volume_id: str
    path: Path
    #: Against the volume's label map, at the source's resolution; None for an unlabelled volume.
    scores: ScoredVolume | None
    #: Voxels of each class in the mask, by its name.
    voxels: Mapping[str, int]
    #: Of one voxel; None where the spacing is not known.
    voxel_ml: float | None
    #: Whether the head was trained on this volume or its subject, so that its scores say nothing.
    trained_on: bool


def predict_volume(
    run: Run,
    head: Head,
    volume: Volume,
    embeddings: Embeddings | None,
    mask: MaskFile,
    *,
    series: Series | None = None,
    of_own_workspace: bool,
) -> Predicted:
    """Segment one volume and write its mask on the grid of its source, with the source's label values.

    Where the mask file has a place for them, probabilities are written too: four bytes a voxel and class in memory.

    Parameters
    ----------
    run, head
        The head and the settings it was trained with; ``head`` in eval mode.
    volume
        Of any workspace; its slices are what counts.
    embeddings
        Rows of the run's recipe for these slices, in any workspace; of their tiles, where the run was trained on tiles.
        None for a head that sees slices.
    mask
        The file to write and its format; replaced if it exists, see `mask_files.check_targets`.
    series
        The DICOM files of the source, for a DICOM-SEG.
    of_own_workspace
        Whether the volume is of the workspace that the run is of, where a subject's name means the same patient.

    Raises
    ------
    MissingEmbeddings
        When the volume is not embedded.
    InputError
        When the format does not fit the source after all.
    """
    label_names = dict(run.settings.label_names)
    tiling = None if embeddings is None else tiling_of(embeddings, run.settings.tiles)
    orientation = Orientation.from_json(dict(volume.record.orientation))
    grid = SourceGrid.from_json(dict(volume.record.source_grid))
    values_ijkc, probabilities = None, None
    if mask.probabilities is not None:
        # In the order of a NIfTI file, and filled through a view of it as a slice is displayed.
        values_ijkc = np.empty((*grid.shape, 1 + len(label_names)), np.float32, order="F")
        probabilities = orientation.apply(values_ijkc)
    label = segment_volume(head, volume, label_names, embeddings, tiling, probabilities=probabilities)
    told = {"run": run.id, "head": run.settings.head, "encoder": run.settings.encoder}
    write_mask(
        mask,
        orientation.undo(label),
        grid,
        series=series,
        label_names=label_names,
        algorithm=Algorithm(version=code_version(), parameters=told),
    )
    if values_ijkc is not None:
        write_probabilities(mask, values_ijkc, grid)
    # Labels with other names (a new dataset's numbers) mean other things and are not compared.
    comparable = volume.labelled and volume.label_names == label_names
    # Equal slices are equal anywhere.
    drawn_slices = {_slices_of(content) for content in run.settings.drawn_volumes.values()}
    drawn = (of_own_workspace and volume.subject in run.settings.drawn) or _slices_of(volume.content) in drawn_slices
    spacing = volume.spacing_mm
    return Predicted(
        volume_id=volume.id,
        path=mask.path,
        scores=judge(volume, label) if comparable else None,
        voxels={name: int(np.count_nonzero(label == value)) for value, name in label_names.items()},
        voxel_ml=None if spacing is None else math.prod(spacing) / CUBIC_MM_PER_ML,
        trained_on=drawn,
    )


# -- whether a head fits ---------------------------------------------------------------------------


def ingested_otherwise(run: Run, volumes: Iterable[Volume], *, of_own_workspace: bool) -> dict[str, str]:
    """Return why a head is not to be shown volumes whose slices were made in another way than its own, by their ids.

    Parameters
    ----------
    run
        Of the head.
    volumes
        To be segmented.
    of_own_workspace
        Whether they are of the workspace that the run is of. Others were ingested for it, as the run's were as far as
        their files allow.
    """
    recipe, *others = ingest_recipes_of(run)
    expected = way_of(recipe)
    known = [expected, *map(way_of, others)]
    return {
        volume.id: _unlike(run, expected, way)
        + (_ingest_again(run, recipe, expected, way) if of_own_workspace else _NAME_OTHERS)
        for volume in volumes
        if (way := way_of(volume.ingest_recipe)) not in known
    }


_NAME_OTHERS = (
    "Name files like those that it was trained on, or ingest and label some like this one and train on them: samkit "
    "ingest"
)


def _unlike(run: Run, expected: Mapping[str, str], way: Mapping[str, str]) -> str:
    differing = _differing(expected, way)
    return (
        f"ingested with {told_way(way, differing)}, and run {run.id} was trained on slices with "
        f"{told_way(expected, differing)}: the head would see other grey values or planes than it knows. "
    )


def _ingest_again(run: Run, recipe: Mapping[str, Any], expected: Mapping[str, str], way: Mapping[str, str]) -> str:
    return (
        f"Train on the slices as they are now: samkit train-head {run.settings.head} --volumes "
        f"{run.settings.subjects}, or ingest the source again as the run's was"
        f"{_flags(recipe, _differing(expected, way))}"
    )


def _differing(expected: Mapping[str, str], way: Mapping[str, str]) -> list[str]:
    return [name for name in expected if expected[name] != way[name]]


def ingest_recipes_of(run: Run) -> list[Mapping[str, Any]]:
    """Return the ingest recipe of the volumes that a head was trained on, and of each further way they were made in."""
    # Runs of before say one way alone.
    return [run.record["ingest_recipe"], *run.record.get("other_ingest_recipes", ())]


def _flags(recipe: Mapping[str, Any], differing: Collection[str]) -> str:
    """Return how to ingest as a recipe says, to follow "ingest the source again as the run's was"."""
    windows = windows_of(recipe)
    added, left_out = [], []
    if windows:
        added.append(f"--window {windows[0]}" if len(windows) == 1 else f"--channels {','.join(map(str, windows))}")
    if not windows and "window" in differing:
        left_out.append("--window")
    if not windows and "intensity" in differing:
        added.append(f"--intensity {recipe['intensities'][0]['rule']}")
    if recipe["axis"]:
        added.append(f"--axis {recipe['axis']}")
    elif "axis" in differing:
        left_out.append("--axis")
    flags = [f"without {' and '.join(left_out)}"] if left_out else []
    flags += [f"with {' '.join(added)}"] if added else []
    return f", {' and '.join(flags)}" if flags else ""


# -- parts -----------------------------------------------------------------------------------------


def _slices_of(content: str) -> str:
    """Return the part of `Volume.content` that stands for the slices."""
    return content.split("/", maxsplit=1)[0]
