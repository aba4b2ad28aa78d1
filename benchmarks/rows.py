"""Reading shuffled rows and writing shards, verified, beside the same bytes through np.load, np.save and zarr.

Rows are 256 x 64 x 64 float16 (SAM at 1024 pixels, 2 MiB), drawn smooth as features are; each batch is 24 rows in a
random order. Every round measures all ways in turn, and a ratio is the median of the rounds' ratios. "Cold-ish" drops
the files' pages with posix_fadvise before each reading; what the disk or its host caches beneath stays as it is.
"""

from __future__ import annotations

import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import zarr
from measure import keep
from numpy.typing import NDArray
from scipy.ndimage import zoom

from samkit.store.embeddings import Embeddings, ShardPlan
from samkit.store.keys import Recipe, RowKey
from samkit.store.local import LocalPlace
from samkit.store.precision import StoredRows
from samkit.store.shards import DATA_FILE

ROW_SHAPE = (256, 64, 64)
ROWS, BATCH, ROUNDS = 256, 24, 9
ROWS_A_SHARD = 64

Reader = Callable[[Sequence[int]], object]


def main() -> None:
    """Measure and keep."""
    with tempfile.TemporaryDirectory(dir=os.environ.get("SAMKIT_BENCH_FOLDER")) as name:
        folder = Path(name)
        features = _smooth_rows()
        embeddings, keys = _embeddings(folder, features)
        row_files = [folder / "npy" / f"{number}.npy" for number in range(ROWS)]
        row_files[0].parent.mkdir()
        for file, row in zip(row_files, features, strict=True):
            np.save(file, row)
        shards = [_folder_of(embeddings, plan) for plan in _plans(embeddings.recipe.id, keys)]
        arrays = [zarr.open_array(shard, mode="r") for shard in shards]
        out = np.empty((BATCH, *ROW_SHAPE), np.float16)
        ways: dict[str, Reader] = {
            "np.load, a file a row": lambda rows: np.stack([np.load(row_files[row]) for row in rows]),
            "zarr, row by row": lambda rows: np.stack(
                [arrays[row // ROWS_A_SHARD][row % ROWS_A_SHARD] for row in rows]
            ),
            "samkit, verified": lambda rows: embeddings.read([keys[row] for row in rows]),
            "samkit, verified, into a buffer": lambda rows: embeddings.read([keys[row] for row in rows], out=out),
        }
        files = [*row_files, *(shard / DATA_FILE for shard in shards)]
        warm = _rounds(ways, files, cold=False)
        cold = _rounds(ways, files, cold=True)
        written = _writing(embeddings, features, folder)
    base, others = next(iter(ways)), list(ways)
    batch_bytes = BATCH * features[0].nbytes
    rows = [
        [
            way,
            f"{batch_bytes / statistics.median(warm[way]) / 1e6:.0f}",
            f"{_ratio(warm, base, way):.2f}",
            f"{_ratio(warm, others[1], way):.2f}",
            f"{batch_bytes / statistics.median(cold[way]) / 1e6:.0f}",
            f"{_ratio(cold, base, way):.2f}",
        ]
        for way in ways
    ]
    numbers = {
        "row_shape": ROW_SHAPE,
        "batch": BATCH,
        "rounds": ROUNDS,
        "targets": {"warm_against_np_load": 1.5, "warm_against_zarr": 3, "cold_against_np_load": 1, "write": 0.8},
        "reading": {
            way: {
                "warm_against_np_load": _ratio(warm, base, way),
                "warm_against_zarr": _ratio(warm, others[1], way),
                "cold_against_np_load": _ratio(cold, base, way),
            }
            for way in ways
        },
        "writing_against_np_save_and_fsync": written,
    }
    columns = ["shuffled batches of 24 rows", "warm MB/s", "x np.load", "x zarr", "cold-ish MB/s", "x np.load"]
    title = f"Rows of {ROW_SHAPE} float16; writing a shard with checksums: {written:.2f} of np.save and fsync"
    keep("rows", title, columns, rows, numbers)


def _smooth_rows() -> NDArray[np.float16]:
    random = np.random.default_rng(0)
    coarse = random.normal(size=(8, ROW_SHAPE[0], 16, 16)).astype(np.float32)
    few = zoom(coarse, (1, 1, 4, 4), order=1)
    noise = random.normal(scale=0.05, size=few.shape)
    patterns = (few + noise).astype(np.float16)
    return np.concatenate([np.roll(patterns, shift, axis=1) for shift in range(ROWS // len(patterns))])


def _plans(recipe_id: str, keys: Sequence[RowKey]) -> list[ShardPlan]:
    return [
        ShardPlan(recipe_id=recipe_id, keys=tuple(keys[first : first + ROWS_A_SHARD]))
        for first in range(0, len(keys), ROWS_A_SHARD)
    ]


def _embeddings(folder: Path, features: NDArray[np.float16]) -> tuple[Embeddings, list[RowKey]]:
    recipe = Recipe(encoder="bench", weights_sha256="0" * 64, input_px=1024)
    place = LocalPlace(folder) / "embeddings" / recipe.folder_name
    embeddings = Embeddings.create(place, recipe, {}, trained=False)
    keys = [RowKey(slice_digest=f"{number:032x}") for number in range(len(features))]
    for number, plan in enumerate(_plans(recipe.id, keys)):
        _write(embeddings, plan, features[number * ROWS_A_SHARD : (number + 1) * ROWS_A_SHARD])
    return embeddings, keys


def _write(embeddings: Embeddings, plan: ShardPlan, rows: NDArray[np.float16]) -> None:
    stored = StoredRows(values=rows)
    embeddings.write(plan, stored, compute={}, seconds=0, peak_memory_bytes=0, code_version="bench", writer="bench")


def _folder_of(embeddings: Embeddings, plan: ShardPlan) -> Path:
    return Path(embeddings.folder / "features" / embeddings.journal.records[plan.id].data)


def _rounds(ways: dict[str, Reader], files: Sequence[Path], *, cold: bool) -> dict[str, list[float]]:
    random = np.random.default_rng(1)
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    os.sync()
    for _ in range(ROUNDS):
        batch = random.choice(ROWS, BATCH, replace=False).tolist()
        for way, read in ways.items():
            if cold:
                _drop_pages(files)
            else:
                read(batch)
            started = time.perf_counter()
            read(batch)
            seconds[way].append(time.perf_counter() - started)
    return seconds


def _ratio(seconds: dict[str, list[float]], base: str, way: str) -> float:
    return statistics.median(slow / fast for slow, fast in zip(seconds[base], seconds[way], strict=True))


def _drop_pages(files: Sequence[Path]) -> None:
    for file in files:
        descriptor = os.open(file, os.O_RDONLY)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def _writing(embeddings: Embeddings, features: NDArray[np.float16], folder: Path) -> float:
    """Return how many times as fast as np.save and fsync a whole shard is written, checksums and record included."""
    rows = features[:ROWS_A_SHARD]
    ratios = []
    for number in range(ROUNDS):
        os.sync()
        started = time.perf_counter()
        with (folder / "whole.npy").open("wb") as file:
            np.save(file, rows)
            file.flush()
            os.fsync(file.fileno())
        plain = time.perf_counter() - started
        keys = tuple(RowKey(slice_digest=f"{number:08x}{row:024x}", view="written") for row in range(len(rows)))
        plan = ShardPlan(recipe_id=embeddings.recipe.id, keys=keys)
        os.sync()
        started = time.perf_counter()
        _write(embeddings, plan, rows)
        ratios.append(plain / (time.perf_counter() - started))
        shutil.rmtree(_folder_of(embeddings, plan))
        (folder / "whole.npy").unlink()
    return statistics.median(ratios)


if __name__ == "__main__":
    main()
