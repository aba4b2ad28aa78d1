"""Small real workspaces: volumes on disk, and features of them by a real encoder, without a command line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from samkit.pipeline.plan import plan_embedding, wanted_rows
from samkit.stages.embed import ComputeClass, EmbedJob, ShardWorker, prepare_embeddings
from samkit.stages.encoders.base import Encoder
from samkit.store.embeddings import Embeddings
from samkit.store.keys import RowKey, array_digest
from samkit.store.slices import Pixels, VolumeRecord, slice_digests, write_pixels
from samkit.store.workspace import Workspace

LABEL_NAMES = {3: "box", 42: "bar"}


def boxes(seed: int, *, slices: int = 3, side: int = 40) -> tuple[NDArray[np.float16], NDArray[np.uint8]]:
    """A bright box (3) and a dark bar (42) in noise: image (slices, 1, side, side) in [0, 1], label."""
    random = np.random.default_rng(seed)
    image = random.normal(0.4, 0.03, (slices, 1, side, side))
    label = np.zeros((slices, side, side), np.uint8)
    row, column = random.integers(2, side // 4, size=2)
    label[:, row : row + side // 3, column : column + side // 3] = 3
    label[:, -side // 4 :, column:] = 42
    image[:, 0][label == 3] += 0.5
    image[:, 0][label == 42] -= 0.35
    return np.clip(image, 0, 1).astype(np.float16), label


def add_volume(
    workspace: Workspace,
    volume_id: str,
    image: NDArray[np.float16],
    label: NDArray[np.uint8] | None,
    *,
    subject: str | None = None,
) -> None:
    """Write a volume and commit it to the index, as `ingest` does."""
    pixels, files = write_pixels(workspace.path, volume_id, Pixels(image=image, label=label))
    slices, channels, rows, columns = image.shape
    record = VolumeRecord(
        id=volume_id,
        subject=subject or volume_id,
        modality="MR",
        shape=(slices, channels, rows, columns),
        affine=None,
        spacing_mm=(5.0, 1.0, 1.0),
        orientation={},
        source_grid={},
        ingest_recipe={
            "intensities": [{"rule": "percentiles"}] * channels,
            "windows": [],
            "non_finite": "refuse",
            "axis": None,
            "channels": channels,
            "volume": {},
            "labels": None,
        },
        identity=volume_id,
        slice_digests=slice_digests(image),
        label_digest=None if label is None else array_digest(label),
        label_values=() if label is None else tuple(int(value) for value in np.unique(label) if value),
        pixels=pixels,
        files=files,
    )
    workspace.commit_volumes([record])


def workspace_of_boxes(
    path: Path, *, subjects: int = 4, label_names: Mapping[int, str] = LABEL_NAMES, slices: int = 3
) -> Workspace:
    """A workspace of labelled subjects ``subject0``, ``subject1``, ..., one volume each."""
    workspace = Workspace.create(path, label_names)
    for number in range(subjects):
        add_volume(workspace, f"subject{number}", *boxes(number, slices=slices))
    return workspace


def embed(workspace: Workspace, encoder: Encoder) -> Embeddings:
    """Compute every row that is missing, as `samkit embed` does in one process."""
    return embed_rows(workspace, encoder, wanted_rows(workspace.volumes.values()).keys)


def embed_rows(workspace: Workspace, encoder: Encoder, keys: Sequence[RowKey]) -> Embeddings:
    """Compute those of some rows that are missing."""
    embeddings = prepare_embeddings(workspace, encoder, "cpu")
    channels, height, width = encoder.embedding_shape
    plan = plan_embedding(embeddings.recipe.id, embeddings.journal, keys, channels * height * width * 2)
    job = EmbedJob(
        workspace=workspace.path,
        recipe=encoder.recipe,
        weights=None,
        device="cpu",
        compute=compute_of(embeddings),
    )
    worker = ShardWorker(job, encoder)
    for shard in plan.shards:
        worker(shard)
    return workspace.embeddings(encoder.recipe.id)


def compute_of(embeddings: Embeddings) -> ComputeClass:
    """The compute class that was fixed for a recipe."""
    return ComputeClass.from_json(embeddings.compute or {})
