"""Rows: what was written is what is read, in the order asked for, or it is refused."""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from examples.edits import edit, flip, rewrite
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from samkit.store.documents import sealed
from samkit.store.embeddings import Embeddings, ShardPlan, cut_into_shards
from samkit.store.errors import DamagedStore, MissingEmbeddings, StoreError, UsageError
from samkit.store.journal import Journal, ShardRecord
from samkit.store.keys import Recipe, RowKey
from samkit.store.local import Disk, LocalPlace
from samkit.store.places import Data, Place
from samkit.store.precision import StoredRows
from samkit.store.shards import DATA_FILE, SCALES_FILE, shard_files
from samkit.store.slices import Volume
from samkit.store.workspace import Workspace

Rows = Callable[[Sequence[RowKey]], np.ndarray]
Keep = Callable[..., ShardRecord]

KEYS = tuple(RowKey(slice_digest=f"{number:08x}{number:024x}") for number in range(8))


COMPUTE = {"device": "cpu", "kernel_path": "package", "threads": 2, "micro_batch": 8}


class Killed(BaseException):
    """Stands for a kill: nothing in samkit catches it."""


def reopened(embeddings: Embeddings) -> Embeddings:
    """What another process sees."""
    return Embeddings.open(embeddings.folder, embeddings._volumes)


def local(place: Place) -> Path:
    """The path of a place that is known to be one."""
    assert isinstance(place, LocalPlace)
    return place.path


def data_folder(embeddings: Embeddings, record: ShardRecord) -> Path:
    return local(embeddings.folder / "features" / record.data)


def data_file(embeddings: Embeddings, record: ShardRecord) -> Path:
    return data_folder(embeddings, record) / DATA_FILE


def record_file(embeddings: Embeddings, record: ShardRecord) -> Path:
    return local(embeddings.folder / "journal" / f"{record.shard}.json")


# -- reading ---------------------------------------------------------------------------------------


def test_the_rows_of_a_volume_come_in_the_order_of_its_slices(
    workspace: Workspace, embeddings: Embeddings, keep: Keep, rows_of: Rows
):
    keys = workspace.volumes["a"].row_keys()
    keep(embeddings, keys[::-1])
    np.testing.assert_array_equal(embeddings["a"], rows_of(keys))


def test_rows_keep_the_precision_they_were_stored_in(embeddings: Embeddings, keep: Keep, rows_of: Rows):
    keep(embeddings, KEYS[:2])
    keep(embeddings, KEYS[2:4])
    assert embeddings.read(KEYS[:4]).dtype == np.float16


def test_rows_come_in_the_order_asked_for_across_shards_and_repeated(embeddings: Embeddings, keep: Keep, rows_of: Rows):
    for start in (0, 3, 6):
        keep(embeddings, KEYS[start : start + 3])
    asked = [KEYS[number] for number in (7, 0, 3, 3, 6, 1, 0, 5)]
    np.testing.assert_array_equal(embeddings.read(asked), rows_of(asked))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30, deadline=None)
@given(st.lists(st.sampled_from(KEYS), min_size=1, max_size=20))
def test_whatever_is_asked_for_is_what_comes(embeddings: Embeddings, keep: Keep, rows_of: Rows, asked: list[RowKey]):
    for start in (0, 5):
        keep(embeddings, KEYS[start : start + 5])
    np.testing.assert_array_equal(embeddings.read(asked), rows_of(asked))


def test_another_process_reads_the_same(embeddings: Embeddings, keep: Keep, rows_of: Rows):
    keep(embeddings, KEYS)
    np.testing.assert_array_equal(reopened(embeddings).read(KEYS), rows_of(KEYS))


def test_rows_of_zeros_are_rows(embeddings: Embeddings, keep: Keep):
    zeros = np.zeros((2, 2, 3, 3), np.float16)
    record = keep(embeddings, KEYS[:2], zeros)
    assert data_file(embeddings, record).stat().st_size >= zeros.nbytes
    np.testing.assert_array_equal(reopened(embeddings).read(KEYS[:2]), zeros)


def test_the_bits_of_a_row_survive(embeddings: Embeddings, keep: Keep):
    rows = np.array([np.nan, np.inf, -0.0, 6e-8], np.float16).reshape(1, 1, 2, 2)
    keep(embeddings, KEYS[:1], rows)
    assert embeddings.read(KEYS[:1]).tobytes() == rows.tobytes()


def test_a_key_in_two_shards_is_read_from_either(embeddings: Embeddings, keep: Keep, rows_of: Rows):
    keep(embeddings, KEYS[:3])
    keep(embeddings, KEYS[2:5])
    np.testing.assert_array_equal(reopened(embeddings).read(KEYS[:5]), rows_of(KEYS[:5]))


