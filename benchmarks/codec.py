"""Whether compressing features would pay: how much smaller each codec makes them, and how much slower they are read.

Noise does not compress and features of neighbouring cells are alike, so they are an encoder's own: `nano`, with its
weights, at 1024 pixels on ACDC's slices or, without those, drawn anatomy, 256 x 64 x 64 float16. Beside them rows drawn
smoother than those: coarse random patterns, interpolated, with a twentieth of noise. zarr reads all, one row a chunk.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import zarr
from measure import keep, sample
from numpy.typing import NDArray
from scipy.ndimage import zoom
from zarr.codecs import BloscCodec, BloscShuffle

from samkit.stages.encoders.base import load_encoder
from samkit.stages.encoders.digests import file_sha256
from samkit.stages.encoders.nano import NANO
from samkit.stages.ingest import IngestOptions, ingest
from samkit.stages.readers.layouts import LayoutOptions, find_sources
from samkit.store.workspace import open_workspace

ROWS, ROUNDS = 16, 7
CODECS = {
    "none": None,
    "lz4, byte shuffle": BloscCodec(cname="lz4", clevel=5, shuffle=BloscShuffle.shuffle),
    "zstd 3, byte shuffle": BloscCodec(cname="zstd", clevel=3, shuffle=BloscShuffle.shuffle),
    "zstd 3, bit shuffle": BloscCodec(cname="zstd", clevel=3, shuffle=BloscShuffle.bitshuffle),
}


def main() -> None:
    """Measure and keep."""
    rows, numbers = [], {}
    with tempfile.TemporaryDirectory(dir=os.environ.get("SAMKIT_BENCH_FOLDER")) as name:
        for what, features in (("encoder's", _encoded(Path(name))), ("drawn smooth", _smooth())):
            sizes, seconds = _measure(Path(name) / what.split()[0], features)
            for codec in CODECS:
                size = sizes[codec] / sizes["none"]
                pairs = zip(seconds["none"], seconds[codec], strict=True)
                speed = statistics.median(plain / own for plain, own in pairs)
                rows.append([what, codec, f"{size:.2f}", f"{speed:.2f}"])
                numbers[f"{what}, {codec}"] = {"size": round(size, 3), "reading": round(speed, 3)}
    columns = ["features", "codec", "size", "reading speed"]
    about = {"weights_sha256": file_sha256(NANO.own_weights)}
    keep("codec", "Features by codec, against none", columns, rows, {**about, **numbers})


def _encoded(folder: Path) -> NDArray[np.float16]:
    found = find_sources(sample(folder / "source", 2), LayoutOptions(ids="stem", id_key=b"bench"))
    list(ingest(folder / "workspace", found, IngestOptions()))
    encoder = load_encoder("nano", size=1024)
    planes = [
        encoder(torch.from_numpy(volume.read_slice(position)[None].astype(np.float32)))
        for volume in open_workspace(folder / "workspace").volumes.values()
        for position in range(volume.record.shape[0])
    ][:ROWS]
    return torch.cat(planes).numpy().astype(np.float16)


def _smooth() -> NDArray[np.float16]:
    random = np.random.default_rng(0)
    few = zoom(random.normal(size=(ROWS, 256, 16, 16)).astype(np.float32), (1, 1, 4, 4), order=1)
    return (few + random.normal(scale=0.05, size=few.shape)).astype(np.float16)


def _measure(folder: Path, features: NDArray[np.float16]) -> tuple[dict[str, int], dict[str, list[float]]]:
    arrays, sizes = {}, {}
    for codec, compressor in CODECS.items():
        place = folder / codec.replace(", ", "-").replace(" ", "-")
        array = zarr.create_array(
            place,
            shape=features.shape,
            dtype=features.dtype,
            chunks=(1, *features.shape[1:]),
            shards=features.shape,
            compressors=compressor,
        )
        array[:] = features
        sizes[codec] = sum(file.stat().st_size for file in place.rglob("*") if file.is_file())
        arrays[codec] = zarr.open_array(place, mode="r")
    seconds: dict[str, list[float]] = {codec: [] for codec in CODECS}
    for _ in range(ROUNDS):
        for codec, array in arrays.items():
            started = time.perf_counter()
            for row in range(len(features)):
                _ = array[row]
            seconds[codec].append(time.perf_counter() - started)
    return sizes, seconds


if __name__ == "__main__":
    main()
