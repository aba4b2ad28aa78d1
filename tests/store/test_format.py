"""FORMAT.md is enough: a reader written from it alone, with zarr and json, agrees with samkit's own."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xxhash
import zarr
from examples.edits import flip

from samkit.store.embeddings import Embeddings
from samkit.store.keys import Recipe, array_digest
from samkit.store.slices import Pixels, slice_digests, write_packs
from samkit.store.workspace import Workspace, open_workspace

# -- a stranger's reader: nothing of samkit below this line ----------------------------------------


class Reader:
    """Reads slices, labels and features of a workspace by volume."""

    def __init__(self, workspace: Path) -> None:
        self.path, self.volumes = workspace, {}
        if json.loads((workspace / "workspace.json").read_text())["format"] > 1:
            raise ValueError("a later format")
        segments = sorted(workspace.glob("volumes/????????.jsonl"))
        snapshots = sorted(workspace.glob("volumes/????????.snapshot.jsonl"))[-1:]
        for file in snapshots + [file for file in segments if not snapshots or file.name[:8] > snapshots[0].name[:8]]:
            header, *volumes = lines_of(file)
            self.label_names = header["label_names"]
            for volume_id, volume in volumes:
                self.volumes[volume_id] = volume
        self.volumes = {volume_id: volume for volume_id, volume in self.volumes.items() if volume is not None}

    def image(self, volume_id: str) -> np.ndarray:
        return self.planes(self.volumes[volume_id], "image")

    def label(self, volume_id: str) -> np.ndarray | None:
        volume = self.volumes[volume_id]
        return None if volume["label_digest"] is None else self.planes(volume, "label")

    def planes(self, volume: dict[str, Any], name: str) -> np.ndarray:
        planes = np.asarray(zarr.open_array(self.path / volume["pixels"] / name, mode="r")[:])
        if volume["plane"] is None:
            return planes
        rows, columns = volume["shape"][2:]
        return planes[volume["plane"] : volume["plane"] + 1, ..., :rows, :columns]

    def features(self, volume_id: str, recipe_id: str) -> np.ndarray:
        (folder,) = (self.path / "embeddings").glob(f"*--{recipe_id}")
        records = [json.loads(file.read_text()) for file in folder.glob("journal/[!.]*.json")]
        records += [record for file in folder.glob("journal/compacted/[!.]*.jsonl") for record in lines_of(file)]
        places = {key: (record, row) for record in records for row, key in enumerate(record["keys"])}
        rows = []
        for digest in self.volumes[volume_id]["slice_digests"]:
            record, row = places[f"{digest}/identity/full"]
            values = np.asarray(zarr.open_array(folder / "features" / record["data"], mode="r")[row])
            checked = values.astype(values.dtype.newbyteorder("<")).tobytes()
            if record["dtype"] == "int8":
                scales = np.asarray(zarr.open_array(folder / "scales" / record["data"], mode="r")[row])
                checked += scales.astype("<f4").tobytes()
                values = (values * scales[:, None, None]).astype(np.float16)
            if xxhash.xxh3_64_intdigest(checked) != record["checksums"][row]:
                raise ValueError(f"{record['shard']}: row {row} is damaged")
            rows.append(values)
        return np.stack(rows)


def lines_of(file: Path) -> list[Any]:
    return [json.loads(line) for line in file.read_text().splitlines()[:-1]]  # the last is the seal


# -- end of the stranger's reader ------------------------------------------------------------------


@pytest.fixture(params=["float16", "int8"])
def embedded(
    request: pytest.FixtureRequest, workspace: Workspace, recipe: Recipe, keep: Callable[..., object]
) -> Embeddings:
    """Rows in two shards, the record of one compacted."""
    made = workspace.create_embeddings(replace(recipe, storage_precision=request.param), trained=True)
    keys = [key for volume in workspace.volumes.values() for key in volume.row_keys()]
    keep(made, keys[:2])
    made.journal.compact()
    keep(made, keys[2:])
    return made


def reader_of(workspace: Workspace) -> Reader:
    return Reader(Path(workspace.path))


def check_slices_and_labels(workspace: Workspace) -> None:
    reader = reader_of(workspace)
    assert reader.label_names == {str(value): name for value, name in workspace.label_names.items()}
    assert sorted(reader.volumes) == list(workspace.volumes)
    for volume_id, volume in workspace.volumes.items():
        slices = [volume.read_slice(position) for position in range(len(volume.slice_digests))]
        np.testing.assert_array_equal(reader.image(volume_id), np.stack(slices))
        theirs, ours = reader.label(volume_id), volume.read_label()
        assert (theirs is None) == (ours is None)
        if ours is not None:
            np.testing.assert_array_equal(theirs, ours)


def test_the_reader_has_at_most_sixty_lines():
    text = Path(__file__).read_text(encoding="utf-8")
    assert text[text.index("class Reader") : text.index("# -- end of")].strip().count("\n") < 60


def test_it_reads_the_features_that_samkit_reads(workspace: Workspace, embedded: Embeddings):
    reader = reader_of(workspace)
    for volume_id in workspace.volumes:
        np.testing.assert_array_equal(reader.features(volume_id, embedded.recipe.id), embedded[volume_id])


def test_it_reads_the_slices_and_labels_that_samkit_reads(workspace: Workspace):
    check_slices_and_labels(workspace)


def test_it_reads_volumes_of_one_slice_from_their_packs(workspace: Workspace):
    random = np.random.default_rng(0)
    volumes = {
        f"s{rows}": Pixels(
            image=random.random((1, 1, rows, 5)).astype(np.float16),
            label=random.integers(0, 3, (1, rows, 5)).astype(np.uint8),
        )
        for rows in (3, 8)
    }
    like = workspace.volumes["a"].record
    workspace.commit_volumes(
        replace(
            like,
            id=name,
            shape=volumes[name].image.shape,
            slice_digests=slice_digests(volumes[name].image),
            label_digest=array_digest(volumes[name].label),
            pixels=lies.pixels,
            files=lies.files,
            plane=lies.plane,
        )
        for name, lies in write_packs(workspace.path, volumes).items()
    )
    check_slices_and_labels(workspace)


def test_it_reads_an_index_with_removals_and_a_snapshot(workspace: Workspace):
    workspace.remove_volumes(["a"])
    check_slices_and_labels(workspace)
    workspace.index.write_snapshot(workspace.index.read())
    workspace.set_label_names({1: "RV", 2: "Myo", 3: "LV"})
    check_slices_and_labels(workspace)
    for covered in workspace.index.covered():
        covered.remove()
    check_slices_and_labels(open_workspace(workspace.path))


def test_it_refuses_a_damaged_row(workspace: Workspace, embedded: Embeddings):
    for file in Path(embedded.folder).glob("features/*/0.*"):
        flip(file, 0)
    with pytest.raises(ValueError, match="is damaged"):
        reader_of(workspace).features("a", embedded.recipe.id)