def test_another_view_of_a_slice_is_another_row(embeddings: Embeddings, keep: Keep):
    turned = replace(KEYS[0], view="transpose")
    keep(embeddings, [KEYS[0], turned], np.arange(36, dtype=np.float16).reshape(2, 2, 3, 3))
    assert float(embeddings.read([turned])[0, 0, 0, 0]) == 18.0


def test_rows_fill_the_memory_that_the_caller_gives(embeddings: Embeddings, keep: Keep, rows_of: Rows):
    keep(embeddings, KEYS[:4])
    mine = np.full((3, *rows_of(KEYS[:1]).shape[1:]), np.nan, np.float16)
    given_back = embeddings.read([KEYS[2], KEYS[0], KEYS[2]], out=mine)
    assert given_back is mine
    np.testing.assert_array_equal(mine, rows_of([KEYS[2], KEYS[0], KEYS[2]]))


@pytest.mark.parametrize(
    "memory",
    [
        np.empty((3, 2, 3, 3), np.float16),
        np.empty((2, 2, 3, 3), np.float32),
        np.empty((2, 2, 3, 4), np.float16),
        np.empty((2, 2, 3, 6), np.float16)[..., ::2],
    ],
    ids=["rows", "precision", "shape", "order"],
)
def test_memory_that_the_rows_do_not_fit_is_refused(embeddings: Embeddings, keep: Keep, memory: np.ndarray):
    keep(embeddings, KEYS[:2])
    with pytest.raises(UsageError, match=r"these rows need \(2, 2, 3, 3\) float16"):
        embeddings.read(KEYS[:2], out=memory)


# -- what is not there -----------------------------------------------------------------------------


def test_missing_rows_are_a_key_error_that_names_volume_and_command(
    workspace: Workspace, embeddings: Embeddings, keep: Keep
):
    keep(embeddings, workspace.volumes["a"].row_keys()[:1])
    with pytest.raises(KeyError) as caught:
        embeddings["a"]
    message = str(caught.value)
    assert message.startswith("a: 2 of 3 slices have no embedding")
    assert f"samkit embed --recipe {embeddings.recipe.id}" in message


def test_a_volume_that_does_not_exist_is_a_key_error(embeddings: Embeddings):
    with pytest.raises(KeyError, match="no volume 'z'"):
        embeddings["z"]


def test_a_key_without_a_record_is_missing(embeddings: Embeddings, keep: Keep):
    keep(embeddings, KEYS[:2])
    with pytest.raises(MissingEmbeddings, match=KEYS[5].slice_digest):
        embeddings.read([KEYS[0], KEYS[5]])


def test_asking_for_no_rows_is_refused(embeddings: Embeddings):
    with pytest.raises(MissingEmbeddings, match="no rows were asked for"):
        embeddings.read([])


def test_data_without_a_record_is_no_row(embeddings: Embeddings, keep: Keep):
    record = keep(embeddings, KEYS[:2])
    record_file(embeddings, record).unlink()
    assert KEYS[0] not in reopened(embeddings).journal


# -- kills and two writers -------------------------------------------------------------------------


def test_a_kill_before_the_record_leaves_no_row_and_the_next_write_makes_it(
    embeddings: Embeddings, keep: Keep, rows_of: Rows, monkeypatch: pytest.MonkeyPatch
):
    def die(_: object) -> None:
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(embeddings.journal, "commit", die)
        with pytest.raises(Killed):
            keep(embeddings, KEYS[:2])
    again = reopened(embeddings)
    assert again.journal.missing(KEYS[:2]) == list(KEYS[:2])
    keep(again, KEYS[:2])
    np.testing.assert_array_equal(again.read(KEYS[:2]), rows_of(KEYS[:2]))


def test_a_kill_in_the_data_leaves_nothing_under_the_name(
    embeddings: Embeddings, keep: Keep, monkeypatch: pytest.MonkeyPatch
):
    def die(*_: object, **__: object) -> None:
        raise Killed

    monkeypatch.setattr(Disk, "write", die)
    with pytest.raises(Killed):
        keep(embeddings, KEYS[:2])
    assert (embeddings.folder / "features").children() == []
    assert len(reopened(embeddings).journal) == 0


def test_left_over_data_of_other_numbers_lies_under_another_name_and_is_not_read(
    embeddings: Embeddings, keep: Keep, rows_of: Rows
):
    record = keep(embeddings, KEYS[:2], np.zeros((2, 2, 3, 3), np.float16))
    record_file(embeddings, record).unlink()
    again = reopened(embeddings)
    assert keep(again, KEYS[:2]).data != record.data
    np.testing.assert_array_equal(again.read(KEYS[:2]), rows_of(KEYS[:2]))


