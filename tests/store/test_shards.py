"""How rows lie in a shard's file: as zarr lays them out, at offsets that follow from their numbers."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from samkit.store.arrays import CHUNK_NAMES
from samkit.store.local import LocalPlace
from samkit.store.shards import (
    DATA_FILE,
    SCALES_FILE,
    TornShard,
    read_all,
    read_rows,
    read_scales,
    scales_files,
    shard_files,
)


def rows(count: int = 5, dtype: str = "float16") -> np.ndarray:
    values = np.random.default_rng(0).normal(size=(count, 2, 3, 4)).astype(dtype)
    values[1:2] = 0
    return values


def write_shard(folder: Path, values: np.ndarray) -> None:
    LocalPlace(folder).publish_folder(shard_files(values))


def read(folder: Path, row_count: int, wanted: list[int], like: np.ndarray) -> np.ndarray:
    out = np.full((len(wanted), *like.shape[1:]), 7, like.dtype)
    read_rows(LocalPlace(folder), row_count, list(zip(wanted, out, strict=True)))
    return out


@pytest.mark.parametrize("dtype", ["float16", "float32", "int8"])
@pytest.mark.parametrize("count", [1, 5, 64])
def test_the_file_is_byte_for_byte_the_one_that_zarr_writes(tmp_path: Path, count: int, dtype: str):
    values = rows(count, dtype)
    write_shard(tmp_path / "ours", values)
    theirs = zarr.create_array(
        tmp_path / "theirs",
        shape=values.shape,
        dtype=values.dtype,
        chunks=(1, *values.shape[1:]),
        shards=values.shape,
        compressors=None,
        fill_value=0,
        chunk_key_encoding=CHUNK_NAMES,
        config={"write_empty_chunks": True},
    )
    theirs[:] = values
    for name in (DATA_FILE, "zarr.json"):
        assert (tmp_path / "ours" / name).read_bytes() == (tmp_path / "theirs" / name).read_bytes()


def test_a_shard_is_a_file_of_data_and_a_description(tmp_path: Path):
    write_shard(tmp_path / "shard", rows())
    assert sorted(file.name for file in (tmp_path / "shard").iterdir()) == [DATA_FILE, "zarr.json"]


@given(values=arrays.arrays(np.float16, st.tuples(st.integers(1, 6), st.just(2), st.just(1), st.just(3))))
def test_zarr_reads_the_bits_that_were_written(tmp_path_factory: pytest.TempPathFactory, values: np.ndarray):
    folder = tmp_path_factory.mktemp("shard") / "s"
    write_shard(folder, values)
    assert np.asarray(zarr.open_array(folder)[:]).tobytes() == values.tobytes()


def test_rows_are_read_in_the_order_asked_for_and_repeated(tmp_path: Path):
    write_shard(tmp_path / "s", rows())
    np.testing.assert_array_equal(read(tmp_path / "s", 5, [4, 0, 4, 1], rows()), rows()[[4, 0, 4, 1]])


def test_a_short_answer_of_the_system_is_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_shard(tmp_path / "s", rows())
    whole = os.preadv
    monkeypatch.setattr(os, "preadv", lambda file, memory, place: whole(file, [memory[0][:5]], place))
    np.testing.assert_array_equal(read(tmp_path / "s", 5, [3], rows()), rows()[[3]])


@pytest.mark.parametrize("change", [-1, 1])
def test_a_file_of_another_length_is_torn(tmp_path: Path, change: int):
    write_shard(tmp_path / "s", rows())
    os.truncate(tmp_path / "s" / DATA_FILE, (tmp_path / "s" / DATA_FILE).stat().st_size + change)
    with pytest.raises(TornShard, match="bytes where its rows take"):
        read(tmp_path / "s", 5, [0], rows())


def test_a_file_that_shrinks_while_it_is_read_is_torn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_shard(tmp_path / "s", rows())
    monkeypatch.setattr(os, "preadv", lambda *_: 0)
    with pytest.raises(TornShard, match="inside a row"):
        read(tmp_path / "s", 5, [0], rows())


def test_a_missing_file_is_torn(tmp_path: Path):
    with pytest.raises(TornShard, match="is missing"):
        read(tmp_path / "nowhere", 5, [0], rows())


@pytest.mark.parametrize("nbytes", [1, 1 << 30], ids=["one after the other", "side by side"])
def test_every_job_is_done_and_an_error_is_raised(nbytes: int):
    done: list[int] = []
    read_all([lambda number=number: done.append(number) for number in range(9)], nbytes)
    assert sorted(done) == list(range(9))

    def torn() -> None:
        raise TornShard

    with pytest.raises(TornShard):
        read_all([torn, lambda: None], nbytes)


# -- scales ----------------------------------------------------------------------------------------


SCALES = np.random.default_rng(1).random((5, 3)).astype(np.float32)


def test_zarr_reads_the_scales_that_were_written(tmp_path: Path):
    LocalPlace(tmp_path / "s").publish_folder(scales_files(SCALES))
    assert sorted(file.name for file in (tmp_path / "s").iterdir()) == [SCALES_FILE, "zarr.json"]
    assert np.asarray(zarr.open_array(tmp_path / "s", mode="r")[:]).tobytes() == SCALES.tobytes()


def test_scales_are_read_in_the_order_asked_for(tmp_path: Path):
    LocalPlace(tmp_path / "s").publish_folder(scales_files(SCALES))
    out = np.zeros((3, 3), np.float32)
    read_scales(LocalPlace(tmp_path / "s"), 5, list(zip([4, 0, 4], out, strict=True)))
    np.testing.assert_array_equal(out, SCALES[[4, 0, 4]])


@pytest.mark.parametrize("change", [-1, 1])
def test_scales_of_another_length_are_torn(tmp_path: Path, change: int):
    LocalPlace(tmp_path / "s").publish_folder(scales_files(SCALES))
    os.truncate(tmp_path / "s" / SCALES_FILE, SCALES.nbytes + change)
    with pytest.raises(TornShard, match="bytes where its rows take"):
        read_scales(LocalPlace(tmp_path / "s"), 5, [(0, np.zeros(3, np.float32))])


def test_missing_scales_are_torn(tmp_path: Path):
    with pytest.raises(TornShard, match="is missing"):
        read_scales(LocalPlace(tmp_path / "nowhere"), 5, [(0, np.zeros(3, np.float32))])


def test_an_error_is_raised_when_all_readers_have_stopped_and_not_before(monkeypatch: pytest.MonkeyPatch):
    """One that goes on would write into memory that its caller has given to the next reading."""
    monkeypatch.setattr("samkit.store.shards._READING_THREADS", 2)
    filled: list[str] = []

    def fail() -> None:
        message = "torn"
        raise TornShard(message)

    def fill_slowly() -> None:
        time.sleep(0.2)
        filled.append("late")

    with pytest.raises(TornShard, match="torn"):
        read_all([fail, fill_slowly], nbytes=1 << 30)
    assert filled == ["late"]
