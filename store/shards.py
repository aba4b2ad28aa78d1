"""How the rows of a shard lie in its file, and how they are read past zarr: end to end, at known offsets, checked.

A shard is a plain zarr v3 array, one row a chunk, all rows in one uncompressed file with
its index at the end; zarr reads it. Because nothing is compressed, a row's offset follows
from its number, so samkit reads rows straight into the caller's memory. zarr's own path
pays for its index, its event loop and a copy with every row.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cache
from typing import Any

import google_crc32c
import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.core.buffer import Buffer
from zarr.storage import MemoryStore

from .arrays import CHUNK_NAMES
from .errors import StoreError
from .places import Data, Place

# (rows, C, h, w): the only file of the array, named by zarr's "v2" chunk key encoding.
DATA_FILE = "0.0.0.0"  # noqa: S104 - a file's name, not an address
# (rows, C), of the scales of int8.
SCALES_FILE = "0.0"
# What zarr reads an array by.
DESCRIPTION = "zarr.json"
# zarr's shard index: offset and length of every chunk as 64-bit integers, then the CRC-32C of these.
_INDEX_ENTRY_BYTES = 16
_INDEX_CHECKSUM_BYTES = 4
# Copying from the page cache is bound by memory, which a few threads saturate.
_READING_THREADS = min(4, os.cpu_count() or 1)
# Below this, handing rows to threads costs more than it saves.
_BYTES_WORTH_THREADS = 2 << 20


class TornShard(StoreError):
    """A shard's file is missing, of another length than its rows, or ends too early."""


def shard_files(rows: NDArray[Any]) -> dict[str, Data]:
    """Return the files of a shard, by name; the caller publishes them in a folder.

    Parameters
    ----------
    rows
        (N, C, h, w). Rows of zeros are written like any other.
    """
    little_endian = np.ascontiguousarray(rows, dtype=rows.dtype.newbyteorder("<"))
    data = little_endian.reshape(-1).view(np.uint8).data
    return {
        DESCRIPTION: _description(_shard, rows.shape, rows.dtype),
        DATA_FILE: [data, _index(len(rows), little_endian[0].nbytes)],
    }


def scales_files(scales: NDArray[np.float32]) -> dict[str, Data]:
    """Return the files of the scales of a shard of int8, by name: an array (N, C), one uncompressed chunk."""
    data = np.ascontiguousarray(scales, dtype="<f4").tobytes()
    return {DESCRIPTION: _description(_scales, scales.shape, scales.dtype), SCALES_FILE: data}


def fault_of_index(folder: Place, shape: tuple[int, ...], dtype: np.dtype[Any]) -> str | None:
    """Say what is wrong with the length of a shard's file and the index at its end, which only zarr reads it by."""
    row_bytes = int(np.prod(shape[1:])) * dtype.itemsize
    expected = _index(shape[0], row_bytes)
    found = np.empty(len(expected), np.uint8)
    size_bytes = shape[0] * row_bytes + len(expected)
    if (found_bytes := (folder / DATA_FILE).size_bytes()) != size_bytes:
        return f"{folder / DATA_FILE} has {found_bytes} bytes where its rows take {size_bytes}"
    try:
        (folder / DATA_FILE).read_into([(size_bytes - len(expected), found.data)], size_bytes)
    except (FileNotFoundError, NotADirectoryError, EOFError) as error:
        return str(error)
    return None if found.tobytes() == expected else "the index at the end of its file was changed"


def read_rows(folder: Place, row_count: int, wanted: Sequence[tuple[int, NDArray[Any]]]) -> None:
    """Read rows of one shard into the caller's memory.

    Parameters
    ----------
    folder
        The shard's array.
    row_count
        How many rows its record lists.
    wanted
        (row's number, C-contiguous little-endian array to fill) pairs.

    Raises
    ------
    TornShard
        When the file is not there or not as long as its rows.
    """
    row_bytes = wanted[0][1].nbytes
    _read_parts(folder / DATA_FILE, wanted, row_count * (row_bytes + _INDEX_ENTRY_BYTES) + _INDEX_CHECKSUM_BYTES)


def read_scales(folder: Place, row_count: int, wanted: Sequence[tuple[int, NDArray[np.float32]]]) -> None:
    """Read the scales of some rows, (C,) each; as `read_rows`."""
    _read_parts(folder / SCALES_FILE, wanted, row_count * wanted[0][1].nbytes)


def _read_parts(file: Place, wanted: Sequence[tuple[int, NDArray[Any]]], size_bytes: int) -> None:
    parts = [(row * into.nbytes, into.reshape(-1).view(np.uint8).data) for row, into in wanted]
    try:
        file.read_into(parts, size_bytes)
    except (FileNotFoundError, NotADirectoryError) as error:
        message = f"{file} is missing"
        raise TornShard(message) from error
    except EOFError as error:
        raise TornShard(str(error)) from error


def read_all(jobs: Sequence[Callable[[], None]], nbytes: int) -> None:
    """Run jobs that read ``nbytes`` together, side by side where that gains; the first error is raised."""
    if len(jobs) == 1 or _READING_THREADS == 1 or nbytes < _BYTES_WORTH_THREADS:
        for job in jobs:
            job()
    else:
        running = [_readers(os.getpid()).submit(job) for job in jobs]
        # All of them, even after an error: a job that goes on would write into memory that its caller uses again.
        wait(running)
        for done in running:
            done.result()


def _shard(files: dict[str, Buffer], shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    """Describe the array of a shard's rows."""
    zarr.create_array(
        MemoryStore(files),
        shape=shape,
        dtype=dtype,
        chunks=(1, *shape[1:]),
        shards=shape,
        compressors=None,
        fill_value=0,
        chunk_key_encoding=CHUNK_NAMES,
    )


def _scales(files: dict[str, Buffer], shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    """Describe the array of a shard's scales."""
    zarr.create_array(
        MemoryStore(files),
        shape=shape,
        dtype=dtype,
        chunks=shape,
        compressors=None,
        fill_value=0,
        chunk_key_encoding=CHUNK_NAMES,
    )


def _description(
    describe: Callable[[dict[str, Buffer], tuple[int, ...], np.dtype[Any]], None],
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
) -> bytes:
    """Return the zarr.json of an array."""
    files: dict[str, Buffer] = {}
    describe(files, shape, dtype)
    return files[DESCRIPTION].to_bytes()


def _index(row_count: int, row_bytes: int) -> bytes:
    entries = np.empty((row_count, 2), "<u8")
    entries[:, 0] = np.arange(row_count, dtype=np.uint64) * np.uint64(row_bytes)
    entries[:, 1] = row_bytes
    body = entries.tobytes()
    return body + int(google_crc32c.value(body)).to_bytes(_INDEX_CHECKSUM_BYTES, "little")


@cache
def _readers(process: int) -> ThreadPoolExecutor:
    """Return the threads of a process; a forked child has none of its parent's, so it gets its own."""
    return ThreadPoolExecutor(_READING_THREADS, thread_name_prefix=f"samkit-read-{process}")
