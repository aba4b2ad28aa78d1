"""How an array is laid out on disk (zarr v3, a chunk a plane or row, sharded into few files), and opened when torn."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import zarr
from numpy.typing import NDArray
from zarr.codecs import BloscCodec, BloscShuffle
from zarr.core.buffer import Buffer
from zarr.storage import MemoryStore

from .places import Place

# A file a shard, named "0.0.0" beside its zarr.json: the default "c/0/0/0" would make a folder for every axis.
CHUNK_NAMES: dict[str, Any] = {"name": "v2", "separator": "."}
# For pixels and labels; features are kept as they are, see `store.shards`.
# Level 1 writes windowed CT and MR two to three times as fast as level 3, into 1 to 9 % more bytes.
_COMPRESSION = BloscCodec(cname="zstd", clevel=1, shuffle=BloscShuffle.shuffle)

# A flipped byte in an array's metadata or in a shard's index surfaces in zarr 3 as any of these (found by flipping
# every byte of both); a missing array is a FileNotFoundError, a blosc chunk that does not decode a RuntimeError.
TORN_ARRAY: tuple[type[Exception], ...] = (
    ArithmeticError,
    AttributeError,
    FileNotFoundError,
    KeyError,
    NotADirectoryError,
    RuntimeError,
    TypeError,
    ValueError,
)


def array_files(values: NDArray[Any], *, planes_per_shard: int | None = None) -> dict[str, bytes]:
    """Return the files of an array, by name; the caller publishes them in a folder.

    Parameters
    ----------
    values
        (planes, ...); each plane becomes a chunk, so that one can be read without the others.
    planes_per_shard
        Planes in one file; None for all of them.
    """
    return dict(array_files_in_turn(values, planes_per_shard=planes_per_shard))


def array_files_in_turn(values: NDArray[Any], *, planes_per_shard: int | None = None) -> Iterator[tuple[str, bytes]]:
    """Yield what `array_files` returns file by file: of a large array only one shard is encoded at a time."""
    planes = max(1, min(planes_per_shard or values.shape[0], values.shape[0]))
    files: dict[str, Buffer] = {}
    array = zarr.create_array(
        MemoryStore(files),
        shape=values.shape,
        dtype=values.dtype,
        chunks=(1, *values.shape[1:]),
        shards=(planes, *values.shape[1:]),
        compressors=_COMPRESSION,
        fill_value=0,
        chunk_key_encoding=CHUNK_NAMES,
        # A plane of zeros is a plane: a missing chunk would read as zeros too, and nobody could tell.
        config={"write_empty_chunks": True},
    )
    yield from _taken_out(files)
    for first in range(0, values.shape[0], planes):
        array[first : first + planes] = values[first : first + planes]
        yield from _taken_out(files)


def _taken_out(files: dict[str, Buffer]) -> Iterator[tuple[str, bytes]]:
    for name in list(files):
        yield name, files.pop(name).to_bytes()


def inside(folder: str, files: dict[str, bytes]) -> dict[str, bytes]:
    """Return files with the folder that they go into before their names."""
    return {f"{folder}/{name}": content for name, content in files.items()}


def open_array(place: Place) -> zarr.Array[Any]:
    """Open an array for reading; what `TORN_ARRAY` lists is raised for one that is missing or torn.

    zarr reads a file that is gone as zeros, so every file is looked for.
    """
    array = zarr.open_array(place.zarr_store(), mode="r")
    there = set(place.children())
    shards = -(-array.shape[0] // (array.shards or array.chunks)[0])
    for number in range(shards):
        name = ".".join([str(number), *["0"] * (array.ndim - 1)])
        if name not in there:
            message = f"{place / name} is missing"
            raise FileNotFoundError(message)
    return array