def test_left_over_rubbish_is_overwritten(embeddings: Embeddings, keep: Keep, rows_of: Rows):
    record = keep(embeddings, KEYS[:2])
    embeddings.retire([record.shard])
    data_folder(embeddings, record).mkdir()
    (data_folder(embeddings, record) / "zarr.json").write_text("{")
    assert keep(embeddings, KEYS[:2]).data == record.data
    np.testing.assert_array_equal(embeddings.read(KEYS[:2]), rows_of(KEYS[:2]))


def test_the_second_writer_of_a_shard_discards_its_copy(embeddings: Embeddings, keep: Keep, rows_of: Rows):
    first, second = reopened(embeddings), reopened(embeddings)
    stands = keep(first, KEYS[:2])
    before = data_folder(embeddings, stands).stat().st_ino
    assert keep(second, KEYS[:2], np.zeros((2, 2, 3, 3), np.float16)) == stands
    assert data_folder(embeddings, stands).stat().st_ino == before
    assert (embeddings.folder / "features").children() == [stands.data]
    np.testing.assert_array_equal(second.read(KEYS[:2]), rows_of(KEYS[:2]))


@pytest.mark.parametrize("numbers", ["the same", "others"])
def test_a_shard_committed_while_another_writer_was_writing_is_not_touched(
    embeddings: Embeddings, keep: Keep, rows_of: Rows, monkeypatch: pytest.MonkeyPatch, numbers: str
):
    # The slow writer looks at the journal before, and publishes after, the fast one has done both.
    fast, slow = reopened(embeddings), reopened(embeddings)
    real = LocalPlace.publish_folder
    places: list[int] = []

    def overtaken(self: LocalPlace, files: Mapping[str, Data], keep: Callable[[], bool]) -> None:
        monkeypatch.setattr(LocalPlace, "publish_folder", real)
        places.append(data_folder(embeddings, write(fast, KEYS[:2])).stat().st_ino)
        real(self, files, keep)

    write = keep
    monkeypatch.setattr(LocalPlace, "publish_folder", overtaken)
    mine = rows_of(KEYS[:2]) if numbers == "the same" else np.zeros((2, 2, 3, 3), np.float16)
    record = keep(slow, KEYS[:2], mine)
    assert data_folder(embeddings, record).stat().st_ino == places[0]
    np.testing.assert_array_equal(slow.read(KEYS[:2]), rows_of(KEYS[:2]))


def test_data_of_a_writer_that_has_not_committed_yet_stays_if_it_is_the_same(
    embeddings: Embeddings, keep: Keep, monkeypatch: pytest.MonkeyPatch
):
    record = keep(embeddings, KEYS[:2])
    record_file(embeddings, record).unlink()
    before = data_folder(embeddings, record).stat().st_ino
    keep(reopened(embeddings), KEYS[:2])
    assert data_folder(embeddings, record).stat().st_ino == before


def test_data_that_lies_there_already_counts_as_new_before_its_record(embeddings: Embeddings, keep: Keep):
    # `gc` removes data without a record once it is old: it must not take away what is about to be committed.
    record = keep(embeddings, KEYS[:2])
    record_file(embeddings, record).unlink()
    for path in data_folder(embeddings, record).iterdir():
        os.utime(path, (1000, 1000))
    keep(reopened(embeddings), KEYS[:2])
    assert (embeddings.folder / "features" / record.data).modified() > time.time() - 60


def test_threads_that_write_one_shard_leave_one_that_all_read(embeddings: Embeddings, keep: Keep, rows_of: Rows):
    together = threading.Barrier(6)

    def write(_: int) -> np.ndarray:
        mine = reopened(embeddings)
        together.wait()
        keep(mine, KEYS[:4])
        return mine.read(KEYS[:4])

    with ThreadPoolExecutor(6) as pool:
        for rows in pool.map(write, range(6)):
            np.testing.assert_array_equal(rows, rows_of(KEYS[:4]))
    assert len((embeddings.folder / "features").children()) == 1
    assert len((embeddings.folder / "journal").children()) == 1


def test_rows_that_do_not_belong_to_the_plan_are_refused_before_anything_is_written(embeddings: Embeddings, keep: Keep):
    with pytest.raises(StoreError, match=r"3 keys .* do not belong to 2 rows"):
        keep(embeddings, KEYS[:3], np.zeros((2, 2, 3, 3), np.float16))
    assert (embeddings.folder / "features").files() == {}


def test_rows_of_a_recipe_that_was_removed_meanwhile_are_not_kept(embeddings: Embeddings, keep: Keep):
    keep(embeddings, KEYS[:2])
    embeddings.folder.remove()
    with pytest.raises(StoreError, match="the recipe was removed while rows of it were computed"):
        keep(embeddings, KEYS[2:4])
    assert not embeddings.folder.refresh()


