"""gc: what nothing needs goes, what anything needs stays bit by bit, and a kill in the middle changes neither."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from examples.edits import flip

from samkit.store import garbage
from samkit.store.embeddings import Embeddings
from samkit.store.errors import DamagedStore
from samkit.store.garbage import Garbage, collect
from samkit.store.journal import Journal, ShardRecord
from samkit.store.keys import Recipe, RowKey, array_digest
from samkit.store.local import LocalPlace
from samkit.store.precision import StoredRows
from samkit.store.slices import Pixels, VolumeRecord, slice_digests, write_packs
from samkit.store.verify import verify
from samkit.store.workspace import Workspace, open_workspace

DAY = 24 * 3600.0
Keep = Callable[..., ShardRecord]


class Killed(BaseException):
    """Stands for a kill: nothing in samkit catches it."""


def gc(workspace: Workspace, *, older_than_seconds: float = DAY, dry_run: bool = False) -> list[Garbage]:
    """What the command does, in a process of its own."""
    return list(collect(open_workspace(workspace.path), older_than_seconds=older_than_seconds, dry_run=dry_run))


def make_old(workspace: Workspace) -> None:
    """Let everything have been written long ago."""
    for path in Path(workspace.path).rglob("*"):
        os.utime(path, (1000, 1000))


def files_of(workspace: Workspace) -> dict[str, bytes]:
    folder = Path(workspace.path)
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def faults(workspace: Workspace) -> list[str]:
    return [found.name for found in verify(open_workspace(workspace.path)) if found.fault]


def summary(collected: list[Garbage]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for thing in collected:
        counts[thing.kind] = counts.get(thing.kind, 0) + thing.count
    return counts


@dataclass(frozen=True)
class Embedded:
    """A workspace with rows, and what they should be."""

    workspace: Workspace
    recipes: tuple[str, ...]
    rows: Mapping[tuple[str, str], bytes]

    def rows_now(self) -> dict[tuple[str, str], bytes]:
        opened = open_workspace(self.workspace.path)
        return {
            (recipe_id, volume_id): opened.embeddings(recipe_id)[volume_id].tobytes()
            for recipe_id in self.recipes
            for volume_id in opened.volumes
        }

    def check(self, *left: str) -> None:
        """Whether exactly these volumes have rows, and these bit by bit as they were."""
        assert self.rows_now() == {place: rows for place, rows in self.rows.items() if place[1] in left}
        opened = open_workspace(self.workspace.path)
        live = {digest for volume in opened.volumes.values() for digest in volume.slice_digests}
        for recipe_id in self.recipes:
            journal = opened.embeddings(recipe_id).journal
            assert {key.slice_digest for key in journal} == live
        assert faults(self.workspace) == []


@pytest.fixture
def embedded(workspace: Workspace, add_volume: Callable[..., VolumeRecord], recipe: Recipe, keep: Keep) -> Embedded:
    """Volumes a, b, c, d; their rows in float16 and int8, in shards that each hold slices of two volumes."""
    for name in ("c", "d"):
        add_volume(workspace, name)
    keys = [key for volume in workspace.volumes.values() for key in volume.row_keys()]
    recipes = [replace(recipe, storage_precision=precision) for precision in ("float16", "int8")]
    for made in recipes:
        embeddings = workspace.create_embeddings(made, trained=True)
        for start in range(0, len(keys), 4):
            keep(embeddings, keys[start : start + 4])
    ids = tuple(made.id for made in recipes)
    found = Embedded(workspace, ids, {})
    return Embedded(workspace, ids, found.rows_now())


# -- rows ------------------------------------------------------------------------------------------


def test_nothing_to_collect_is_nothing(embedded: Embedded):
    assert [thing for thing in gc(embedded.workspace) if thing.kind != "index segments"] == []
    embedded.check("a", "b", "c", "d")


def test_rows_of_a_removed_volume_go_and_all_others_stay_bit_by_bit(embedded: Embedded):
    embedded.workspace.remove_volumes(["b"])
    collected = [thing for thing in gc(embedded.workspace) if thing.kind == "rows"]
    embedded.check("a", "c", "d")
    assert [thing.count for thing in collected] == [2, 2]
    # (2, 3, 3) as int8 with two scales, and the same as float16.
    assert sorted(thing.size_bytes for thing in collected) == [2 * (18 + 8), 2 * 18 * 2]


def test_every_volume_removed_leaves_no_row(embedded: Embedded):
    embedded.workspace.remove_volumes(["a", "b", "c", "d"])
    gc(embedded.workspace)
    embedded.check()


def test_shards_without_a_dead_row_are_not_touched(embedded: Embedded, keep: Keep):
    workspace = embedded.workspace
    embeddings = workspace.embeddings(embedded.recipes[0])
    dead = {key.slice_digest for key in workspace.volumes["b"].row_keys()}
    untouched = [
        record.data
        for record in embeddings.journal.records.values()
        if not dead & {key.slice_digest for key in record.keys}
    ]
    assert untouched
    inodes = {name: Path(embeddings.folder / "features" / name).stat().st_ino for name in untouched}
    workspace.remove_volumes(["b"])
    gc(workspace)
    assert {name: Path(embeddings.folder / "features" / name).stat().st_ino for name in untouched} == inodes


def test_rows_of_every_view_and_tile_live_and_die_with_their_slice(
    workspace: Workspace, embeddings: Embeddings, keep: Keep
):
    kinds = [("identity", "full"), ("flip-rows", "full"), ("rotate+7-nearest", "rows0-4+columns1-5")]
    keys = {
        name: [
            RowKey(slice_digest=digest, view=view, tile=tile)
            for view, tile in kinds
            for digest in workspace.volumes[name].slice_digests
        ]
        for name in ("a", "b")
    }
    # Each shard holds rows of both volumes, so that every survivor has to move.
    keep(embeddings, keys["a"][::2] + keys["b"][::2])
    keep(embeddings, keys["a"][1::2] + keys["b"][1::2])
    before = embeddings.read(keys["a"]).tobytes()
    workspace.remove_volumes(["b"])
    collected = [thing for thing in gc(workspace) if thing.kind == "rows"]
    assert [thing.count for thing in collected] == [len(keys["b"])]
    left = open_workspace(workspace.path).embeddings(embeddings.recipe.id)
    assert set(left.journal) == set(keys["a"])
    assert left.read(keys["a"]).tobytes() == before


def test_a_slice_that_two_volumes_share_survives_the_removal_of_one(embedded: Embedded):
    workspace = embedded.workspace
    workspace.commit_volumes([replace(workspace.volumes["a"].record, id="copy", identity="copy")])
    workspace.remove_volumes(["a"])
    gc(workspace)
    opened = open_workspace(workspace.path)
    for recipe_id in embedded.recipes:
        assert opened.embeddings(recipe_id)["copy"].tobytes() == embedded.rows[recipe_id, "a"]
    assert faults(workspace) == []


def test_rows_made_by_another_device_go_into_shards_of_their_own_and_keep_what_is_said_of_them(
    workspace: Workspace, embeddings: Embeddings, rows_of: Callable[..., np.ndarray]
):
    keys = [key for volume in workspace.volumes.values() for key in volume.row_keys()]
    for device, chosen in (("cpu", keys[::2]), ("cuda", keys[1::2])):
        from samkit.store.embeddings import ShardPlan

        embeddings.write(
            ShardPlan(recipe_id=embeddings.recipe.id, keys=tuple(chosen)),
            StoredRows(values=rows_of(chosen)),
            compute={"device": device},
            seconds=1.0,
            peak_memory_bytes=7,
            code_version="0.0.9",
            writer=device,
        )
    workspace.remove_volumes(["b"])
    gc(workspace)
    records = open_workspace(workspace.path).embeddings().journal.records.values()
    made_by = {str(key): record.compute["device"] for record in records for key in record.keys}
    live = {str(key) for key in workspace.volumes["a"].row_keys()}
    assert made_by == {str(key): ("cpu", "cuda")[number % 2] for number, key in enumerate(keys) if str(key) in live}
    assert {(record.code_version, record.writer) for record in records} == {("0.0.9", "cpu"), ("0.0.9", "cuda")}


def test_the_journal_is_compacted(embedded: Embedded):
    gc(embedded.workspace)
    for recipe_id in embedded.recipes:
        embeddings = open_workspace(embedded.workspace.path).embeddings(recipe_id)
        assert embeddings.journal.loose() == []
        assert len(Journal.files_of(embeddings.folder / "journal")) == 1


def test_rows_are_collected_out_of_a_compacted_journal_too(embedded: Embedded):
    gc(embedded.workspace)
    embedded.workspace.remove_volumes(["b"])
    gc(embedded.workspace)
    embedded.check("a", "c", "d")


def test_a_reader_that_opened_before_reads_on_after_it(embedded: Embedded):
    old = open_workspace(embedded.workspace.path)
    features = {recipe_id: old.embeddings(recipe_id) for recipe_id in embedded.recipes}
    embedded.workspace.remove_volumes(["b"])
    gc(embedded.workspace)
    for recipe_id, embeddings in features.items():
        assert embeddings["a"].tobytes() == embedded.rows[recipe_id, "a"]


def test_damaged_rows_that_would_have_to_move_are_refused_and_nothing_is_taken_away(embedded: Embedded):
    workspace = embedded.workspace
    for file in Path(workspace.path).glob("embeddings/*/features/*/0.*"):
        flip(file, 0)
        flip(file, 20)
    workspace.remove_volumes(["b"])
    before = files_of(workspace)
    with pytest.raises(DamagedStore, match="does not match its checksum"):
        gc(workspace)
    assert {name: data for name, data in files_of(workspace).items() if name in before} == before


# -- what no record names --------------------------------------------------------------------------


@pytest.mark.parametrize(("seconds", "stays"), [(3600.0, True), (2 * DAY, False)])
def test_data_without_a_record_stays_while_it_is_young(
    workspace: Workspace, embeddings: Embeddings, keep: Keep, seconds: float, *, stays: bool
):
    record = keep(embeddings, workspace.volumes["a"].row_keys())
    data = embeddings.folder / "features" / record.data
    (embeddings.folder / "journal" / f"{record.shard}.json").remove()
    for path in Path(data).iterdir():
        os.utime(path, (time.time() - seconds, time.time() - seconds))
    collected = [thing for thing in gc(workspace) if thing.kind == "shard data"]
    assert bool(data.files()) == stays
    assert [thing.name for thing in collected] == ([] if stays else [record.data])


def test_old_scales_without_a_record_go_with_their_rows(workspace: Workspace, recipe: Recipe, keep: Keep):
    made = workspace.create_embeddings(replace(recipe, storage_precision="int8"), trained=True)
    record = keep(made, workspace.volumes["a"].row_keys())
    (made.folder / "journal" / f"{record.shard}.json").remove()
    make_old(workspace)
    collected = [thing for thing in gc(workspace) if thing.kind == "shard data"]
    assert len(collected) == 2
    assert all(thing.size_bytes > 0 for thing in collected)
    assert (made.folder / "features").files() == (made.folder / "scales").files() == {}


def test_old_data_that_a_record_names_stays(embedded: Embedded):
    make_old(embedded.workspace)
    gc(embedded.workspace)
    embedded.check("a", "b", "c", "d")


@pytest.mark.parametrize("old", [True, False])
def test_slices_of_a_removed_volume_go_when_they_are_old(workspace: Workspace, *, old: bool):
    gone, kept = (workspace.path / workspace.volumes[name].record.pixels for name in ("a", "b"))
    workspace.remove_volumes(["a"])
    if old:
        make_old(workspace)
    assert summary(gc(workspace)).get("slices", 0) == int(old)
    assert bool(gone.files()) != old
    assert kept.files()
    assert faults(workspace) == []


def test_old_slices_stay_for_a_day_after_their_volume_was_removed(workspace: Workspace):
    """Whoever opened the workspace before may still read them."""
    gone = workspace.path / workspace.volumes["a"].record.pixels
    make_old(workspace)
    workspace.remove_volumes(["a"])
    assert "slices" not in summary(gc(workspace))
    assert gone.files()


def test_slices_that_another_ingest_committed_meanwhile_stay(
    workspace: Workspace, add_volume: Callable[..., VolumeRecord]
):
    opened = open_workspace(workspace.path)
    assert len(opened.volumes) == 2
    record = add_volume(workspace, "late")
    make_old(workspace)
    list(collect(opened, older_than_seconds=DAY, dry_run=False))
    assert (workspace.path / record.pixels).files()
    assert list(open_workspace(workspace.path).volumes) == ["a", "b", "late"]
    assert faults(workspace) == []


def test_earlier_generations_are_forgotten_and_their_slices_go(workspace: Workspace):
    record = workspace.volumes["a"].record
    other = workspace.path / "slices" / "a--0123456789ab"
    other.publish_folder({"image/zarr.json": b"{}"})
    predecessor = {"ingest_recipe": {}, "slice_digests": [], "label_digest": None}
    workspace.commit_volumes([replace(record, predecessor=predecessor)])
    make_old(workspace)
    counts = summary(gc(workspace))
    assert counts["predecessors"] == 1
    assert counts["slices"] == 1
    assert open_workspace(workspace.path).volumes["a"].record == record
    assert other.files() == {}
    assert faults(workspace) == []


@pytest.mark.parametrize("old", [True, False])
def test_what_killed_writers_left_goes_when_it_is_old(workspace: Workspace, *, old: bool):
    left = [
        Path(workspace.path) / ".workspace.json.01234567.part",
        Path(workspace.path) / "slices" / ".a--0123.01234567.part" / "image",
    ]
    left[0].touch()
    left[1].mkdir(parents=True)
    if old:
        make_old(workspace)
    assert summary(gc(workspace)).get("leftovers", 0) == (2 if old else 0)
    assert [path.exists() for path in left] == [not old] * 2


# -- packs -----------------------------------------------------------------------------------------


@pytest.fixture
def packed(workspace: Workspace) -> dict[str, Pixels]:
    """Five volumes of one slice in one pack, beside the others."""
    random = np.random.default_rng(3)
    volumes = {
        f"s{number}": Pixels(
            image=random.random((1, 1, 6 + number, 5)).astype(np.float16),
            label=random.integers(0, 3, (1, 6 + number, 5)).astype(np.uint8),
        )
        for number in range(5)
    }
    like = workspace.volumes["a"].record
    workspace.commit_volumes(
        replace(
            like,
            id=name,
            identity=name,
            shape=volumes[name].image.shape,
            slice_digests=slice_digests(volumes[name].image),
            label_digest=array_digest(volumes[name].label),
            pixels=lies.pixels,
            files=lies.files,
            plane=lies.plane,
        )
        for name, lies in write_packs(workspace.path, volumes).items()
    )
    return volumes


def check_packed(workspace: Workspace, volumes: Mapping[str, Pixels], *gone: str) -> None:
    opened = open_workspace(workspace.path)
    for name, pixels in volumes.items():
        assert (name in opened.volumes) == (name not in gone)
        if name not in gone:
            np.testing.assert_array_equal(opened.volumes[name].read_slice(0), pixels.image[0])
            np.testing.assert_array_equal(opened.volumes[name].read_label(), pixels.label)
    assert faults(workspace) == []


def test_a_pack_is_written_anew_without_the_volumes_that_were_removed(workspace: Workspace, packed: dict[str, Pixels]):
    before = workspace.volumes["s0"].record.pixels
    workspace.remove_volumes(["s1", "s3"])
    make_old(workspace)
    collected = [thing for thing in gc(workspace) if thing.kind == "packed slices"]
    assert [(thing.name, thing.count) for thing in collected] == [(before, 2)]
    check_packed(workspace, packed, "s1", "s3")
    left = open_workspace(workspace.path).volumes["s0"]
    assert left.image.planes_in_file == 3
    assert left.record.pixels != before
    # A reader that was opened before still uses the old pack; the next gc takes it when that is long ago.
    assert (workspace.path / before).files() != {}
    make_old(workspace)
    gc(workspace)
    assert (workspace.path / before).files() == {}
    check_packed(workspace, packed, "s1", "s3")


def test_a_pack_of_which_nothing_was_removed_is_not_touched(workspace: Workspace, packed: dict[str, Pixels]):
    before = workspace.volumes["s0"].record
    assert "packed slices" not in summary(gc(workspace))
    assert open_workspace(workspace.path).volumes["s0"].record == before
    check_packed(workspace, packed)


def test_a_pack_of_which_all_were_removed_goes_like_any_slices(workspace: Workspace, packed: dict[str, Pixels]):
    folder = workspace.path / workspace.volumes["s0"].record.pixels
    workspace.remove_volumes(packed)
    make_old(workspace)
    gc(workspace)
    assert folder.files() == {}
    check_packed(workspace, packed, *packed)


# -- the index -------------------------------------------------------------------------------------


@pytest.mark.parametrize("old", [True, False])
def test_segments_that_a_snapshot_covers_go_when_they_are_old_and_the_workspace_still_opens(
    workspace: Workspace, *, old: bool
):
    records = [volume.record for volume in workspace.volumes.values()]
    if old:
        make_old(workspace)
    count = len([name for name in (workspace.path / "volumes").children() if name[:8].isdecimal()])
    assert summary(gc(workspace)).get("index segments", 0) == (count if old else 0)
    opened = open_workspace(workspace.path)
    assert [volume.record for volume in opened.volumes.values()] == records
    assert opened.label_names == {1: "RV", 2: "Myo"}
    opened.commit_volumes([replace(records[0], subject="someone else")])
    assert open_workspace(workspace.path).volumes[records[0].id].subject == "someone else"


def test_a_reader_that_opened_before_the_segments_went_reads_on(workspace: Workspace):
    old = open_workspace(workspace.path)
    assert len(old.volumes) == 2
    for _ in range(3):
        workspace.set_label_names({1: "RV", 2: "Myo"})
    make_old(workspace)
    gc(workspace)
    old.commit_volumes([replace(old.volumes["a"].record, subject="someone else")])
    assert open_workspace(workspace.path).volumes["a"].subject == "someone else"


# -- again, dry, and killed ------------------------------------------------------------------------


@pytest.fixture
def littered(embedded: Embedded, packed: dict[str, Pixels]) -> Embedded:
    """Something of every kind to be taken away, all of it old; a, c and d are to be kept."""
    workspace = embedded.workspace
    embeddings = workspace.embeddings(embedded.recipes[0])
    (embeddings.folder / "features" / "0123-01234567").publish_folder({"zarr.json": b"{}"})
    record = workspace.volumes["c"].record
    predecessor = {"ingest_recipe": {}, "slice_digests": [], "label_digest": None}
    workspace.commit_volumes([replace(record, predecessor=predecessor)])
    workspace.remove_volumes(["b", "s1", "s0", "s3", "s4"])
    (Path(workspace.path) / ".left.01234567.part").touch()
    make_old(workspace)
    return embedded


KINDS = {"rows", "shard data", "slices", "packed slices", "predecessors", "index segments", "leftovers"}


def test_every_kind_of_garbage_is_told(littered: Embedded):
    assert set(summary(gc(littered.workspace))) == KINDS


def test_a_dry_run_changes_nothing_and_tells_what_would_go(littered: Embedded):
    before = files_of(littered.workspace)
    times = {path: path.stat().st_mtime_ns for path in Path(littered.workspace.path).rglob("*")}
    told = gc(littered.workspace, dry_run=True)
    assert files_of(littered.workspace) == before
    assert {path: path.stat().st_mtime_ns for path in Path(littered.workspace.path).rglob("*")} == times
    assert {"rows", "shard data", "slices", "packed slices", "predecessors"} <= {thing.kind for thing in told}
    done = {(thing.kind, thing.count) for thing in gc(littered.workspace) if thing.kind in ("rows", "packed slices")}
    assert {(thing.kind, thing.count) for thing in told if thing.kind in ("rows", "packed slices")} == done


def test_a_second_run_finds_nothing_and_changes_nothing(littered: Embedded):
    gc(littered.workspace)
    make_old(littered.workspace)
    gc(littered.workspace)  # what became superfluous in the first run is old only now
    before = files_of(littered.workspace)
    make_old(littered.workspace)
    assert gc(littered.workspace) == []
    assert files_of(littered.workspace) == before


def meaning(embedded: Embedded) -> tuple[object, ...]:
    """What a workspace says, whatever files it says it by."""
    opened = open_workspace(embedded.workspace.path)
    volumes = {
        volume_id: (volume.record.slice_digests, volume.label_names) for volume_id, volume in opened.volumes.items()
    }
    slices = {volume_id: volume.read_slice(0).tobytes() for volume_id, volume in opened.volumes.items()}
    rows = {
        (recipe_id, str(key)): opened.embeddings(recipe_id).read([key]).tobytes()
        for recipe_id in embedded.recipes
        for key in opened.embeddings(recipe_id).journal
    }
    data = {
        recipe_id: sorted((opened.embeddings(recipe_id).folder / "features").children())
        for recipe_id in embedded.recipes
    }
    folders = sorted((opened.path / "slices").children())
    return volumes, slices, rows, data, folders


STEPS = [
    (Journal, "commit"),
    (Journal, "retire"),
    (Journal, "compact"),
    (Embeddings, "write"),
    (LocalPlace, "remove"),
    (LocalPlace, "publish"),
    (LocalPlace, "publish_folder"),
    (LocalPlace, "publish_if_absent"),
    (LocalPlace, "remove_leftovers"),
    (Workspace, "exchange_records"),
    (garbage, "write_packs"),
]


@pytest.mark.parametrize(("owner", "name"), STEPS, ids=[name for _, name in STEPS])
@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_kill_at_any_step_and_then_again_ends_as_if_it_had_not_been_killed(
    littered: Embedded, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, owner: object, name: str, moment: str
):
    import shutil

    shutil.copytree(littered.workspace.path, tmp_path / "other")
    whole = Embedded(open_workspace(tmp_path / "other"), littered.recipes, {})
    for _ in range(2):
        make_old(whole.workspace)
        gc(whole.workspace)
    real = getattr(owner, name)
    calls, kills = 0, 0
    for kill_at in range(100):
        calls = 0

        def die(*arguments: object, kill_at: int = kill_at, **others: object) -> object:
            nonlocal calls
            calls += 1
            if calls > kill_at:
                if moment == "after":
                    real(*arguments, **others)
                raise Killed
            return real(*arguments, **others)

        with monkeypatch.context() as patched:
            patched.setattr(owner, name, die)
            try:
                gc(littered.workspace)
            except Killed:
                kills += 1
                assert_rows_left(littered)
                make_old(littered.workspace)
            else:
                break
    assert kills > 0
    for _ in range(2):
        make_old(littered.workspace)
        gc(littered.workspace)
    assert meaning(littered) == meaning(whole)
    assert faults(littered.workspace) == []


def assert_rows_left(embedded: Embedded) -> None:
    """After a kill everything that is needed can be read."""
    opened = open_workspace(embedded.workspace.path)
    for recipe_id in embedded.recipes:
        for volume_id in ("a", "c", "d"):
            assert opened.embeddings(recipe_id)[volume_id].tobytes() == embedded.rows[recipe_id, volume_id]
    assert opened.volumes["s2"].read_slice(0).shape == (1, 8, 5)
    assert faults(embedded.workspace) == []


def test_shards_go_in_batches_while_what_stays_of_them_is_written(embedded: Embedded, monkeypatch: pytest.MonkeyPatch):
    """A disk that is nearly full has room for a batch, not for all survivors before the first shard goes."""
    monkeypatch.setattr("samkit.store.garbage._SHARDS_RETIRED_TOGETHER", 1)
    monkeypatch.setattr("samkit.store.embeddings.ROWS_PER_SHARD", 1)
    steps: list[str] = []
    write, retire = Embeddings.write, Embeddings.retire

    def writing(self: Embeddings, *args: object, **named: object) -> ShardRecord:
        steps.append("write")
        return write(self, *args, **named)

    def retiring(self: Embeddings, shards: list[str]) -> None:
        steps.extend(["retire"] * len(shards))
        retire(self, shards)

    monkeypatch.setattr(Embeddings, "write", writing)
    monkeypatch.setattr(Embeddings, "retire", retiring)
    embedded.workspace.remove_volumes(["a"])
    gc(embedded.workspace)
    assert "retire" in steps[: len(steps) - steps[::-1].index("write")], "nothing went before the last was written"
    embedded.check("b", "c", "d")


def test_a_commit_that_began_before_gc_is_not_lost(
    workspace: Workspace, add_volume: Callable[..., object], monkeypatch: pytest.MonkeyPatch
):
    """It writes the number that follows what it read, if that is absent: gc must not have taken it away meanwhile."""
    publish, done = LocalPlace.publish_if_absent, []

    def publish_after_another_commit_and_gc(place: LocalPlace, data: bytes) -> bool:
        if place.path.parent.name == "volumes" and not done:
            done.append(place)
            add_volume(open_workspace(workspace.path), "theirs", seed=8)
            gc(workspace, older_than_seconds=0)
        return publish(place, data)

    monkeypatch.setattr(LocalPlace, "publish_if_absent", publish_after_another_commit_and_gc)
    add_volume(workspace, "ours", seed=9)
    assert done
    assert {"ours", "theirs"} <= set(open_workspace(workspace.path).volumes)
