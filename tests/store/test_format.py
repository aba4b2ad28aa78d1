"""FORMAT.md is enough: a reader written from it alone, with zarr and json, agrees with samkit's own."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import xxhash
import zarr

from samkit.store.embeddings import Embeddings
from samkit.store.workspace import Workspace

# -- a stranger's reader: nothing of samkit below this line ----------------------------------------


class Reader:
    """Reads slices, labels and features of a workspace by volume."""

    def __init__(self, workspace: Path) -> None:
        self.path = workspace
        described = json.loads((workspace / "workspace.json").read_text())
        if described["format"] > 1:
            raise ValueError("a later format")
        self.label_names = described["label_names"]
        index = json.loads((workspace / "volumes.json").read_text())
        self.volumes = {volume["id"]: volume for volume in index["volumes"]}

    def image(self, volume_id: str) -> np.ndarray:
        return np.asarray(zarr.open_array(self.path / self.volumes[volume_id]["pixels"] / "image", mode="r")[:])

    def label(self, volume_id: str) -> np.ndarray | None:
        if self.volumes[volume_id]["label_digest"] is None:
            return None
        return np.asarray(zarr.open_array(self.path / self.volumes[volume_id]["pixels"] / "label", mode="r")[:])

    def features(self, volume_id: str, recipe_id: str) -> np.ndarray:
        (folder,) = (self.path / "embeddings").glob(f"*--{recipe_id}")
        places = {}
        for file in (folder / "journal").glob("[!.]*.json"):
            record = json.loads(file.read_text())
            if record["recipe"] != recipe_id:
                raise ValueError(f"{file}: another recipe")
            for row, key in enumerate(record["keys"]):
                places[key] = (record["shard"], row, record["checksums"][row])
        rows = []
        for digest in self.volumes[volume_id]["slice_digests"]:
            shard, row, checksum = places[f"{digest}/identity/full"]
            values = np.asarray(zarr.open_array(folder / "features" / shard, mode="r")[row])
            if xxhash.xxh3_64_intdigest(values.astype(values.dtype.newbyteorder("<")).tobytes()) != checksum:
                raise ValueError(f"{shard}: row {row} is damaged")
            rows.append(values)
        return np.stack(rows)


# -- end of the stranger's reader ------------------------------------------------------------------


@pytest.fixture
def embedded(workspace: Workspace, embeddings: Embeddings, keep: Callable[..., object]) -> Embeddings:
    keys = [key for volume in workspace.volumes.values() for key in volume.row_keys()]
    keep(embeddings, keys[:2])
    keep(embeddings, keys[2:])
    return embeddings


def test_the_reader_has_at_most_sixty_lines():
    text = Path(__file__).read_text(encoding="utf-8")
    assert text[text.index("class Reader") : text.index("# -- end of")].strip().count("\n") < 60


def test_it_reads_the_features_that_samkit_reads(workspace: Workspace, embedded: Embeddings):
    reader = Reader(workspace.path)
    for volume_id in workspace.volumes:
        np.testing.assert_array_equal(reader.features(volume_id, embedded.recipe.id), embedded[volume_id])


def test_it_reads_the_slices_and_labels_that_samkit_reads(workspace: Workspace):
    reader = Reader(workspace.path)
    assert reader.label_names == {str(value): name for value, name in workspace.label_names.items()}
    for volume_id, volume in workspace.volumes.items():
        slices = [volume.read_slice(position) for position in range(len(volume.slice_digests))]
        np.testing.assert_array_equal(reader.image(volume_id), np.stack(slices))
        theirs, ours = reader.label(volume_id), volume.read_label()
        assert (theirs is None) == (ours is None)
        if ours is not None:
            np.testing.assert_array_equal(theirs, ours)


def test_it_refuses_a_damaged_row(workspace: Workspace, embedded: Embeddings):
    for file in embedded.folder.glob("features/*/0.*"):
        data = bytearray(file.read_bytes())
        data[0] ^= 1
        file.write_bytes(data)
    with pytest.raises(ValueError, match="is damaged"):
        Reader(workspace.path).features("a", embedded.recipe.id)