def test_a_plan_of_another_recipe_is_refused(embeddings: Embeddings):
    plan = ShardPlan(recipe_id="another", keys=KEYS[:1])
    with pytest.raises(StoreError, match="of recipe another do not belong"):
        embeddings.write(
            plan,
            StoredRows(values=np.zeros((1, 2, 3, 3), np.float16)),
            compute={},
            seconds=0,
            peak_memory_bytes=0,
            code_version="0.1.0",
            writer="test",
        )


# -- damage ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Shard:
    """One committed shard, its files as they should be, and the rows in them."""

    embeddings: Embeddings
    record: ShardRecord
    rows: np.ndarray
    good: dict[Path, bytes]

    def restore(self) -> None:
        for path, data in self.good.items():
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(data)

    def read_is_right_or_refused(self) -> str:
        try:
            rows = reopened(self.embeddings).read(self.record.keys)
        except DamagedStore:
            return "refused"
        np.testing.assert_array_equal(rows, self.rows)
        return "right"


@pytest.fixture
def shard(workspace: Workspace, embeddings: Embeddings, keep: Keep, rows_of: Rows) -> Iterator[Shard]:
    keys = workspace.volumes["a"].row_keys()
    record = keep(embeddings, keys)
    files = [path for path in data_folder(embeddings, record).iterdir() if path.is_file()]
    yield Shard(embeddings, record, rows_of(keys), {path: path.read_bytes() for path in files})


one_shard = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150, deadline=None)


@one_shard
@given(
    place=st.floats(0, 1, exclude_max=True), bits=st.integers(1, 255), which=st.sampled_from(["data", "description"])
)
def test_a_flipped_byte_never_gives_wrong_numbers(shard: Shard, place: float, bits: int, which: str):
    data = data_file(shard.embeddings, shard.record)
    file = data if which == "data" else data.parent / "zarr.json"
    torn = bytearray(shard.good[file])
    torn[int(place * len(torn))] ^= bits
    try:
        file.write_bytes(torn)
        shard.read_is_right_or_refused()
    finally:
        shard.restore()


def test_a_flip_in_any_byte_of_a_row_is_refused_and_one_in_the_index_behind_them_harmless(shard: Shard):
    data = data_file(shard.embeddings, shard.record)
    good = shard.good[data]
    answers = []
    for place in range(len(good)):
        torn = bytearray(good)
        torn[place] ^= 0x01
        data.write_bytes(torn)
        answers.append(shard.read_is_right_or_refused())
    assert answers == ["refused"] * shard.rows.nbytes + ["right"] * (len(good) - shard.rows.nbytes)


@one_shard
@given(share=st.floats(0, 1, exclude_max=True))
def test_truncated_data_is_refused(shard: Shard, share: float):
    data = data_file(shard.embeddings, shard.record)
    try:
        data.write_bytes(shard.good[data][: int(share * len(shard.good[data]))])
        assert shard.read_is_right_or_refused() == "refused"
    finally:
        shard.restore()


def flipped(shard: Shard) -> None:
    data = data_file(shard.embeddings, shard.record)
    data.write_bytes(bytes([shard.good[data][0] ^ 1]) + shard.good[data][1:])


def flipped_index(shard: Shard) -> None:
    data = data_file(shard.embeddings, shard.record)
    data.write_bytes(shard.good[data][:-1] + bytes([shard.good[data][-1] ^ 1]))


def truncated(shard: Shard) -> None:
    data = data_file(shard.embeddings, shard.record)
    data.write_bytes(shard.good[data][:-9])


def deleted(shard: Shard) -> None:
    data_file(shard.embeddings, shard.record).unlink()


def folder_deleted(shard: Shard) -> None:
    shutil.rmtree(data_folder(shard.embeddings, shard.record))


def without_description(shard: Shard) -> None:
    (data_folder(shard.embeddings, shard.record) / "zarr.json").unlink()


DAMAGES = [flipped, truncated, deleted, folder_deleted]
# What zarr needs and samkit does not: rows lie at known offsets.
DAMAGES_FOR_ZARR = [flipped_index, without_description]


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_told_with_volume_shard_and_remedy(shard: Shard, damage: Callable[[Shard], None]):
    damage(shard)
    with pytest.raises(DamagedStore) as caught:
        shard.embeddings["a"]
    message = str(caught.value)
    assert f"shard {shard.record.shard} of {shard.embeddings.folder.name}" in message
    assert "It holds slices of a." in message
    assert f"Run `samkit embed --recipe {shard.embeddings.recipe.id} --repair`" in message


