"""How the rows of a shard lie in its file, and how they are read past zarr: end to end, at known offsets, checked.

A shard is a plain zarr v3 array, one row a chunk, all rows in one uncompressed file with
its index at the end; zarr reads it. Because nothing is compressed, a row's offset follows
from its number, so samkit reads rows straight into the caller's memory. zarr's own path
pays for its index, its event loop and a copy with every row.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import xxhash
import zarr
from numpy.typing import NDArray
from zarr.storage import MemoryStore

from .arrays import CHUNK_NAMES, TORN_ARRAY
from .errors import StoreError

# (rows, C, h, w): the only file of the array, named by zarr's "v2" chunk key encoding.
DATA_FILE = "0.0.0.0"  # noqa: S104 - a file's name, not an address
# zarr's shard index: offset and length of every chunk as 64-bit integers, then the CRC-32C of these.
_INDEX_ENTRY_BYTES = 16
_INDEX_CHECKSUM_BYTES = 4
# Copying from the page cache is bound by memory, which a few threads saturate.
_READING_THREADS = min(4, os.cpu_count() or 1)
# Below this, handing rows to threads costs more than it saves.
_BYTES_WORTH_THREADS = 2 << 20


class TornShard(StoreError):
    """A shard's file is missing, of another length than its rows, or ends too early."""


def row_checksum(row: NDArray[Any]) -> int:
    """Return the XXH3-64 of a row's bytes, little-endian and in C order."""
    contiguous = np.ascontiguousarray(row, dtype=row.dtype.newbyteorder("<"))
    return int(xxhash.xxh3_64_intdigest(contiguous.data if contiguous.size else b""))


def write_shard(folder: Path, rows: NDArray[Any]) -> None:
    """Write a shard whole; the caller publishes the folder.

    Parameters
    ----------
    folder
        A folder that is not there yet, or is empty.
    rows
        (N, C, h, w). Rows of zeros are written like any other.
    """
    _describe(folder, rows.shape, rows.dtype)
    little_endian = np.ascontiguousarray(rows, dtype=rows.dtype.newbyteorder("<"))
    with (folder / DATA_FILE).open("wb", buffering=0) as file:
        file.write(little_endian.reshape(-1).view(np.uint8).data)
        file.write(_index(len(rows), little_endian[0].nbytes))


def fault_for_zarr(folder: Path, shape: tuple[int, ...], dtype: np.dtype[Any]) -> str | None:
    """Say what is wrong with the parts of a shard that zarr needs and `read_rows` does not: description and index."""
    expected = _index(shape[0], int(np.prod(shape[1:])) * dtype.itemsize)
    if not (folder / DATA_FILE).read_bytes().endswith(expected):
        return "the index at the end of its file was changed"
    try:
        described = zarr.open_array(folder, mode="r").metadata
    except TORN_ARRAY as error:
        return f"its zarr.json is missing or torn ({error})"
    return None if described == _describe(MemoryStore(), shape, dtype).metadata else "its zarr.json was changed"


def read_rows(file: Path, row_count: int, wanted: Sequence[tuple[int, NDArray[Any]]]) -> None:
    """Read rows of one shard into the caller's memory.

    Parameters
    ----------
    file
        The shard's data file.
    row_count
        How many rows its record lists.
    wanted
        (row's number, C-contiguous little-endian array to fill) pairs.

    Raises
    ------
    TornShard
        When the file is not there or not as long as its rows.
    """
    with _opened(file, row_count, wanted[0][1].nbytes) as descriptor:
        for row, into in wanted:
            _fill(descriptor, file, row * into.nbytes, into)


def read_all(jobs: Sequence[Callable[[], None]], nbytes: int) -> None:
    """Run jobs that read ``nbytes`` together, side by side where that gains; the first error is raised."""
    if len(jobs) == 1 or _READING_THREADS == 1 or nbytes < _BYTES_WORTH_THREADS:
        for job in jobs:
            job()
    else:
        for _ in _readers(os.getpid()).map(lambda job: job(), jobs):
            pass


def _describe(place: Path | MemoryStore, shape: tuple[int, ...], dtype: np.dtype[Any]) -> zarr.Array[Any]:
    """Write the zarr.json of a shard."""
    return zarr.create_array(
        place,
        shape=shape,
        dtype=dtype,
        chunks=(1, *shape[1:]),
        shards=shape,
        compressors=None,
        fill_value=0,
        chunk_key_encoding=CHUNK_NAMES,
    )


def _index(row_count: int, row_bytes: int) -> bytes:
    entries = np.empty((row_count, 2), "<u8")
    entries[:, 0] = np.arange(row_count, dtype=np.uint64) * np.uint64(row_bytes)
    entries[:, 1] = row_bytes
    body = entries.tobytes()
    return body + int(google_crc32c.value(body)).to_bytes(_INDEX_CHECKSUM_BYTES, "little")


@contextmanager
def _opened(file: Path, row_count: int, row_bytes: int) -> Iterator[int]:
    try:
        descriptor = os.open(file, os.O_RDONLY)
    except (FileNotFoundError, NotADirectoryError) as error:
        message = f"{file} is missing"
        raise TornShard(message) from error
    try:
        expected = row_count * (row_bytes + _INDEX_ENTRY_BYTES) + _INDEX_CHECKSUM_BYTES
        found = os.fstat(descriptor).st_size
        if found != expected:
            message = f"{file} has {found} bytes where its {row_count} rows take {expected}"
            raise TornShard(message)
        yield descriptor
    finally:
        os.close(descriptor)


def _fill(descriptor: int, file: Path, offset: int, into: NDArray[Any]) -> None:
    """Read until ``into`` is full: a system call may return less than was asked for."""
    memory = into.reshape(-1).view(np.uint8).data
    filled = 0
    while filled < len(memory):
        count = os.preadv(descriptor, [memory[filled:]], offset + filled)
        if count == 0:
            message = f"{file} ends at byte {offset + filled}, inside a row"
            raise TornShard(message)
        filled += count


@cache
def _readers(process: int) -> ThreadPoolExecutor:
    """Return the threads of a process; a forked child has none of its parent's, so it gets its own."""
    return ThreadPoolExecutor(_READING_THREADS, thread_name_prefix=f"samkit-read-{process}")
