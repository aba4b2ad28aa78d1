"""Verifying: a healthy workspace has no fault, and no damage to what is read goes unseen."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from examples.edits import edit, flip

from samkit.store.embeddings import Embeddings
from samkit.store.errors import DamagedStore
from samkit.store.keys import Recipe
from samkit.store.local import LocalPlace
from samkit.store.splits import Split
from samkit.store.verify import damaged_shards, unreadable_records, verify
from samkit.store.workspace import Workspace, open_workspace


@pytest.fixture
def healthy(workspace: Workspace, embeddings: Embeddings, keep: Callable[..., object]) -> Workspace:
    """Two volumes, and their rows in two shards."""
    for name in ("a", "b"):
        keep(embeddings, workspace.volumes[name].row_keys())
    return workspace


def faults(workspace: Workspace) -> list[tuple[str, str]]:
    return [(found.part, found.name) for found in verify(open_workspace(workspace.path)) if found.fault]


def shards(workspace: Workspace) -> list[Path]:
    return sorted(Path(workspace.path).glob("embeddings/*/features/*"))


def shard_of(data: Path) -> str:
    """The shard that lies in a folder of data."""
    return data.name.partition("-")[0]


def test_a_healthy_workspace_is_looked_at_whole_and_has_no_fault(healthy: Workspace):
    looked = [(found.part, found.fault) for found in verify(healthy)]
    parts = ["volume", "volume", "embeddings", "shard", "shard"]
    assert looked == [(part, None) for part in parts]


def test_verifying_changes_nothing(healthy: Workspace):
    before = {path: path.stat().st_mtime_ns for path in Path(healthy.path).rglob("*")}
    list(verify(healthy))
    assert {path: path.stat().st_mtime_ns for path in Path(healthy.path).rglob("*")} == before


def test_an_empty_workspace_has_no_fault(tmp_path: Path):
    assert list(verify(Workspace.create(tmp_path / "w"))) == []


@pytest.mark.parametrize("name", ["0.0.0.0", "zarr.json"])
def test_a_file_of_a_shard_that_is_gone_is_a_fault_of_that_shard(healthy: Workspace, name: str):
    shard = shards(healthy)[0]
    (shard / name).unlink()
    assert faults(healthy) == [("shard", shard_of(shard))]


def test_a_flip_in_any_byte_of_a_shards_data_is_a_fault(healthy: Workspace):
    shard = shards(healthy)[0]
    good = (shard / "0.0.0.0").read_bytes()
    for place in range(len(good)):
        torn = bytearray(good)
        torn[place] ^= 0x10
        (shard / "0.0.0.0").write_bytes(torn)
        assert faults(healthy) == [("shard", shard_of(shard))], place
    (shard / "0.0.0.0").write_bytes(good)
    assert faults(healthy) == []


def test_a_flip_in_a_shards_description_is_a_fault_or_means_the_same(healthy: Workspace):
    import zarr

    shard = shards(healthy)[0]
    file, rows = shard / "zarr.json", np.asarray(zarr.open_array(shard)[:])
    good = file.read_bytes()
    unseen = []
    for place in range(0, len(good)):
        torn = bytearray(good)
        torn[place] ^= 0x01
        file.write_bytes(torn)
        if faults(healthy) != [("shard", shard_of(shard))]:
            unseen.append(place)
            np.testing.assert_array_equal(zarr.open_array(shard)[:], rows)
    assert len(unseen) < len(good) / 2


@pytest.mark.parametrize("name", ["image", "label"])
def test_damaged_pixels_are_a_fault_of_their_volume(healthy: Workspace, name: str):
    (file,) = Path(healthy.path).glob(f"slices/a--*/{name}/0.*")
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 0xFF
    file.write_bytes(data)
    (found,) = [found for found in verify(healthy) if found.fault]
    assert (found.part, found.name) == ("volume", "a")
    assert "Ingest its source again" in (found.fault or "")


def test_a_volume_that_is_gone_is_a_fault(healthy: Workspace):
    (folder,) = Path(healthy.path).glob("slices/b--*")
    shutil.rmtree(folder)
    assert faults(healthy) == [("volume", "b")]


def test_a_journal_record_that_does_not_read_is_a_fault_and_hides_no_other(healthy: Workspace):
    first, second = sorted(Path(healthy.path).glob("embeddings/*/journal/*.json"))
    first.write_text("{")
    (data,) = first.parents[1].glob(f"features/{second.stem}-*")
    shutil.rmtree(data)
    assert faults(healthy) == [("journal record", first.stem), ("shard", second.stem)]


def test_a_recipe_that_does_not_read_is_a_fault(healthy: Workspace, embeddings: Embeddings):
    (embeddings.folder / "recipe.json").publish(b"{}")
    assert faults(healthy) == [("embeddings", embeddings.folder.name)]


def test_a_changed_file_beside_the_recipe_is_a_fault(workspace: Workspace, recipe):
    made = workspace.create_embeddings(recipe, trained=True, attachments={"decoder.safetensors": b"weights"})
    (made.folder / "decoder.safetensors").publish(b"weighty")
    assert faults(workspace) == [("embeddings", made.folder.name)]


def test_a_compute_class_that_was_changed_by_hand_is_a_fault(healthy: Workspace, embeddings: Embeddings):
    embeddings.fix_compute({"device": "cpu", "kernel_path": "package", "threads": 2, "micro_batch": 8})
    assert faults(healthy) == []
    edit(embeddings.folder / "compute.json", {"threads": 3})
    assert faults(healthy) == [("embeddings", embeddings.folder.name)]


def test_a_run_without_its_manifest_is_a_fault(healthy: Workspace):
    (Path(healthy.path) / "runs" / "linear-1-0-abc").mkdir(parents=True)
    assert faults(healthy) == [("run", "linear-1-0-abc")]


@pytest.mark.parametrize("folder", ["splits", "embeddings", "runs"])
def test_a_stray_file_is_told_and_stops_nothing(healthy: Workspace, folder: str):
    (healthy.path / folder / "notes.txt").publish(b"mine")
    looked = [(found.part, found.name, bool(found.fault)) for found in verify(open_workspace(healthy.path))]
    assert len([part for part, _, fault in looked if part == "shard" and not fault]) == 2
    expected = {"splits": [("split", "notes.txt")], "embeddings": [], "runs": [("run", "notes.txt")]}
    assert [(part, name) for part, name, fault in looked if fault] == expected[folder]


def test_a_split_that_was_changed_by_hand_is_a_fault(healthy: Workspace):
    healthy.keep_split(Split(name="default", seed=0, pool=("subject-a",), test=("subject-b",)))
    assert faults(healthy) == []
    edit(healthy.path / "splits" / "default.json", {"test": []})
    assert faults(healthy) == [("split", "default.json")]


# -- compacted journals and rows of bytes ----------------------------------------------------------


def test_a_split_that_is_no_json_any_more_is_not_to_be_made_anew(healthy: Workspace):
    split = healthy.keep_split(Split(name="mine", seed=0, pool=("a",), test=("b",)))
    flip(Path(healthy.path) / "splits/mine.json", 0)
    (fault,) = (found.fault for found in verify(open_workspace(healthy.path)) if found.name == f"{split.name}.json")
    assert "not readable as JSON" in fault
    assert "a split made anew is another one" in fault
    assert "run the same command again" not in fault


@pytest.mark.parametrize(
    ("unread", "part"),
    [
        ("splits/mine.json", "split"),
        ("embeddings/*/journal/*.json", "journal record"),
        ("embeddings/*/recipe.json", "embeddings"),
    ],
)
def test_a_bad_sector_is_a_fault_of_what_lies_on_it_and_hides_no_other(
    healthy: Workspace, monkeypatch: pytest.MonkeyPatch, unread: str, part: str
):
    healthy.keep_split(Split(name="mine", seed=0, pool=("a",), test=("b",)))
    file = min(Path(healthy.path).glob(unread))
    read = LocalPlace.read_bytes

    def read_bytes(place: LocalPlace) -> bytes:
        if place.path == file:
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(file))
        return read(place)

    before = [(found.part, found.name) for found in verify(open_workspace(healthy.path))]
    monkeypatch.setattr(LocalPlace, "read_bytes", read_bytes)
    found = list(verify(open_workspace(healthy.path)))
    assert [one.part for one in found if one.fault] == [part]
    assert "Input/output error" in next(one.fault for one in found if one.fault)
    others = {one for one in before if one[0] in ("volume", "split")}
    assert others <= {(one.part, one.name) for one in found}


def test_a_compacted_journal_is_looked_at_like_its_records(healthy: Workspace, embeddings: Embeddings):
    before = [(found.part, found.name) for found in verify(open_workspace(healthy.path))]
    embeddings.journal.compact()
    assert [(found.part, found.name) for found in verify(open_workspace(healthy.path))] == before
    assert faults(healthy) == []


def test_a_damaged_segment_of_the_journal_is_a_fault_and_hides_no_other(
    healthy: Workspace, embeddings: Embeddings, keep: Callable[..., object]
):
    embeddings.journal.compact()
    alone = keep(embeddings, [replace(healthy.volumes["a"].row_keys()[0], view="transpose")])
    (embeddings.folder / "features" / alone.data).remove()
    (name,) = (embeddings.folder / "journal" / "compacted").children()
    flip(embeddings.folder / "journal" / "compacted" / name, 30)
    assert faults(healthy) == [("journal record", name.partition(".")[0]), ("shard", alone.shard)]


@pytest.fixture
def bytes_embeddings(workspace: Workspace, recipe: Recipe, keep: Callable[..., object]) -> Embeddings:
    """The rows of a volume, kept as int8."""
    made = workspace.create_embeddings(replace(recipe, storage_precision="int8"), trained=True)
    keep(made, workspace.volumes["a"].row_keys())
    return made


@pytest.mark.parametrize("file", ["features", "scales"])
def test_a_flip_in_any_byte_of_rows_of_bytes_and_of_their_scales_is_a_fault(
    workspace: Workspace, bytes_embeddings: Embeddings, file: str
):
    (record,) = bytes_embeddings.journal.records.values()
    folder = bytes_embeddings.folder / file / record.data
    (name,) = [name for name in folder.children() if name != "zarr.json"]
    good = (folder / name).read_bytes()
    for place in range(len(good)):
        flip(folder / name, place)
        assert faults(workspace) == [("shard", record.shard)], place
        (folder / name).publish(good)
    assert faults(workspace) == []


@pytest.mark.parametrize("file", ["features", "scales"])
def test_a_missing_description_of_rows_of_bytes_is_a_fault(
    workspace: Workspace, bytes_embeddings: Embeddings, file: str
):
    (record,) = bytes_embeddings.journal.records.values()
    (bytes_embeddings.folder / file / record.data / "zarr.json").remove()
    assert faults(workspace) == [("shard", record.shard)]


# -- repair ----------------------------------------------------------------------------------------


def test_a_retired_shard_is_missing_and_can_be_written_again(
    healthy: Workspace, embeddings: Embeddings, keep: Callable[..., object], rows_of: Callable[..., np.ndarray]
):
    keys = healthy.volumes["a"].row_keys()
    (shard,) = {embeddings.journal.find(key)[0].shard for key in keys}
    data = embeddings.folder / "features" / embeddings.journal.records[shard].data
    (data / "zarr.json").publish(b"{}")
    ((damaged, fault),) = damaged_shards(embeddings)
    assert damaged == shard
    assert "zarr.json" in fault
    embeddings.retire([shard])
    assert embeddings.journal.missing(keys) == keys
    assert data.files() == {}
    keep(embeddings, keys)
    np.testing.assert_array_equal(embeddings["a"], rows_of(keys))
    assert faults(healthy) == []


def test_a_kill_between_the_record_and_the_data_of_a_retired_shard_leaves_its_rows_missing(
    healthy: Workspace, embeddings: Embeddings, monkeypatch: pytest.MonkeyPatch
):
    class Killed(BaseException):
        pass

    real = LocalPlace.remove

    def die_at_the_data(self: LocalPlace) -> None:
        if self.parent.name == "features":
            raise Killed
        real(self)

    keys = healthy.volumes["a"].row_keys()
    monkeypatch.setattr(LocalPlace, "remove", die_at_the_data)
    with pytest.raises(Killed):
        embeddings.retire([embeddings.journal.find(keys[0])[0].shard])
    again = Embeddings.open(embeddings.folder, healthy.volumes)
    assert again.journal.missing(keys) == keys


def test_a_row_in_another_shard_too_stays_when_one_is_retired(
    healthy: Workspace, embeddings: Embeddings, keep: Callable[..., object], rows_of: Callable[..., np.ndarray]
):
    keys = healthy.volumes["a"].row_keys()
    first = embeddings.journal.find(keys[0])[0].shard
    keep(embeddings, keys[:1])
    embeddings.retire([first])
    np.testing.assert_array_equal(embeddings.read(keys[:1]), rows_of(keys[:1]))


def test_unreadable_records_are_found_without_opening_the_rest(healthy: Workspace, embeddings: Embeddings):
    journal = embeddings.folder / "journal"
    first, second = journal.children()
    (journal / second).publish((journal / first).read_bytes())
    ((name, fault),) = unreadable_records(embeddings.folder)
    assert name == second
    assert "this is the record of shard" in fault
    with pytest.raises(DamagedStore):
        Embeddings.open(embeddings.folder, healthy.volumes)
    assert len(Embeddings.open(embeddings.folder, healthy.volumes, leave_out=[name]).journal.records) == 1