@pytest.mark.parametrize("damage", DAMAGES_FOR_ZARR)
def test_rows_are_read_right_where_only_the_description_of_the_array_is_damaged(
    shard: Shard, damage: Callable[[Shard], None]
):
    damage(shard)
    assert shard.read_is_right_or_refused() == "right"


@pytest.mark.parametrize("damage", [*DAMAGES, *DAMAGES_FOR_ZARR])
def test_the_remedy_mends_the_damage(shard: Shard, keep: Keep, damage: Callable[[Shard], None]):
    damage(shard)
    again = reopened(shard.embeddings)
    again.retire([shard.record.shard])
    keep(again, shard.record.keys)
    np.testing.assert_array_equal(again["a"], shard.rows)
    np.testing.assert_array_equal(zarr.open_array(data_folder(again, shard.record))[:], shard.rows)


def test_damage_in_one_row_leaves_the_others_readable(shard: Shard):
    flipped(shard)
    rows = shard.embeddings.read(shard.record.keys[1:])
    np.testing.assert_array_equal(rows, shard.rows[1:])


def test_a_shard_of_another_shape_than_its_record_says_is_refused(shard: Shard):
    folder = shard.embeddings.folder / "features" / shard.record.data
    folder.publish_folder(shard_files(np.zeros((3, 2, 4, 4), np.float16)))
    with pytest.raises(DamagedStore, match="has 244 bytes where its rows take 160"):
        shard.embeddings["a"]


def test_a_record_of_another_recipe_is_refused(workspace: Workspace, shard: Shard, keep: Keep):
    other = workspace.create_embeddings(replace(shard.embeddings.recipe, tap="block-3"), trained=True)
    record = keep(other, shard.record.keys)
    for name in (f"features/{record.data}", f"journal/{record.shard}.json"):
        local(other.folder / name).rename(local(shard.embeddings.folder / name))
    record_file(shard.embeddings, shard.record).unlink()
    with pytest.raises(DamagedStore, match=f"it was made by recipe {other.recipe.id}"):
        reopened(shard.embeddings)["a"]


# -- recipe.json and its neighbours ----------------------------------------------------------------


def test_the_recipe_is_written_before_the_first_row(embeddings: Embeddings, recipe: Recipe):
    kept = json.loads((embeddings.folder / "recipe.json").read_bytes())
    assert 0 <= time.time() - kept["created"] < 60
    assert kept == sealed(
        {
            "created": kept["created"],
            "id": recipe.id,
            "recipe": recipe.to_json(),
            "tolerance": recipe.tolerance,
            "trained": True,
            "attachments": {},
        }
    )
    assert (embeddings.folder / "features").files() == {}


def test_a_renamed_folder_is_refused(embeddings: Embeddings, workspace: Workspace):
    renamed = embeddings.folder.parent / "nano--000000000000"
    local(embeddings.folder).rename(local(renamed))
    with pytest.raises(DamagedStore, match="The folder was renamed or the recipe edited"):
        Embeddings.open(renamed, workspace.volumes)


def other_size(kept: dict[str, Any]) -> None:
    kept["recipe"]["input_px"] = 128


def test_an_edited_recipe_is_refused(embeddings: Embeddings):
    edit(local(embeddings.folder / "recipe.json"), other_size)
    with pytest.raises(DamagedStore, match=r"recipe\.json: its content does not match its seal"):
        reopened(embeddings)


def test_an_edited_recipe_is_refused_under_any_seal(embeddings: Embeddings):
    rewrite(local(embeddings.folder / "recipe.json"), other_size)
    with pytest.raises(DamagedStore, match="The folder was renamed or the recipe edited"):
        reopened(embeddings)


@pytest.mark.parametrize("change", [{"trained": False}, {"tolerance": 1.0}, {"attachments": {"a.bin": "0"}}])
def test_what_is_said_beside_the_recipe_cannot_be_edited_either(embeddings: Embeddings, change: dict[str, Any]):
    edit(local(embeddings.folder / "recipe.json"), change)
    with pytest.raises(DamagedStore, match="does not match its seal"):
        reopened(embeddings)


@pytest.mark.parametrize("text", ["[]", "{}", '{"id": "x", "recipe": 3, "tolerance": 1, "trained": true}', "{"])
def test_a_recipe_that_samkit_did_not_write_is_damage(embeddings: Embeddings, text: str):
    (embeddings.folder / "recipe.json").publish(text.encode())
    with pytest.raises(DamagedStore, match=r"recipe\.json"):
        reopened(embeddings)


def test_whether_the_weights_were_trained_is_kept(workspace: Workspace, recipe: Recipe):
    made = workspace.create_embeddings(recipe, trained=False)
    assert made.trained is False
    assert reopened(made).trained is False


