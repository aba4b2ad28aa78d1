"""What the tests of the store share: a workspace with real pixels, a recipe, and shards with known numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from samkit.store.embeddings import Embeddings, ShardPlan
from samkit.store.journal import ShardRecord
from samkit.store.keys import Recipe, RowKey, array_digest
from samkit.store.precision import StoredRows
from samkit.store.slices import Pixels, VolumeRecord, slice_digests, write_pixels
from samkit.store.workspace import Workspace

ROW_SHAPE = (2, 3, 3)


@pytest.fixture
def recipe() -> Recipe:
    return Recipe(encoder="nano", weights_sha256="ab" * 32, input_px=64)


@pytest.fixture
def add_volume() -> Callable[..., VolumeRecord]:
    """Write the pixels of a small volume and put it into the workspace's index."""

    def add(workspace: Workspace, name: str, *, slices: int = 3, labelled: bool = True, seed: int = 0) -> VolumeRecord:
        random = np.random.default_rng([seed, *name.encode()])
        image = random.random((slices, 1, 6, 5)).astype(np.float16)
        label = random.integers(0, 3, (slices, 6, 5)).astype(np.uint8) if labelled else None
        pixels, files = write_pixels(workspace.path, name, Pixels(image=image, label=label))
        record = VolumeRecord(
            id=name,
            subject=f"subject-{name}",
            modality="MR",
            shape=image.shape,
            affine=tuple(tuple(float(value) for value in row) for row in np.diag([1.5, 1.5, 5.0, 1.0])),
            spacing_mm=(5.0, 1.5, 1.5),
            orientation={"axes": [2, 1, 0], "flips": [False, False, False], "plane": "axial"},
            source_grid={"shape": [5, 6, slices]},
            ingest_recipe={"intensity": {"rule": "percentiles"}, "axis": None, "channels": 1},
            identity=f"source-{name}",
            slice_digests=slice_digests(image),
            label_digest=None if label is None else array_digest(label),
            label_values=(1, 2) if labelled else (),
            pixels=pixels,
            files=files,
        )
        workspace.commit_volumes([record])
        return record

    return add


@pytest.fixture
def workspace(tmp_path: Path, add_volume: Callable[..., VolumeRecord]) -> Workspace:
    """A workspace with a labelled volume ``a`` of three slices and an unlabelled ``b`` of two."""
    made = Workspace.create(tmp_path / "workspace", {1: "RV", 2: "Myo"})
    add_volume(made, "b", slices=2, labelled=False)
    add_volume(made, "a")
    return made


@pytest.fixture
def embeddings(workspace: Workspace, recipe: Recipe) -> Embeddings:
    """The embeddings of ``workspace``: described, but without a row."""
    return workspace.create_embeddings(recipe, trained=True)


@pytest.fixture
def rows_of() -> Callable[[Sequence[RowKey]], np.ndarray]:
    """Return rows whose numbers depend on their keys alone."""

    def rows(keys: Sequence[RowKey]) -> np.ndarray:
        seeds = [int(key.slice_digest[:8], 16) for key in keys]
        return np.stack([np.random.default_rng(seed).normal(size=ROW_SHAPE).astype(np.float16) for seed in seeds])

    return rows


@pytest.fixture
def keep(rows_of: Callable[[Sequence[RowKey]], np.ndarray]) -> Callable[..., ShardRecord]:
    """Write one shard, with the numbers of `rows_of` unless others are given."""

    def write(embeddings: Embeddings, keys: Sequence[RowKey], rows: np.ndarray | None = None) -> ShardRecord:
        plan = ShardPlan(recipe_id=embeddings.recipe.id, keys=tuple(keys))
        features = rows_of(keys) if rows is None else rows
        precision = embeddings.recipe.storage_precision
        return embeddings.write(
            plan,
            StoredRows.of(features, precision) if precision == "int8" else StoredRows(values=features),
            compute={"device": "cpu"},
            seconds=0.5,
            peak_memory_bytes=1,
            code_version="0.1.0",
            writer="test",
        )

    return write