def test_the_compute_class_is_kept_beside_the_recipe(embeddings: Embeddings):
    assert embeddings.compute is None
    embeddings.fix_compute(COMPUTE)
    assert reopened(embeddings).compute == COMPUTE


def test_a_compute_class_that_stands_stays(embeddings: Embeddings):
    embeddings.fix_compute(COMPUTE)
    embeddings.fix_compute({**COMPUTE, "threads": 8})
    assert reopened(embeddings).compute == COMPUTE


def test_an_edited_compute_class_is_damage_and_says_what_removing_it_costs(embeddings: Embeddings):
    embeddings.fix_compute(COMPUTE)
    edit(local(embeddings.folder / "compute.json"), {"threads": 8})
    with pytest.raises(DamagedStore, match=r"compute\.json: .* does not match its seal.*not bitwise"):
        _ = reopened(embeddings).compute


def test_a_file_is_kept_beside_the_recipe(workspace: Workspace, recipe: Recipe):
    made = workspace.create_embeddings(replace(recipe, tap="block-1"), trained=True, attachments={"a.bin": b"first"})
    assert reopened(made).attachment("a.bin") == b"first"
    assert reopened(made).attachment("b.bin") is None


@pytest.mark.parametrize("left", [b"firsu", b"", None])
def test_a_kept_file_that_has_changed_is_damage(workspace: Workspace, recipe: Recipe, left: bytes | None):
    made = workspace.create_embeddings(replace(recipe, tap="block-1"), trained=True, attachments={"a.bin": b"first"})
    (made.folder / "a.bin").remove()
    if left is not None:
        (made.folder / "a.bin").publish(left)
    with pytest.raises(DamagedStore, match=r"a\.bin: missing, or not what was kept"):
        reopened(made).attachment("a.bin")


def test_the_size_is_that_of_the_rows_and_no_folder_is_listed_for_it(
    embeddings: Embeddings, keep: Keep, monkeypatch: pytest.MonkeyPatch
):
    assert embeddings.size_bytes == 0
    keep(embeddings, KEYS[:2])
    again = reopened(embeddings)

    def refuse(*_: object) -> None:
        message = "a folder was listed"
        raise AssertionError(message)

    for name in ("children", "files"):
        monkeypatch.setattr(LocalPlace, name, refuse)
    assert embeddings.size_bytes == again.size_bytes == 2 * 2 * 3 * 3 * 2


def test_a_volume_whose_slices_are_embedded_elsewhere_needs_no_rows_of_its_own(
    workspace: Workspace, embeddings: Embeddings, keep: Keep, rows_of: Rows
):
    # Rows are found by pixels: a copy of the scan under another id is embedded already.
    record = replace(workspace.volumes["a"].record, id="copy")
    workspace.commit_volumes([record])
    keys = Volume(workspace.path, record, {}).row_keys()
    keep(embeddings, keys)
    np.testing.assert_array_equal(workspace.embeddings(embeddings.recipe.id)["copy"], rows_of(keys))


# -- rows that are moved or compacted meanwhile ----------------------------------------------------


def test_rows_are_read_from_a_compacted_journal_by_an_old_and_a_new_reader(
    embeddings: Embeddings, keep: Keep, rows_of: Rows
):
    for start in (0, 3, 6):
        keep(embeddings, KEYS[start : start + 3])
    old = reopened(embeddings)
    embeddings.journal.compact()
    for reader in (embeddings, old, reopened(embeddings)):
        np.testing.assert_array_equal(reader.read(KEYS), rows_of(KEYS))


def test_few_records_are_not_worth_a_segment_and_many_are(embeddings: Embeddings, keep: Keep):
    for number in range(63):
        keep(embeddings, [replace(KEYS[0], view=f"view{number}")])
    embeddings.compact()
    assert len(embeddings.journal.loose()) == 63
    keep(embeddings, KEYS[:1])
    embeddings.compact()
    assert embeddings.journal.loose() == []
    assert len(reopened(embeddings).journal) == 64


def test_a_reader_finds_rows_that_were_moved_into_another_shard_since_it_opened(
    embeddings: Embeddings, keep: Keep, rows_of: Rows
):
    first = keep(embeddings, KEYS[:4])
    old, mover = reopened(embeddings), reopened(embeddings)
    keep(mover, KEYS[1:3])
    mover.retire([first.shard])
    np.testing.assert_array_equal(old.read(KEYS[1:3]), rows_of(KEYS[1:3]))


def test_a_reader_is_told_that_rows_were_taken_away_since_it_opened(embeddings: Embeddings, keep: Keep):
    first = keep(embeddings, KEYS[:4])
    old = reopened(embeddings)
    reopened(embeddings).retire([first.shard])
    with pytest.raises(MissingEmbeddings, match="no row for slice"):
        old.read(KEYS[:2])


def test_retired_shards_are_missing_and_their_data_is_gone(embeddings: Embeddings, keep: Keep, rows_of: Rows):
    records = [keep(embeddings, KEYS[start : start + 2]) for start in (0, 2, 4)]
    embeddings.retire([records[0].shard, records[2].shard])
    again = reopened(embeddings)
    assert again.journal.missing(KEYS[:6]) == [*KEYS[:2], *KEYS[4:6]]
    assert (embeddings.folder / "features").children() == [records[1].data]
    np.testing.assert_array_equal(again.read(KEYS[2:4]), rows_of(KEYS[2:4]))


def test_shards_are_cut_at_64_rows_and_at_128_mebibytes():
    keys = [RowKey(slice_digest=str(number)) for number in range(130)]
    assert [len(shard.keys) for shard in cut_into_shards("recipe", keys, row_bytes=2 << 20)] == [64, 64, 2]
    assert [len(shard.keys) for shard in cut_into_shards("recipe", keys, row_bytes=4 << 20)] == [32, 32, 32, 32, 2]
    assert len(cut_into_shards("recipe", keys, row_bytes=1 << 30)) == 130


# -- rows kept as int8 -----------------------------------------------------------------------------


@pytest.fixture
def bytes_embeddings(workspace: Workspace, recipe: Recipe) -> Embeddings:
    return workspace.create_embeddings(replace(recipe, storage_precision="int8"), trained=True)


def as_read(rows: np.ndarray) -> np.ndarray:
    """What int8 makes of rows, read as float16."""
    stored = StoredRows.of(rows, "int8")
    out = np.empty(rows.shape, np.float16)
    stored.restore(out)
    return out


def scales_file(embeddings: Embeddings, record: ShardRecord) -> Path:
    return local(embeddings.folder / "scales" / record.data) / SCALES_FILE


def test_rows_of_bytes_are_read_as_float16_close_to_what_was_written(
    bytes_embeddings: Embeddings, keep: Keep, rows_of: Rows
):
    keep(bytes_embeddings, KEYS)
    found = reopened(bytes_embeddings).read(KEYS)
    assert found.dtype == np.float16
    np.testing.assert_array_equal(found, as_read(rows_of(KEYS)))
    step = np.abs(rows_of(KEYS)).max() / 127
    assert np.abs(found.astype(np.float32) - rows_of(KEYS)).max() < 0.51 * step


def test_rows_of_bytes_come_in_the_order_asked_for_across_shards_and_repeated(
    bytes_embeddings: Embeddings, keep: Keep, rows_of: Rows
):
    for start in (0, 3, 6):
        keep(bytes_embeddings, KEYS[start : start + 3])
    asked = [KEYS[number] for number in (7, 0, 3, 3, 6, 1, 0, 5)]
    np.testing.assert_array_equal(bytes_embeddings.read(asked), as_read(rows_of(asked)))


def test_rows_of_bytes_fill_memory_of_float16(bytes_embeddings: Embeddings, keep: Keep, rows_of: Rows):
    keep(bytes_embeddings, KEYS[:2])
    mine = np.empty((2, 2, 3, 3), np.float16)
    assert bytes_embeddings.read(KEYS[:2], out=mine) is mine
    np.testing.assert_array_equal(mine, as_read(rows_of(KEYS[:2])))
    with pytest.raises(UsageError, match="float16"):
        bytes_embeddings.read(KEYS[:2], out=np.empty((2, 2, 3, 3), np.int8))


def test_zarr_reads_rows_of_bytes_as_values_times_scales(bytes_embeddings: Embeddings, keep: Keep):
    record = keep(bytes_embeddings, KEYS)
    assert record.dtype == "int8"
    values = np.asarray(zarr.open_array(data_folder(bytes_embeddings, record), mode="r")[:])
    scales = np.asarray(zarr.open_array(scales_file(bytes_embeddings, record).parent, mode="r")[:])
    assert (values.dtype, scales.dtype, scales.shape) == (np.int8, np.float32, (8, 2))
    product = (values.astype(np.float32) * scales[:, :, None, None]).astype(np.float16)
    np.testing.assert_array_equal(product, bytes_embeddings.read(KEYS))


def test_the_rows_of_a_volume_may_be_bytes(workspace: Workspace, bytes_embeddings: Embeddings, keep: Keep):
    keep(bytes_embeddings, workspace.volumes["a"].row_keys())
    assert bytes_embeddings["a"].shape == (3, 2, 3, 3)


@pytest.mark.parametrize("file", ["values", "scales"])
def test_a_flip_in_any_byte_of_a_row_or_of_its_scales_is_refused(bytes_embeddings: Embeddings, keep: Keep, file: str):
    record = keep(bytes_embeddings, KEYS[:2])
    damaged = (data_file if file == "values" else scales_file)(bytes_embeddings, record)
    size = {"values": 2 * 2 * 3 * 3, "scales": 2 * 2 * 4}[file]
    good = damaged.read_bytes()
    for place in range(size):
        flip(damaged, place)
        with pytest.raises(DamagedStore, match="does not match its checksum"):
            reopened(bytes_embeddings).read(KEYS[:2])
        damaged.write_bytes(good)
    assert len(reopened(bytes_embeddings).read(KEYS[:2])) == 2


@pytest.mark.parametrize("how", ["gone", "cut off", "longer"])
def test_scales_that_are_gone_or_of_another_length_are_damage(bytes_embeddings: Embeddings, keep: Keep, how: str):
    record = keep(bytes_embeddings, KEYS[:2])
    file = scales_file(bytes_embeddings, record)
    data = file.read_bytes()
    file.unlink()
    if how != "gone":
        file.write_bytes(data[:-1] if how == "cut off" else data + b"0")
    with pytest.raises(DamagedStore, match=f"shard {record.shard} of {bytes_embeddings.folder.name}"):
        reopened(bytes_embeddings).read(KEYS[:2])


def test_a_damaged_description_of_the_scales_is_a_fault_that_reading_does_not_mind(
    bytes_embeddings: Embeddings, keep: Keep, rows_of: Rows
):
    record = keep(bytes_embeddings, KEYS[:2])
    (scales_file(bytes_embeddings, record).parent / "zarr.json").write_text("{")
    assert "scales/zarr.json is missing or was changed" in (bytes_embeddings.fault_of(record) or "")
    np.testing.assert_array_equal(bytes_embeddings.read(KEYS[:2]), as_read(rows_of(KEYS[:2])))


def test_a_kill_between_scales_and_rows_leaves_no_row_and_the_next_write_makes_it(
    bytes_embeddings: Embeddings, keep: Keep, rows_of: Rows, monkeypatch: pytest.MonkeyPatch
):
    real = LocalPlace.publish_folder

    def die_at_the_rows(self: LocalPlace, *arguments: Any, **others: Any) -> None:
        if self.parent.name == "features":
            raise Killed
        real(self, *arguments, **others)

    with monkeypatch.context() as patched:
        patched.setattr(LocalPlace, "publish_folder", die_at_the_rows)
        with pytest.raises(Killed):
            keep(bytes_embeddings, KEYS[:2])
    again = reopened(bytes_embeddings)
    assert again.journal.missing(KEYS[:2]) == list(KEYS[:2])
    keep(again, KEYS[:2])
    np.testing.assert_array_equal(again.read(KEYS[:2]), as_read(rows_of(KEYS[:2])))


def test_retiring_takes_the_scales_away_too(bytes_embeddings: Embeddings, keep: Keep):
    record = keep(bytes_embeddings, KEYS[:2])
    bytes_embeddings.retire([record.shard])
    assert (bytes_embeddings.folder / "scales").children() == []
    assert (bytes_embeddings.folder / "features").children() == []


def test_data_of_a_shard_that_was_made_again_while_its_record_went_stays(
    embeddings: Embeddings, keep: Keep, rows_of: Rows, monkeypatch: pytest.MonkeyPatch
):
    """Another `embed` finds the shard missing and is faster than the removal of its data, which has the same name."""
    record = keep(embeddings, KEYS[:2])
    retire = Journal.retire

    def retire_and_lose_the_race(self: Journal, shards: Iterable[str]) -> None:
        retire(self, shards)
        keep(reopened(embeddings), KEYS[:2])

    monkeypatch.setattr(Journal, "retire", retire_and_lose_the_race)
    embeddings.retire([record.shard])
    np.testing.assert_array_equal(reopened(embeddings).read(KEYS[:2]), rows_of(KEYS[:2]))


def test_data_that_was_taken_for_a_leftover_just_before_its_record_is_written_again(
    embeddings: Embeddings, keep: Keep, rows_of: Rows, monkeypatch: pytest.MonkeyPatch
):
    commit = Journal.commit

    def commit_after_the_data_went(self: Journal, record: ShardRecord) -> bool:
        (embeddings.folder / "features" / record.data).remove()
        return commit(self, record)

    monkeypatch.setattr(Journal, "commit", commit_after_the_data_went)
    keep(embeddings, KEYS[:2])
    np.testing.assert_array_equal(reopened(embeddings).read(KEYS[:2]), rows_of(KEYS[:2]))
